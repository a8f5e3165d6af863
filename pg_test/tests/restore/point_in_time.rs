//! Recovery to a point in time: what was committed before it is there, what came after is not.

use std::fs;

use walarchive_pg_test::site::{Site, archive_all, backup, lose, start_segment, wait_paused};
use walarchive_testkit::{Cluster, PATIENCE};

const ROWS: &str = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";

fn insert(cluster: &Cluster, id: u32) -> String {
    cluster.psql(&format!("INSERT INTO t VALUES ({id}) RETURNING pg_current_xact_id()"))
}

#[test]
fn a_name_a_time_an_lsn_and_a_transaction_are_found() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    insert(&primary, 1);
    backup(&primary, "");
    insert(&primary, 2);
    primary.psql("SELECT pg_create_restore_point('it''s here')");
    insert(&primary, 3);
    let time = primary.psql("SELECT clock_timestamp()");
    insert(&primary, 4);
    let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
    let xid = insert(&primary, 5);
    insert(&primary, 6);
    archive_all(&primary);
    lose(&primary);

    let targets: [(&[&str], &str); 6] = [
        (&["--target-name", "it's here"], "1 2"),
        (&["--target-time", &time], "1 2 3"),
        (&["--target-lsn", &lsn], "1 2 3 4"),
        (&["--target-xid", &xid], "1 2 3 4 5"),
        (&["--target-xid", &xid, "--target-exclusive"], "1 2 3 4"),
        (&["--target-immediate"], "1"),
    ];
    for (args, rows) in targets {
        let target = site.restore("restored", "LATEST", args);
        let restored = site.restored("restored").attach(&target);
        // This is what the server does at a target when nothing is said.
        wait_paused(&restored);
        assert_eq!(restored.psql(ROWS), rows, "{args:?}");
        drop(restored);
        fs::remove_dir_all(&target).expect("could not remove the restored directory");
    }
}

#[test]
fn at_the_target_the_server_does_what_it_is_told() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    backup(&primary, "");
    insert(&primary, 1);
    primary.psql("SELECT pg_create_restore_point('there')");
    insert(&primary, 2);
    archive_all(&primary);
    lose(&primary);
    let restore = |action: &str| site.restore(action, "LATEST", &["--target-name", "there", "--target-action", action]);

    let target = restore("pause");
    let paused = site.restored("pause").attach(&target);
    wait_paused(&paused);
    assert_eq!(paused.psql(ROWS), "1");
    assert!(insert_is_refused(&paused));

    let target = restore("shutdown");
    let ended = site.restored("shutdown").attach_stopped(&target);
    ended.spawn_server();
    ended.wait_stopped(PATIENCE);
    assert!(ended.log().contains("shutdown at recovery target"), "{}", ended.log());
    assert!(target.join("recovery.signal").exists());

    // Last, and archiving: the new timeline reaches the archive. Nobody waits until the lease of the lost server is stale.
    let promote = ["--target-name", "there", "--target-action", "promote", "--take-over"];
    let target = site.restore("promote", "LATEST", &promote);
    let promoted = site.restored("promote").setting("archive_mode", "on").attach(&target);
    promoted.wait_promoted(PATIENCE);
    assert_eq!(promoted.psql(ROWS), "1");
    insert(&promoted, 3);
    archive_all(&promoted);
    let wal = site.objects("wal_005");
    assert!(wal.contains(&"wal_005/00000002.history.zst".to_owned()), "{wal:?}");
    lose(&promoted);

    // The new timeline is the one that is followed from now on, and the old one can be asked for.
    let target = site.restore("new", "LATEST", &[]);
    let new = site.restored("new").attach(&target);
    new.wait_promoted(PATIENCE);
    assert_eq!(new.psql(ROWS), "1 3");
    let target = site.restore("old", "LATEST", &["--target-timeline", "1"]);
    let old = site.restored("old").attach(&target);
    old.wait_promoted(PATIENCE);
    assert_eq!(old.psql(ROWS), "1 2");
}

fn insert_is_refused(cluster: &Cluster) -> bool {
    let refused = cluster.try_psql("INSERT INTO t VALUES (0)");
    refused.is_err_and(|error| error.contains("read-only transaction"))
}

#[test]
fn latest_is_the_newest_backup_before_the_target() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    let too_early = primary.psql("SELECT clock_timestamp()");
    insert(&primary, 1);
    let first = backup(&primary, "");
    let xid = insert(&primary, 2);
    let time = primary.psql("SELECT clock_timestamp()");
    let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
    insert(&primary, 3);
    let second = backup(&primary, "");
    insert(&primary, 4);
    let late = primary.psql("SELECT clock_timestamp()");
    insert(&primary, 5);
    archive_all(&primary);
    lose(&primary);
    assert!(first < second, "{first} {second}");

    let cases: [(&[&str], &str); 5] = [
        (&["--target-time", &time], &first),
        (&["--target-lsn", &lsn], &first),
        (&["--target-xid", &xid], &first),
        (&["--target-time", &late], &second),
        (&[], &second),
    ];
    for (number, (args, name)) in cases.into_iter().enumerate() {
        let target = site.restore(&format!("r{number}"), "LATEST", args);
        assert_eq!(format!("base_{}", start_segment(&target)), name, "{args:?}");
    }
    let between = site.restored("r0").attach(&site.dir().join("r0"));
    wait_paused(&between);
    assert_eq!(between.psql(ROWS), "1 2");
    let after = site.restored("r3").attach(&site.dir().join("r3"));
    wait_paused(&after);
    assert_eq!(after.psql(ROWS), "1 2 3 4");

    // Neither a target before all backups nor one before the backup that is named can be reached.
    let (target, refused) = site.backup_fetch("early", "LATEST", &["--target-time", &too_early]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("no backup can be restored") && !target.exists(),
        "{refused:?}"
    );
    let (target, refused) = site.backup_fetch("named", &second, &["--target-time", &time]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&second) && !target.exists(), "{refused:?}");
}
