use std::sync::Arc;

use super::*;
use crate::codec::Format;
use crate::lsn::Lsn;

const BACKUP: &str = "base_000000010000000000000002";

fn segment(name: &str) -> Segment {
    name.parse().expect("a segment")
}

async fn repository(objects: &[(&str, &str)]) -> Store {
    let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
    for (key, content) in objects {
        store.put(key, content.to_string().into()).await.expect("written");
    }
    store
}

#[tokio::test]
async fn everything_is_seen_once() {
    let sentinel = layout::sentinel(BACKUP);
    let metadata = layout::metadata(BACKUP);
    let leftover = layout::tar("base_000000010000000000000003", "part_001.tar.zst");
    let store = repository(&[
        (&sentinel, r#"{"LSN": 33554472, "FinishLSN": 50331648}"#),
        (&metadata, "{}"),
        (&leftover, "12345"),
        ("wal_005/00000002.history.zst", "no zstd"),
        ("wal_005/00000003.history", "1\t0/3000000\tx\n"),
        ("wal_005/000000010000000000000002.zst", "x"),
        ("wal_005/000000010000000000000004.lz4", "x"),
        ("wal_005/000000010000000000000004.zst", "x"),
        ("wal_005/000000030000000000000003.partial.zst", "x"),
        ("wal_005/readme.txt", "x"),
        (
            layout::CLUSTER,
            r#"{"format_version": 1, "system_identifier": 7, "pg_major_version": 15, "wal_segment_size": 16777216,
                "encryption": false}"#,
        ),
    ])
    .await;
    let inventory = Inventory::load(&store).await.expect("loaded");
    assert_eq!(inventory.system_identifier, Some(7));
    assert_eq!(inventory.segments(1), [2, 4]);
    assert!(inventory.has(segment("000000010000000000000004")) && !inventory.has(segment("000000010000000000000003")));
    let object = inventory.object_of(segment("000000010000000000000002")).expect("there");
    assert_eq!(object.key(), "wal_005/000000010000000000000002.zst");
    assert!(
        inventory.object_of(segment("000000030000000000000003")).is_none(),
        "a partial one is none"
    );
    assert_eq!(
        inventory.wal.len(),
        6,
        "two objects of one segment are two, a foreign file is none"
    );
    assert_eq!(inventory.histories[&3].parent(), Some((1, Lsn(0x300_0000))));
    assert!(inventory.damaged_histories.contains_key(&2));
    assert_eq!(inventory.timelines(), BTreeSet::from([1, 2, 3]));
    let [unfinished] = &inventory.unfinished[..] else {
        panic!("{:?}", inventory.unfinished)
    };
    assert_eq!((unfinished.objects, unfinished.bytes), (1, 5));
    assert_eq!(unfinished.start, Some(segment("000000010000000000000003")));

    let backup = inventory.backup(BACKUP).expect("there");
    assert_eq!(inventory.needed(backup).map(|range| range.count), Some(1));
    assert!(inventory.is_restorable(backup));
}

#[test]
fn a_backup_whose_wal_is_not_there_cannot_be_restored() {
    let size = SegmentSize::DEFAULT;
    let object = |number| WalObject {
        name: WalFileName::Segment(Segment::from_number(1, number, size)),
        format: Format::Zstd,
        size: 1,
        written: chrono::DateTime::UNIX_EPOCH,
    };
    let mut backup = BackupInfo::example(BACKUP);
    backup.metadata.start_lsn = Lsn(2 * size.bytes() + 40);
    backup.metadata.finish_lsn = Lsn(5 * size.bytes());
    let mut inventory = Inventory::new(size, vec![backup], vec![object(4), object(2)], BTreeMap::new());
    let backup = inventory.backups[0].clone();
    assert_eq!(inventory.missing(&backup), [SegmentRange::new(1, 3, 3, size)]);
    assert!(!inventory.is_restorable(&backup));
    inventory = Inventory::new(
        size,
        vec![backup.clone()],
        vec![object(3), object(4), object(2)],
        BTreeMap::new(),
    );
    assert!(inventory.is_restorable(&backup));

    let mut orphan = BackupInfo::example("base_000000010000000000000003_D_000000010000000000000001");
    orphan.metadata.start_lsn = Lsn(3 * size.bytes() + 40);
    orphan.metadata.finish_lsn = Lsn(4 * size.bytes());
    assert_eq!(
        inventory.chain(&orphan).expect_err("no parent"),
        "base_000000010000000000000001"
    );
    assert!(!inventory.is_restorable(&orphan));
}
