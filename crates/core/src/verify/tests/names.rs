use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::Lsn;
use crate::repository::inventory::{BackupInfo, Tail, TailObject, WalObject};
use crate::repository::layout::TailChunk;
use crate::wal::TimelineHistory;
use crate::wal::generator::size;

fn object(timeline: u32, number: u64) -> WalObject {
    WalObject {
        name: WalFileName::Segment(segment(timeline, number)),
        format: Format::Zstd,
        size: 1,
        written: chrono::DateTime::UNIX_EPOCH,
    }
}

fn segment(timeline: u32, number: u64) -> Segment {
    Segment::from_number(timeline, number, size())
}

fn lsn(number: u64) -> Lsn {
    Lsn(number * size().bytes() + 100)
}

fn backup(timeline: u32, number: u64, permanent: bool) -> BackupInfo {
    let mut backup = BackupInfo::example(&format!("base_{}", segment(timeline, number)));
    backup.metadata.start_lsn = lsn(number);
    backup.metadata.finish_lsn = lsn(number + 1);
    backup.metadata.is_permanent = permanent;
    backup
}

fn at(timeline: u32, number: u64) -> Live {
    Live {
        position: Some(Position {
            timeline,
            lsn: lsn(number),
        }),
        archiving: Archiving::Here,
        ..Live::default()
    }
}

/// "timeline:first-last STATUS" of each row, and the status.
fn told(inventory: &Inventory, live: &Live) -> (Vec<String>, VerifyStatus) {
    let found = integrity(inventory, live);
    let rows = found.details.iter().map(|row| {
        let number = |segment: Segment| segment.number(size());
        let range = &row.segments;
        assert_eq!(range.count, number(range.last) - number(range.first) + 1);
        format!(
            "{}:{}-{} {}",
            range.first.timeline,
            number(range.first),
            number(range.last),
            row.status.as_str()
        )
    });
    (rows.collect(), found.status)
}

fn inventory(backups: Vec<BackupInfo>, wal: &[(u32, std::ops::RangeInclusive<u64>)]) -> Inventory {
    let objects = wal
        .iter()
        .flat_map(|(timeline, numbers)| numbers.clone().map(|number| object(*timeline, number)));
    Inventory::new(size(), backups, objects.collect(), BTreeMap::new())
}

#[test]
fn from_the_oldest_backup_to_the_position() {
    let inventory = inventory(vec![backup(1, 5, false), backup(1, 8, false)], &[(1, 2..=9)]);
    assert_eq!(
        told(&inventory, &at(1, 10)),
        (vec!["1:5-9 FOUND".to_owned()], VerifyStatus::Ok)
    );
    let mut live = at(1, 14);
    live.waiting.extend([segment(1, 11), segment(1, 12)]);
    live.uploading.insert(segment(1, 11));
    live.found.insert(segment(1, 10));
    let rows = [
        "1:5-10 FOUND",
        "1:11-11 MISSING_UPLOADING",
        "1:12-12 MISSING_DELAYED",
        "1:13-13 MISSING_LOST",
    ];
    assert_eq!(
        told(&inventory, &live),
        (rows.map(str::to_owned).to_vec(), VerifyStatus::Failure)
    );
    live.waiting.insert(segment(1, 13));
    assert_eq!(told(&inventory, &live).1, VerifyStatus::Warning);
    // Without a server: as far as the repository goes.
    assert_eq!(told(&inventory, &Live::default()).0, ["1:5-9 FOUND"]);
}

#[test]
fn without_a_backup_from_the_first_segment_that_is_known() {
    let none = inventory(Vec::new(), &[]);
    assert_eq!(told(&none, &at(1, 7)), (Vec::new(), VerifyStatus::Warning));
    assert_eq!(told(&none, &Live::default()), (Vec::new(), VerifyStatus::Warning));
    let mut live = at(1, 7);
    live.waiting.insert(segment(1, 6));
    assert_eq!(told(&none, &live).0, ["1:6-6 MISSING_DELAYED"]);
    let some = inventory(Vec::new(), &[(1, 3..=4), (1, 6..=6)]);
    assert_eq!(
        told(&some, &at(1, 7)).0,
        ["1:3-4 FOUND", "1:5-5 MISSING_LOST", "1:6-6 FOUND"]
    );
}

#[test]
fn backwards_through_the_timelines() {
    let mut inventory = inventory(
        vec![backup(1, 3, false), backup(2, 7, false), backup(1, 9, false)],
        &[(1, 3..=9), (2, 6..=7), (3, 8..=9)],
    );
    inventory.histories.insert(
        3,
        TimelineHistory {
            timeline: 3,
            ancestors: vec![(1, lsn(6)), (2, lsn(8))],
        },
    );
    let rows = ["1:3-5 FOUND", "2:6-7 FOUND", "3:8-9 FOUND"];
    assert_eq!(
        told(&inventory, &at(3, 10)),
        (rows.map(str::to_owned).to_vec(), VerifyStatus::Ok)
    );
    assert_eq!(told(&inventory, &Live::default()).0, rows);
    // Two promotions within one segment.
    inventory.histories.insert(
        4,
        TimelineHistory {
            timeline: 4,
            ancestors: vec![(1, lsn(6)), (2, lsn(8)), (3, lsn(8))],
        },
    );
    assert_eq!(
        told(&inventory, &at(4, 9)).0,
        ["1:3-5 FOUND", "2:6-7 FOUND", "4:8-8 MISSING_LOST"]
    );
    // Its history may be in pg_wal alone.
    let mut live = at(5, 7);
    live.history = Some(TimelineHistory {
        timeline: 5,
        ancestors: vec![(1, lsn(5))],
    });
    live.waiting.extend([segment(5, 5), segment(5, 6)]);
    assert_eq!(told(&inventory, &live).0, ["1:3-4 FOUND", "5:5-6 MISSING_DELAYED"]);
}

#[test]
fn a_permanent_backup_keeps_what_it_needs_and_no_more() {
    let backups = vec![backup(1, 2, true), backup(1, 9, false)];
    let kept = inventory(backups.clone(), &[(1, 2..=3), (1, 9..=11)]);
    assert_eq!(
        told(&kept, &at(1, 12)),
        (vec!["1:2-3 FOUND".into(), "1:9-11 FOUND".into()], VerifyStatus::Ok)
    );
    let lost = inventory(backups, &[(1, 2..=2), (1, 9..=11)]);
    assert_eq!(
        told(&lost, &at(1, 12)).0,
        ["1:2-2 FOUND", "1:3-3 MISSING_LOST", "1:9-11 FOUND"]
    );
    let alone = inventory(vec![backup(1, 2, true), backup(1, 6, true)], &[(1, 2..=3), (1, 6..=8)]);
    assert_eq!(told(&alone, &at(1, 9)).0, ["1:2-3 FOUND", "1:6-8 FOUND"]);
}

#[test]
fn what_the_primary_of_a_standby_has_not_archived_yet_is_not_lost() {
    let inventory = inventory(vec![backup(1, 2, false)], &[(1, 2..=3), (1, 5..=6)]);
    let mut live = at(1, 9);
    live.archiving = Archiving::Elsewhere;
    let rows = [
        "1:2-3 FOUND",
        "1:4-4 MISSING_LOST",
        "1:5-6 FOUND",
        "1:7-8 MISSING_DELAYED",
    ];
    assert_eq!(told(&inventory, &live).0, rows);
}

#[test]
fn numbers_that_no_server_has_cost_nothing() {
    let mut hostile = backup(1, 0, false);
    hostile.metadata.finish_lsn = Lsn(u64::MAX);
    let mut inventory = inventory(vec![hostile.clone()], &[(1, 1..=1)]);
    hostile.metadata.is_permanent = true;
    inventory.backups.push(hostile);
    let mut live = at(1, 0);
    live.position = Some(Position {
        timeline: 1,
        lsn: Lsn(u64::MAX),
    });
    assert_eq!(told(&inventory, &live).1, VerifyStatus::Failure);
}

#[test]
fn the_timelines_are_compared() {
    let inventory = inventory(Vec::new(), &[(1, 2..=3), (2, 3..=4)]);
    let status = |live: &Live| timeline(&inventory, live, &[]).status;
    assert_eq!(status(&at(2, 5)), VerifyStatus::Ok);
    assert_eq!(status(&at(1, 5)), VerifyStatus::Failure, "another server was promoted");
    assert_eq!(
        status(&at(3, 5)),
        VerifyStatus::Warning,
        "nothing is archived on it yet"
    );
    assert_eq!(status(&Live::default()), VerifyStatus::Warning);
}

#[tokio::test]
async fn the_answer_has_the_shape_of_wal_g() {
    let store = repository().await;
    for number in [2, 3, 5] {
        put(&store, segment(1, number), b"x").await;
    }
    let names = verify_names(&store, &load(&store).await, at(1, 7), None)
        .await
        .expect("verified");
    let json = serde_json::to_value(&names).expect("written");
    let row = |number: u64, last: u64, count: u64, status: &str| {
        serde_json::json!({"timeline_id": 1, "start_segment": segment(1, number).to_string(),
            "end_segment": segment(1, last).to_string(), "segments_count": count, "status": status})
    };
    let expected = serde_json::json!({
        "integrity": {"status": "FAILURE", "details": [
            row(2, 3, 2, "FOUND"), row(4, 4, 1, "MISSING_LOST"), row(5, 5, 1, "FOUND"), row(6, 6, 1, "MISSING_LOST")]},
        "timeline": {"status": "OK", "details": {"current_timeline_id": 1, "highest_storage_timeline_id": 1}}});
    assert_eq!(json, expected);
}

/// A data directory as far as it is looked at.
fn data_dir(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(dir.path().join("pg_wal/archive_status")).expect("created");
    for file in files {
        std::fs::write(dir.path().join("pg_wal").join(file), "").expect("written");
    }
    dir
}

#[tokio::test]
async fn what_came_or_waits_after_the_listing_is_not_lost() {
    let name = |number| segment(1, number).to_string();
    let dir = data_dir(&[
        &name(4),
        &name(5),
        &format!("archive_status/{}.ready", name(4)),
        &name(6),
        &format!("archive_status/{}.done", name(6)),
    ]);
    let store = repository().await;
    put(&store, segment(1, 2), b"x").await;
    let inventory = load(&store).await;
    // Stored, and marked as done, after the listing; then it is recycled.
    put(&store, segment(1, 3), b"x").await;
    let live = Live {
        data_dir: Some(dir.path().to_owned()),
        ..at(1, 7)
    };
    let names = verify_names(&store, &inventory, live, None).await.expect("verified");
    let told: Vec<_> = names
        .integrity
        .details
        .iter()
        .map(|row| (row.segments.first.number(size()), row.segments.count, row.status))
        .collect();
    // The fifth has no mark yet; the sixth is marked as done, and is nowhere.
    use SegmentStatus::*;
    assert_eq!(told, [(2, 2, Found), (4, 2, MissingDelayed), (6, 1, MissingLost)]);
}

#[tokio::test]
async fn a_data_directory_tells_where_its_server_is() {
    let name = |timeline, number| segment(timeline, number).to_string();
    let dir = data_dir(&[
        &format!("archive_status/{}.ready", name(1, 9)),
        &format!("archive_status/{}.done", name(1, 8)),
        &format!("archive_status/{}.partial.ready", name(1, 12)),
    ]);
    let global = dir.path().join("global");
    std::fs::create_dir(&global).expect("created");
    let control = crate::control_file::tests::sample(1 << 20, 288);
    std::fs::write(global.join("pg_control"), control).expect("written");
    let (live, control) = Live::of_data_dir(dir.path()).expect("read");
    assert_eq!(control.segment_size, size());
    let position = live.position.expect("a position");
    assert_eq!((position.timeline, position.lsn), (1, segment(1, 10).start(size())));
    assert_eq!(live.archiving, Archiving::Here, "something waits");
    std::fs::write(dir.path().join("standby.signal"), "").expect("written");
    let (live, _) = Live::of_data_dir(dir.path()).expect("read");
    assert_eq!(live.archiving, Archiving::Elsewhere);
}

#[tokio::test]
async fn a_failure_is_believed_after_a_second_look() {
    let store = repository().await;
    for number in [2, 3, 5] {
        put(&store, segment(1, number), b"x").await;
    }
    let look = async |looks: &mut Looks| {
        let inventory = load(&store).await;
        let names = verify_names(&store, &inventory, at(1, 6), None)
            .await
            .expect("verified");
        looks.add(inventory, names);
    };
    let (mut lost, mut came_late) = (Looks::default(), Looks::default());
    assert!(lost.go_on(), "nobody has looked");
    look(&mut lost).await;
    assert!(lost.go_on(), "it may have come since");
    look(&mut lost).await;
    assert!(!lost.go_on());
    let (_, names) = lost.last();
    assert_eq!(names.expect("looked").status(), VerifyStatus::Failure);
    look(&mut came_late).await;
    put(&store, segment(1, 4), b"x").await;
    look(&mut came_late).await;
    assert!(!came_late.go_on());
    let (inventory, names) = came_late.last();
    assert_eq!(names.expect("looked").status(), VerifyStatus::Ok);
    assert_eq!(inventory.expect("loaded").wal.len(), 4, "all was looked at anew");
    let mut sound = Looks::default();
    look(&mut sound).await;
    assert!(!sound.go_on(), "one look is enough");
}

#[tokio::test]
async fn ten_thousand_segments() {
    let store = repository().await;
    for number in 0..10_000 {
        if number != 7777 {
            store.put(&key(segment(1, number)), "x".into()).await.expect("written");
        }
    }
    let begun = std::time::Instant::now();
    let inventory = load(&store).await;
    let loaded = begun.elapsed();
    let names = verify_names(&store, &inventory, at(1, 10_000), None)
        .await
        .expect("verified");
    println!("loaded in {loaded:?}, verified in {:?}", begun.elapsed() - loaded);
    assert_eq!(names.integrity.lost().len(), 1);
    assert_eq!(names.integrity.details.len(), 3);
}

proptest! {
    #[test]
    fn every_segment_is_told_once_and_as_it_is(
        stored in prop::collection::btree_set(0u64..40, 0..40),
        waiting in prop::collection::btree_set(0u64..40, 0..10),
        start in 0u64..40,
        switch in 0u64..40,
        end in 0u64..40,
    ) {
        let timeline = |number| if number < switch { 1 } else { 2 };
        let objects = stored.iter().map(|number| object(timeline(*number), *number)).collect();
        let mut inventory = Inventory::new(size(), vec![backup(timeline(start), start, false)], objects, BTreeMap::new());
        let history = TimelineHistory { timeline: 2, ancestors: vec![(1, segment(1, switch).start(size()))] };
        inventory.histories.insert(2, history);
        let mut live = at(2, end);
        live.waiting = waiting.iter().map(|number| segment(timeline(*number), *number)).collect();
        let on_way = |number: &u64| timeline(*number) == 2 || *number < switch;
        let mut expected: Vec<(u64, u32, SegmentStatus)> = Vec::new();
        // The position is on timeline 2, so before the switch nothing of that is looked at.
        for number in (start..end).filter(on_way) {
            let status = match (stored.contains(&number), waiting.contains(&number)) {
                (true, _) => SegmentStatus::Found,
                (false, true) => SegmentStatus::MissingDelayed,
                (false, false) => SegmentStatus::MissingLost,
            };
            expected.push((number, timeline(number), status));
        }
        let found = integrity(&inventory, &live);
        let told: Vec<_> = found.details.iter().flat_map(|row| {
            let first = row.segments.first.number(size());
            (first..first + row.segments.count).map(|number| (number, row.segments.first.timeline, row.status))
        }).collect();
        let twice: BTreeSet<u64> = told.iter().map(|(number, _, _)| *number).collect();
        prop_assert_eq!(twice.len(), told.len());
        prop_assert_eq!(told, expected);
    }
}

#[test]
fn what_is_in_the_tail_is_no_gap() {
    let with_tail = |tail: &[(u64, u64)]| {
        let mut inventory = inventory(vec![backup(1, 5, false)], &[(1, 5..=6), (1, 8..=8)]);
        let object = |(number, end): &(u64, u64)| TailObject {
            chunk: TailChunk {
                segment: segment(1, *number),
                epoch: 1,
                start: 0,
                end: *end,
            },
            size: 1,
            written: chrono::DateTime::UNIX_EPOCH,
        };
        inventory.tail = Tail::new(tail.iter().map(object).collect(), BTreeMap::new());
        inventory
    };
    let whole = size().bytes();
    let rows = ["1:5-6 FOUND", "1:7-7 TAIL", "1:8-8 FOUND", "1:9-9 TAIL"];
    let healthy = with_tail(&[(7, whole), (9, 100)]);
    for live in [at(1, 9), Live::default()] {
        assert_eq!(
            told(&healthy, &live),
            (rows.map(str::to_owned).to_vec(), VerifyStatus::Ok)
        );
    }
    // A part is a gap where more comes.
    let rows = ["1:5-6 FOUND", "1:7-7 MISSING_LOST", "1:8-8 FOUND"];
    let gap = with_tail(&[(7, whole - 8)]);
    for live in [at(1, 9), Live::default()] {
        assert_eq!(
            told(&gap, &live),
            (rows.map(str::to_owned).to_vec(), VerifyStatus::Failure)
        );
    }
    // The server has gone on, and the segment is nowhere whole.
    let (rows, status) = told(&with_tail(&[(7, whole), (9, 100)]), &at(1, 10));
    assert_eq!(
        (rows.last().map(String::as_str), status),
        (Some("1:9-9 MISSING_LOST"), VerifyStatus::Failure)
    );
    let mut live = at(1, 10);
    live.waiting.insert(segment(1, 9));
    assert_eq!(
        told(&with_tail(&[(7, whole), (9, 100)]), &live).1,
        VerifyStatus::Warning
    );
}
