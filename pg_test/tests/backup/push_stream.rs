//! `walarchive backup-push` without a data directory: the server sends its files over the replication protocol.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use walarchive_pg_test::push::{self, push};
use walarchive_pg_test::site::{Site, archive_all, lose, wait_settled};
use walarchive_testkit::{Background, Cluster, Fault, FaultProxy, Output, PATIENCE, Signal, StopMode, kill_pid, run};

/// `walarchive backup-push` for this server, as if from another machine.
fn command(site: &Site, cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = site.walarchive(&["backup-push"]);
    push::server_of(command.args(args), cluster);
    command
}

fn rows(cluster: &Cluster) -> String {
    cluster.psql("SELECT (SELECT count(*) FROM in_s), count(*), sum(hashtext(body)) FROM t")
}

/// A server with a tablespace, a table of some size in several files of the repository, and an unlogged one.
fn filled(site: &Site, settings: &[(&str, &str)]) -> Cluster {
    let primary = push::primary(site, settings);
    let place = site.dir().subdir("tablespace");
    primary.psql(&format!("CREATE TABLESPACE s LOCATION '{}'", place.display()));
    primary.psql("CREATE TABLE in_s TABLESPACE s AS SELECT generate_series(1, 1000) AS a");
    primary.psql("CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 1000) AS a");
    primary.psql("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 50000) i");
    primary
}

#[track_caller]
fn restored_rows(site: &Site, name: &str, directory: &str) -> String {
    let target = site.restore(directory, name, &["--tablespace-map-original"]);
    let restored = site.restored(directory).attach(&target);
    restored.wait_promoted(PATIENCE);
    let found = rows(&restored);
    assert_eq!(restored.psql("SELECT count(*) FROM u"), "0");
    restored.amcheck();
    restored.stop(StopMode::Immediate);
    found
}

#[test]
fn a_server_is_backed_up_from_afar_and_restored() {
    let site = Site::on_files();
    let primary = filled(&site, &[]);
    wait_settled(&primary);
    // A role that may replicate, and can see nothing of the server.
    primary.psql("CREATE ROLE r LOGIN REPLICATION");
    let mut taking = command(&site, &primary, &["--permanent", "--add-user-data", "7"]);
    let output = run(taking.env("PGUSER", "r").env("WALG_TAR_SIZE_THRESHOLD", "3000000"));
    let full = output.expect_success();
    assert!(full.starts_with("base_") && !full.contains("_D_"), "{full}");
    let folder = format!("basebackups_005/{full}/tar_partitions");
    let tars = site.objects(&folder);
    assert!(tars.len() > 4, "{tars:?}");
    let verified = run(&mut site.walarchive(&["backup-verify", &full]));
    assert!(verified.success(), "{verified:?}");
    let listed = run(&mut site.walarchive(&["backup-list", "--json", "--long"])).expect_success();
    assert!(
        listed.contains(r#""is_permanent": true"#) && listed.contains(r#""user_data": 7"#),
        "{listed}"
    );

    // A delta can be based on it, taken on the server's machine.
    primary.psql("UPDATE t SET body = 'changed' WHERE id % 100 = 0");
    let delta = push(&site, &primary, &["--delta-from-name", &full]);
    assert!(delta.ends_with(&format!("_D_{}", &full["base_".len()..])), "{delta}");
    primary.psql("UPDATE t SET body = 'changed again' WHERE id % 100 = 1");
    let expected = rows(&primary);
    archive_all(&primary);
    lose(&primary);
    for (name, directory) in [(&full, "full"), (&delta, "delta")] {
        fs::remove_dir_all(site.dir().join("tablespace")).expect("removed");
        site.dir().subdir("tablespace");
        assert_eq!(restored_rows(&site, name, directory), expected, "{name}");
    }
}

#[test]
fn no_delta_comes_over_the_replication_protocol() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let output = run(&mut command(&site, &primary, &["--delta-from-name", "base_x"]));
    assert!(
        output.code == Some(1) && output.stderr.contains("cannot be taken over the replication protocol"),
        "{output:?}"
    );
    let output = run(command(&site, &primary, &[]).env("WALG_DELTA_MAX_STEPS", "3"));
    assert!(
        output.success() && output.stderr.contains("note: full backup: over the"),
        "{output:?}"
    );
}

/// A backup that is slow enough to be met in the middle.
fn slow(site: &Site, primary: &Cluster) -> Background {
    let mut taking = Background::spawn(command(site, primary, &[]).env("WALG_DISK_RATE_LIMIT", "2000000"), None);
    primary.wait_until("the copying has begun", PATIENCE, || {
        let keys = site.objects("basebackups_005");
        keys.iter().any(|key| key.ends_with("walarchive_claim.json")) || !taking.is_running()
    });
    assert!(taking.is_running(), "{:?}", taking.wait(PATIENCE));
    taking
}

fn failed(site: &Site, taking: Background, why: &[&str]) {
    let output: Output = taking.wait(PATIENCE);
    let says = why.iter().any(|why| output.stderr.contains(why));
    assert!(output.code == Some(1) && says, "{output:?}");
    assert_eq!(site.objects("basebackups_005"), [""; 0]);
}

#[test]
fn what_is_cut_off_leaves_nothing() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let taking = slow(&site, &primary);
    kill_pid(taking.pid(), Signal::SIGTERM);
    failed(&site, taking, &["canceled on request"]);
    let taking = slow(&site, &primary);
    primary.wait_until("the server sends", PATIENCE, || {
        primary.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'walsender'") == "t"
    });
    // A server that is in the middle of a message closes the connection without another one.
    let lost = ["the server could not send a base backup", "was lost"];
    failed(&site, taking, &lost);
    let taking = slow(&site, &primary);
    primary.kill9();
    failed(&site, taking, &lost);
}

#[test]
fn a_standby_is_backed_up_from_afar() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 50000) i");
    archive_all(&primary);
    let standby = Cluster::builder(site.dir(), "standby").standby_of(&primary);
    let mut taking = Background::spawn(&mut command(&site, &standby, &[]), None);
    standby.wait_until("the backup has ended", PATIENCE, || {
        archive_all(&primary);
        !taking.is_running()
    });
    let name = taking.wait(PATIENCE).expect_success();
    let verified = run(&mut site.walarchive(&["backup-verify", &name]));
    assert!(verified.success(), "{verified:?}");
    primary.psql("UPDATE t SET body = 'changed' WHERE id % 100 = 0");
    let sum = "SELECT count(*), sum(hashtext(body)) FROM t";
    let expected = primary.psql(sum);
    archive_all(&primary);
    lose(&standby);
    lose(&primary);
    let target = site.restore("restored", &name, &[]);
    assert!(!target.join("standby.signal").exists());
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(sum), expected);
    restored.amcheck();
    restored.stop(StopMode::Immediate);
}

/// The server verifies while it sends, if it is asked to. It alone can read a page once more.
#[test]
fn pages_are_verified_by_the_server() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    primary.psql("CHECKPOINT");
    let file = primary.datadir().join(primary.psql("SELECT pg_relation_filepath('t')"));
    primary.stop(StopMode::Fast);
    let mut content = fs::read(&file).expect("read");
    content[8192 + 4000] ^= 0xff;
    fs::write(&file, content).expect("written");
    primary.start_again();
    let output = run(&mut command(&site, &primary, &["--verify"]));
    assert!(
        output.code == Some(1) && output.stderr.contains("checksum"),
        "{output:?}"
    );
    assert_eq!(site.objects("basebackups_005"), [""; 0]);
    primary.psql("CHECKPOINT");
    run(&mut command(&site, &primary, &[])).expect_success();
}

/// The lines of a program on stderr until one has these words; then it is ended.
#[track_caller]
fn until_it_says(mut command: Command, words: &str) -> String {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("started");
    let (sender, receiver) = mpsc::channel();
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let reader = std::thread::spawn(move || {
        let mut lines = stderr.lines().map_while(Result::ok);
        // Nobody listens any more after the one that was wanted.
        lines.try_for_each(|line| sender.send(line))
    });
    let mut said = String::new();
    let until = Instant::now() + PATIENCE;
    while !said.contains(words) {
        match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => said = said + &line + "\n",
            Err(_) => break,
        }
    }
    drop(receiver);
    child.kill().expect("ended");
    child.wait().expect("ended");
    _ = reader.join().expect("ended");
    said
}

/// Whichever way the backup is taken.
#[test]
fn a_store_that_does_not_answer_is_told_of() {
    let site = Site::on_s3();
    let primary = push::primary(&site, &[]);
    let silent = FaultProxy::start(site.s3().expect("an S3 server").port());
    silent.set([Fault::Silent]);
    let datadir = primary.datadir().to_string_lossy().into_owned();
    for args in [
        &["catchup-push", &datadir, "--from-lsn", "0/1000000"][..],
        &["backup-push", &datadir],
        &["backup-push"],
    ] {
        let mut command = site.walarchive(args);
        for option in silent.options().split(',') {
            command.args(["--storage-option", option]);
        }
        push::server_of(&mut command, &primary);
        let words = "has not answered for 5 s; it is asked again for up to 10 minutes";
        let said = until_it_says(command, words);
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
