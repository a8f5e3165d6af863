//! Recovery gets the tail of the archive: WAL of the segment that the primary was writing, stored in chunks.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use walarchive_pg_test::archiving::SEGMENT;
use walarchive_pg_test::failover::{promote, rows};
use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Builder, Cluster, PATIENCE, run};

const NOTE: &str = "is not archived yet";

/// A server with small segments and a table `t`, that has a backup and has archived row 1.
#[track_caller]
fn primary(site: &Site) -> Cluster {
    let primary = site.builder("primary").initdb_arg("--wal-segsize=1").start();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t AS SELECT 1 AS id");
    backup(&primary, "");
    archive_all(&primary);
    primary
}

#[track_caller]
fn insert(server: &Cluster, row: usize) {
    server.psql(&format!("INSERT INTO t VALUES ({row})"));
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut zstd = Command::new("zstd");
    let piped = zstd.args(["-q", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.spawn().expect("zstd runs");
    let (mut input, bytes) = (child.stdin.take().expect("piped"), bytes.to_vec());
    let feed = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().expect("zstd ends");
    feed.join().expect("joined").expect("written");
    assert!(output.status.success());
    output.stdout
}

fn chunk_key(segment: &str, epoch: usize, start: usize, end: usize) -> String {
    format!("walarchive_005/tail/{segment}/{epoch:08}-{start:08X}-{end:08X}.zst")
}

fn put_chunk(site: &Site, segment: &str, epoch: usize, start: usize, bytes: &[u8]) {
    let path = site.object(&chunk_key(segment, epoch, start, start + bytes.len()));
    fs::create_dir_all(path.parent().expect("a folder")).expect("created");
    // It appears at once, as in any store.
    let written = site.dir().join("chunk");
    fs::write(&written, zstd(bytes)).expect("written");
    fs::rename(written, path).expect("renamed");
}

/// The segment that is being written, and the bytes of it that are flushed.
#[track_caller]
fn flushed(server: &Cluster) -> (String, Vec<u8>) {
    let sql = "SELECT pg_walfile_name(lsn) || ' ' || lsn - '0/0' FROM pg_current_wal_flush_lsn() lsn";
    let found = server.psql(sql);
    let (segment, lsn) = found.split_once(' ').expect("two words");
    let end = lsn.parse::<usize>().expect("a number") % SEGMENT;
    let mut content = fs::read(server.wal_directory().join(segment)).expect("read");
    content.truncate(end);
    (segment.to_owned(), content)
}

/// Stores what is flushed of the segment that is being written, from that byte on. Returns the segment, and where the chunk ends.
#[track_caller]
fn ship(site: &Site, server: &Cluster, epoch: usize, start: usize) -> (String, usize) {
    let (segment, content) = flushed(server);
    put_chunk(site, &segment, epoch, start, &content[start..]);
    (segment, content.len())
}

fn restored(site: &Site, name: &str) -> Builder {
    site.restored(name).setting("wal_retrieve_retry_interval", "100ms")
}

/// Restores up to the end, and promotes.
#[track_caller]
fn restore_latest(site: &Site, name: &str, args: &[&str]) -> Cluster {
    let target = site.restore(name, "LATEST", args);
    let server = restored(site, name).attach(&target);
    server.wait_promoted(PATIENCE);
    server
}

#[track_caller]
fn wait_rows(server: &Cluster, expected: &str) {
    let mut found = String::new();
    server.wait_until(&format!("it has the rows {expected}"), PATIENCE, || {
        found = rows(server);
        found == expected
    });
}

#[test]
fn a_restore_ends_where_the_tail_does() {
    for site in [Site::on_files(), Site::on_s3()] {
        let primary = primary(&site);
        insert(&primary, 2);
        let (segment, end) = ship(&site, &primary, 1, 0);
        insert(&primary, 3);
        ship(&site, &primary, 1, end);
        insert(&primary, 4);
        lose(&primary);
        let server = restore_latest(&site, "restored", &[]);
        assert_eq!(rows(&server), "1 2 3");
        assert!(
            server.log().contains(&format!("\"{segment}\" {NOTE}")),
            "{}",
            server.log()
        );
        // It goes on on its own timeline, and comes up again after a crash.
        insert(&server, 5);
        server.switch_wal();
        insert(&server, 6);
        server.kill9();
        server.start_again();
        assert_eq!(rows(&server), "1 2 3 5 6");
        server.amcheck();
    }
}

#[test]
fn a_point_within_the_tail_is_reached() {
    let site = Site::on_files();
    let primary = primary(&site);
    insert(&primary, 2);
    let time = primary.psql("SELECT clock_timestamp()");
    insert(&primary, 3);
    ship(&site, &primary, 1, 0);
    lose(&primary);
    let server = restore_latest(
        &site,
        "restored",
        &["--target-time", &time, "--target-action", "promote"],
    );
    assert_eq!(rows(&server), "1 2");
}

/// After the crash the primary has written other bytes where the first epoch has its last ones.
#[test]
fn after_a_crash_of_the_primary_only_the_newer_epoch_counts() {
    let site = Site::on_files();
    let primary = primary(&site);
    insert(&primary, 2);
    let (segment, mut content) = flushed(&primary);
    // A record that had not come to its end.
    let end = content.len();
    content.extend([0x5A; 20_000]);
    put_chunk(&site, &segment, 1, 0, &content[..end / 2]);
    put_chunk(&site, &segment, 1, end / 2, &content[end / 2..]);
    primary.kill9();
    primary.start_again();
    insert(&primary, 3);
    let (segment_now, end) = ship(&site, &primary, 2, 0);
    assert_eq!(segment_now, segment);
    insert(&primary, 4);
    ship(&site, &primary, 2, end);
    lose(&primary);
    assert_eq!(rows(&restore_latest(&site, "restored", &[])), "1 2 3 4");
}

/// Each try brings more, until the segment is archived; and the standby can be promoted at any time.
#[test]
fn a_standby_gets_more_with_each_try() {
    for (worker, library) in [(true, "walarchive"), (false, "")] {
        let site = Site::on_files();
        let primary = primary(&site);
        let target = site.restore("standby", "LATEST", &["--standby"]);
        let standby = restored(&site, "standby")
            .setting("shared_preload_libraries", library)
            .env("RUST_LOG", "walarchive=info")
            .attach(&target);
        let (segment, mut end) = ship(&site, &primary, 1, 0);
        for row in 2..=4 {
            insert(&primary, row);
            end = ship(&site, &primary, 1, end).1;
            let all: Vec<String> = (1..=row).map(|row| row.to_string()).collect();
            wait_rows(&standby, &all.join(" "));
        }
        let fetched = || standby.log().matches("tail").count();
        let before = fetched();
        let mark = standby.log_mark();
        standby.wait_log_since(mark, "is not in the archive", PATIENCE);
        assert_eq!(fetched(), before, "what it has is not fetched again: {worker}");

        // The chunks go when the segment is archived.
        insert(&primary, 5);
        archive_all(&primary);
        fs::remove_dir_all(site.object(&format!("walarchive_005/tail/{segment}"))).expect("removed");
        wait_rows(&standby, "1 2 3 4 5");
        insert(&primary, 6);
        ship(&site, &primary, 1, 0);
        wait_rows(&standby, "1 2 3 4 5 6");
        lose(&primary);
        promote(&standby);
        insert(&standby, 7);
        standby.restart();
        assert_eq!(rows(&standby), "1 2 3 4 5 6 7");
        standby.amcheck();
    }
}

/// PostgreSQL wants each file archived that it has got from the archive. What the tail has of a segment is not that segment.
#[test]
fn a_standby_that_archives_does_not_archive_what_the_tail_has() {
    let site = Site::on_files();
    let primary = primary(&site);
    insert(&primary, 2);
    let (segment, _) = ship(&site, &primary, 1, 0);
    let target = site.restore("standby", "LATEST", &["--standby"]);
    let standby = site
        .builder("standby")
        .setting("archive_mode", "always")
        .setting("wal_retrieve_retry_interval", "100ms")
        .attach(&target);
    wait_rows(&standby, "1 2");
    let done = standby.wal_directory().join(format!("archive_status/{segment}.done"));
    standby.wait_until("its archiver is through with the file", PATIENCE, || done.exists());
    let object = site.object(&format!("wal_005/{segment}.zst"));
    assert!(!object.exists(), "it is not whole");

    insert(&primary, 3);
    archive_all(&primary);
    assert!(object.exists());
    wait_rows(&standby, "1 2 3");
    lose(&primary);
    promote(&standby);
    archive_all(&standby);
    assert_eq!(rows(&standby), "1 2 3");
}

/// Makes what is stored look as if it had been stored long ago.
fn age(site: &Site) {
    for key in ["wal_005", "walarchive_005/tail"]
        .iter()
        .flat_map(|folder| site.objects(folder))
    {
        run(Command::new("touch").args(["-d", "1 hour ago"]).arg(site.object(&key))).expect_success();
    }
}

#[test]
fn only_a_complete_tail_leads_on_to_later_wal() {
    let site = Site::on_files();
    let primary = primary(&site);
    insert(&primary, 2);
    let (segment, end) = flushed(&primary);
    let end = end.len();
    insert(&primary, 3);
    archive_all(&primary);
    insert(&primary, 4);
    archive_all(&primary);
    let whole = site.object(&format!("wal_005/{segment}.zst"));
    let content = fs::read(primary.wal_directory().join(&segment)).unwrap_or_else(|_| unzstd(&whole));
    lose(&primary);
    fs::remove_file(&whole).expect("removed");

    put_chunk(&site, &segment, 1, 0, &content[..end]);
    age(&site);
    let target = site.restore("refused", "LATEST", &["--allow-gap"]);
    let command = walarchive_pg_test::held::wal_fetch(&site);
    let refused = restored(&site, "refused")
        .server_setting("restore_command", &command)
        .attach_stopped(&target);
    refused.spawn_server();
    refused.wait_stopped(PATIENCE);
    let hole = format!("\"{segment}\" is missing in the archive");
    assert!(refused.log().contains(&hole), "{}", refused.log());

    assert_eq!(rows(&restore_latest(&site, "gap", &["--allow-gap"])), "1 2");
    put_chunk(&site, &segment, 1, end, &content[end..]);
    assert_eq!(rows(&restore_latest(&site, "whole", &["--allow-gap"])), "1 2 3 4");
}

/// What the primary itself stores: a standby follows within a segment, and a restore has what the standby has.
#[test]
fn the_tail_that_a_primary_stores_is_followed_and_restored() {
    for site in [Site::on_files(), Site::on_s3()] {
        let primary = primary(&site);
        let target = site.restore("standby", "LATEST", &["--standby"]);
        let standby = restored(&site, "standby").attach(&target);
        primary.set("walarchive.tail_interval", "200ms");
        primary.reload();
        insert(&primary, 2);
        wait_rows(&standby, "1 2");
        // Over the end of a segment and back into the middle of one.
        insert(&primary, 3);
        primary.switch_wal();
        insert(&primary, 4);
        wait_rows(&standby, "1 2 3 4");
        primary.kill9();
        primary.start_again();
        insert(&primary, 5);
        wait_rows(&standby, "1 2 3 4 5");
        let segment = primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
        lose(&primary);
        assert!(!site.object(&format!("wal_005/{segment}.zst")).exists());
        assert_eq!(rows(&restore_latest(&site, "restored", &[])), "1 2 3 4 5");
        promote(&standby);
        assert_eq!(rows(&standby), "1 2 3 4 5");
    }
}

fn unzstd(path: &std::path::Path) -> Vec<u8> {
    let output = Command::new("zstd").args(["-q", "-d", "-c"]).arg(path).output();
    output.expect("zstd runs").stdout
}
