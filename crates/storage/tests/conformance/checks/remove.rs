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

/// More than fit into one request of S3's bulk deletion.
const MANY: usize = 1005;

pub async fn many(room: Room) -> Verdict {
    let key = |number: usize| room.key(&format!("many/{number:05} a+b%c"));
    for first in (0..MANY).step_by(50) {
        let puts = (first..MANY.min(first + 50)).map(|number| {
            let (store, key) = (room.store.clone(), key(number));
            async move { store.put(&key, Bytes::from_static(b"x")).await }
        });
        futures::future::try_join_all(puts).await?;
    }
    let kept = key(MANY - 1);
    // One that is not there is among them.
    let mut keys: Vec<String> = (0..MANY - 1).map(key).collect();
    keys.insert(7, room.key("many/missing"));
    let mut gone = Vec::new();
    room.store.delete_many(&keys, |index| gone.push(index)).await?;
    gone.sort_unstable();
    ensure!(
        gone == (0..MANY).collect::<Vec<_>>(),
        "{} of {MANY} were told to be gone",
        gone.len()
    );
    let left = room.names().await?;
    ensure!(left.len() == 1 && kept.ends_with(&left[0]), "left: {left:?}");
    Ok(Support::Yes)
}
