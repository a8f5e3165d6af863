use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use walarchive_storage::Store;
use walarchive_testkit::meddler::{Act, Meddler, Op};

use super::look::first_unarchived;
use super::*;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout;
use crate::wal::SegmentSize;

const MB: u64 = 1 << 20;

/// 1 MB segments. Timeline 2 has left 1 in the segment with the number 8, and 3 has left 2 in that with the number 12.
struct Case {
    store: Store,
    pg_wal: tempfile::TempDir,
}

fn name(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}00000000{number:08X}")
}

impl Case {
    fn new() -> Self {
        let case = Case {
            store: Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:"),
            pg_wal: tempfile::tempdir().expect("a directory"),
        };
        case.write("00000002.history", "1\t0/800100\tx\n");
        case.write("00000003.history", "1\t0/800100\tx\n2\t0/C00100\tx\n");
        case
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.pg_wal.path().join(name), content).expect("written");
    }

    fn local(&self, timeline: u32, numbers: std::ops::RangeInclusive<u64>) {
        numbers.for_each(|number| self.write(&name(timeline, number), ""));
    }

    /// The repository is there, with nothing in it.
    async fn begun(self) -> Self {
        let claimed = crate::repository::cluster::claim(&self.store, &self.line(1).identity).await;
        claimed.expect("claimed");
        self
    }

    async fn archived(&self, files: &[String]) {
        for file in files {
            let key = format!("{}/{file}.zst", layout::WAL_FOLDER);
            self.store.put(&key, Bytes::new()).await.expect("written");
        }
    }

    fn line(&self, timeline: u32) -> Line {
        let identity = ClusterIdentity {
            system_identifier: 1,
            major_version: 15,
            segment_size: SegmentSize::new(MB).expect("a size"),
        };
        Line::read(self.pg_wal.path(), timeline, &identity).expect("read")
    }

    async fn look(&self, timeline: u32) -> (Vec<String>, Vec<String>) {
        let found = look(&self.store, &self.line(timeline)).await.expect("looked");
        let wanted = found.wanted.iter().map(|wanted| wanted.name().to_string()).collect();
        let lost = found
            .lost
            .iter()
            .map(|range| format!("{} to {}", range.first, range.last))
            .collect();
        (wanted, lost)
    }
}

fn names(timeline: u32, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|number| name(timeline, number)).collect()
}

#[tokio::test]
async fn what_is_between_the_archive_and_the_switch_is_wanted() {
    let case = Case::new();
    // Left over from the time before, or made ready for the time to come: not of this history.
    case.local(1, 3..=7);
    case.local(1, 9..=9);
    case.local(2, 8..=10);
    case.write("00000001000000000000000G", "");
    case.archived(&names(1, [1, 2, 3, 4])).await;
    assert_eq!(case.look(2).await, (names(1, [5, 6, 7]), Vec::new()));
    // One that came in spite of all is not archived again.
    case.archived(&names(1, [6])).await;
    assert_eq!(case.look(2).await, (names(1, [5, 7]), Vec::new()));
    case.archived(&names(1, [5, 7])).await;
    assert_eq!(case.look(2).await, (Vec::new(), Vec::new()));
    assert_eq!(
        case.look(1).await,
        (Vec::new(), Vec::new()),
        "the first timeline left none"
    );
}

#[tokio::test]
async fn what_is_nowhere_is_named() {
    let case = Case::new();
    case.local(1, 6..=7);
    case.archived(&names(1, [1, 3])).await;
    let lost = [
        format!("{0} to {0}", name(1, 2)),
        format!("{} to {}", name(1, 4), name(1, 5)),
    ];
    assert_eq!(case.look(2).await, (names(1, [6, 7]), lost.to_vec()));
    // Retention has left the first of the two gaps, and has said so.
    let since = format!("{{\"since\":[\"{}\"]}}", name(1, 3));
    case.store
        .put(&layout::CONTINUOUS, since.into())
        .await
        .expect("written");
    assert_eq!(case.look(2).await, (names(1, [6, 7]), lost[1..].to_vec()));
}

#[tokio::test]
async fn two_failovers_one_after_the_other() {
    let case = Case::new();
    case.local(1, 6..=7);
    case.local(2, 8..=11);
    case.local(3, 12..=14);
    case.archived(&names(1, [4, 5])).await;
    let mut wanted = vec!["00000002.history".to_owned()];
    wanted.extend(names(1, [6, 7]));
    wanted.extend(names(2, [8, 9, 10, 11]));
    assert_eq!(case.look(3).await, (wanted, Vec::new()));
    case.archived(&names(2, [9])).await;
    case.archived(&["00000002.history".to_owned()]).await;
    std::fs::remove_file(case.pg_wal.path().join(name(1, 7))).expect("removed");
    std::fs::remove_file(case.pg_wal.path().join(name(2, 8))).expect("removed");
    let mut wanted = names(1, [6]);
    wanted.extend(names(2, [10, 11]));
    let lost = [format!("{0} to {0}", name(1, 7)), format!("{0} to {0}", name(2, 8))];
    assert_eq!(case.look(3).await, (wanted, lost.to_vec()));
}

#[tokio::test]
async fn an_archive_that_has_none_of_it_gets_none_of_it() {
    let case = Case::new().begun().await;
    case.local(1, 5..=7);
    assert_eq!(case.look(2).await, (Vec::new(), Vec::new()));
    case.archived(&names(2, [8])).await;
    assert_eq!(case.look(2).await, (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn an_archive_that_ended_long_ago_is_found() {
    let case = Case::new();
    case.write("00000002.history", "1\t1/0\tx\n");
    case.local(1, 4090..=4095);
    case.archived(&names(1, [7])).await;
    let (wanted, lost) = case.look(2).await;
    assert_eq!(wanted, names(1, 4090..=4095));
    assert_eq!(lost, [format!("{} to {}", name(1, 8), name(1, 4089))]);
}

#[tokio::test]
async fn the_last_segment_of_the_parent_goes_as_a_partial_one() {
    let case = Case::new();
    case.local(1, 7..=8);
    case.archived(&names(1, [7])).await;
    let partial = format!("{}.partial", name(1, 8));
    assert_eq!(case.look(2).await, (vec![partial.clone()], Vec::new()));
    // PostgreSQL has done that by itself.
    case.write(&partial, "");
    assert_eq!(case.look(2).await, (Vec::new(), Vec::new()));
    std::fs::remove_file(case.pg_wal.path().join(&partial)).expect("removed");
    // The old primary has archived all of it.
    case.archived(&names(1, [8])).await;
    assert_eq!(case.look(2).await, (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_standby_keeps_from_the_first_one_on_that_the_archive_lacks() {
    let case = Case::new().begun().await;
    case.local(1, 3..=7);
    case.local(2, 8..=12);
    let first = async |from: u64, end: u64| {
        let found = first_unarchived(&case.store, &case.line(2), Lsn(from * MB + 7), Lsn(end * MB + 100)).await;
        found.expect("looked").0.0 / MB
    };
    assert_eq!(first(0, 10).await, 10, "the archive has nothing of it yet");
    case.archived(&names(1, [1])).await;
    assert_eq!(first(0, 10).await, 3);
    std::fs::remove_file(case.pg_wal.path().join(name(1, 3))).expect("removed");
    case.archived(&names(1, [4, 6])).await;
    assert_eq!(first(0, 10).await, 5);
    assert_eq!(first(6, 10).await, 7);
    case.archived(&names(1, [5, 7])).await;
    assert_eq!(first(0, 10).await, 8);
    case.archived(&names(2, [8, 9])).await;
    assert_eq!(
        first(0, 10).await,
        10,
        "the one that is being written is kept in any case"
    );
    assert_eq!(first(0, 12).await, 10);
    // The primary archives to another place from a later segment on.
    let other = Case::new().begun().await;
    other.local(1, 3..=7);
    other.archived(&names(1, [5])).await;
    let (from, end) = (Lsn(0), Lsn(8 * MB));
    let found = first_unarchived(&other.store, &other.line(1), from, end)
        .await
        .expect("looked");
    assert_eq!(found.0.0 / MB, 6);
    // A standby without the history file knows its own timeline only.
    std::fs::remove_file(case.pg_wal.path().join("00000002.history")).expect("removed");
    assert_eq!(first(0, 10).await, 10);
}

#[tokio::test]
async fn a_standby_lists_the_archive_once_and_then_asks_for_the_next_one() {
    let meddler = Meddler::new(Arc::default());
    let requests: [Arc<AtomicUsize>; 2] = Default::default();
    let (lists, gets) = (requests[0].clone(), requests[1].clone());
    meddler.rule(move |op, key| {
        match op {
            Op::List => _ = lists.fetch_add(1, Ordering::Relaxed),
            Op::Get if key.starts_with("wal_005") => _ = gets.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
        Act::Pass
    });
    let mut case = Case::new();
    case.store = Store::of(Arc::new(meddler), "memory:");
    let case = case.begun().await;
    case.local(1, 3..=9);
    case.archived(&names(1, [1, 2, 3])).await;
    let mut followed = Followed::default();
    let mut look = async |end: u64| {
        requests.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        let line = case.line(1);
        let found = follow(&case.store, &line, Lsn(0), Lsn(end * MB + 1), followed.clone()).await;
        let found = found.expect("looked");
        followed = found.1;
        let [lists, gets] = [0, 1].map(|kind: usize| requests[kind].load(Ordering::Relaxed));
        (found.0.0 / MB, lists, gets)
    };
    assert_eq!(look(8).await, (4, 1, 0));
    assert_eq!(look(8).await, (4, 0, 1), "the primary is behind");
    assert_eq!(look(8).await, (4, 1, 1), "or compresses in another way now");
    assert_eq!(look(8).await, (4, 0, 1), "that is known");
    case.archived(&names(1, [4, 5])).await;
    assert_eq!(look(8).await, (6, 0, 3));
    case.archived(&names(1, [6, 7])).await;
    assert_eq!(look(8).await, (8, 0, 2));
    assert_eq!(look(8).await, (8, 0, 0), "nothing can have changed");
    case.archived(&names(1, 8..=9)).await;
    case.local(1, 10..=20);
    assert_eq!(look(21).await, (10, 0, 3));
    // Of many a listing tells at once.
    case.archived(&names(1, 10..=19)).await;
    assert_eq!(look(21).await, (20, 1, 4));
    // Segments that nobody has any more are not asked for.
    std::fs::remove_file(case.pg_wal.path().join(name(1, 20))).expect("removed");
    assert_eq!(look(21).await, (21, 0, 0));
    // A directory that is not mounted does not look as if the primary were behind.
    case.local(1, 20..=21);
    let unmounted = Store::of(Arc::new(object_store::memory::InMemory::new()), "file:///store");
    let found = follow(&unmounted, &case.line(1), Lsn(0), Lsn(22 * MB), followed).await;
    assert!(matches!(found, Err(Error::NoRepository { .. })), "{found:?}");
}

#[tokio::test]
async fn a_store_without_a_repository_is_no_empty_archive() {
    let case = Case::new();
    case.local(1, 5..=7);
    let found = look(&case.store, &case.line(2)).await;
    assert!(matches!(found, Err(Error::NoRepository { .. })), "{found:?}");
    let found = first_unarchived(&case.store, &case.line(1), Lsn(0), Lsn(8 * MB)).await;
    assert!(matches!(found, Err(Error::NoRepository { .. })), "{found:?}");
    // Nothing is left to be kept.
    let found = first_unarchived(&case.store, &case.line(1), Lsn(8 * MB), Lsn(8 * MB)).await;
    assert_eq!(found.expect("looked").0.0 / MB, 8);
    let case = case.begun().await;
    assert_eq!(case.look(2).await, (Vec::new(), Vec::new()));
    let found = first_unarchived(&case.store, &case.line(1), Lsn(0), Lsn(8 * MB)).await;
    assert_eq!(found.expect("looked").0.0 / MB, 8);
}

#[test]
fn a_timeline_without_its_history_is_told() {
    let case = Case::new();
    for timeline in 1..=3 {
        case.line(timeline).check_ancestors().expect("known");
    }
    case.write("00000003.history", "no history");
    let error = case.line(3).check_ancestors().expect_err("it cannot be read");
    assert!(error.to_string().contains("\"00000003.history\""), "{error}");
    case.line(4).check_ancestors().expect_err("it is missing");
}

#[test]
fn the_oldest_segment_of_the_history_is_found() {
    let case = Case::new();
    let oldest = |end: u64| case.line(2).oldest(Lsn(end * MB + 100)).expect("read");
    assert_eq!(oldest(10), None);
    case.local(1, 5..=9);
    case.local(2, 2..=10);
    assert_eq!(oldest(10), Some(Lsn(5 * MB)));
    assert_eq!(oldest(5), None, "it is being written");
}

#[tokio::test]
async fn one_bad_file_is_told_from_a_bad_store() {
    let case = Case::new();
    case.local(1, 5..=6);
    case.archived(&names(1, [4])).await;
    let line = case.line(2);
    let wanted = look(&case.store, &line).await.expect("looked").wanted;
    let blames = |error: &Error| wanted[0].is_to_blame(&line, error);
    let gone = |number| {
        Error::io(
            "open",
            line.pg_wal.join(name(1, number)),
            std::io::ErrorKind::NotFound.into(),
        )
    };
    assert!(blames(&gone(5)) && !blames(&gone(6)));
    assert!(!blames(&Error::Cancelled) && !blames(&crate::repository::none_in(&case.store)));
    let invalid = Error::InvalidWal {
        file: name(1, 5),
        reason: String::new(),
    };
    assert!(blames(&invalid));
}
