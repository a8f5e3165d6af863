//! Settings that cannot be right say so and what to do; settings that change while files are archived lose nothing.

use walarchive_pg_test::archiving::{
    archiving, first_waiting, present_segment, status, switch_segments, wait_drained, wait_message,
};
use walarchive_pg_test::repository::{Repository, segment_name, segment_number};
use walarchive_testkit::{Cluster, PATIENCE, TestDir};

#[test]
fn a_library_that_is_not_preloaded_says_so() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url())
        .setting("shared_preload_libraries", "")
        .start();
    let segment = first_waiting(&cluster);
    let message = wait_message(&cluster, 0, &["WARNING", "walarchive is not preloaded"], PATIENCE);
    assert!(
        message.contains("HINT:  Add walarchive to shared_preload_libraries and restart the server."),
        "{message}"
    );
    cluster.psql("CREATE EXTENSION walarchive");
    for sql in [
        "SELECT walarchive_backup_push()",
        "SELECT * FROM walarchive_status",
        "SELECT * FROM walarchive_progress",
    ] {
        let error = cluster.try_psql_verbose(sql);
        assert!(!error.success(), "{sql} succeeded: {}", error.stdout);
        assert!(
            error.stderr.contains("walarchive is not preloaded") && error.stderr.contains("HINT:  Add walarchive to"),
            "{sql}: {}",
            error.stderr
        );
    }
    assert_eq!(
        cluster.waiting_files().first(),
        Some(&segment),
        "it must not be archived by luck"
    );
    assert_eq!(repository.wal_files(), [""; 0]);

    cluster.set("shared_preload_libraries", "walarchive");
    cluster.restart();
    cluster.wait_archived(&segment, PATIENCE);
    repository.assert_same_as_local(&cluster, &segment);
}

/// Panics unless ALTER SYSTEM refuses the value, with this in DETAIL, and a HINT.
fn assert_refused(cluster: &Cluster, setting: &str, value: &str, detail: &str) {
    let error = cluster.try_psql_verbose(&format!("ALTER SYSTEM SET {setting} = '{value}'"));
    let text = &error.stderr;
    assert!(!error.success(), "{setting} = '{value}' was accepted");
    assert!(text.contains("22023: invalid value for parameter"), "{text}");
    let line = text
        .lines()
        .find(|line| line.starts_with("DETAIL:  "))
        .unwrap_or_default();
    assert!(line.contains(detail) && line.ends_with('.'), "{text}");
    assert!(text.contains("HINT:  "), "{text}");
}

#[test]
fn values_that_cannot_be_right_are_refused_when_they_are_set() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let storage = "walarchive.storage";
    assert_refused(
        &cluster,
        storage,
        "ftp://host/path",
        "Storage scheme \"ftp\" is not supported",
    );
    assert_refused(&cluster, storage, "/var/backup", "is not a URL");
    assert_refused(&cluster, storage, "s3://", "names no bucket");
    assert_refused(&cluster, storage, "file://relative/path", "is not an absolute path");
    assert_refused(
        &cluster,
        storage,
        "s3://key:word@bucket/p",
        "has more than a bucket and a prefix",
    );
    assert_refused(
        &cluster,
        "walarchive.storage_options",
        "aws_region",
        "not of the form \"key=value\"",
    );
    for (setting, value) in [
        ("walarchive.compression", "lz5"),
        ("walarchive.compression_level", "23"),
        ("walarchive.upload_concurrency", "0"),
        ("walarchive.archive_timeout", "0"),
    ] {
        let error = cluster.try_psql(&format!("ALTER SYSTEM SET {setting} = '{value}'"));
        assert!(error.is_err(), "{setting} = {value} was accepted");
    }
    // In the file, the same is refused at reload: the old value stays, and archiving goes on.
    let mark = cluster.log_mark();
    cluster.set(storage, "ftp://host/path");
    cluster.reload();
    let message = wait_message(
        &cluster,
        mark,
        &["invalid value for parameter", "\"ftp\" is not supported"],
        PATIENCE,
    );
    assert!(
        message.contains("DETAIL:  ") && message.contains("HINT:  "),
        "{message}"
    );
    assert_eq!(cluster.psql("SHOW walarchive.storage"), repository.url());
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    // At start PostgreSQL warns, and goes on as if it were not set.
    let mark = cluster.log_mark();
    cluster.restart();
    let message = wait_message(
        &cluster,
        mark,
        &["WARNING", "invalid value for parameter \"walarchive.storage\""],
        PATIENCE,
    );
    assert!(message.contains("\"ftp\" is not supported"), "{message}");
    assert_eq!(cluster.psql("SHOW walarchive.storage"), "");
    let segment = cluster.switch_wal();
    let parts = ["WARNING", "walarchive.storage has a value that cannot be used"];
    let message = wait_message(&cluster, mark, &parts, PATIENCE);
    assert!(message.contains("\"ftp\" is not supported"), "{message}");
    assert!(!cluster.is_archived(&segment));
}

#[test]
fn a_secret_among_the_options_is_refused_and_not_repeated() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    for option in [
        "aws_region=eu,aws_secret_access_key=hunter2",
        "AWS_ACCESS_KEY_ID=hunter2",
        "aws_session_token=hunter2",
    ] {
        cluster.set("walarchive.storage_options", option);
        let mark = cluster.log_mark();
        cluster.reload();
        let message = wait_message(
            &cluster,
            mark,
            &["walarchive.storage_options", "is a credential"],
            PATIENCE,
        );
        assert!(
            message.contains("HINT:  ") && message.contains("walarchive.credentials_file"),
            "{message}"
        );
        assert_eq!(cluster.psql("SHOW walarchive.storage_options"), "");
        // Every process that reads the file refuses it, the archiver and the worker among them.
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment, PATIENCE);
        let log = cluster.log_since(mark);
        assert!(!log.contains("hunter2"), "{log}");
        let shown = cluster.psql("SELECT * FROM pg_settings WHERE name LIKE 'walarchive.%'");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn without_a_storage_the_archiver_waits_for_one() {
    let dir = TestDir::new();
    let cluster = archiving(&dir, "c", "").start();
    cluster.psql("CREATE EXTENSION walarchive");
    let last = cluster.switch_wal();
    let message = wait_message(&cluster, 0, &["WARNING", "walarchive.storage is not set"], PATIENCE);
    assert!(message.contains("HINT:  Set it to a URL"), "{message}");
    let error = cluster.try_psql_verbose("SELECT walarchive_backup_push()");
    assert!(
        !error.success() && error.stderr.contains("walarchive.storage is not set") && error.stderr.contains("HINT:"),
        "{error:?}"
    );
    let waiting = cluster.waiting_files().len();
    assert_eq!(
        status(&cluster, "storage IS NULL, archived_count, ready_files"),
        format!("t|0|{waiting}")
    );

    let repository = Repository::new(&dir, "repository");
    cluster.set("walarchive.storage", &repository.url());
    cluster.reload();
    wait_drained(&cluster);
    repository.assert_same_as_local(&cluster, &last);
    assert_eq!(
        status(&cluster, "storage, archived_count"),
        format!("{}|{waiting}", repository.url())
    );
}

#[test]
fn another_storage_by_reload_gets_the_segments_that_follow() {
    let dir = TestDir::new();
    let repositories = ["one", "two", "three"].map(|name| Repository::new(&dir, name));
    let cluster = archiving(&dir, "c", &repositories[0].url()).start();
    let first = segment_number(&present_segment(&cluster));
    cluster.psql("CREATE EXTENSION walarchive");
    switch_segments(&cluster, 20);
    wait_drained(&cluster);
    assert!(repositories[0].segments().len() >= 20);

    cluster.set("walarchive.storage", &repositories[1].url());
    cluster.reload();
    // A file whose request is under way while the reload comes may land in the old one: the archiver's own process decides.
    switch_segments(&cluster, 20);
    let last = cluster.switch_wal();
    wait_drained(&cluster);
    let (old, new) = (repositories[0].segments(), repositories[1].segments());
    for number in first..=segment_number(&last) {
        let segment = segment_name(1, number);
        let copies = [&old, &new]
            .iter()
            .filter(|segments| segments.contains(&segment))
            .count();
        assert!(copies > 0, "{segment} is nowhere");
        let place = if new.contains(&segment) {
            &repositories[1]
        } else {
            &repositories[0]
        };
        place.assert_same_as_local(&cluster, &segment);
    }
    assert!(new.contains(&last) && new.len() >= 19, "{new:?}");
    assert!(status(&cluster, "storage") == repositories[1].url());

    // In the middle of a queue: every file must be in the storage that the server was told of when it was marked as done.
    repositories[1].set_writable(false);
    switch_segments(&cluster, 50);
    let last = cluster.switch_wal();
    cluster.set("walarchive.storage", &repositories[2].url());
    cluster.reload();
    repositories[1].set_writable(true);
    wait_drained(&cluster);
    let waited = repositories[2].segments();
    assert!(
        waited.len() == 51 && waited.last() == Some(&last),
        "{} segments: {waited:?}",
        waited.len()
    );
    waited
        .iter()
        .for_each(|segment| repositories[2].assert_same_as_local(&cluster, segment));
}

#[test]
fn another_archive_library_by_reload_and_back() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    cluster.psql("CREATE EXTENSION walarchive");
    let ours = cluster.switch_wal();
    cluster.wait_archived(&ours, PATIENCE);
    let mut expected = repository.segments();
    let worker = cluster.wait_pid_of("walarchive uploader", None);

    // The archiver ends itself when its library changes, and PostgreSQL waits ten seconds from its last start.
    let mut archiver = cluster.pid_of("archiver");
    cluster.set("archive_command", "/bin/false");
    cluster.set("archive_library", "");
    cluster.reload();
    cluster.wait_pid_of("archiver", archiver);
    let theirs = cluster.switch_wal();
    // While it waits, the worker is told to look at everything anew.
    cluster.wait_until("the other library fails", PATIENCE, || {
        cluster.psql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t"
    });
    cluster.set("archive_command", "/bin/true");
    cluster.reload();
    cluster.wait_archived(&theirs, PATIENCE);
    assert!(
        !repository.object(&theirs).exists(),
        "nobody asked walarchive for {theirs}"
    );
    assert_eq!(cluster.pid_of("walarchive uploader"), Some(worker));

    archiver = cluster.pid_of("archiver");
    cluster.set("archive_library", "walarchive");
    if cluster.pg().major() >= 16 {
        // Both set are refused from 16 on.
        cluster.set("archive_command", "");
    }
    cluster.reload();
    cluster.wait_pid_of("archiver", archiver);
    let again = cluster.switch_wal();
    cluster.wait_archived(&again, PATIENCE);
    repository.assert_same_as_local(&cluster, &again);
    expected.push(again);
    assert_eq!(repository.segments(), expected);
    assert_eq!(status(&cluster, "failed_count"), "0");
}
