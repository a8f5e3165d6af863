//! A store that goes away for a while: WARNINGs that tell what to do, nothing lost, and no help needed when it is back.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use walarchive_pg_test::archiving::{
    archiving, first_waiting, messages, present_segment, status, switch_segments, wait_drained, wait_message,
    write_noise,
};
use walarchive_pg_test::ledger::Ledger;
use walarchive_pg_test::repository::{Repository, restore};
use walarchive_testkit::{Cluster, PATIENCE, S3Server, StopMode, TestDir, run};

/// An outage must look like this from inside the server, until `last` is no longer waiting.
fn assert_reported(cluster: &Cluster, mark: usize, last: &str, hint: &str) {
    let message = wait_message(cluster, mark, &["WARNING", "could not archive"], PATIENCE);
    assert!(message.contains("DETAIL:  ") && message.contains(hint), "{message}");
    cluster.wait_until("the failure is counted", PATIENCE, || {
        status(
            cluster,
            "failed_count > 0 AND last_archive_error <> '' AND last_archive_error_time > now() - interval '5 min'",
        ) == "t"
    });
    cluster.wait_until("PostgreSQL counts it too", PATIENCE, || {
        cluster.psql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t"
    });
    assert!(cluster.waiting_files().contains(&last.to_owned()));
    // A client may be filling the next segment between the one look and the other.
    cluster.wait_until("the view shows what archive_status holds", PATIENCE, || {
        let waiting = cluster.waiting_files().len();
        let shown = status(cluster, "ready_files, ready_bytes, oldest_ready_age > '0'");
        shown == format!("{waiting}|{}|t", waiting << 20)
    });
}

#[test]
fn a_directory_that_is_read_only_for_a_while() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);

    repository.set_writable(false);
    let mark = cluster.log_mark();
    let before = repository.wal_files();
    switch_segments(&cluster, 5);
    let last = cluster.switch_wal();
    assert_reported(
        &cluster,
        mark,
        &last,
        "HINT:  Check the owner and the mode of the directory",
    );
    assert_eq!(repository.wal_files(), before);
    // Nobody writes any more: nothing but walarchive itself can find out that the store is back.
    repository.set_writable(true);
    wait_drained(&cluster);
    repository.assert_complete(&cluster, &first, &last);
    assert_eq!(
        status(&cluster, "ready_files, ready_bytes, oldest_ready_age IS NULL"),
        "0|0|t"
    );
}

#[test]
fn a_long_queue_drains_in_order() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);

    repository.set_writable(false);
    switch_segments(&cluster, 300);
    let last = cluster.switch_wal();
    assert_eq!(cluster.waiting_files().len(), 301);
    cluster.wait_until("a failure is counted", PATIENCE, || {
        status(&cluster, "failed_count > 0") == "t"
    });
    repository.set_writable(true);
    wait_drained(&cluster);
    let count = repository.assert_complete(&cluster, &first, &last);
    assert_eq!(status(&cluster, "archived_count"), count.to_string());

    // The renaming to .done is the last change of such a file.
    let renamed = |segment: &String| {
        let name = format!("pg_wal/archive_status/{segment}.done");
        let meta = std::fs::metadata(cluster.datadir().join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        (meta.ctime(), meta.ctime_nsec())
    };
    let times: Vec<_> = repository.segments().iter().map(renamed).collect();
    assert!(times.len() == count && times.is_sorted(), "not archived in order");
}

/// The worker remembers so many names from one scan of `archive_status`; here are more. Timeline history files are as good as
/// segments for that, and small.
#[test]
fn a_queue_that_is_longer_than_one_scan() {
    const FILES: u32 = 5000;
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let cluster = archiving(&dir, "c", &repository.url()).start();
    cluster.psql("CREATE EXTENSION walarchive");
    cluster.stop(StopMode::Fast);
    let wal = cluster.datadir().join("pg_wal");
    for timeline in 0x100..0x100 + FILES {
        let name = format!("{timeline:08X}.history");
        let made = std::fs::write(wal.join(&name), format!("{timeline}\t0/1000000\ttest\n"))
            .and_then(|()| std::fs::write(wal.join(format!("archive_status/{name}.ready")), ""));
        made.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    run(std::process::Command::new("chown")
        .args(["-R", "--reference"])
        .arg(cluster.datadir())
        .arg(&wal))
    .expect_success();
    let mark = cluster.log_mark();
    cluster.start_again();
    // Behind them all, in the archiver's order.
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    wait_drained(&cluster);
    let histories = repository
        .wal_files()
        .iter()
        .filter(|file| file.ends_with(".history"))
        .count();
    assert_eq!(histories, FILES as usize);
    let log = cluster.log_since(mark);
    assert!(!log.contains("WARNING"), "{log}");
    assert_eq!(status(&cluster, "failed_count, ready_files"), "0|0");
}

#[test]
fn an_s3_server_that_is_away_for_a_while() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let cluster = archiving(&dir, "c", &server.url("some/prefix"))
        .setting("walarchive.storage_options", &server.options())
        .setting("walarchive.archive_timeout", "6s")
        .envs(server.env())
        .start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    let mut ledger = Ledger::new(&dir, &cluster);
    cluster.psql("SELECT walarchive_backup_push()");
    wait_drained(&cluster);

    server.stop();
    let mark = cluster.log_mark();
    let client = ledger.start(&cluster);
    switch_segments(&cluster, 5);
    let last = cluster.switch_wal();
    assert_reported(&cluster, mark, &last, "check that the store is up");
    server.start_again();
    wait_drained(&cluster);
    let repository = Repository::at(server.dir().join("some/prefix"));
    repository.assert_complete(&cluster, &first, &last);
    cluster.stop(StopMode::Fast);
    ledger.collect(client);
    let secret = server.env()[1].1;
    assert!(!cluster.log().contains(secret), "the secret is in the log");

    // The options are pairs with commas between them; the binary takes one at a time.
    let (url, options) = (server.url("some/prefix"), server.options());
    let mut storage = vec!["--storage", &url];
    storage.extend(options.split(',').flat_map(|option| ["--storage-option", option]));
    let builder = Cluster::builder(&dir, "restored").setting("archive_mode", "off");
    let restored = restore(builder, &dir.join("restored"), &storage, &server.env());
    ledger.assert_all_in(&restored);
}

/// A server that accepts connections, reads, and never answers.
fn silent_server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port");
    let port = listener.local_addr().expect("no address").port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer), Ok(bytes) if bytes > 0) {}
            });
        }
    });
    (port, accepted)
}

#[test]
fn a_store_that_never_answers_holds_nobody_for_long() {
    let dir = TestDir::new();
    let (port, accepted) = silent_server();
    let options = format!("aws_endpoint=http://127.0.0.1:{port},aws_region=us-east-1,allow_http=true");
    let cluster = archiving(&dir, "c", "s3://bucket/prefix")
        .setting("walarchive.storage_options", &options)
        .setting("walarchive.archive_timeout", "3s")
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "a secret")
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    let start = Instant::now();
    let segment = first_waiting(&cluster);
    let message = wait_message(&cluster, 0, &["WARNING", "could not archive", &segment], PATIENCE);
    // Without deadlines of ours it would be object_store's three minutes.
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "it took {:?}",
        start.elapsed()
    );
    assert!(accepted.load(Ordering::Relaxed) > 0, "the store was not asked");
    assert!(
        message.contains("HINT:  ") && message.contains("timed out"),
        "{message}"
    );
    let store = message.contains("s3://bucket/prefix") || message.contains(&segment);
    assert!(store && !message.contains("a secret"), "{message}");

    let start = Instant::now();
    cluster.begin_stop(StopMode::Fast);
    // Three attempts, a second between them.
    cluster.wait_stopped(PATIENCE);
    println!("stopped after {:?}", start.elapsed());
    assert_eq!(cluster.waiting_files().first(), Some(&segment));
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_no_half_object() {
    let dir = TestDir::new();
    let path = dir.subdir("repository");
    let mut mount = std::process::Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs"])
        .arg(&path);
    match mount.output() {
        Ok(output) if output.status.success() => {}
        failed => return println!("skipped: a tmpfs cannot be mounted here: {failed:?}"),
    }
    let disk = SmallDisk(path.clone());
    let repository = Repository::at(&disk.0);
    let cluster = archiving(&dir, "c", &repository.url()).start();
    let first = present_segment(&cluster);
    cluster.psql("CREATE EXTENSION walarchive");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);

    let filler = path.join("filler");
    // All but some of the space, so that a part of the next object still fits.
    std::fs::write(&filler, vec![1; 3 << 20]).expect("could not fill the disk");
    let mark = cluster.log_mark();
    for _ in 0..3 {
        write_noise(&cluster);
    }
    let last = cluster.switch_wal();
    let message = wait_message(
        &cluster,
        mark,
        &["WARNING", "could not archive", "No space left on device"],
        PATIENCE,
    );
    assert!(message.contains("HINT:  "), "{message}");
    for file in repository.wal_files() {
        repository.assert_same_as_local(&cluster, &file);
    }
    std::fs::remove_file(&filler).expect("could not remove the filler");
    wait_drained(&cluster);
    repository.assert_complete(&cluster, &first, &last);
    let left: Vec<_> = std::fs::read_dir(path.join("wal_005"))
        .expect("no folder")
        .flatten()
        .collect();
    assert_eq!(
        left.len(),
        repository.wal_files().len(),
        "temporary files are left: {left:?}"
    );
    drop(cluster);
}

#[test]
fn wrong_credentials_are_called_so() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let cluster = archiving(&dir, "c", &server.url("prefix"))
        .setting("walarchive.storage_options", &server.options())
        .env("AWS_ACCESS_KEY_ID", server.env()[0].1)
        .env("AWS_SECRET_ACCESS_KEY", "hunter2")
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    let segment = first_waiting(&cluster);
    let message = wait_message(&cluster, 0, &["WARNING", "could not archive", &segment], PATIENCE);
    assert!(message.contains("the store denied permission to"), "{message}");
    assert!(message.contains("SignatureDoesNotMatch"), "{message}");
    assert!(message.contains("HINT:  Check the access key"), "{message}");
    cluster.wait_until("the view tells it", PATIENCE, || {
        status(&cluster, "last_archive_error").contains("denied permission")
    });
    let error = cluster.try_psql_verbose("SELECT * FROM walarchive_backups").stderr;
    assert!(
        error.contains("denied permission") && error.contains("HINT:  Check the access key"),
        "{error}"
    );
    assert!(!cluster.log().contains("hunter2") && !error.contains("hunter2"));

    // The right ones, in a file, without a restart.
    let file = dir.join("credentials");
    let [(_, key), (_, secret)] = server.env();
    let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    std::fs::write(&file, text).expect("could not write the credentials");
    run(std::process::Command::new("chown")
        .arg("--reference")
        .arg(cluster.datadir())
        .arg(&file))
    .expect_success();
    cluster.set("walarchive.credentials_file", &file.display().to_string());
    let mark = cluster.log_mark();
    cluster.reload();
    let message = wait_message(&cluster, mark, &["WARNING", "can be read by others"], PATIENCE);
    assert!(message.contains("HINT:  Set its mode to 0600"), "{message}");
    run(std::process::Command::new("chmod").arg("0600").arg(&file)).expect_success();
    cluster.wait_archived(&segment, PATIENCE);
    assert!(!cluster.log().contains(secret));
}

#[test]
fn a_missing_bucket_and_a_missing_directory_are_called_so() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let missing = Repository::at(dir.join("missing"));
    let cluster = archiving(&dir, "c", "s3://bocket/prefix")
        .setting("walarchive.storage_options", &server.options())
        .envs(server.env())
        .start();
    cluster.psql("CREATE EXTENSION walarchive");
    let segment = first_waiting(&cluster);
    let message = wait_message(&cluster, 0, &["WARNING", "could not archive", &segment], PATIENCE);
    assert!(message.contains("s3://bocket/prefix\" does not exist"), "{message}");
    assert!(message.contains("HINT:  Create it"), "{message}");

    let mark = cluster.log_mark();
    cluster.set("walarchive.storage", &missing.url());
    cluster.reload();
    let message = wait_message(
        &cluster,
        mark,
        &["WARNING", "could not archive", &missing.url()],
        PATIENCE,
    );
    assert!(
        message.contains("does not exist") && message.contains("HINT:  Create it"),
        "{message}"
    );
    assert!(
        !missing.path().exists(),
        "a missing directory is likelier an unmounted one"
    );
    dir.subdir("missing");
    wait_drained(&cluster);
    missing.assert_same_as_local(&cluster, &segment);
    let log = cluster.log();
    assert!(messages(&log).iter().all(|message| !message.contains("panic")), "{log}");
}
