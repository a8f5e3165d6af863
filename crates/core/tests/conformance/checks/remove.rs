use bytes::Bytes;

use crate::ensure;
use crate::place::Room;
use crate::suite::{Support, Verdict};

pub async fn delete(room: Room) -> Verdict {
    for name in ["a/object", "a/other"] {
        room.store.put(&room.key(name), Bytes::from_static(b"x")).await?;
    }
    for name in ["a/object", "a/object", "a/missing", "missing/object"] {
        room.store.delete(&room.key(name)).await?;
    }
    ensure!(
        room.store.size(&room.key("a/object")).await?.is_none(),
        "it is still there"
    );
    ensure!(room.names().await? == ["a/other"], "{:?}", room.names().await?);
    // The name is free again.
    room.store
        .create(&room.key("a/object"), Bytes::from_static(b"new"))
        .await?;
    ensure!(room.names().await?.len() == 2, "{:?}", room.names().await?);
    Ok(Support::Yes)
}

pub async fn folder(room: Room) -> Verdict {
    for name in ["p/a", "p/b", "p/q/c", "p/q/r/d", "p2/e", "p_stop_sentinel.json"] {
        room.store.put(&room.key(name), Bytes::from_static(b"x")).await?;
    }
    for expected in [4, 0] {
        let removed = room.store.delete_folder(&room.key("p")).await?;
        ensure!(removed == expected, "{removed} objects removed, {expected} were there");
    }
    let left = room.names().await?;
    ensure!(left == ["p2/e", "p_stop_sentinel.json"], "left: {left:?}");
    Ok(Support::Yes)
}
