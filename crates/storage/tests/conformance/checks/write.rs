use bytes::Bytes;
use futures::future::join_all;
use walarchive_storage::{Created, RangeReader};

use crate::ensure;
use crate::place::Room;
use crate::suite::{Support, Verdict};

const CREATORS: usize = 8;
const ROUNDS: usize = 10;

pub async fn put(room: Room) -> Verdict {
    let key = room.key("a/b/object");
    let content = Bytes::from_static(b"\0content\xff\n");
    room.store.put(&key, content.clone()).await?;
    ensure!(room.store.get(&key, 100).await? == Some(content), "other content");
    ensure!(room.names().await? == ["a/b/object"], "{:?}", room.names().await?);
    Ok(Support::Yes)
}

pub async fn overwrite(room: Room) -> Verdict {
    let key = room.key("object");
    for content in ["the first", "2", "the third, longer"] {
        room.store.put(&key, Bytes::from(content)).await?;
        let found = room.store.get(&key, 100).await?;
        ensure!(found.as_deref() == Some(content.as_bytes()), "{content}: {found:?}");
    }
    ensure!(room.names().await? == ["object"], "{:?}", room.names().await?);
    Ok(Support::Yes)
}

pub async fn empty(room: Room) -> Verdict {
    let (put, created) = (room.key("put"), room.key("created"));
    room.store.put(&put, Bytes::new()).await?;
    let outcome = room.store.create(&created, Bytes::new()).await?;
    ensure!(outcome == Created::Yes, "create: {outcome:?}");
    for key in [&put, &created] {
        ensure!(room.store.size(key).await? == Some(0), "{key}: size");
        ensure!(room.store.get(key, 0).await? == Some(Bytes::new()), "{key}: get");
        ensure!(
            RangeReader::open(&room.store, key).await?.is_some(),
            "{key}: read in parts"
        );
    }
    ensure!(room.names().await? == ["created", "put"], "{:?}", room.names().await?);
    Ok(Support::Yes)
}

pub async fn create(room: Room) -> Verdict {
    let key = room.key("a/object");
    let outcome = room.store.create(&key, Bytes::from_static(b"one")).await?;
    ensure!(outcome == Created::Yes, "{outcome:?}");
    let found = room.store.get(&key, 100).await?;
    ensure!(found.as_deref() == Some(b"one"), "{found:?}");
    ensure!(room.names().await? == ["a/object"], "{:?}", room.names().await?);
    Ok(Support::Yes)
}

pub async fn create_again(room: Room) -> Verdict {
    let key = room.key("object");
    room.store.create(&key, Bytes::from_static(b"one")).await?;
    let outcome = room.store.create(&key, Bytes::from_static(b"two")).await?;
    let found = room.store.get(&key, 100).await?;
    match (outcome, found.as_deref()) {
        (Created::Exists, Some(b"one")) => {}
        (Created::Yes, Some(b"two")) => return Ok(Support::Ignored),
        (outcome, found) => return Err(format!("{outcome:?}, and the object is {found:?}").into()),
    }
    // An object that put has written counts as well, and the same content is no exception.
    room.store.put(&key, Bytes::from_static(b"three")).await?;
    for content in ["three", "four"] {
        let outcome = room.store.create(&key, Bytes::from(content)).await?;
        ensure!(outcome == Created::Exists, "after put: {outcome:?}");
    }
    let found = room.store.get(&key, 100).await?;
    ensure!(found.as_deref() == Some(b"three"), "{found:?}");
    ensure!(room.names().await? == ["object"], "{:?}", room.names().await?);
    Ok(Support::Yes)
}

/// Each creator has connections of its own, as servers that think they own the repository would.
pub async fn race(room: Room) -> Verdict {
    let mut stores = Vec::new();
    for _ in 0..CREATORS {
        stores.push(room.place.open("conformance")?);
    }
    let files = room.place.files();
    for round in 0..ROUNDS {
        let key = room.key(&format!("round{round}"));
        // Contents of different lengths, so that a mixture would show.
        let content = |creator: usize| Bytes::from(vec![b'0' + creator as u8; 100_000 + 1000 * creator]);
        let creators = stores.iter().enumerate();
        let outcomes = join_all(creators.map(|(creator, store)| store.create(&key, content(creator)))).await;
        let mut winners = Vec::new();
        for (creator, outcome) in outcomes.into_iter().enumerate() {
            if outcome? == Created::Yes {
                winners.push(creator);
            }
        }
        let found = room.store.get(&key, 1 << 20).await?.ok_or("nobody's object is there")?;
        let whose = winners.iter().any(|winner| content(*winner) == found);
        ensure!(whose, "round {round}: the object is none of the winners' {winners:?}");
        if winners.len() > 1 {
            return Ok(Support::Ignored);
        }
    }
    ensure!(room.names().await?.len() == ROUNDS, "{:?}", room.names().await?);
    // s3s-fs keeps two files of its own beside each object.
    let now = room.place.files();
    let left: Vec<_> = now.difference(&files).collect();
    ensure!(left.len() <= 3 * ROUNDS, "the losers left files: {left:?}");
    Ok(Support::Yes)
}
