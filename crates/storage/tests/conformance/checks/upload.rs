use std::io::{Read, Write};
use std::sync::LazyLock;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use walarchive_storage::Error;
use walarchive_storage::{PART_BYTES, RangeReader, Store};

use crate::ensure;
use crate::place::Room;
use crate::suite::{Support, Trouble, Verdict};

const LARGE: u64 = 100 << 20;

/// By how much the process may grow while it writes and reads the large object, in KiB.
const ROOM_FOR_LARGE: u64 = 72 << 10;

/// A run that needs much memory must be alone: stores that are tested side by side would count each other's.
pub static HEAVY: Mutex<()> = Mutex::const_new(());

/// Bytes from an offset on of one endless content. Its period fits no part, so a part in the wrong place shows.
pub fn content(start: u64, bytes: usize) -> Vec<u8> {
    const PERIOD: usize = 1_048_573;
    static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..PERIOD).map(|_| next()).collect()
    });
    let mut content = Vec::with_capacity(bytes);
    while content.len() < bytes {
        let at = ((start + content.len() as u64) % PERIOD as u64) as usize;
        let end = PERIOD.min(at + bytes - content.len());
        content.extend_from_slice(&BLOCK[at..end]);
    }
    content
}

/// Upload `size` bytes of that content.
pub async fn upload(store: &Store, key: &str, size: u64) -> Result<(), Trouble> {
    let (mut upload, task) = store.upload(key, CancellationToken::new());
    let produced = tokio::task::spawn_blocking(move || {
        let mut at = 0;
        while at < size {
            let bytes = (size - at).min(1 << 20);
            upload.write_all(&content(at, bytes as usize))?;
            at += bytes;
        }
        upload.finish()
    });
    let produced = produced.await?;
    let stored = task.outcome().await?;
    produced?;
    ensure!(stored == size, "{stored} of {size} bytes stored");
    Ok(())
}

/// Read an object, and compare it with that content.
pub async fn compare(store: &Store, key: &str, size: u64) -> Result<(), Trouble> {
    let mut reader = RangeReader::open(store, key).await?.ok_or("it is not there")?;
    let compared = tokio::task::spawn_blocking(move || {
        let (mut at, mut buffer) = (0, vec![0; 1 << 20]);
        loop {
            let bytes = reader.read(&mut buffer)?;
            if bytes == 0 {
                return Ok(at);
            }
            ensure!(buffer[..bytes] == content(at, bytes), "other content after {at} bytes");
            at += bytes as u64;
        }
    });
    let read: Result<u64, Trouble> = compared.await?;
    let read = read?;
    ensure!(read == size, "{read} of {size} bytes read");
    Ok(())
}

pub async fn parts(room: Room) -> Verdict {
    let _heavy = HEAVY.lock().await;
    for size in [0, 17, PART_BYTES, PART_BYTES * 3 + 17] {
        let key = room.key(&format!("a/object{size}"));
        upload(&room.store, &key, size).await?;
        let found = room.store.size(&key).await?;
        ensure!(found == Some(size), "{size} bytes: {found:?}");
        compare(&room.store, &key, size).await?;
    }
    ensure!(room.names().await?.len() == 4, "{:?}", room.names().await?);
    room.store.delete_folder(&room.folder).await?;
    Ok(Support::Yes)
}

pub async fn invisible(room: Room) -> Verdict {
    let _heavy = HEAVY.lock().await;
    let key = room.key("object");
    let (mut upload, task) = room.store.upload(&key, CancellationToken::new());
    // Of four parts, one is in the making and one may wait: one at least is stored when all of this is written.
    let upload = tokio::task::spawn_blocking(move || {
        upload
            .write_all(&content(0, PART_BYTES as usize * 4 + 5))
            .map(|()| upload)
    });
    let upload = upload.await??;
    let found = (room.store.size(&key).await?, room.names().await?);
    ensure!(found == (None, vec![]), "before the end: {found:?}");
    tokio::task::spawn_blocking(move || upload.finish()).await??;
    let size = task.outcome().await?;
    compare(&room.store, &key, size).await?;
    ensure!(room.names().await? == ["object"], "{:?}", room.names().await?);
    room.store.delete(&key).await?;
    Ok(Support::Yes)
}

pub async fn over(room: Room) -> Verdict {
    let _heavy = HEAVY.lock().await;
    let key = room.key("object");
    room.store.put(&key, Bytes::from_static(b"small")).await?;
    for size in [PART_BYTES * 2 + 1, PART_BYTES + 1, 17] {
        upload(&room.store, &key, size).await?;
        compare(&room.store, &key, size).await?;
    }
    ensure!(room.names().await? == ["object"], "{:?}", room.names().await?);
    room.store.delete(&key).await?;
    Ok(Support::Yes)
}

/// Its producer goes away, or it is cancelled: no object, no part, and what was there before is untouched.
pub async fn given_up(room: Room) -> Verdict {
    let _heavy = HEAVY.lock().await;
    let untouched = room.key("untouched");
    room.store.put(&untouched, Bytes::from_static(b"as it was")).await?;
    let files = room.place.files();
    for cancelled in [false, true] {
        for key in [&room.key("new"), &untouched] {
            let cancel = CancellationToken::new();
            let (mut upload, task) = room.store.upload(key, cancel.clone());
            let upload = tokio::task::spawn_blocking(move || {
                upload
                    .write_all(&content(0, PART_BYTES as usize * 4 + 5))
                    .map(|()| upload)
            });
            let upload = upload.await??;
            if cancelled {
                cancel.cancel();
            } else {
                drop(upload);
            }
            let outcome = task.outcome().await;
            ensure!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
        }
    }
    ensure!(room.names().await? == ["untouched"], "{:?}", room.names().await?);
    let found = room.store.get(&untouched, 100).await?;
    ensure!(found.as_deref() == Some(b"as it was"), "an object was touched");
    let after = room.place.files();
    let left: Vec<_> = after.difference(&files).collect();
    ensure!(left.is_empty(), "files are left: {left:?}");
    Ok(Support::Yes)
}

pub async fn large(room: Room) -> Verdict {
    let _heavy = HEAVY.lock().await;
    let key = room.key("object");
    // From here on the peak counts again.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let before = memory("VmRSS:")?;
    upload(&room.store, &key, LARGE).await?;
    compare(&room.store, &key, LARGE).await?;
    let grown = memory("VmHWM:")?.saturating_sub(before);
    room.store.delete(&key).await?;
    println!("    100 MB object: the process grew by {grown} KiB");
    ensure!(grown < ROOM_FOR_LARGE, "the process grew by {grown} KiB");
    Ok(Support::Yes)
}

/// A line of this process's status, in KiB.
fn memory(name: &str) -> Result<u64, Trouble> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let digits = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no such line")?;
    Ok(digits.parse()?)
}
