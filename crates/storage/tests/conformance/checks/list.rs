use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use walarchive_storage::PART_BYTES;

use super::upload::{HEAVY, content, upload};
use crate::ensure;
use crate::place::Room;
use crate::suite::{Support, Trouble, Verdict};

/// More than most stores list in one page, which is 1000, one level and below.
const FLAT: usize = 2100;
const NESTED: usize = 400;

/// The folder is shared by the checks that need many keys, since writing them takes its time.
const MANY: &str = "many";

fn names() -> Vec<String> {
    let flat = (0..FLAT).map(|number| format!("0000000100000000{number:08X}.zst"));
    let nested = (0..NESTED).map(|number| format!("folder{}/part_{number:03}.tar.zst", number % 3));
    let mut names: Vec<String> = flat.chain(nested).collect();
    names.sort();
    names
}

async fn many(mut room: Room) -> Result<Room, Trouble> {
    room.folder = MANY.to_owned();
    if room.store.size(&room.key("complete")).await?.is_none() {
        stream::iter(names())
            .map(|name| {
                let (store, key) = (room.store.clone(), room.key(&name));
                async move { store.put(&key, Bytes::from(name)).await }
            })
            .buffer_unordered(16)
            .try_collect::<()>()
            .await?;
        room.store
            .put(&room.key("complete"), Bytes::from_static(b"complete"))
            .await?;
    }
    Ok(room)
}

pub async fn pages(room: Room) -> Verdict {
    let begun = chrono::Utc::now();
    let room = many(room).await?;
    let listing = room.store.list(MANY).await?;
    for listed in &listing {
        let name = &listed.key[MANY.len() + 1..];
        ensure!(listed.size == name.len() as u64, "{name}: {} bytes", listed.size);
        let age = begun - listed.last_modified;
        ensure!(
            age.num_seconds().abs() < 600,
            "{name}: written at {}",
            listed.last_modified
        );
    }
    let mut expected = names();
    expected.push("complete".to_owned());
    expected.sort();
    let found = room.relative(listing)?;
    ensure!(
        found == expected,
        "{} of {} keys, or others",
        found.len(),
        expected.len()
    );
    Ok(Support::Yes)
}

pub async fn after(room: Room) -> Verdict {
    let room = many(room).await?;
    let mut expected = names();
    expected.push("complete".to_owned());
    expected.sort();
    // From the first page on, from the middle of a page, from a key that is not there, from the last one.
    for after in [&expected[0], &expected[1500], "0000000100000000000005", "zzz"] {
        let listing = room.store.list_after(MANY, &room.key(after)).await?;
        let found = room.relative(listing)?;
        let right: Vec<&String> = expected.iter().filter(|name| name.as_str() > after).collect();
        ensure!(
            found.iter().eq(right.iter().copied()),
            "after {after}: {} of {} keys, or others",
            found.len(),
            right.len()
        );
    }
    Ok(Support::Yes)
}

pub async fn shallow(room: Room) -> Verdict {
    let room = many(room).await?;
    let found = room.relative(room.store.list_shallow(MANY).await?)?;
    let mut expected: Vec<String> = names().into_iter().filter(|name| !name.contains('/')).collect();
    expected.push("complete".to_owned());
    ensure!(
        found == expected,
        "{} of {} keys, or others",
        found.len(),
        expected.len()
    );
    let nowhere = room.store.list_shallow("nowhere").await?;
    ensure!(nowhere.is_empty(), "a missing folder: {nowhere:?}");
    Ok(Support::Yes)
}

pub async fn folders(room: Room) -> Verdict {
    for name in ["p/a", "p/q/b", "p2/c", "p.d", "po"] {
        room.store.put(&room.key(name), Bytes::from_static(b"x")).await?;
    }
    for (folder, expected) in [
        ("p", &["p/a", "p/q/b"][..]),
        ("p/q", &["p/q/b"]),
        ("p2", &["p2/c"]),
        ("q", &[]),
    ] {
        let found = room.relative(room.store.list(&room.key(folder)).await?)?;
        ensure!(found == expected, "{folder}: {found:?}");
    }
    let found = room.relative(room.store.list_shallow(&room.key("p")).await?)?;
    ensure!(found == ["p/a"], "p, one level: {found:?}");
    Ok(Support::Yes)
}

/// Others see nothing of an object that is being written, or all.
pub async fn during_writes(room: Room) -> Verdict {
    let _heavy = HEAVY.lock().await;
    let large = 2 * PART_BYTES + 17;
    let mut sizes = BTreeMap::from([("always".to_owned(), 40_000)]);
    for number in 0..20 {
        sizes.insert(format!("put{number}"), 50_000);
        sizes.insert(format!("created{number}"), 60_000);
    }
    for number in 0..3 {
        sizes.insert(format!("uploaded{number}"), large);
    }
    room.store.put(&room.key("always"), content(0, 40_000).into()).await?;
    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (room, over) = (room.clone(), over.clone());
        async move {
            let result = write(&room, large).await;
            over.store(true, Ordering::Relaxed);
            result
        }
    };
    let looker = {
        let (room, sizes) = (room.clone(), sizes.clone());
        async move {
            let mut listings = 0;
            loop {
                let last = over.load(Ordering::Relaxed);
                let listing = room.store.list(&room.folder).await?;
                for listed in &listing {
                    let name = &listed.key[room.folder.len() + 1..];
                    let expected = sizes.get(name);
                    ensure!(
                        expected == Some(&listed.size),
                        "listed: {name} of {} bytes",
                        listed.size
                    );
                }
                let always = listing.iter().any(|listed| listed.key == room.key("always"));
                ensure!(always, "an object that is written over was gone");
                listings += 1;
                if last {
                    ensure!(
                        listing.len() == sizes.len(),
                        "{} of {} keys",
                        listing.len(),
                        sizes.len()
                    );
                    return Ok::<_, Trouble>(listings);
                }
            }
        }
    };
    let (written, looked) = tokio::join!(tokio::spawn(writer), tokio::spawn(looker));
    written??;
    let listings = looked??;
    ensure!(listings > 3, "only {listings} listings during the writes");
    room.store.delete_folder(&room.folder).await?;
    Ok(Support::Yes)
}

async fn write(room: &Room, large: u64) -> Result<(), Trouble> {
    for number in 0..20 {
        room.store.put(&room.key("always"), content(0, 40_000).into()).await?;
        let key = |kind: &str| room.key(&format!("{kind}{number}"));
        room.store.put(&key("put"), content(1, 50_000).into()).await?;
        room.store.create(&key("created"), content(2, 60_000).into()).await?;
        if number < 3 {
            upload(&room.store, &key("uploaded"), large).await?;
        }
    }
    Ok(())
}
