//! Every kind of file that PostgreSQL archives, every size of segment, and a standby that archives too.

use walarchive_pg_test::archiving::{archiving, status, switch_segments, wait_drained, wait_message};
use walarchive_pg_test::repository::Repository;
use walarchive_testkit::{Cluster, PATIENCE, StopMode, TestDir, wait_until};

#[test]
fn partial_segments_history_and_backup_files_are_archived() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let primary = archiving(&dir, "primary", &repository.url()).start();
    primary.psql("CREATE EXTENSION walarchive");
    primary.psql("CREATE TABLE t AS SELECT 1 AS a");
    primary.psql("SELECT walarchive_backup_push()");
    wait_drained(&primary);
    let backups: Vec<_> = repository
        .wal_files()
        .into_iter()
        .filter(|file| file.ends_with(".backup"))
        .collect();
    assert_eq!(backups.len(), 1, "{backups:?}");
    repository.assert_same_as_local(&primary, &backups[0]);
    let label = String::from_utf8(repository.content(&backups[0])).expect("not a text");
    assert!(
        label.starts_with("START WAL LOCATION:") && label.contains("LABEL: walarchive"),
        "{label}"
    );

    // A failover in the middle of a segment.
    let standby = Cluster::builder(&dir, "standby").standby_of(&primary);
    switch_segments(&primary, 2);
    primary.psql("INSERT INTO t VALUES (2)");
    let lsn = primary.psql("SELECT pg_current_wal_flush_lsn()");
    standby.wait_until("the standby has everything", PATIENCE, || {
        standby.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) == "t"
    });
    wait_drained(&primary);
    primary.stop(StopMode::Immediate);
    let before = repository.segments().len();
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.psql("INSERT INTO t VALUES (3)");
    let last = standby.switch_wal();
    assert!(last.starts_with("00000002"), "{last}");
    standby.wait_archived(&last, PATIENCE);
    wait_drained(&standby);
    let files = repository.wal_files();
    assert!(files.contains(&"00000002.history".to_owned()), "{files:?}");
    let partial: Vec<_> = files.iter().filter(|file| file.ends_with(".partial")).collect();
    assert_eq!(partial.len(), 1, "{files:?}");
    assert!(partial[0].starts_with("00000001"), "{files:?}");
    for file in [partial[0].as_str(), "00000002.history", &last] {
        repository.assert_same_as_local(&standby, file);
    }
    let history = String::from_utf8(repository.content("00000002.history")).expect("not a text");
    assert!(history.starts_with("1\t"), "{history}");
    assert!(repository.segments().len() > before);

    let restored = repository.restore(&dir, "restored");
    assert_eq!(restored.psql("SELECT a FROM t ORDER BY a"), "1\n2\n3");
    assert_eq!(
        restored
            .psql("SELECT timeline_id FROM pg_control_checkpoint()")
            .parse::<u32>()
            .map(|id| id >= 2),
        Ok(true)
    );
}

#[test]
fn a_standby_archives_into_its_own_prefix_with_archive_mode_always() {
    let dir = TestDir::new();
    let (ours, its) = (
        Repository::new(&dir, "primary-archive"),
        Repository::new(&dir, "standby-archive"),
    );
    let primary = archiving(&dir, "primary", &ours.url()).start();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let standby = Cluster::builder(&dir, "standby")
        .setting("archive_mode", "always")
        .setting("walarchive.storage", &its.url())
        .standby_of(&primary);
    standby.wait_pid_of("walarchive uploader", None);
    switch_segments(&primary, 10);
    let last = primary.switch_wal();
    wait_drained(&primary);
    standby.wait_until("the standby has archived the last segment", PATIENCE, || {
        its.object(&last).is_file()
    });
    wait_drained(&standby);
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(
        status(&standby, "storage, failed_count, uploader_pid > 0"),
        format!("{}|0|t", its.url())
    );
    let copied = its.segments();
    assert!(copied.len() >= 11, "{copied:?}");
    for segment in &copied {
        its.assert_same_as_local(&standby, segment);
        assert!(its.content(segment) == ours.content(segment), "{segment}");
    }
}

/// Two servers of one cluster may share a prefix: what they write is the same, whoever comes first.
#[test]
fn a_standby_that_shares_the_prefix_finds_its_files_there() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let primary = archiving(&dir, "primary", &repository.url()).start();
    primary.psql("CREATE EXTENSION walarchive");
    let standby = Cluster::builder(&dir, "standby")
        .setting("archive_mode", "always")
        .standby_of(&primary);
    switch_segments(&primary, 10);
    let last = primary.switch_wal();
    wait_drained(&primary);
    wait_until("the standby has the last segment", PATIENCE, || {
        standby
            .datadir()
            .join(format!("pg_wal/archive_status/{last}.done"))
            .exists()
    });
    wait_drained(&standby);
    for cluster in [&primary, &standby] {
        assert_eq!(status(cluster, "failed_count"), "0", "{}", cluster.log());
    }
    repository.assert_same_as_local(&standby, &last);
}

#[test]
fn segments_of_other_sizes_are_archived_and_restored() {
    for megabytes in ["2", "64"] {
        let dir = TestDir::new();
        let repository = Repository::new(&dir, "repository");
        let cluster = Cluster::builder(&dir, "c")
            .initdb_arg(&format!("--wal-segsize={megabytes}"))
            .setting("shared_preload_libraries", "walarchive")
            .setting("archive_mode", "on")
            .setting("archive_library", "walarchive")
            .setting("walarchive.storage", &repository.url())
            .start();
        cluster.psql("CREATE EXTENSION walarchive");
        cluster.psql("SELECT walarchive_backup_push()");
        cluster.psql("CREATE TABLE t AS SELECT 7 AS a");
        let last = cluster.switch_wal();
        cluster.wait_archived(&last, PATIENCE);
        repository.assert_same_as_local(&cluster, &last);
        assert_eq!(
            repository.content(&last).len(),
            megabytes.parse::<usize>().expect("a number") << 20
        );
        let settings = std::fs::read_to_string(repository.path().join("walarchive_005/cluster.json"));
        let bytes = (megabytes.parse::<u64>().expect("a number") << 20).to_string();
        assert!(settings.expect("no cluster.json").contains(&bytes));
        let restored = repository.restore(&dir, "restored");
        assert_eq!(
            restored.psql("SELECT a FROM t; SHOW wal_segment_size"),
            format!("7\n{megabytes}MB")
        );
    }
}

#[test]
fn a_file_of_another_cluster_in_pg_wal_is_refused() {
    let dir = TestDir::new();
    let (ours, other) = (Repository::new(&dir, "ours"), Repository::new(&dir, "other"));
    let foreign = archiving(&dir, "foreign", &other.url()).start();
    let cluster = archiving(&dir, "c", &ours.url()).start();
    cluster.psql("CREATE EXTENSION walarchive");
    let segment = foreign.switch_wal();
    foreign.wait_archived(&segment, PATIENCE);
    cluster.stop(StopMode::Fast);

    // Copied by a mistaken hand, under a name far ahead of the server's own.
    let name = "000000010000000100000001";
    let wal = cluster.datadir().join("pg_wal");
    let content = std::fs::read(foreign.datadir().join("pg_wal").join(&segment)).expect("could not read");
    std::fs::write(wal.join(name), content).expect("could not write");
    std::fs::write(wal.join(format!("archive_status/{name}.ready")), "").expect("could not write");
    let mark = cluster.log_mark();
    cluster.start_again();
    let parts = [
        "WARNING",
        "could not archive",
        name,
        "is not a valid WAL file of this cluster",
    ];
    let message = wait_message(&cluster, mark, &parts, PATIENCE);
    assert!(
        message.contains("DETAIL:  ") && message.contains("HINT:  "),
        "{message}"
    );
    assert!(!ours.object(name).exists() && wal.join(name).is_file());
}
