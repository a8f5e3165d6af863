//! A plan's outlook on the WAL that recovery will read.

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::codec::Format;
use crate::lsn::Lsn;
use crate::wal::generator::{Generator, SIZE_BYTES};
use crate::wal::{Segment, WalFileName, generator};

fn recover(target: RestoreTarget) -> RestoreOptions {
    RestoreOptions {
        recovery: Some(RecoverySettings {
            mode: RecoveryMode::Recovery,
            restore_command: RestoreCommand {
                binary: PathBuf::from("/usr/bin/walarchive"),
                storage: StorageConfig::new("s3://b/p"),
                flags: Vec::new(),
            },
            target: RecoveryTarget {
                target,
                ..RecoveryTarget::default()
            },
        }),
        ..RestoreOptions::default()
    }
}

/// A backup that starts in segment 2.
async fn repository() -> Repository {
    let lsn = |offset: usize| 2 * SIZE_BYTES + offset;
    let sentinel = format!(
        r#"{{"LSN": {}, "FinishLSN": {}, "PgVersion": 150018, "FilesMetadataDisabled": true}}"#,
        lsn(40),
        lsn(140)
    );
    let conf = b"max_connections = 100 # few\nmax_wal_senders = 40\n";
    let members = [file("/base/5/1259", CONTENT), file("/postgresql.conf", conf)];
    let listed: [(&str, &[u8]); 2] = [("base/5/1259", CONTENT), ("postgresql.conf", conf)];
    Repository::new(&sentinel, &members, &listed).await
}

async fn archive(repository: &Repository, segment: Segment, bytes: &[u8]) {
    let key = crate::repository::layout::wal(&WalFileName::Segment(segment), Format::Zstd);
    repository.put(&key, &zstd(bytes)).await;
}

async fn planned(repository: &Repository, options: RestoreOptions) -> Result<RestorePlan> {
    let planned = plan(&repository.store, BACKUP, &repository.target(), options).await?;
    Ok(planned.plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_refused_unless_it_is_allowed() {
    let repository = repository().await;
    let segments = generator::segments(1, 2, 4);
    for number in [0, 1, 3] {
        archive(&repository, segments[number].0, &segments[number].1).await;
    }
    let beyond = Lsn(5 * SIZE_BYTES as u64);
    for target in [
        RestoreTarget::Latest,
        RestoreTarget::Lsn(beyond),
        RestoreTarget::Name("x".to_owned()),
    ] {
        let error = planned(&repository, recover(target)).await.expect_err("a hole");
        assert!(
            error
                .to_string()
                .contains("would end too early, at LSN 0/400000 on timeline 1"),
            "{error}"
        );
        let hint = error.hint().expect("a hint");
        assert!(
            hint.starts_with("WAL segment 000000010000000000000004 is not in the archive, which continues to LSN 0/600000 on timeline 1.")
                && hint.contains("--allow-gap"),
            "{hint}"
        );
    }
    assert!(!repository.target().exists());
    let allowed = RestoreOptions {
        allow_gap: true,
        ..recover(RestoreTarget::Latest)
    };
    let plan = planned(&repository, allowed).await.expect("allowed");
    assert!(
        plan.outlook.as_ref().is_some_and(|outlook| outlook.falls_short()),
        "{plan}"
    );
    assert!(
        plan.to_string()
            .contains("Recovery ends at LSN 0/400000 at the latest."),
        "{plan}"
    );
    // A standby waits there, and what is before the hole is not concerned; and without recovery nothing is asked.
    let mut standby = recover(RestoreTarget::Latest);
    standby.recovery.as_mut().expect("some").mode = RecoveryMode::Standby;
    let before = recover(RestoreTarget::Lsn(Lsn(3 * SIZE_BYTES as u64)));
    for options in [standby, before, recover(RestoreTarget::Immediate)] {
        let plan = planned(&repository, options).await.expect("planned");
        assert!(
            plan.to_string()
                .contains("000000010000000000000004 is not in the archive"),
            "{plan}"
        );
    }
    planned(&repository, RestoreOptions::default())
        .await
        .expect("no recovery");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_are_not_in_the_archive_are_said() {
    let repository = repository().await;
    let time: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
    let mut wal = Generator::new(1, 2);
    wal.commit(time - TimeDelta::hours(1));
    wal.restore_point("here");
    wal.commit(time);
    wal.switch();
    for (segment, bytes) in wal.segments() {
        archive(&repository, segment, &bytes).await;
    }
    let at = |time: DateTime<Utc>| RestoreTarget::Time(time.into());
    let name = |name: &str| RestoreTarget::Name(name.to_owned());
    let end = Lsn(3 * SIZE_BYTES as u64);
    for (target, is_there) in [
        (RestoreTarget::Latest, true),
        (RestoreTarget::Immediate, true),
        (at(time - TimeDelta::seconds(1)), true),
        (at(time), false),
        (at(time + TimeDelta::days(1)), false),
        (RestoreTarget::Lsn(Lsn(end.0 - 8)), true),
        (RestoreTarget::Lsn(end), false),
        (name("here"), true),
        (name("there"), false),
        (RestoreTarget::Xid(740), true),
        (RestoreTarget::Xid(3 << 32 | 740), true),
        (RestoreTarget::Xid(741), false),
    ] {
        let plan = planned(&repository, recover(target.clone())).await.expect("planned");
        let says = plan
            .notes
            .iter()
            .any(|note| note.contains("is not in the archive: its WAL ends at LSN 0/300000"));
        assert_eq!(says, !is_there, "{target}: {plan}");
        assert_eq!(
            plan.outlook.as_ref().map(|outlook| outlook.falls_short()),
            Some(!is_there),
            "{target}"
        );
        assert!(
            plan.to_string().contains(
                "goes on to LSN 0/300000 on timeline 1, the last transaction in it at 2026-11-20 10:00:00+00"
            ),
            "{plan}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_gets_in_the_wal_is_said_and_set() {
    let repository = repository().await;
    let created = repository.place.path().join("created");
    std::fs::create_dir(&created).expect("created");
    let mut wal = Generator::new(1, 2);
    wal.parameters([400, 8, 10, 0, 64]);
    wal.parameters([300, 16, 10, 0, 64]);
    wal.tablespace(16_400, &created.display().to_string());
    wal.switch();
    for (segment, bytes) in wal.segments() {
        archive(&repository, segment, &bytes).await;
    }
    let plan = planned(&repository, recover(RestoreTarget::Latest))
        .await
        .expect("planned");
    for says in [
        "max_connections = 400, max_worker_processes = 16",
        "The WAL to be replayed creates tablespace 16400,",
    ] {
        assert!(plan.to_string().contains(says), "{plan}");
    }
    drop(plan);
    repository
        .restore_with(recover(RestoreTarget::Latest))
        .await
        .expect("restored");
    let auto = std::fs::read_to_string(repository.target().join("postgresql.auto.conf")).expect("there");
    for (line, is_there) in [
        ("max_connections = '400'", true),
        ("max_worker_processes = '16'", true),
        ("max_wal_senders", false),
        ("max_locks_per_transaction", false),
    ] {
        assert_eq!(auto.contains(line), is_there, "{line}: {auto}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_content_ends_the_window() {
    let repository = repository().await;
    let segments = generator::segments(1, 2, 4);
    for (segment, bytes) in &segments {
        archive(&repository, *segment, bytes).await;
    }
    let key = |number: usize| crate::repository::layout::wal(&WalFileName::Segment(segments[number].0), Format::Zstd);
    // The last one.
    repository.put(&key(3), b"").await;
    let plan = planned(&repository, recover(RestoreTarget::Latest))
        .await
        .expect("planned");
    let says = "The object of WAL segment 000000010000000000000005 is empty or cut off, so recovery stops before it, at LSN \
                0/500000, with an error.";
    assert!(plan.to_string().contains(says), "{plan}");
    let outlook = plan.outlook.expect("looked at");
    assert!(outlook.falls_short() && outlook.end == Lsn(5 * SIZE_BYTES as u64));
    // One in the middle.
    repository.put(&key(1), b"").await;
    let error = planned(&repository, recover(RestoreTarget::Latest))
        .await
        .expect_err("a hole");
    assert!(
        error.to_string().contains("would end too early, at LSN 0/300000"),
        "{error}"
    );
    assert!(
        error.hint().expect("a hint").contains("or cannot be read there"),
        "{error:?}"
    );
    let inventory = crate::repository::inventory::Inventory::load(&repository.store)
        .await
        .expect("loaded");
    let windows = crate::repository::inventory::recovery_windows(&inventory);
    assert_eq!(windows.len(), 1);
    assert_eq!(windows[0].end_lsn, Lsn(3 * SIZE_BYTES as u64));
    assert!(windows[0].missing.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_ends_recovery_and_is_said() {
    let repository = repository().await;
    let mut segments = generator::segments(1, 2, 3);
    segments[1].1[5000] ^= 1;
    for (segment, bytes) in &segments {
        archive(&repository, *segment, bytes).await;
    }
    let plan = planned(&repository, recover(RestoreTarget::Latest))
        .await
        .expect("planned");
    assert!(
        plan.to_string()
            .contains("WAL segment 000000010000000000000003 is damaged, and recovery ends there"),
        "{plan}"
    );
    // Of what comes behind it nobody knows what it does.
    let outlook = plan.outlook.expect("looked at");
    assert!(outlook.damage().is_some() && outlook.falls_short());
    assert_eq!(outlook.end, Lsn(3 * SIZE_BYTES as u64));
    assert_eq!(
        outlook.looked_at.map(|segment| segment.to_string()).as_deref(),
        Some("000000010000000000000002")
    );
}

/// Replay to a target does nothing of what comes behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_behind_the_target_is_not_replayed() {
    let repository = repository().await;
    let mut wal = Generator::new(1, 2);
    wal.restore_point("before");
    (0..4).for_each(|_| wal.switch());
    wal.tablespace(16_400, "/mnt/x");
    wal.switch();
    for (segment, bytes) in wal.segments() {
        archive(&repository, segment, &bytes).await;
    }
    for (target, last, created) in [
        (RestoreTarget::Name("before".to_owned()), "000000010000000000000004", 0),
        (RestoreTarget::Latest, "000000010000000000000006", 1),
    ] {
        let plan = planned(&repository, recover(target.clone())).await.expect("planned");
        let outlook = plan.outlook.expect("looked at");
        assert_eq!(outlook.created_tablespaces().count(), created, "{target}");
        assert_eq!(
            outlook.looked_at.map(|segment| segment.to_string()).as_deref(),
            Some(last),
            "{target}"
        );
    }
}

/// The next record behind the target may be a long one.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_record_behind_the_target_is_fetched_whole() {
    let repository = repository().await;
    let mut wal = Generator::new(1, 2);
    wal.restore_point("before");
    let segment = usize::try_from(generator::size().bytes()).expect("small");
    wal.record(0, 0x20, &vec![7; 3 * segment]);
    (0..4).for_each(|_| wal.switch());
    for (segment, bytes) in wal.segments() {
        archive(&repository, segment, &bytes).await;
    }
    let target = RestoreTarget::Name("before".to_owned());
    let plan = planned(&repository, recover(target)).await.expect("planned");
    let last = plan.outlook.and_then(|outlook| outlook.looked_at);
    assert_eq!(
        last.map(|segment| segment.to_string()).as_deref(),
        Some("000000010000000000000006")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_timeline_has_behind_the_fork_is_said_and_not_counted() {
    let repository = repository().await;
    let time: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
    let mut wal = Generator::new(1, 2);
    wal.commit(time);
    wal.restore_point("before");
    let fork = Lsn(wal.position());
    wal.restore_point("behind");
    wal.switch();
    wal.commit(time + TimeDelta::hours(1));
    wal.switch();
    for (segment, bytes) in wal.segments() {
        archive(&repository, segment, &bytes).await;
    }
    let key = crate::repository::layout::wal(&WalFileName::History(2), Format::Plain);
    repository.put(&key, format!("1\t{fork}\tx\n").as_bytes()).await;
    for (name, falls_short) in [("before", false), ("behind", true)] {
        let target = RestoreTarget::Name(name.to_owned());
        let plan = planned(&repository, recover(target)).await.expect("planned");
        let says = format!(
            "Recovery follows timeline 2, which has left timeline 1 at LSN {fork} and has archived no WAL after that. Timeline \
             1 goes on to LSN 0/400000: to restore that, use --target-timeline 1."
        );
        assert!(plan.to_string().contains(&says), "{plan}");
        let outlook = plan.outlook.expect("looked at");
        assert_eq!((outlook.end, outlook.falls_short()), (fork, falls_short));
        assert_eq!(outlook.damage(), None);
        assert!(outlook.last_time.is_some_and(|last| last <= time), "{outlook:?}");
        assert!(outlook.last_record.is_some_and(|record| record < fork), "{outlook:?}");
    }
}
