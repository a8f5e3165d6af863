//! `walarchive wal-restore` before `pg_rewind`: what the old primary has removed after archiving comes back.

use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, PATIENCE, StopMode, run};

/// The arguments of pg_rewind and wal-restore for these two servers, which are down.
fn rewind(site: &Site, old: &Cluster, new: &Cluster) -> walarchive_testkit::Output {
    let mut pg_rewind = site.pg().program("pg_rewind");
    pg_rewind.args(["--no-sync", "--source-pgdata"]).arg(new.datadir());
    run(pg_rewind.arg("--target-pgdata").arg(old.datadir()))
}

#[test]
fn an_old_primary_without_its_wal_is_rewound() {
    let site = Site::on_files();
    let primary = site.primary(&[
        ("wal_keep_size", "0"),
        // No checkpoint comes by itself.
        ("max_wal_size", "1GB"),
        ("autovacuum", "off"),
    ]);
    primary.psql("CREATE TABLE t (a int)");
    backup(&primary, "");
    let standby = Cluster::builder(site.dir(), "standby").standby_of(&primary);
    // From here on it needs nothing that a checkpoint removes.
    primary.wait_until("the standby streams", PATIENCE, || {
        primary.psql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
    });
    // The last checkpoint that both share is some segments before the place where they part.
    primary.psql("CHECKPOINT");
    for number in 1..=3 {
        primary.psql(&format!("INSERT INTO t VALUES ({number})"));
        archive_all(&primary);
    }
    let lsn = primary.psql("SELECT pg_current_wal_insert_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
    standby.wait_until("the standby has caught up", PATIENCE, || {
        standby.try_psql(&replayed).as_deref() == Ok("t")
    });
    let before = |cluster: &Cluster| -> Vec<String> {
        let names = cluster
            .psql("SELECT string_agg(name, ' ' ORDER BY name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'");
        names.split(' ').map(str::to_owned).collect()
    };
    let shared = before(&primary);
    standby.psql("SELECT pg_promote()");
    standby.wait_promoted(PATIENCE);
    standby.psql("INSERT INTO t VALUES (100)");
    standby.psql("CHECKPOINT");
    // The old primary goes on for a while, and removes what is archived.
    primary.psql("INSERT INTO t VALUES (4)");
    primary.wait_until("the shared WAL is removed", PATIENCE, || {
        primary.psql("SELECT FROM pg_logical_emit_message(false, 'test', repeat('x', 1000)), pg_switch_wal()");
        primary.psql("CHECKPOINT");
        let left = before(&primary);
        shared[..2].iter().all(|name| !left.contains(name))
    });
    primary.stop(StopMode::Fast);
    standby.stop(StopMode::Fast);
    let failed = rewind(&site, &primary, &standby);
    assert!(
        !failed.success(),
        "pg_rewind needs nothing from the archive: {failed:?}"
    );
    println!("without: {}", failed.stderr);
    let (target, source) = (primary.datadir().to_string_lossy(), standby.datadir().to_string_lossy());
    let restored = run(&mut site.walarchive(&["wal-restore", &target, &source])).expect_success();
    println!("{restored}");
    assert!(restored.contains("fetched 0000000100000000"), "{restored}");
    rewind(&site, &primary, &standby).expect_success();
    // Again there is nothing to fetch.
    standby.start_again();
    assert_eq!(standby.psql("SELECT sum(a) FROM t"), "106");
}
