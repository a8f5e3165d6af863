//! Objects that must never be written over: another content under a segment's name, another cluster's repository.

use std::fs;
use std::path::Path;

use walarchive_pg_test::archiving::{
    archiving, first_waiting, has_archived, present_segment, status, switch_segments, wait_drained, wait_message,
};
use walarchive_pg_test::repository::{Repository, segment_name, segment_number};
use walarchive_pg_test::site::{Site, archive_all, backup, lose, start_segment};
use walarchive_testkit::{PATIENCE, S3Server, StopMode, TestDir, run};

/// All files below a directory, with their content, but for the signs of life that the holder of the lease gives meanwhile.
fn tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.to_string_lossy().contains(".alive.json") {
                let content = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                files.push((path.display().to_string(), content));
            }
        }
    }
    files.sort();
    files
}

/// `make_other` turns the right object into the one that is there instead.
fn other_content_is_refused(repository: &Repository, dir: &TestDir, url: &str, configure: Configure, other: &[u8]) {
    let cluster = configure(archiving(dir, "c", url)).start();
    cluster.psql("CREATE EXTENSION walarchive");
    let first = present_segment(&cluster);
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);

    // The one after the next, so that the worker meets it ahead of the archiver, or the archiver by itself.
    let foreign = segment_name(1, segment_number(&segment) + 2);
    let object = repository.object(&foreign);
    fs::write(&object, other).expect("could not write the object");
    let mark = cluster.log_mark();
    switch_segments(&cluster, 4);
    let message = wait_message(&cluster, mark, &["WARNING", "could not archive", &foreign], PATIENCE);
    assert!(
        message.contains(&format!(
            "{foreign}.zst\" is already in the repository, with other content than"
        )),
        "{message}"
    );
    assert!(
        message.contains("DETAIL:  ") && message.contains("HINT:  "),
        "{message}"
    );
    assert!(
        message.contains("two servers may archive into one prefix"),
        "the hint tells the likely cause: {message}"
    );
    assert!(
        !message.to_lowercase().contains("panic") && message.len() < 2000,
        "{message}"
    );
    cluster.wait_until("the failure is counted", PATIENCE, || {
        status(
            &cluster,
            "failed_count > 0 AND last_archive_error LIKE '%other content%'",
        ) == "t"
    });
    assert_eq!(
        fs::read(&object).expect("the object is gone"),
        other,
        "it was overwritten"
    );
    assert!(
        cluster.waiting_files().contains(&foreign),
        "the archiver was told a lie"
    );
    cluster.psql("CHECKPOINT");
    assert!(cluster.datadir().join("pg_wal").join(&foreign).is_file());
    assert!(!cluster.is_archived(&foreign));

    assert_eq!(
        fs::read(&object).expect("the object is gone"),
        other,
        "it was overwritten later"
    );

    // The DBA has found out what it was.
    fs::remove_file(&object).expect("could not remove the object");
    let last = cluster.switch_wal();
    wait_drained(&cluster);
    if url.starts_with("file:") {
        repository.assert_complete(&cluster, &first, &last);
    } else {
        repository.assert_same_as_local(&cluster, &foreign);
        repository.assert_same_as_local(&cluster, &last);
    }
}

type Configure<'a> = &'a dyn Fn(walarchive_testkit::Builder) -> walarchive_testkit::Builder;

#[test]
fn an_object_of_other_content_is_left_alone_and_reported() {
    // Another segment, and what is no zstd at all.
    let other = {
        let dir = TestDir::new();
        let repository = Repository::new(&dir, "repository");
        let cluster = archiving(&dir, "c", &repository.url()).start();
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment, PATIENCE);
        fs::read(repository.object(&segment)).expect("no object")
    };
    for other in [other.as_slice(), b"not zstd", b""] {
        let dir = TestDir::new();
        let repository = Repository::new(&dir, "repository");
        other_content_is_refused(&repository, &dir, &repository.url(), &|builder| builder, other);
    }
}

#[test]
fn an_object_of_other_content_on_s3_is_left_alone_and_reported() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let repository = Repository::at(server.dir().join("prefix"));
    let configure: Configure = &|builder| {
        builder
            .setting("walarchive.storage_options", &server.options())
            .envs(server.env())
    };
    other_content_is_refused(&repository, &dir, &server.url("prefix"), configure, b"other");
}

#[test]
fn the_same_content_again_is_fine() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let (cluster, segment) = has_archived(&dir, &repository.url());
    let before = repository.snapshot();
    cluster.stop(StopMode::Fast);

    // As after a crash between the upload and the renaming of the .ready file.
    let status_file = |suffix: &str| {
        let name = format!("pg_wal/archive_status/{segment}.{suffix}");
        cluster.datadir().join(name)
    };
    fs::rename(status_file("done"), status_file("ready")).expect("could not rename");
    cluster.start_again();
    cluster.wait_archived(&segment, PATIENCE);
    assert_eq!(status(&cluster, "failed_count"), "0");
    assert!(repository.snapshot().get(&segment) == before.get(&segment));
}

#[test]
fn a_second_cluster_is_refused_before_it_writes() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let owner = archiving(&dir, "owner", &repository.url()).start();
    let segment = owner.switch_wal();
    owner.wait_archived(&segment, PATIENCE);
    let before = tree(repository.path());
    let identifier = "SELECT system_identifier FROM pg_control_system()";

    let second = archiving(&dir, "second", &repository.url()).start();
    second.psql("CREATE EXTENSION walarchive");
    let mine = first_waiting(&second);
    let message = wait_message(&second, 0, &["WARNING", "could not archive", &mine], PATIENCE);
    assert!(message.contains("belongs to another cluster"), "{message}");
    assert!(message.contains(&repository.url()), "{message}");
    assert!(
        message.contains(&owner.psql(identifier)) && message.contains(&second.psql(identifier)),
        "which two clusters? {message}"
    );
    assert!(
        message.contains("HINT:  Point walarchive.storage at a prefix of its own"),
        "{message}"
    );
    let error = second.try_psql_verbose("SELECT walarchive_backup_push()");
    assert!(
        !error.success() && error.stderr.contains("belongs to another cluster") && error.stderr.contains("HINT:"),
        "{error:?}"
    );
    assert_eq!(second.waiting_files().first(), Some(&mine));
    assert!(tree(repository.path()) == before, "the second cluster wrote something");

    // On a prefix of its own it goes on; the owner was not disturbed.
    let own = Repository::new(&dir, "own");
    second.set("walarchive.storage", &own.url());
    second.reload();
    second.wait_archived(&mine, PATIENCE);
    own.assert_same_as_local(&second, &mine);
    let segment = owner.switch_wal();
    owner.wait_archived(&segment, PATIENCE);
    repository.assert_same_as_local(&owner, &segment);
}

/// A restore that does not end on a timeline of its own goes on where the lost server was, with other content.
#[test]
fn a_restored_cluster_goes_on_in_the_archive_on_a_new_timeline_only() {
    let site = Site::on_files();
    let primary = site.builder("primary").initdb_arg("--wal-segsize=1").start();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t (a int)");
    let name = backup(&primary, "");
    for row in 1..4 {
        primary.psql(&format!("INSERT INTO t VALUES ({row})"));
        archive_all(&primary);
    }
    lose(&primary);
    let archived = |site: &Site| tree(&site.object("wal_005"));
    let before = archived(&site);

    // By hand, with just the WAL that makes the backup consistent: it continues timeline 1.
    let target = site.restore("restored", &name, &["--no-recovery", "--take-over"]);
    let number = segment_number(&start_segment(&target));
    for segment in (number..).map(|number| segment_name(1, number)).take(2) {
        let path = target.join("pg_wal").join(&segment);
        run(site
            .walarchive(&["wal-fetch", &segment, &path.to_string_lossy()])
            .env("PGDATA", &target))
        .expect_success();
    }
    let same = site.builder("same").setting("archive_mode", "on").attach(&target);
    same.psql("INSERT INTO t VALUES (100)");
    let refused = first_waiting(&same);
    let message = wait_message(&same, 0, &["WARNING", "could not archive", &refused], PATIENCE);
    assert!(
        message.contains("other content") && message.contains("HINT"),
        "{message}"
    );
    assert!(archived(&site) == before, "something was written");
    lose(&same);

    // As it should be.
    let target = site.restore("recovered", &name, &["--take-over"]);
    let recovered = site.builder("recovered").attach(&target);
    recovered.wait_promoted(PATIENCE);
    recovered.psql("INSERT INTO t VALUES (4)");
    archive_all(&recovered);
    let after = archived(&site);
    assert!(
        before.iter().all(|object| after.contains(object)),
        "an object was changed"
    );
    assert!(
        after.iter().any(|(path, _)| path.contains("/00000002")),
        "{:?}",
        after.len()
    );
}
