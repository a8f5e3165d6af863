use std::sync::Arc;

use super::*;
use crate::codec::Format;

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
            &layout::CLUSTER,
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

/// Segments of 16 MB by timeline and number, all archived an hour after 1970 began.
fn archive(segments: &[(u32, std::ops::RangeInclusive<u64>)]) -> Vec<WalObject> {
    let object = |timeline, number| WalObject {
        name: WalFileName::Segment(Segment::from_number(timeline, number, SegmentSize::DEFAULT)),
        format: Format::Zstd,
        size: 1,
        written: chrono::DateTime::UNIX_EPOCH + chrono::Duration::hours(1),
    };
    let of = |(timeline, numbers): &(u32, std::ops::RangeInclusive<u64>)| {
        let timeline = *timeline;
        numbers
            .clone()
            .map(move |number| object(timeline, number))
            .collect::<Vec<_>>()
    };
    segments.iter().flat_map(of).collect()
}

/// A backup from the middle of one segment to the middle of another, that ends that many minutes after 1970 began.
fn backup(timeline: u32, start: u64, finish: u64, minutes: i64) -> BackupInfo {
    let size = SegmentSize::DEFAULT;
    let mut backup = BackupInfo::example(&format!("base_{}", Segment::from_number(timeline, start, size)));
    backup.metadata.start_lsn = Lsn(start * size.bytes() + 40);
    backup.metadata.finish_lsn = Lsn(finish * size.bytes() + 4000);
    backup.metadata.start_time = chrono::DateTime::UNIX_EPOCH + chrono::Duration::minutes(minutes - 1);
    backup.metadata.finish_time = chrono::DateTime::UNIX_EPOCH + chrono::Duration::minutes(minutes);
    backup
}

/// Timeline 2 was forked from 1 in the middle of that segment.
fn forked_at(number: u64) -> BTreeMap<u32, TimelineHistory> {
    let switch = Lsn(number * SegmentSize::DEFAULT.bytes() + 5000);
    let history = TimelineHistory {
        timeline: 2,
        ancestors: vec![(1, switch)],
    };
    BTreeMap::from([(2, history)])
}

fn windows(inventory: &Inventory) -> Vec<(u32, String, u64, usize, Option<u64>)> {
    let size = SegmentSize::DEFAULT.bytes();
    let row = |window: RecoveryWindow| {
        let missing = window.missing.map(|missing| missing.segments_count);
        (
            window.timeline,
            window.backup_name,
            window.end_lsn.0 / size,
            window.backups,
            missing,
        )
    };
    recovery_windows(inventory).into_iter().map(row).collect()
}

#[test]
fn a_window_opens_where_a_backup_ends_and_closes_at_the_first_gap() {
    let backups = vec![
        backup(1, 3, 4, 10),
        backup(1, 6, 6, 20),
        backup(1, 9, 10, 30),
        backup(1, 20, 20, 40),
    ];
    let wal = archive(&[(1, 2..=7), (1, 9..=9), (1, 12..=14), (1, 20..=22)]);
    let inventory = Inventory::new(SegmentSize::DEFAULT, backups, wal, BTreeMap::new());
    let name = |number| format!("base_{}", Segment::from_number(1, number, SegmentSize::DEFAULT));
    // The third backup lacks its second segment; what follows the gap leads to nothing before the fourth.
    assert_eq!(
        windows(&inventory),
        [(1, name(3), 8, 2, Some(1)), (1, name(20), 23, 1, None)]
    );
    let first = &recovery_windows(&inventory)[0];
    assert_eq!(first.start_lsn, inventory.backups[0].metadata.finish_lsn);
    assert_eq!((first.end_time - first.start_time).num_minutes(), 50);
}

#[test]
fn a_window_goes_on_through_a_promotion() {
    let name = format!("base_{}", Segment::from_number(1, 3, SegmentSize::DEFAULT));
    let inventory = |wal| Inventory::new(SegmentSize::DEFAULT, vec![backup(1, 3, 3, 10)], wal, forked_at(6));
    // The old primary went on for a while; that is a window of its own.
    assert_eq!(
        windows(&inventory(archive(&[(1, 3..=8), (2, 6..=9)]))),
        [(1, name.clone(), 9, 1, None), (2, name.clone(), 10, 1, None)]
    );
    // Its last segment before the fork is lost, and the new timeline cannot be reached.
    assert_eq!(
        windows(&inventory(archive(&[(1, 3..=4), (2, 6..=9)]))),
        [(1, name.clone(), 5, 1, None)]
    );
    // A backup after the fork does not lead to the new timeline.
    let late = vec![backup(1, 7, 7, 10)];
    let late = Inventory::new(
        SegmentSize::DEFAULT,
        late,
        archive(&[(1, 3..=8), (2, 6..=9)]),
        forked_at(6),
    );
    assert_eq!(windows(&late).len(), 1);
}

#[test]
fn what_is_missing_of_a_timeline_is_told_up_to_the_fork() {
    let wal = archive(&[(1, 3..=4), (1, 6..=6), (2, 8..=9)]);
    let inventory = Inventory::new(SegmentSize::DEFAULT, vec![backup(2, 8, 8, 10)], wal, forked_at(8));
    let [first, second] = &TimelineInfo::all(&inventory)[..] else {
        panic!("two timelines")
    };
    assert_eq!(
        (first.id, first.parent_id, first.status),
        (1, 0, TimelineStatus::LostSegments)
    );
    assert_eq!((first.segment_range_size, first.segments_count), (5, 3));
    let missing: Vec<&str> = first
        .missing_segments
        .iter()
        .map(|gap| gap.start_segment.as_str())
        .collect();
    assert_eq!(missing, ["000000010000000000000005", "000000010000000000000007"]);
    assert_eq!(
        (second.parent_id, second.status, second.backups.len()),
        (1, TimelineStatus::Ok, 1)
    );
    assert!(second.backups[0].restorable);
    let json = serde_json::to_value(first).expect("json");
    assert_eq!(
        (&json["status"], &json["end_segment"]),
        (&"LOST_SEGMENTS".into(), &"000000010000000000000006".into())
    );
}

#[tokio::test]
async fn a_backup_is_described_from_the_wal_around_it() {
    let size = SegmentSize::DEFAULT.bytes();
    let whole = (
        layout::sentinel(BACKUP),
        format!(r#"{{"LSN": {}, "FinishLSN": {}}}"#, 2 * size + 40, 4 * size),
    );
    let other = "base_000000010000000000000008";
    let lost = (
        layout::sentinel(other),
        format!(r#"{{"LSN": {}, "FinishLSN": {}}}"#, 8 * size + 40, 10 * size),
    );
    let mut objects = vec![(whole.0.as_str(), whole.1.as_str()), (lost.0.as_str(), lost.1.as_str())];
    objects.extend([
        ("wal_005/000000010000000000000001.zst", "x"),
        ("wal_005/000000010000000000000002", "x"),
        ("wal_005/000000010000000000000003.lz4", "x"),
        ("wal_005/000000010000000000000008.zst", "x"),
        ("wal_005/00000001000000000000000A.zst", "x"),
        (
            &layout::CLUSTER,
            r#"{"format_version": 1, "system_identifier": 7, "pg_major_version": 15, "wal_segment_size": 16777216,
                "encryption": false}"#,
        ),
    ]);
    let store = repository(&objects).await;
    let listed = BackupDetail::list(&store).await.expect("listed");
    let [first, second] = &listed[..] else {
        panic!("{listed:?}")
    };
    assert!(first.restorable && first.wal_file_name == "000000010000000000000002");
    let problem = "WAL segment \"000000010000000000000009\", which it needs, is not in the archive.";
    assert_eq!((second.restorable, second.problem.as_deref()), (false, Some(problem)));

    let range = Segment::range(1, Lsn(2 * size), Lsn(10 * size), SegmentSize::DEFAULT);
    let missing = missing_segments(&store, &range).await.expect("listed");
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(missing.len(), 5, "{missing:?}");
    assert!(missing.contains(&"000000010000000000000004".to_owned()), "{missing:?}");
}

#[test]
fn what_retention_has_deleted_is_not_missed() {
    let size = SegmentSize::DEFAULT;
    let mut permanent = backup(1, 3, 4, 10);
    permanent.metadata.is_permanent = true;
    let backups = vec![permanent, backup(1, 6, 6, 20), backup(1, 9, 9, 30)];
    let missing = |wal, continuous| {
        let mut inventory = Inventory::new(size, backups.clone(), wal, BTreeMap::new());
        inventory.continuous = continuous;
        let [timeline] = &TimelineInfo::all(&inventory)[..] else {
            panic!("one timeline")
        };
        timeline
            .missing_segments
            .iter()
            .map(MissingSegments::to_string)
            .collect::<Vec<_>>()
    };
    let since = |number| BTreeMap::from([(1, Segment::from_number(1, number, size))]);
    let pruned = || archive(&[(1, 3..=4), (1, 6..=6), (1, 9..=12)]);
    assert_eq!(missing(pruned(), since(9)), [""; 0]);
    // Nobody has told, but there are permanent backups.
    assert_eq!(
        missing(pruned(), BTreeMap::new()),
        ["000000010000000000000007 to 000000010000000000000008"]
    );
    // Segments that a backup needs are missed, and so are those after the line.
    let lost = archive(&[(1, 3..=3), (1, 6..=6), (1, 9..=9), (1, 11..=12)]);
    assert_eq!(
        missing(lost, since(9)),
        ["000000010000000000000004", "00000001000000000000000A"]
    );
}

/// WAL that is encrypted tells no size. With the usual one, a deletion would take segments of another size for older than all
/// backups, and they are needed.
#[tokio::test]
async fn backups_tell_the_segment_size_where_wal_cannot_be_read() {
    let pgp = "\u{c1}"; // Two bytes of UTF-8, and no zstd.
    for (name, lsn, size) in [
        ("base_00000001000000000000000A", 0xA00028u64, 1 << 20),
        ("base_000000010000000000000003", 3 * (64u64 << 20) + 40, 64 << 20),
        (
            "base_000000010000000100000002",
            (1 << 32) + 2 * (1u64 << 30) + 40,
            1 << 30,
        ),
        ("base_00000001000000000000000A", 0xA000028u64, 16 << 20),
    ] {
        let sentinel = layout::sentinel(name);
        let said = format!(
            r#"{{"LSN": {lsn}, "FinishLSN": {}, "StartTime": "2026-11-20T10:00:00Z"}}"#,
            lsn + 8
        );
        let wal = format!("wal_005/{}.zst", &name[5..]);
        let store = repository(&[(&sentinel, &said), (&wal, pgp)]).await;
        let inventory = Inventory::load(&store).await.expect("loaded");
        assert_eq!(inventory.segment_size.bytes(), size, "{name}");
        let near = crate::repository::inventory::of_backups(&store).await.expect("loaded");
        assert_eq!(near.segment_size.bytes(), size, "{name}");
        assert!(near.is_restorable(near.backup(name).expect("there")), "{name}");
    }
}
