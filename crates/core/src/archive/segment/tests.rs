use std::sync::Arc;
use std::time::Instant;

use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use tempfile::TempDir;

use super::*;
use crate::wal::generator::segments;

/// The time of one request, and a limit that no listing comes near to.
const ROUND: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(60);

/// A store that answers after a while.
async fn slow_store(objects: &[(&str, &[u8])]) -> Store {
    store_that_lists_in(ROUND, objects).await
}

async fn store_that_lists_in(time: Duration, objects: &[(&str, &[u8])]) -> Store {
    let memory = Arc::new(InMemory::new());
    let quick = Store::of(Arc::clone(&memory) as _, "memory:");
    quick.put(&layout::CLUSTER, "{}".into()).await.expect("stored");
    for (key, content) in objects {
        quick.put(key, content.to_vec().into()).await.expect("stored");
    }
    let config = ThrottleConfig {
        wait_get_per_call: ROUND,
        wait_list_per_call: time,
        wait_list_with_delimiter_per_call: time,
        ..ThrottleConfig::default()
    };
    Store::of(Arc::new(ThrottledStore::new(memory, config)), "memory:")
}

/// The name and the content of the segment with this number.
fn first_of(number: u64) -> (String, Vec<u8>) {
    let (segment, content) = segments(1, number, 1).swap_remove(0);
    (segment.to_string(), content)
}

struct Asked {
    answer: Answer,
    /// Requests that were waited for one after the other.
    rounds: u128,
    dir: TempDir,
}

impl Asked {
    fn behind(self) -> Option<Behind> {
        match self.answer {
            Answer::Absent { behind, .. } => behind,
            Answer::Fetched(fetched) => panic!("{fetched:?}"),
        }
    }
}

async fn ask(store: &Store, name: &str, expects_absence: bool) -> Asked {
    let dir = tempfile::tempdir().expect("a directory");
    let asking = Asking {
        first: Format::Plain,
        most: u64::MAX,
        behind: Some(LIMIT),
        expects_absence,
    };
    let begun = Instant::now();
    let segment = name.parse().expect("a segment");
    let answer = fetch_segment(store, segment, &dir.path().join("target"), asking).await;
    Asked {
        answer: answer.expect("asked"),
        rounds: begun.elapsed().as_millis() / ROUND.as_millis(),
        dir,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_archive_takes_one_round_if_it_is_expected() {
    let (name, content) = first_of(4);
    let key = format!("wal_005/{name}");
    let store = slow_store(&[(&key, &content)]).await;
    let missing = "000000010000000000000005";
    let expected = ask(&store, missing, true).await;
    assert_eq!(expected.rounds, 1);
    let unexpected = ask(&store, missing, false).await;
    assert_eq!(unexpected.rounds, 2);
    assert_eq!(expected.answer, unexpected.answer);
    assert_eq!(expected.behind(), Some(Behind::default()));
    // What is there is not waited for longer.
    for expects_absence in [true, false] {
        let there = ask(&store, &name, expects_absence).await;
        assert!(matches!(there.answer, Answer::Fetched(_)));
        assert_eq!(std::fs::read(there.dir.path().join("target")).expect("there"), content);
        assert!(there.rounds <= 2, "{}", there.rounds);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_there_after_all_is_found_in_each_format() {
    let (name, content) = first_of(4);
    let key = format!("wal_005/{name}.zst");
    let zstd = zstd::encode_all(&content[..], 1).expect("compressed");
    let store = slow_store(&[(&key, &zstd)]).await;
    let asked = ask(&store, &name, true).await;
    assert!(matches!(asked.answer, Answer::Fetched(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn later_wal_is_told_and_an_empty_place_is_no_archive() {
    let (name, content) = first_of(6);
    let key = format!("wal_005/{name}");
    let store = slow_store(&[(&key, &content)]).await;
    for expects_absence in [true, false] {
        let asked = ask(&store, "000000010000000000000005", expects_absence).await;
        assert_ne!(asked.behind().expect("looked"), Behind::default());
    }
    let empty = Store::of(Arc::new(InMemory::new()), "memory:");
    let asking = Asking {
        first: Format::Plain,
        most: u64::MAX,
        behind: Some(LIMIT),
        expects_absence: true,
    };
    let segment = name.parse().expect("a segment");
    let asked = fetch_segment(&empty, segment, std::path::Path::new("/nowhere/target"), asking).await;
    assert!(matches!(asked, Err(Error::NoRepository { .. })), "{asked:?}");
}

/// The segment may be archived, and its tail be removed, between two of the answers. Only a look after them tells.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_tail_is_stored_the_archive_is_looked_at_again_after_it() {
    for key in [
        "walarchive_005/tail/epoch/00000003.json",
        "walarchive_005/tail/000000010000000000000005/00000003-00000000-00000080.zst",
        "walarchive_005/tail/000000010000000000000006/00000003-00000000-00000080.zst",
    ] {
        let store = slow_store(&[(key, b"{}")]).await;
        for expects_absence in [true, false] {
            let asked = ask(&store, "000000010000000000000005", expects_absence).await;
            assert_eq!(asked.behind(), None, "{key}");
        }
    }
}

/// In a directory with much WAL, a listing takes long.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_there_waits_for_no_listing() {
    let (name, content) = first_of(4);
    let key = format!("wal_005/{name}.zst");
    let zstd = zstd::encode_all(&content[..], 1).expect("compressed");
    let store = store_that_lists_in(LIMIT * 60, &[(&key, &zstd)]).await;
    for expects_absence in [true, false] {
        let asked = tokio::time::timeout(LIMIT / 2, ask(&store, &name, expects_absence)).await;
        assert!(matches!(asked.expect("in time").answer, Answer::Fetched(_)));
    }
}
