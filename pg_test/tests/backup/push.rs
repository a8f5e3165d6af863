//! `walarchive backup-push` beside servers that know nothing of walarchive: they archive by a command.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use walarchive_pg_test::push::{self, push};
use walarchive_pg_test::site::{Site, archive_all, lose, wait_settled};
use walarchive_testkit::{Background, Cluster, PATIENCE, Signal, StopMode, kill_pid, run};

/// The number of rows of the table, as a restore of the backup has them.
fn rows_after_restore(site: &Site, name: &str, directory: &str) -> String {
    let target = site.restore(directory, name, &["--tablespace-map-original"]);
    let restored = site.restored(directory).attach(&target);
    restored.wait_promoted(PATIENCE);
    let rows = restored.psql("SELECT count(*), sum(hashtext(body)) FROM t");
    restored.amcheck();
    restored.stop(StopMode::Immediate);
    rows
}

#[test]
fn a_server_without_the_extension_is_backed_up_and_restored() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let place = site.dir().subdir("tablespace");
    primary.psql(&format!("CREATE TABLESPACE s LOCATION '{}'", place.display()));
    primary.psql("CREATE TABLE in_s TABLESPACE s AS SELECT generate_series(1, 1000) AS a");
    primary.psql("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 50000) i");
    let full = push(
        &site,
        &primary,
        &["--permanent", "--add-user-data", r#"{"why": "test"}"#],
    );
    assert!(full.starts_with("base_") && !full.contains("_D_"), "{full}");
    let listed = run(&mut site.walarchive(&["backup-list", "--json", "--long"])).expect_success();
    assert!(
        listed.contains(r#""is_permanent": true"#) && listed.contains(r#""why": "test""#),
        "{listed}"
    );
    let verified = run(&mut site.walarchive(&["backup-verify", &full]));
    assert!(verified.success(), "{verified:?}");

    primary.psql("UPDATE t SET body = 'changed' WHERE id % 100 = 0");
    let rows = primary.psql("SELECT count(*), sum(hashtext(body)) FROM t");
    archive_all(&primary);
    lose(&primary);
    fs::remove_dir_all(&place).expect("removed");
    site.dir().subdir("tablespace");
    assert_eq!(rows_after_restore(&site, &full, "restored"), rows);
}

#[test]
fn deltas_are_taken_as_wal_gs_variables_say() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 50000) i");
    wait_settled(&primary);
    let change = |id: u32| _ = primary.psql(&format!("UPDATE t SET body = 'changed' WHERE id = {id}"));
    let with_steps = |args: &[&str]| {
        let mut command = push::command(&site, &primary, args);
        let output = run(command.env("WALG_DELTA_MAX_STEPS", "2"));
        (output.stderr.clone(), output.expect_success())
    };
    let (said, full) = with_steps(&["--add-user-data", r#"{"a": [1]}"#]);
    assert!(
        said.contains("full backup: there is no backup of this cluster"),
        "{said}"
    );
    change(1);
    let (said, first) = with_steps(&[]);
    assert!(
        said.contains(&format!("delta backup based on \"{full}\" (step 1 of at most 2)")),
        "{said}"
    );
    change(2);
    let second = with_steps(&[]).1;
    assert!(
        first.contains("_D_") && second.ends_with(&first["base_".len()..][..24]),
        "{first} {second}"
    );
    change(3);
    let third = with_steps(&[]).1;
    assert!(!third.contains("_D_"), "{third}");
    change(4);
    let on_it = push(&site, &primary, &["--delta-from-user-data", r#"{ "a":[1] }"#]);
    assert!(on_it.ends_with(&format!("_D_{}", &full["base_".len()..])), "{on_it}");
    change(5);
    let asked = with_steps(&["--full", "--without-files-metadata"]).1;
    assert!(!asked.contains("_D_"), "{asked}");
    assert!(
        !site
            .object(&format!("basebackups_005/{asked}/files_metadata.json"))
            .exists()
    );
    change(6);
    let refused = run(&mut push::command(&site, &primary, &["--delta-from-name", &asked]));
    assert!(
        refused.code == Some(1) && refused.stderr.contains("cannot be the parent"),
        "{refused:?}"
    );
    let rows = primary.psql("SELECT count(*), sum(hashtext(body)) FROM t");
    archive_all(&primary);
    lose(&primary);
    for (name, directory) in [(&second, "second"), (&on_it, "on_it"), (&asked, "asked")] {
        assert_eq!(rows_after_restore(&site, name, directory), rows, "{name}");
    }
}

#[test]
fn a_standby_is_backed_up() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 1000) i");
    // The primary takes the repository first: a standby writes on behalf of its holder.
    archive_all(&primary);
    let standby = Cluster::builder(site.dir(), "standby").standby_of(&primary);
    let mut taking = Background::spawn(&mut push::command(&site, &standby, &[]), None);
    // The primary completes the segment when it is told to, and the backup waits for that.
    standby.wait_until("the backup has ended", PATIENCE, || {
        archive_all(&primary);
        !taking.is_running()
    });
    let name = taking.wait(PATIENCE).expect_success();
    let rows = primary.psql("SELECT count(*), sum(hashtext(body)) FROM t");
    archive_all(&primary);
    lose(&standby);
    lose(&primary);
    assert_eq!(rows_after_restore(&site, &name, "restored"), rows);
}

/// A standby behind a standby follows the new primary long before its own pg_control knows.
#[test]
fn a_standby_is_backed_up_after_the_promotion_of_another_one() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 1000) i");
    archive_all(&primary);
    let first = Cluster::builder(site.dir(), "first").standby_of(&primary);
    let second = Cluster::builder(site.dir(), "second")
        .setting("wal_retrieve_retry_interval", "100ms")
        .standby_of(&first);
    primary.stop(StopMode::Fast);
    first.psql("SELECT pg_promote()");
    first.wait_promoted(PATIENCE);
    // Its lease is of the new timeline. An archive_command that was never called before cannot know that it was a standby.
    let take_over = ["take-over", "--pgdata", &first.datadir().to_string_lossy()];
    run(&mut site.walarchive(&take_over)).expect_success();
    archive_all(&first);
    first.psql("CHECKPOINT");
    let lsn = first.psql("SELECT pg_current_wal_lsn()");
    second.wait_until("the standby follows", PATIENCE, || {
        second.psql(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) == "t"
    });
    assert_eq!(second.psql("SELECT timeline_id FROM pg_control_checkpoint()"), "1");
    let mut taking = Background::spawn(&mut push::command(&site, &second, &[]), None);
    second.wait_until("the backup has ended", PATIENCE, || {
        archive_all(&first);
        !taking.is_running()
    });
    let name = taking.wait(PATIENCE).expect_success();
    assert!(name.starts_with("base_00000002"), "{name}");
    let rows = first.psql("SELECT count(*), sum(hashtext(body)) FROM t");
    archive_all(&first);
    lose(&second);
    lose(&first);
    assert_eq!(rows_after_restore(&site, &name, "restored"), rows);
}

/// A backup that is slow enough to be met in the middle, with the processes that take it.
fn slow(site: &Site, primary: &Cluster) -> Background {
    let mut command = push::command(site, primary, &[]);
    let mut taking = Background::spawn(command.env("WALG_DISK_RATE_LIMIT", "2000000"), None);
    primary.wait_until("the copying has begun", PATIENCE, || {
        let keys = site.objects("basebackups_005");
        keys.iter().any(|key| key.ends_with("walarchive_claim.json")) || !taking.is_running()
    });
    assert!(taking.is_running(), "{:?}", taking.wait(PATIENCE));
    taking
}

fn listed(site: &Site) -> String {
    run(&mut site.walarchive(&["backup-list", "--json"])).expect_success()
}

#[test]
fn a_backup_that_is_interrupted_leaves_nothing() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let taking = slow(&site, &primary);
        kill_pid(taking.pid(), signal);
        let output = taking.wait(PATIENCE);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains("canceled on request"), "{output:?}");
        assert_eq!(site.objects("basebackups_005"), [""; 0]);
        // The server is not in backup mode any more.
        primary.wait_until("the session has ended", PATIENCE, || {
            primary.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walarchive'") == "0"
        });
    }
    push(&site, &primary, &[]);
}

#[test]
fn a_backup_whose_program_is_killed_is_not_listed() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let taking = slow(&site, &primary);
    taking.kill();
    taking.wait(PATIENCE);
    assert_eq!(listed(&site), "[]");
    let left = site.objects("basebackups_005");
    assert!(
        left.iter().any(|key| key.ends_with("walarchive_claim.json")),
        "{left:?}"
    );
    primary.psql("CHECKPOINT");
    let name = push(&site, &primary, &[]);
    assert!(listed(&site).contains(&name));
    // For a day somebody may still be at work there; then the claim says nothing any more.
    let garbage = || {
        let delete = ["delete", "garbage", "BACKUPS", "--confirm"];
        run(&mut site.walarchive(&delete)).expect_success();
        let keys = site.objects("basebackups_005").into_iter();
        keys.filter(|key| left.contains(key)).count()
    };
    assert_eq!(garbage(), left.len());
    for key in &left {
        let file = fs::File::options().write(true).open(site.object(key)).expect("opened");
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
        file.set_modified(then).expect("set");
    }
    assert_eq!(garbage(), 0);
    assert!(listed(&site).contains(&name));
}

/// The flag does not only exist: without it the list of a file's corrupt pages ends early.
#[test]
fn all_corrupt_pages_are_listed_if_that_is_asked_for() {
    const CORRUPT: usize = 30;
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 20000) AS a");
    let path = primary.psql("SELECT pg_relation_filepath('t')");
    primary.stop(StopMode::Fast);
    let file = primary.datadir().join(&path);
    let mut content = fs::read(&file).expect("read");
    (1..=CORRUPT).for_each(|page| content[page * 8192 + 5000] ^= 1);
    fs::write(&file, content).expect("written");
    primary.start_again();
    let listed = |args: &[&str], variable: Option<&str>| {
        primary.psql("CHECKPOINT");
        let mut command = push::command(&site, &primary, args);
        let name = run(command.envs(variable.map(|name| (name, "true")))).expect_success();
        let metadata = fs::read(site.object(&format!("basebackups_005/{name}/files_metadata.json")));
        let metadata: serde_json::Value = serde_json::from_slice(&metadata.expect("read")).expect("JSON");
        let found = &metadata["Files"][format!("/{path}")]["CorruptBlocks"];
        assert_eq!(found["CorruptBlocksCount"], CORRUPT, "{found}");
        found["SomeCorruptBlocks"].as_array().map_or(0, Vec::len)
    };
    let some = listed(&[], None);
    assert!((1..CORRUPT).contains(&some), "{some}");
    assert_eq!(listed(&["--store-all-corrupt"], None), CORRUPT);
    assert_eq!(listed(&[], Some("WALG_STORE_ALL_CORRUPT_BLOCKS")), CORRUPT);
}

#[test]
fn rate_limits_are_kept() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    wait_settled(&primary);
    for (variable, limit, field) in [
        ("WALG_DISK_RATE_LIMIT", 6_000_000, "UncompressedSize"),
        ("WALG_NETWORK_RATE_LIMIT", 1_000_000, "CompressedSize"),
    ] {
        primary.psql("CHECKPOINT");
        let begun = std::time::Instant::now();
        let mut command = push::command(&site, &primary, &[]);
        let name = run(command.env(variable, limit.to_string())).expect_success();
        let took = begun.elapsed().as_secs_f64();
        let sentinel = fs::read(site.object(&format!("basebackups_005/{name}_backup_stop_sentinel.json")));
        let sentinel: serde_json::Value = serde_json::from_slice(&sentinel.expect("read")).expect("JSON");
        let least = sentinel[field].as_f64().expect("a number") / f64::from(limit);
        assert!(least > 1.0, "{field}: {sentinel}");
        // Without the limit it takes a part of that.
        assert!(took > 0.7 * least, "{variable}: {took} of {least} s");
    }
}

#[test]
fn a_backup_does_not_outlive_its_session_or_its_server() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let taking = slow(&site, &primary);
    primary.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'walarchive'");
    let output = taking.wait(PATIENCE);
    assert!(
        output.code == Some(1) && output.stderr.contains("was lost: terminating connection"),
        "{output:?}"
    );
    assert_eq!(site.objects("basebackups_005"), [""; 0]);
    let taking = slow(&site, &primary);
    primary.kill9();
    let output = taking.wait(PATIENCE);
    assert!(
        output.code == Some(1) && output.stderr.contains("was lost"),
        "{output:?}"
    );
    assert_eq!(site.objects("basebackups_005"), [""; 0]);
}

#[test]
fn where_nothing_archives_the_user_is_told_and_the_backup_fails() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[("archive_mode", "off")]);
    let output = run(&mut push::command(&site, &primary, &["--archive-timeout", "1s"]));
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.contains("archive_mode is off, so the backup waits"),
        "{output:?}"
    );
    assert!(output.stderr.contains("was not archived within 1 s"), "{output:?}");
    assert_eq!(site.objects("basebackups_005"), [""; 0]);
}

#[test]
fn another_servers_data_directory_is_refused() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let other = push::builder(&site, "other").start();
    let standby = Cluster::builder(site.dir(), "standby").standby_of(&primary);
    for wrong in [&other, &standby] {
        let mut command = site.walarchive(&["backup-push", &wrong.datadir().to_string_lossy()]);
        let output = run(push::server_of(&mut command, &primary));
        assert!(
            output.code == Some(1) && output.stderr.contains("is not the data directory of the server at"),
            "{output:?}"
        );
    }
    let mut command = site.walarchive(&["backup-push", "/nowhere"]);
    let output = run(push::server_of(&mut command, &primary));
    assert!(
        output.stderr.contains("is not a data directory that can be read"),
        "{output:?}"
    );
    assert_eq!(site.objects("basebackups_005"), [""; 0]);
}

/// The server can use a backup that root takes: its files, and those of a restore, belong to the server's user.
#[test]
fn root_may_take_the_backup() {
    use std::os::unix::fs::MetadataExt;
    // In a directory, what root has made only root could go on with.
    let site = Site::on_s3();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE TABLE t AS SELECT i AS id, md5(i::text) AS body FROM generate_series(1, 1000) i");
    let owner = fs::metadata(primary.datadir()).expect("there").uid();
    let mut command = push::command(&site, &primary, &["--archive-timeout", "2m"]);
    let name = run(command.uid(0).gid(0)).expect_success();
    let foreign: Vec<_> = ["pg_wal/walarchive.instance", "pg_wal/walarchive.instance.lock"]
        .into_iter()
        .filter(|file| fs::metadata(primary.datadir().join(file)).is_ok_and(|meta| meta.uid() != owner))
        .collect();
    assert_eq!(foreign, [""; 0]);
    let rows = primary.psql("SELECT count(*), sum(hashtext(body)) FROM t");
    archive_all(&primary);
    lose(&primary);
    // WAL-G restores the owner that is in the tar.
    let label = site.object(&format!("basebackups_005/{name}/tar_partitions/backup_label.tar.zst"));
    let mut list = Command::new("tar");
    list.args(["--numeric-owner", "--use-compress-program=zstd", "-tvf"])
        .arg(label);
    let listed = run(&mut list).expect_success();
    assert!(listed.contains(&format!(" {owner}/")), "{listed}");
    assert_eq!(rows_after_restore(&site, &name, "restored"), rows);
}

/// With nothing in the environment the server is found by its data directory.
#[test]
fn the_data_directory_tells_where_its_server_is() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let mut command = site.walarchive(&["backup-push", &primary.datadir().to_string_lossy()]);
    let name = run(&mut command).expect_success();
    assert!(listed(&site).contains(&name), "{name}");
}
