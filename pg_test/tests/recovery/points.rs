//! The points to which a repository can be restored, by SQL and by the binary, from the WAL and from the index of it.

use std::fs;

use serde_json::Value;
use walarchive_pg_test::archiving::{archiving, switch_segments};
use walarchive_pg_test::site::{Site, archive_all, backup, wait_paused};
use walarchive_testkit::{Cluster, PATIENCE, TestDir, run};

#[track_caller]
fn points(site: &Site, args: &[&str]) -> Vec<Value> {
    let json = run(&mut site.walarchive(&[&["restore-points", "--json"], args].concat())).expect_success();
    serde_json::from_str(&json).expect("a JSON array")
}

fn names(points: &[Value]) -> Vec<&str> {
    points.iter().filter_map(|point| point["name"].as_str()).collect()
}

#[test]
fn restore_points_and_commits_are_found_and_lead_there() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    primary.psql("SELECT pg_create_restore_point('too early')");
    archive_all(&primary);
    backup(&primary, "");
    primary.psql("INSERT INTO t VALUES (1)");
    primary.psql("SELECT pg_create_restore_point('first')");
    archive_all(&primary);
    let between = primary.psql("SELECT clock_timestamp()");
    primary.psql("INSERT INTO t VALUES (2)");
    primary.psql("SELECT pg_create_restore_point('it''s second')");
    archive_all(&primary);

    // Without an index nothing is known, and nothing is read.
    let none = run(&mut site.walarchive(&["restore-points", "--index-only"]));
    assert!(none.stderr.contains("are not in the index"), "{none:?}");
    assert_eq!(none.expect_success(), "no restore points and no commits");

    let all = points(&site, &[]);
    assert_eq!(names(&all), ["too early", "first", "it's second"]);
    let commits = all.iter().filter(|point| point["kind"] == "commit");
    assert!(commits.clone().count() >= 3, "{all:#?}");
    let of = |name: &str| all.iter().find(|point| point["name"] == name).expect("a point");
    assert_eq!(
        (&of("too early")["restorable"], &of("first")["restorable"]),
        (&false.into(), &true.into())
    );

    // What was read is noted: the objects tell the same when the WAL is not read any more.
    let index = site.objects("walarchive_005/points");
    assert_eq!(index.len(), 1, "{index:?}");
    assert_eq!(points(&site, &["--index-only"]), all);
    let rows = primary.psql(
        "SELECT kind, name, lsn - '0/0', timeline, restorable FROM walarchive_restore_points(index_only => true)",
    );
    assert_eq!(rows.lines().count(), all.len());
    assert!(rows.contains("restore_point|it's second|"), "{rows}");

    // From one time to another.
    assert_eq!(names(&points(&site, &["--from", &between])), ["it's second"]);
    assert_eq!(names(&points(&site, &["--to", &between])), ["too early", "first"]);
    let sql = format!("SELECT string_agg(name, ',') FROM walarchive_restore_points('{between}', index_only => false)");
    assert_eq!(primary.psql(&sql), "it's second");

    // The position of a point is a target that leads to it.
    let lsn = of("first")["lsn"].as_u64().expect("a number");
    let lsn = format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF);
    let target = site.restore("restored", "LATEST", &["--target-lsn", &lsn]);
    let restored = site.restored("restored").attach(&target);
    wait_paused(&restored);
    assert_eq!(restored.psql("SELECT string_agg(id::text, ' ') FROM t"), "1");

    // A damaged index is no index.
    fs::write(site.object(&index[0]), "{").expect("written");
    assert_eq!(points(&site, &[]), all);
}

/// The server notes by itself what it has archived, and retention takes the notes with the WAL.
#[test]
fn the_server_keeps_an_index_and_retention_removes_it() {
    let dir = TestDir::new();
    let store = dir.subdir("store");
    let url = format!("file://{}", store.display());
    let primary: Cluster = archiving(&dir, "c", &url).start();
    primary.psql("CREATE EXTENSION walarchive");
    primary.psql("CREATE TABLE t (id int)");
    let old = backup_of(&primary);
    primary.psql("SELECT pg_create_restore_point('noted')");
    switch_segments(&primary, 70);
    archive_all(&primary);
    let noted = "SELECT count(*) FROM walarchive_restore_points(index_only => true) WHERE name = 'noted'";
    primary.wait_until("the server has noted the restore point", PATIENCE, || {
        primary.psql(noted) == "1"
    });
    let index = || {
        let folder = store.join("walarchive_005/points/00000001");
        fs::read_dir(folder).map_or(0, |entries| entries.count())
    };
    // The segments of two blocks.
    primary.wait_until("the index has two objects", PATIENCE, || index() >= 2);
    let before = index();
    let new = backup_of(&primary);
    assert_ne!(old, new);
    let row =
        "SELECT count(*) > 0 FROM walarchive_delete_retain(1, confirm => true) WHERE what = 'walarchive' AND deleted";
    assert_eq!(primary.psql(row), "t");
    assert!(index() < before);
    primary.psql("SELECT * FROM walarchive_delete_everything(force => true, confirm => true)");
    assert_eq!(index(), 0);
}

fn backup_of(cluster: &Cluster) -> String {
    backup(cluster, "")
}
