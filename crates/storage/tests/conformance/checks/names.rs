use bytes::Bytes;
use walarchive_storage::{Created, RangeReader};

use crate::ensure;
use crate::place::Room;
use crate::suite::{Support, Trouble, Verdict};

/// Names that the repository's layout makes, and WAL-G's.
const LAYOUT: [&str; 11] = [
    "wal_005/000000010000000000000001.zst",
    "wal_005/000000010000000000000001.partial.zst",
    "wal_005/000000010000000000000001.00000028.backup.lz4",
    "wal_005/00000002.history.lzma",
    "wal_005/000000010000000000000002",
    "basebackups_005/base_000000010000000000000001_backup_stop_sentinel.json",
    "basebackups_005/base_000000010000000000000001/tar_partitions/part_001.tar.br",
    "basebackups_005/base_000000010000000000000001/tar_partitions/pg_control.tar.zst",
    "basebackups_005/base_000000010000000000000001/walarchive_claim.json",
    "basebackups_005/base_000000010000000000000003_D_000000010000000000000001/metadata.json",
    "walarchive_005/cluster.json",
];

/// Names that somebody else may have put into the bucket: each must be listed under the name that reads and deletes it.
/// Without a backslash, which Azure takes for a slash.
const ODD: [&str; 24] = [
    "a b",
    "a+b",
    "a%b",
    "a%20b",
    "100%",
    "%2F",
    "k=v&k=v",
    "(copy 1)",
    "quote'd",
    "quote\"d",
    "a#b",
    "a?b",
    "a;b,c:d@e",
    "~a",
    "[a]{b}",
    "a*b",
    "a|b^c`d",
    "<a>",
    "$HOME!",
    "-a",
    "ünïcödé",
    "nfd-e\u{301}",
    "日本語",
    "🐘",
];

pub async fn layout(room: Room) -> Verdict {
    all(&room, &LAYOUT).await
}

pub async fn odd(room: Room) -> Verdict {
    all(&room, &ODD).await
}

async fn all(room: &Room, names: &[&'static str]) -> Verdict {
    let mut troubles = Vec::new();
    for name in names {
        if let Err(trouble) = one(room, name).await {
            troubles.push(format!("{name:?}: {trouble}"));
        }
    }
    ensure!(troubles.is_empty(), "{}", troubles.join("; "));
    // Together, too, they are all there: none of them is another's.
    for name in names {
        room.store.put(&room.key(name), Bytes::from(*name)).await?;
    }
    let mut expected = names.to_vec();
    expected.sort_unstable();
    let found = room.names().await?;
    ensure!(found == expected, "{found:?}");
    for name in names {
        let found = room.store.get(&room.key(name), 1000).await?;
        ensure!(found.as_deref() == Some(name.as_bytes()), "{name:?}: {found:?}");
    }
    let removed = room.store.delete_folder(&room.folder).await?;
    ensure!(removed == names.len(), "{removed} objects were removed");
    let left = room.names().await?;
    ensure!(left.is_empty(), "not deleted under the name that was listed: {left:?}");
    Ok(Support::Yes)
}

async fn one(room: &Room, name: &str) -> Result<(), Trouble> {
    let key = room.key(name);
    let created = room.store.create(&key, Bytes::from_static(b"12345")).await?;
    ensure!(created == Created::Yes, "created: {created:?}");
    let found = room.names().await?;
    ensure!(found == [name], "listed: {found:?}");
    ensure!(room.store.size(&key).await? == Some(5), "size");
    ensure!(room.store.get_range(&key, 1..3).await? == b"23"[..], "range");
    ensure!(RangeReader::open(&room.store, &key).await?.is_some(), "read in parts");
    room.store.put(&key, Bytes::from_static(b"new")).await?;
    let content = room.store.get(&key, 100).await?;
    ensure!(content.as_deref() == Some(b"new"), "content: {content:?}");
    room.store.delete(&key).await?;
    let left = room.names().await?;
    ensure!(left.is_empty(), "after its deletion: {left:?}");
    Ok(())
}

/// Repositories side by side, where the name of one begins with that of another.
pub async fn prefixes(room: Room) -> Verdict {
    let prefixes = ["p", "p2", "p2/nested+one", "q r"];
    let mut stores = Vec::new();
    for prefix in prefixes {
        stores.push(room.place.open(prefix)?);
    }
    for (store, prefix) in stores.iter().zip(prefixes) {
        store.put("wal_005/segment", Bytes::from(prefix)).await?;
    }
    for (store, prefix) in stores.iter().zip(prefixes) {
        let found = store.get("wal_005/segment", 100).await?;
        ensure!(found.as_deref() == Some(prefix.as_bytes()), "{prefix}: {found:?}");
        for listing in [store.list("wal_005").await?, store.list_shallow("wal_005").await?] {
            let keys: Vec<&str> = listing.iter().map(|listed| listed.key.as_str()).collect();
            ensure!(keys == ["wal_005/segment"], "{prefix}: {keys:?}");
        }
    }
    let all = stores[0].list("").await?;
    ensure!(all.len() == 1, "all below p: {all:?}");
    let removed = stores[0].delete_folder("").await?;
    ensure!(removed == 1, "{removed} objects removed from p");
    for (store, prefix) in stores.iter().zip(prefixes).skip(1) {
        let found = store.size("wal_005/segment").await?;
        ensure!(found.is_some(), "{prefix}: gone with another's");
    }
    Ok(Support::Yes)
}
