use super::applied::{all_keys, delete, memory, retain};
use super::*;
use crate::repository::inventory::{Tail, TailObject};
use crate::repository::layout::{self, TailChunk};
use crate::retention::{Garbage, Request, Situation, plan};

/// Half a segment.
const HALF: u64 = 8 << 20;

/// A chunk of a segment of timeline 1.
fn chunk(number: u64, epoch: u64, start: u64, end: u64) -> TailChunk {
    TailChunk {
        segment: segment(1, number),
        epoch,
        start,
        end,
    }
}

/// Backups in 3 and 6, WAL from 1 to 8, and these chunks and epochs.
fn with_tail(chunks: &[TailChunk], epochs: &[u64]) -> Inventory {
    let mut inventory = inventory(vec![backup(1, 3, 3), backup(1, 6, 6)], wal(1, 1..=8).collect(), vec![]);
    let object = |chunk: &TailChunk| TailObject {
        chunk: *chunk,
        size: 10,
        written: hour(9),
    };
    let epochs = epochs.iter().map(|epoch| (*epoch, 5)).collect();
    inventory.tail = Tail::new(chunks.iter().map(object).collect(), epochs);
    inventory
}

/// The same with other WAL.
fn with_wal(inventory: &Inventory, wal: Vec<WalObject>) -> Inventory {
    let mut other = Inventory::new(SIZE, inventory.backups.clone(), wal, BTreeMap::new());
    other.tail = inventory.tail.clone();
    other
}

/// Keys and reasons of what a request deletes of the tail.
fn told(inventory: &Inventory, request: &Request) -> Vec<(String, String)> {
    let plan = plan(inventory, request, &Situation::at(hour(1000))).expect("a plan");
    let of_tail = plan
        .actions
        .iter()
        .map(|action| action.row(false))
        .filter(|row| row.key.starts_with(&*layout::TAIL_FOLDER));
    of_tail.map(|row| (row.key, row.why)).collect()
}

fn row(key: layout::Key, why: &str) -> (String, String) {
    (key.into(), why.to_owned())
}

#[test]
fn what_nobody_reads_of_the_tail_goes() {
    let present = [chunk(9, 3, 0, HALF), chunk(9, 3, HALF, HALF + 8)];
    let inventory = with_tail(
        &[
            chunk(8, 2, 0, HALF),
            chunk(9, 2, 0, 100),
            chunk(9, 2, 0, HALF + 16),
            chunk(9, 3, 0, 100),
            present[0],
            present[1],
            // A later run has not come to the beginning yet.
            chunk(9, 4, 100, HALF),
        ],
        &[2, 3, 4],
    );
    let garbage = Request::Garbage(Garbage::All);
    let replaced = "other chunks have what is in it";
    let later = "a later run of the server has taken the next number";
    assert_eq!(
        told(&inventory, &garbage),
        [
            row(chunk(8, 2, 0, HALF).key(), "its segment is archived whole"),
            row(chunk(9, 2, 0, 100).key(), replaced),
            row(chunk(9, 3, 0, 100).key(), replaced),
            row(layout::tail_epoch(2), later),
            row(layout::tail_epoch(3), later),
        ],
        "an older run that came further stays"
    );
    assert_eq!(told(&inventory, &retain(2)), told(&inventory, &garbage));
    assert_eq!(told(&inventory, &Request::Garbage(Garbage::Backups)), []);
    // An object without content is no segment.
    let empty = inventory.wal.iter().map(|object| WalObject { size: 0, ..*object });
    let empty = with_wal(&inventory, empty.collect());
    assert!(!told(&empty, &garbage).contains(&row(chunk(8, 2, 0, HALF).key(), "its segment is archived whole")));
}

#[test]
fn the_tail_goes_with_the_wal_that_no_backup_needs_but_for_the_present_one() {
    let whole = SIZE.bytes();
    let mut inventory = with_tail(
        &[chunk(2, 1, 0, whole), chunk(4, 2, 0, whole), chunk(9, 3, 0, HALF)],
        &[3],
    );
    let wal = inventory.wal.iter().filter(|object| {
        let number = object.name.segment().map(|segment| segment.number(SIZE));
        number != Some(2) && number != Some(4)
    });
    let wal = wal.copied().collect();
    inventory = with_wal(&inventory, wal);
    let unneeded = "no backup that is kept needs it";
    let old = row(chunk(2, 1, 0, whole).key(), unneeded);
    assert_eq!(
        told(&inventory, &Request::Garbage(Garbage::Archives)),
        std::slice::from_ref(&old)
    );
    assert_eq!(
        told(&inventory, &retain(1)),
        [old, row(chunk(4, 2, 0, whole).key(), unneeded)]
    );
    inventory.backups.clear();
    assert_eq!(told(&inventory, &Request::Garbage(Garbage::All)), [], "no backup stays");
    let without = told(&inventory, &Request::GarbageWithoutBackups(Garbage::All));
    assert_eq!(without.len(), 2, "the server stores the last one: {without:?}");
}

#[tokio::test]
async fn everything_has_the_tail_and_a_retention_leaves_its_end() {
    let (inner, store) = memory().await;
    let (done, last) = (chunk(15, 1, 0, HALF).key(), chunk(16, 2, 0, HALF).key());
    let (first_epoch, epoch) = (layout::tail_epoch(1), layout::tail_epoch(2));
    for key in [&done, &last, &first_epoch, &epoch] {
        store.put(key, "x".into()).await.expect("written");
    }
    delete(&store, &retain(1)).await.expect("deleted");
    let keys = all_keys(&inner).await;
    let there = |key: &layout::Key| keys.contains(key.as_str());
    assert!(there(&last) && there(&epoch), "{keys:?}");
    assert!(!there(&done) && !there(&first_epoch), "{keys:?}");
    let everything = |force| Request::Everything { force };
    delete(&store, &everything(false)).await.expect("deleted");
    let keys = all_keys(&inner).await;
    let left: Vec<&String> = keys.iter().filter(|key| key.contains("/tail/")).collect();
    assert_eq!(left, [epoch.as_str()], "the next run counts on");
    store.put(&last, "x".into()).await.expect("written");
    delete(&store, &everything(true)).await.expect("deleted");
    assert_eq!(all_keys(&inner).await, BTreeSet::new());
}
