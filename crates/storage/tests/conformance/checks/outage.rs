use bytes::Bytes;

use crate::ensure;
use crate::place::Room;
use crate::suite::{Support, Verdict};

/// A store that cannot be asked has not said that anything is missing; and when it is back, so are we.
pub async fn outage(room: Room) -> Verdict {
    let key = room.key("object");
    room.store.put(&key, Bytes::from_static(b"x")).await?;
    let place = room.place.clone();
    tokio::task::spawn_blocking(move || place.server.stop()).await?;
    let answers = [
        ("size", room.store.size(&key).await.is_ok()),
        ("get", room.store.get(&key, 100).await.is_ok()),
        ("list", room.store.list(&room.folder).await.is_ok()),
    ];
    let created = room.store.create(&room.key("new"), Bytes::from_static(b"x")).await;
    let place = room.place.clone();
    tokio::task::spawn_blocking(move || place.server.start_again()).await?;
    if room.place.server.forgets() {
        room.store.put(&key, Bytes::from_static(b"x")).await?;
    }
    let found = room.store.get(&key, 100).await?;
    ensure!(found.as_deref() == Some(b"x"), "after the outage: {found:?}");
    let answered: Vec<_> = answers.iter().filter(|(_, answered)| *answered).collect();
    if answered.is_empty() && created.is_err() {
        return Ok(Support::Yes);
    }
    // Then its users ask whether the repository is there before they believe that an object is not.
    ensure!(
        room.store.may_vanish(),
        "answered during the outage: {answered:?}, {created:?}"
    );
    Ok(Support::Ignored)
}
