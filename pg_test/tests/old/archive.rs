//! `archive_command = 'walarchive wal-push %p'` on servers of PostgreSQL 9.6 to 14: all WAL is archived as it is, and its content
//! is understood.

use std::fs;
use std::path::Path;
use std::process::Command;

use walarchive_pg_test::archiving::switch_segments;
use walarchive_pg_test::old;
use walarchive_pg_test::receive;
use walarchive_pg_test::site::{Site, archive_all};
use walarchive_testkit::{Builder, Cluster, PATIENCE, StopMode, run};

/// From this version on `initdb` chooses the size of WAL segments.
const SEGMENT_SIZE_SINCE: u32 = 11;

/// One that keeps its WAL, in small segments where it can have them.
fn cluster(site: &Site) -> Cluster {
    cluster_with(site, &[])
}

fn cluster_with(site: &Site, settings: &[(&str, &str)]) -> Cluster {
    let builder = old::builder(site, "primary").setting("max_prepared_transactions", "2");
    let with = |builder: Builder, (name, value): &(&str, &str)| builder.setting(name, value);
    let builder = settings.iter().fold(builder, with);
    let builder = match site.pg().major() {
        ..13 => builder.setting("wal_keep_segments", "100"),
        _ => builder.setting("wal_keep_size", "1GB"),
    };
    match site.pg().major() {
        ..SEGMENT_SIZE_SINCE => builder.start(),
        _ => builder.initdb_arg("--wal-segsize=1").start(),
    }
}

/// WAL of many kinds of records, in more than one segment.
fn work(cluster: &Cluster) {
    cluster.psql(
        "CREATE TABLE t AS SELECT g AS id, repeat(md5(g::text), 5) AS text, point(g, g) AS place, ARRAY[g] AS list
           FROM generate_series(1, 3000) g;
         CREATE INDEX ON t USING gist (place);
         CREATE INDEX ON t USING gin (list);
         CREATE INDEX ON t USING brin (id);
         CREATE INDEX ON t USING spgist (place);
         ALTER TABLE t ADD PRIMARY KEY (id);
         BEGIN; DELETE FROM t WHERE id = 1; PREPARE TRANSACTION 'p';
         COMMIT PREPARED 'p';
         BEGIN; SAVEPOINT s; UPDATE t SET text = '' WHERE id < 100; ROLLBACK TO s; COMMIT;
         BEGIN; DELETE FROM t; ROLLBACK;
         CREATE DATABASE other;
         VACUUM (FREEZE) t;
         SELECT FROM pg_create_restore_point('here');
         SELECT FROM pg_logical_emit_message(false, 'test', repeat('x', 20000000));
         CHECKPOINT;",
    );
}

/// `wal-verify` beside the server, with its exit code.
fn verify(site: &Site, cluster: &Cluster, args: &[&str]) -> (Option<i32>, String) {
    let output = run(old::walarchive(site, cluster, &["wal-verify"]).args(args));
    (output.code, output.stdout + &output.stderr)
}

/// The file in which the store, a directory, has a segment.
fn stored(site: &Site, segment: &str) -> std::path::PathBuf {
    let keys = site.objects("wal_005");
    let key = keys.iter().find(|key| key.contains(segment));
    site.object(key.unwrap_or_else(|| panic!("{segment} is not in {keys:?}")))
}

#[test]
fn all_wal_is_archived_and_its_content_is_verified() {
    let site = Site::on_files();
    let primary = cluster(&site);
    work(&primary);
    archive_all(&primary);
    // A crash, and WAL of a recovery.
    primary.psql("CREATE TABLE before_the_crash AS SELECT generate_series(1, 10000)");
    primary.stop(StopMode::Immediate);
    primary.start_again();
    work_again(&primary);
    archive_all(&primary);
    let last = primary.switch_wal();
    primary.wait_archived(&last, PATIENCE);

    let (code, said) = verify(&site, &primary, &["integrity", "timeline", "content", "--all"]);
    assert_eq!(code, Some(0), "{said}");
    let shown = run(&mut old::walarchive(&site, &primary, &["wal-show"])).expect_success();
    assert!(shown.contains(&last) && shown.contains("OK"), "{shown}");

    let segments = segments(&site);
    assert!(segments.len() > 2, "{segments:?}");
    check_segments(&site, &primary);
    one_flipped_bit_is_found(&site, &primary, &segments[1]);
}

/// The names of the segments in the repository.
fn segments(site: &Site) -> Vec<String> {
    let keys = site.objects("wal_005");
    let names = keys
        .iter()
        .filter_map(|key| Some(key.strip_prefix("wal_005/")?.split('.').next()?.to_owned()));
    names.filter(|name| name.len() == 24).collect()
}

/// Each segment comes back as the server has it.
fn check_segments(site: &Site, primary: &Cluster) {
    for segment in &segments(site) {
        let fetched = site.dir().subdir("fetched").join(segment);
        run(&mut site.walarchive(&["wal-fetch", segment, &fetched.to_string_lossy()])).expect_success();
        let there = fs::read(primary.wal_directory().join(segment)).expect("kept by the server");
        assert!(fs::read(&fetched).expect("fetched") == there, "{segment}");
    }
}

/// Files that wait are uploaded while the server waits for another one.
#[test]
fn a_burst_is_uploaded_ahead() {
    let site = Site::on_files();
    let primary = cluster(&site);
    primary.set("archive_command", "false");
    primary.reload();
    switch_segments(&primary, 12);
    let last = primary.switch_wal();
    // Made by a call that has stored more than it was asked for.
    let memory = primary.wal_directory().join("walarchive.ahead");
    assert!(!memory.exists());
    primary.set("archive_command", "walarchive wal-push %p");
    primary.reload();
    primary.wait_archived(&last, PATIENCE);
    assert!(memory.is_dir());
    let log = primary.log_since(0);
    assert!(!log.contains("walarchive: error"), "{log}");
    assert!(segments(&site).len() >= 13, "{:?}", segments(&site));
    check_segments(&site, &primary);
    let (code, said) = verify(&site, &primary, &["integrity", "timeline", "content", "--all"]);
    assert_eq!(code, Some(0), "{said}");
}

/// `wal-receive` archives for a server that archives nothing, is killed, and goes on.
#[test]
fn wal_is_received_over_the_replication_protocol() {
    let site = Site::on_files();
    let primary = cluster_with(&site, &[("archive_mode", "off"), ("max_replication_slots", "2")]);
    let hba = primary.datadir().join("pg_hba.conf");
    let rules = fs::read_to_string(&hba).expect("read") + "local replication all trust\n";
    fs::write(&hba, rules).expect("written");
    primary.reload();
    let mut first = receive::start(&site, &primary, &[]);
    work(&primary);
    let segment = primary.switch_wal();
    receive::wait_stored(&site, &segment);
    first.assert_running();
    first.kill();
    switch_segments(&primary, 3);
    let second = receive::start(&site, &primary, &[]);
    primary.restart();
    let last = primary.switch_wal();
    receive::wait_stored(&site, &last);
    let output = receive::end(second);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!output.stderr.contains("nobody can tell"), "{output:?}");
    assert!(segments(&site).len() > 4, "{:?}", segments(&site));
    check_segments(&site, &primary);
    let (code, said) = verify(&site, &primary, &["integrity", "timeline", "content", "--all"]);
    assert_eq!(code, Some(0), "{said}");
    run(&mut receive::command(&site, &primary, &["--drop-slot"])).expect_success();
    assert_eq!(primary.psql("SELECT count(*) FROM pg_replication_slots"), "0");
}

/// After the crash.
fn work_again(primary: &Cluster) {
    primary.psql("INSERT INTO t SELECT g, 'again', point(g, -g), ARRAY[g] FROM generate_series(10000, 20000) g");
}

fn one_flipped_bit_is_found(site: &Site, primary: &Cluster, segment: &str) {
    let mut content = fs::read(primary.wal_directory().join(segment)).expect("kept by the server");
    content[300_000] ^= 0x10;
    let damaged = site.dir().join("damaged");
    fs::write(&damaged, content).expect("written");
    let object = stored(site, segment);
    let zstd = run(Command::new("zstd").args(["-qf", "-o"]).arg(&object).arg(&damaged));
    zstd.expect_success();
    let (code, said) = verify(site, primary, &["content", "--all"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(segment), "{said}");
}

#[test]
fn another_cluster_and_another_content_are_refused() {
    let site = Site::on_files();
    let primary = old::builder(&site, "primary").start();
    archive_all(&primary);
    let segment = primary.switch_wal();
    primary.wait_archived(&segment, PATIENCE);

    // The same content again is no failure: a server that crashed before it noted the success asks again.
    let path = primary.wal_directory().join(&segment);
    let push = |cluster: &Cluster, path: &Path| {
        run(&mut old::walarchive(
            &site,
            cluster,
            &["wal-push", &path.to_string_lossy()],
        ))
    };
    push(&primary, &path).expect_success();
    let object = stored(&site, &segment);
    let before = fs::read(&object).expect("read");
    let elsewhere = old::builder(&site, "elsewhere")
        .setting("archive_command", "false")
        .start();
    let other = elsewhere.switch_wal();
    let refused = push(&elsewhere, &elsewhere.wal_directory().join(&other));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("belongs to another cluster"), "{refused:?}");
    elsewhere.stop(StopMode::Fast);

    let mut content = fs::read(&path).expect("read");
    content[100_000] ^= 1;
    primary.stop(StopMode::Fast);
    fs::write(&path, content).expect("written");
    let refused = push(&primary, &path);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(fs::read(&object).expect("read"), before, "{refused:?}");
}
