use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::wal::generator;
use crate::wal::generator::{Generator, SIZE_BYTES, SYSTEM_IDENTIFIER};

fn walker() -> WalWalker {
    WalWalker::new(generator::size(), Some(SYSTEM_IDENTIFIER))
}

fn walk(walker: &mut WalWalker, segment: Segment, bytes: &[u8]) -> Walked {
    walker.begin(segment);
    // Pieces that do not fit to pages.
    bytes.chunks(5000).for_each(|piece| walker.feed(piece));
    walker.end()
}

fn problem(walker: &mut WalWalker, segment: Segment, bytes: &[u8]) -> String {
    walk(walker, segment, bytes).problem.unwrap_or_default()
}

#[test]
fn whole_segments_pass_one_after_the_other_and_each_alone() {
    let segments = generator::segments(1, 5, 3);
    let mut together = walker();
    let (mut all, mut alone) = (0, 0);
    for (segment, bytes) in &segments {
        let walked = walk(&mut together, *segment, bytes);
        assert_eq!(walked.problem, None);
        all += walked.records;
        let walked = walk(&mut walker(), *segment, bytes);
        assert_eq!(walked.problem, None);
        alone += walked.records;
    }
    assert!(
        alone > 100 && all == alone + 2,
        "those that span segments are only seen together: {all}, {alone}"
    );
}

#[test]
fn times_are_those_of_the_first_and_the_last_transaction() {
    let time = |seconds: i64| DateTime::from_timestamp(1_790_000_000 + seconds, 5000).expect("a time");
    let mut wal = Generator::new(1, 5);
    [1, 2, 3].into_iter().for_each(|seconds| wal.commit(time(seconds)));
    wal.switch();
    let (segment, bytes) = wal.segments().swap_remove(0);
    let walked = walk(&mut walker(), segment, &bytes);
    assert_eq!(
        (walked.problem, walked.records, walked.first_time, walked.last_time),
        (None, 4, Some(time(1)), Some(time(3)))
    );
}

#[test]
fn after_a_switch_there_is_nothing() {
    let mut wal = Generator::new(1, 5);
    wal.record(10, 0, &[7; 9000]);
    wal.switch();
    wal.fill(2);
    let segments = wal.segments();
    let mut walker = walker();
    for (segment, bytes) in &segments {
        assert_eq!(problem(&mut walker, *segment, bytes), "");
    }
    let (segment, mut bytes) = segments[0].clone();
    bytes[SIZE_BYTES - 1] = 1;
    assert!(problem(&mut walker, segment, &bytes).contains("magic number 0000"));
    bytes[SIZE_BYTES - 1] = 0;
    bytes[2 * PAGE_BYTES - 1] = 1;
    assert!(problem(&mut walker, segment, &bytes).contains("is not empty"));
}

#[test]
fn what_is_not_the_segment_of_its_name_is_told() {
    let segments = generator::segments(2, 5, 2);
    let (segment, bytes) = &segments[0];
    let mut walker = walker();
    let mut says = |segment, bytes: &[u8], expected: &str| {
        let problem = problem(&mut walker, segment, bytes);
        assert!(problem.contains(expected), "\"{problem}\" does not say \"{expected}\"");
    };
    says(
        segments[1].0,
        bytes,
        "The first page is of LSN 0/500000, the file's name says 0/600000.",
    );
    says(
        Segment {
            timeline: 1,
            ..*segment
        },
        bytes,
        "of timeline 2, the file's name says 1",
    );
    says(
        Segment {
            timeline: 3,
            ..*segment
        },
        bytes,
        "All its WAL is of timeline 2, the file's name says 3.",
    );
    says(*segment, &bytes[..SIZE_BYTES - 100], "It has 1048476 bytes");
    says(
        *segment,
        &[bytes.as_slice(), &[0; 100]].concat(),
        "It has 1048676 bytes",
    );
    says(*segment, &[], "It has 0 bytes");
    says(*segment, &vec![0; SIZE_BYTES], "no WAL page header");
    let mut foreign = Generator::new(2, 5);
    foreign.system_identifier = 7;
    foreign.fill(1);
    says(*segment, &foreign.segments()[0].1, "system identifier 7");
    let mut torn = bytes.clone();
    torn[SIZE_BYTES / 2..].fill(0);
    says(*segment, &torn, "magic number 0000");
    torn[SIZE_BYTES / 2..].copy_from_slice(&segments[1].1[SIZE_BYTES / 2..]);
    says(*segment, &torn, "The page at 0/580000 says that it is at 0/680000.");
}

#[test]
fn a_record_over_two_segments_is_checked_to_its_end() {
    let mut wal = Generator::new(1, 5);
    wal.record(10, 0, &vec![7; SIZE_BYTES - 20_000]);
    wal.record(10, 0, &vec![8; 2 * SIZE_BYTES]);
    wal.fill(4);
    let segments = wal.segments();
    let mut walker = walker();
    for (segment, bytes) in &segments {
        assert_eq!(problem(&mut walker, *segment, bytes), "");
    }
    let mut damaged = segments[1].1.clone();
    damaged[SIZE_BYTES / 2 + 100] ^= 1;
    problem(&mut walker, segments[0].0, &segments[0].1);
    assert_eq!(problem(&mut walker, segments[1].0, &damaged), "", "nobody knows yet");
    assert!(problem(&mut walker, segments[2].0, &segments[2].1).contains("wrong checksum"));
    assert_eq!(
        problem(&mut walker, segments[3].0, &segments[3].1),
        "",
        "the walk starts anew"
    );
}

#[test]
fn a_timeline_begins_within_a_segment() {
    let mut wal = Generator::new(1, 5);
    wal.record(10, 0, &[1; 20_000]);
    wal.end_of_recovery(2);
    // On the page that still says timeline 1.
    wal.switch();
    let (segment, bytes) = wal.segments().swap_remove(0);
    assert_eq!(segment.timeline, 2);
    assert_eq!(problem(&mut walker(), segment, &bytes), "");
}

#[test]
fn what_a_crash_left_incomplete_is_overwritten() {
    let mut wal = Generator::new(1, 5);
    wal.record(10, 0, &[1; 100]);
    let before = wal.position();
    let record = wal.begin(10, 0, &[2; 20_000]);
    wal.put_some(&record, PAGE_BYTES - (before as usize % PAGE_BYTES));
    let last = 5 * SIZE_BYTES as u64 + 40;
    wal.link_to(last);
    wal.flags = 0x0008;
    wal.fill(1);
    let (segment, mut bytes) = wal.segments().swap_remove(0);
    assert_eq!(problem(&mut walker(), segment, &bytes), "");
    bytes[PAGE_BYTES + 2] = 0;
    assert!(problem(&mut walker(), segment, &bytes).contains("continues a record with 0 bytes"));
}

#[test]
fn links_are_followed() {
    let mut wal = Generator::new(1, 5);
    wal.record(10, 0, &[1; 100]);
    wal.record(10, 0, &[1; 100]);
    wal.link_to(7);
    wal.fill(1);
    let (segment, bytes) = wal.segments().swap_remove(0);
    assert!(problem(&mut walker(), segment, &bytes).contains("the one before it is at 0/7, it is at 0/5000A8"));
}

/// Of each byte of a record or of a page header that says something.
#[test]
fn no_flipped_bit_in_a_record_goes_unseen() {
    let mut wal = Generator::new(1, 5);
    wal.record(10, 0, &[1; 96]);
    let end = wal.position() as usize % SIZE_BYTES;
    wal.switch();
    let (segment, bytes) = wal.segments().swap_remove(0);
    // The number of the version is compared between pages, and there is one here.
    for at in (1..20).chain(LONG_HEADER_BYTES..end + HEADER_BYTES) {
        for bit in 0..8 {
            // Flags that are allowed here and change nothing, and bytes of padding between the fields.
            let harmless = at == 2 && (bit == 2 || bit == 3) || (16..20).contains(&at);
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let problem = problem(&mut walker(), segment, &damaged);
            assert!(!problem.is_empty() || harmless, "byte {at}, bit {bit}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_input_makes_it_panic(seed in any::<Vec<u8>>(), edits in prop::collection::vec((0..SIZE_BYTES, any::<u8>()), 1..40)) {
        let (segment, mut bytes) = generator::segments(1, 5, 1).swap_remove(0);
        // Behind the first page's header, so that more than that is reached.
        for (at, value) in edits {
            bytes[at.max(LONG_HEADER_BYTES)] = value;
        }
        bytes[PAGE_BYTES * 3..][..seed.len().min(PAGE_BYTES)].copy_from_slice(&seed[..seed.len().min(PAGE_BYTES)]);
        let mut walker = walker();
        walk(&mut walker, segment, &bytes);
        walk(&mut walker, segment.next(generator::size()), &bytes);
        walk(&mut walker, segment, &seed);
    }

    #[test]
    fn records_of_any_length_are_read(lengths in prop::collection::vec(0usize..60_000, 1..60)) {
        let mut wal = Generator::new(1, 5);
        lengths.iter().for_each(|length| wal.record(10, 0, &vec![*length as u8; *length]));
        wal.fill(1);
        let mut walker = walker();
        for (segment, bytes) in wal.segments() {
            prop_assert_eq!(problem(&mut walker, segment, &bytes), "");
        }
    }
}

#[test]
fn what_matters_to_a_replay_is_seen() {
    let mut wal = Generator::new(1, 1);
    wal.restore_point("it's here");
    wal.tablespace(16_400, &"/x".repeat(400));
    wal.tablespace(16_401, "");
    wal.parameters([500, 8, 10, 2, 64]);
    wal.commit(Utc::now());
    wal.switch();
    let walked = |transaction| {
        let sought = Sought {
            transaction,
            time: None,
        };
        let mut walker = WalWalker::new(generator::size(), None).look_for(sought);
        let (segment, bytes) = wal.segments().remove(0);
        walker.begin(segment);
        walker.feed(&bytes);
        walker.end()
    };
    let found = walked(Some(740));
    assert_eq!(found.problem, None);
    let [
        Event::RestorePoint(point),
        Event::Tablespace { oid: 16_400, location },
        Event::Tablespace {
            oid: 16_401,
            location: none,
        },
        Event::Parameters(parameters),
    ] = &found.events[..]
    else {
        panic!("{:?}", found.events)
    };
    assert!(point.time.is_some() && point.lsn > Lsn(SIZE_BYTES as u64), "{point:?}");
    assert_eq!(
        (point.name.as_str(), location.len(), none.as_str()),
        ("it's here", 800, "")
    );
    let values: Vec<i32> = parameters.each().map(|(_, value, _)| value).collect();
    assert_eq!(values, [500, 8, 10, 2, 64]);
    assert!(found.ends_transaction && !found.ends_prepared && !walked(Some(741)).ends_transaction);
}

#[test]
fn a_tablespace_outside_is_seen_behind_any_number_of_events() {
    let mut wal = Generator::new(1, 1);
    for point in 0..super::MOST + 10 {
        wal.restore_point(&point.to_string());
    }
    wal.tablespace(16_400, "/mnt/x");
    wal.tablespace(16_401, "/mnt/y");
    wal.switch();
    let (segment, bytes) = wal.segments().remove(0);
    let walked = walk(&mut WalWalker::new(generator::size(), None), segment, &bytes);
    assert_eq!(
        (walked.problem.as_deref(), walked.events.len()),
        (None, super::MOST + 1)
    );
    assert!(walked.events.last().is_some_and(Event::is_outside));
    assert!(
        walked
            .last_record
            .is_some_and(|record| record > segment.start(generator::size()))
    );
}

#[test]
fn recovery_stops_before_the_first_transaction_that_ended_later() {
    let time: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
    let seconds = TimeDelta::seconds;
    let mut wal = Generator::new(1, 1);
    let mut at = Vec::new();
    for second in 0..4 {
        at.push(Lsn(wal.position()));
        wal.commit(time + seconds(second));
    }
    wal.switch();
    let stop = |second, inclusive| {
        let target = TimeTarget {
            time: time + seconds(second),
            inclusive,
        };
        let sought = Sought {
            transaction: None,
            time: Some(target),
        };
        let mut walker = WalWalker::new(generator::size(), None).look_for(sought);
        let (segment, bytes) = wal.segments().remove(0);
        walker.begin(segment);
        walker.feed(&bytes);
        walker.end().stop
    };
    let found = stop(1, true).expect("found");
    assert_eq!(
        (found.time, found.xid, found.outcome),
        (time + seconds(2), Some(740), Outcome::Commit)
    );
    // The record follows the header of the page, if it is the first of the page.
    assert_eq!(found.lsn, at[2]);
    assert_eq!(stop(1, false).map(|ending| ending.lsn), Some(at[1]));
    assert_eq!(stop(3, true), None);
}

#[test]
fn of_many_commits_a_few_are_kept() {
    let time: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
    let mut wal = Generator::new(1, 1);
    let mut last = time;
    while wal.position() < 2 * SIZE_BYTES as u64 - 1000 {
        last += TimeDelta::seconds(1);
        wal.commit(last);
    }
    wal.switch();
    let mut walker = walker();
    let (segment, bytes) = wal.segments().remove(0);
    walker.begin(segment);
    walker.feed(&bytes);
    let walked = walker.end();
    let times: Vec<DateTime<Utc>> = walked.commits.iter().map(|commit| commit.time).collect();
    assert_eq!(
        (times.len(), times[0], *times.last().expect("one")),
        (17, time + TimeDelta::seconds(1), last)
    );
    assert!(times.is_sorted());
}

#[test]
fn wal_of_each_version_is_understood() {
    for (magic, major) in [
        (0xD093, 9),
        (0xD097, 10),
        (0xD098, 11),
        (0xD101, 12),
        (0xD10D, 14),
        (0xD118, 18),
    ] {
        let mut wal = Generator::new(1, 1);
        wal.magic = magic;
        // max_wal_senders came with 12, in the middle.
        let values: &[i32] = if major < 12 {
            &[500, 8, 2, 64]
        } else {
            &[500, 8, 10, 2, 64]
        };
        let length = if major < 12 { 24 } else { 28 };
        let mut data = vec![255, length];
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        data.resize(2 + usize::from(length), 0);
        wal.record(0, 0x60, &data);
        wal.switch();
        let (segment, bytes) = wal.segments().remove(0);
        let header = bytes.first_chunk().expect("a page");
        assert_eq!(FirstPage::parse(header).major_version(), Some(major));
        let mut walker = walker();
        walker.begin(segment);
        walker.feed(&bytes);
        let found = walker.end();
        assert_eq!(found.problem, None, "{major}");
        let [Event::Parameters(parameters)] = &found.events[..] else {
            panic!("{:?}", found.events)
        };
        let known: Vec<(&str, i32)> = parameters.each().map(|(name, value, _)| (name, value)).collect();
        let mut expected = vec![("max_connections", 500), ("max_worker_processes", 8)];
        expected.extend((major >= 12).then_some(("max_wal_senders", 10)));
        expected.extend([("max_prepared_transactions", 2), ("max_locks_per_transaction", 64)]);
        assert_eq!(known, expected, "{major}");
    }
    let mut older = Generator::new(1, 1);
    older.magic = 0xD087;
    older.switch();
    let (segment, bytes) = older.segments().remove(0);
    assert!(problem(&mut walker(), segment, &bytes).contains("no WAL page header"));
}
