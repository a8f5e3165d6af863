use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::memory::InMemory;
use proptest::prelude::*;
use walarchive_testkit::meddler::{Act, Meddler, Op};

use super::*;

/// A store with these WAL files, and how often it is asked for a listing.
async fn store(names: &BTreeSet<String>) -> (Store, Arc<AtomicUsize>) {
    let meddler = Meddler::new(Arc::new(InMemory::new()));
    let lists = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lists);
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    for name in names {
        store.put(&format!("wal_005/{name}"), "x".into()).await.expect("stored");
    }
    meddler.rule(move |op, _| {
        count.fetch_add(usize::from(op == Op::List), Ordering::Relaxed);
        Act::Pass
    });
    (store, lists)
}

/// Segments of a timeline, in the names of clusters with segments of this size.
fn names(timeline: u32, numbers: std::ops::Range<u64>, size: SegmentSize) -> impl Iterator<Item = String> {
    numbers.map(move |number| format!("{}.zst", Segment::from_number(timeline, number, size)))
}

async fn listed(store: &Store, size: SegmentSize) -> BTreeSet<String> {
    let found = list(store, size).await.expect("listed");
    let names: BTreeSet<String> = found
        .iter()
        .map(|object| object.key().trim_start_matches("wal_005/").to_owned())
        .collect();
    assert_eq!(names.len(), found.len(), "nothing twice");
    names
}

#[tokio::test]
async fn everything_is_found_whatever_there_is() {
    let (small, usual, large) = (1 << 20, 16 << 20, 1 << 30);
    for bytes in [small, usual, large] {
        let size = SegmentSize::new(bytes).expect("a size");
        let mut all: BTreeSet<String> = names(1, 3..12_345, size).collect();
        // A gap, and timelines that follow.
        all.extend(names(1, 20_000..23_000, size));
        all.extend(names(2, 22_999..30_000, size));
        all.extend(names(0x11, 5..7, size));
        all.extend(["00000002.history.zst", "00000011.history"].map(str::to_owned));
        let middle = Segment::from_number(1, 5000, size);
        for kind in ["partial.zst", "00000028.backup.zst", "lz4"] {
            all.insert(format!("{middle}.{kind}"));
        }
        let (store, _) = store(&all).await;
        for guess in [small, usual, large] {
            let guess = SegmentSize::new(guess).expect("a size");
            assert!(listed(&store, guess).await == all, "{bytes} taken for {guess:?}");
        }
    }
}

#[tokio::test]
async fn a_small_repository_takes_one_request() {
    let all: BTreeSet<String> = names(1, 3..900, SegmentSize::DEFAULT).collect();
    let (store, lists) = store(&all).await;
    assert!(listed(&store, SegmentSize::DEFAULT).await == all);
    assert_eq!(lists.load(Ordering::Relaxed), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn no_run_and_no_gap_hides_anything(
        runs in proptest::collection::vec((1u32..4, 0u64..20_000, 1u64..4000), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut all = BTreeSet::new();
            for (timeline, first, count) in runs {
                all.extend(names(timeline, first..first + count, SegmentSize::DEFAULT));
            }
            let (store, _) = store(&all).await;
            assert!(listed(&store, SegmentSize::DEFAULT).await == all);
        });
    }
}
