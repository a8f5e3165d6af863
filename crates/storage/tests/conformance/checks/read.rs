use std::io::Read;

use bytes::Bytes;
use walarchive_storage::Error;
use walarchive_storage::{PART_BYTES, RangeReader};

use crate::ensure;
use crate::place::Room;
use crate::suite::{Support, Verdict};

pub async fn get(room: Room) -> Verdict {
    let key = room.key("a/object");
    room.store.put(&key, Bytes::from_static(b"12345")).await?;
    let found = room.store.get(&key, 5).await?;
    ensure!(found.as_deref() == Some(b"12345"), "{found:?}");
    let too_large = room.store.get(&key, 4).await;
    ensure!(
        matches!(too_large, Err(Error::Damaged { .. })),
        "5 bytes, 4 expected: {too_large:?}"
    );
    // Neither a key below a folder that is not there, nor a part of another key is an object.
    for name in ["a/missing", "missing/object", "a/objec", "a/object2"] {
        let found = room.store.get(&room.key(name), 100).await?;
        ensure!(found.is_none(), "{name}: {found:?}");
    }
    Ok(Support::Yes)
}

pub async fn size(room: Room) -> Verdict {
    for bytes in [1, 1000, 70_000] {
        let key = room.key(&format!("object{bytes}"));
        room.store.put(&key, Bytes::from(vec![b'x'; bytes])).await?;
        let found = room.store.size(&key).await?;
        ensure!(found == Some(bytes as u64), "{bytes} bytes: {found:?}");
    }
    for name in ["missing", "missing/object", "object"] {
        let found = room.store.size(&room.key(name)).await?;
        ensure!(found.is_none(), "{name}: {found:?}");
    }
    Ok(Support::Yes)
}

pub async fn range(room: Room) -> Verdict {
    let key = room.key("object");
    let content: Bytes = (0..100_000_u32).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
    room.store.put(&key, content.clone()).await?;
    for range in [0..1, 0..100_000, 99_999..100_000, 33_000..77_000, 1..99_999] {
        let found = room.store.get_range(&key, range.clone()).await?;
        let (start, end) = (range.start as usize, range.end as usize);
        ensure!(
            found == content.slice(start..end),
            "{range:?}: {} bytes, or others",
            found.len()
        );
    }
    let missing = room.store.get_range(&room.key("missing"), 0..1).await;
    ensure!(
        matches!(missing, Err(Error::NotFound { .. })),
        "of a missing key: {missing:?}"
    );
    Ok(Support::Yes)
}

pub async fn in_parts(room: Room) -> Verdict {
    for bytes in [1, PART_BYTES, PART_BYTES + 1] {
        let key = room.key(&format!("object{bytes}"));
        let content: Bytes = (0..bytes).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
        room.store.put(&key, content.clone()).await?;
        let mut reader = RangeReader::open(&room.store, &key).await?.ok_or("it is not there")?;
        let read = tokio::task::spawn_blocking(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        ensure!(read.await?? == content, "{bytes} bytes: others were read");
        room.store.delete(&key).await?;
    }
    let missing = RangeReader::open(&room.store, &room.key("missing")).await?;
    ensure!(missing.is_none(), "a missing key was opened");
    Ok(Support::Yes)
}
