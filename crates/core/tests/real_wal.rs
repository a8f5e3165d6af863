//! The walker on WAL that PostgreSQL wrote, beside `pg_waldump`: the same records, the same times, and damage seen.

use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{DateTime, NaiveDateTime, Utc};
use walarchive_core::control_file::ControlFile;
use walarchive_core::wal::{Segment, WalWalker, Walked};
use walarchive_testkit::{Cluster, PATIENCE, StopMode, TestDir, run};

/// Archives into a directory by itself, in small segments.
fn cluster(dir: &TestDir, archive: &Path) -> Cluster {
    Cluster::builder(dir, "primary")
        .initdb_arg("--wal-segsize=1")
        .setting("archive_mode", "on")
        .setting("archive_command", &format!("cp %p {}/%f", archive.display()))
        .setting("wal_level", "logical")
        .setting("max_prepared_transactions", "2")
        .start()
}

fn archived(archive: &Path) -> Vec<(Segment, PathBuf)> {
    let entries = std::fs::read_dir(archive).expect("listed");
    let mut segments: Vec<(Segment, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.expect("read").path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path))
        })
        .collect();
    segments.sort();
    segments
}

fn walk(walker: &mut WalWalker, segment: Segment, bytes: &[u8]) -> Walked {
    walker.begin(segment);
    bytes.chunks(100_000).for_each(|piece| walker.feed(piece));
    walker.end()
}

/// The counts of `pg_waldump`, and the time of the last transaction that ended.
fn waldump(cluster: &Cluster, first: &Path, last: &Path) -> (u64, DateTime<Utc>) {
    let mut command: Command = cluster.pg().program("pg_waldump");
    let output = run(command.env("TZ", "UTC").arg(first).arg(last));
    let mut records = 0;
    let mut time = None;
    for line in output.stdout.lines().filter(|line| line.starts_with("rmgr: ")) {
        records += 1;
        let (_, desc) = line.split_once("desc: ").expect("a description");
        let mut words = desc.split(' ');
        let ends = match words.next() {
            Some("COMMIT" | "ABORT") => true,
            // The transaction's number comes first.
            Some("COMMIT_PREPARED" | "ABORT_PREPARED") => words.next().is_some(),
            _ => false,
        };
        if ends {
            let text = words.take(2).collect::<Vec<_>>().join(" ");
            let text = text.trim_end_matches([';', ':']);
            let parsed = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").expect(line);
            time = Some(parsed.and_utc());
        }
    }
    (records, time.expect("a transaction"))
}

#[test]
fn all_of_it_is_read_as_pg_waldump_reads_it() {
    let dir = TestDir::new();
    let archive = dir.subdir("archive");
    let cluster = cluster(&dir, &archive);
    cluster.pgbench(&["-i", "-s", "2", "-q"]);
    cluster.pgbench(&["-c", "4", "-t", "500", "-n"]);
    cluster.psql(
        "SELECT FROM pg_logical_emit_message(false, 'test', repeat('x', 3000000));
         BEGIN; INSERT INTO pgbench_history VALUES (1); PREPARE TRANSACTION 'p';
         COMMIT PREPARED 'p';
         CHECKPOINT;",
    );
    cluster.switch_wal();
    // A crash in the middle of something, and WAL after it.
    let busy = cluster.background_pgbench(&["-c", "4", "-T", "60", "-n"]);
    cluster.wait_until("it is busy", PATIENCE, || archived(&archive).len() > 40);
    cluster.stop(StopMode::Immediate);
    drop(busy);
    cluster.start_again();
    cluster.psql("INSERT INTO pgbench_history VALUES (2); SELECT FROM pg_create_restore_point('here');");
    cluster.pgbench(&["-c", "2", "-t", "200", "-n"]);
    let last = cluster.switch_wal();
    cluster.wait_archived(&last, PATIENCE);

    let control = ControlFile::read(cluster.datadir()).expect("intact");
    let segments = archived(&archive);
    assert!(segments.len() > 40, "{}", segments.len());
    let mut walker = WalWalker::new(control.segment_size, Some(control.system_identifier));
    let (mut records, mut last_time) = (0, None);
    for (segment, path) in &segments {
        let walked = walk(&mut walker, *segment, &std::fs::read(path).expect("read"));
        assert_eq!(walked.problem, None, "{segment}");
        records += walked.records;
        last_time = walked.last_time.or(last_time);
    }
    let (expected, time) = waldump(&cluster, &segments[0].1, &segments[segments.len() - 1].1);
    assert_eq!(records, expected);
    assert_eq!(last_time, Some(time));
    damage_is_seen(&control, &segments);
}

/// One bit, where there is neither a page header nor padding. The segments around are there too, as a record may span some.
fn damage_is_seen(control: &ControlFile, segments: &[(Segment, PathBuf)]) {
    let intact: Vec<Vec<u8>> = segments
        .iter()
        .map(|(_, path)| std::fs::read(path).expect("read"))
        .collect();
    for damaged in (4..segments.len() - 4).step_by(3) {
        for at in [3000, 200_000, 500_000] {
            let mut walker = WalWalker::new(control.segment_size, Some(control.system_identifier));
            let mut problems = Vec::new();
            for near in damaged - 4..damaged + 5 {
                let mut bytes = intact[near].clone();
                if near == damaged {
                    bytes[at] ^= 0x10;
                }
                problems.extend(walk(&mut walker, segments[near].0, &bytes).problem);
            }
            assert_eq!(problems.len(), 1, "{}, byte {at}: {problems:?}", segments[damaged].0);
        }
    }
}
