//! `pg_rewind -c`: it fetches by the server's restore_command what the old primary has removed after archiving.

use walarchive_pg_test::failover::{promote, wait_caught_up};
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, PATIENCE, StopMode, run};

#[test]
fn an_old_primary_is_rewound_with_wal_from_the_archive() {
    let site = Site::on_files();
    let primary = site
        .builder("primary")
        .initdb_arg("--wal-segsize=1")
        .setting("autovacuum", "off")
        .setting("restore_command", "walarchive wal-fetch %f \"%p\"")
        .start();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t (a int)");
    backup(&primary, "");
    let standby = site.builder("standby").standby_of(&primary);
    // The last checkpoint that both share is some segments before the place where they part.
    primary.psql("CHECKPOINT");
    let shared = primary.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    for number in 1..=3 {
        primary.psql(&format!("INSERT INTO t VALUES ({number})"));
        archive_all(&primary);
    }
    wait_caught_up(&standby, &primary);
    promote(&standby);
    standby.psql("INSERT INTO t VALUES (100)");
    // The old primary goes on for a while, and is refused. What it has archived before it removes in the end.
    primary.psql("INSERT INTO t VALUES (4)");
    archive_all(&standby);
    primary.stop(StopMode::Fast);
    // A checkpoint may have done that.
    let _ = std::fs::remove_file(primary.wal_directory().join(&shared));
    standby.psql("CHECKPOINT");
    let server = format!(
        "host={} port={} user=postgres dbname=postgres",
        standby.socket_dir().display(),
        standby.port()
    );
    let rewind = |with: &[&str]| {
        let mut pg_rewind = site.pg().program("pg_rewind");
        pg_rewind
            .args(["-R", "--no-sync", "--source-server", &server])
            .args(with);
        run(pg_rewind.arg("-D").arg(primary.datadir()))
    };
    let failed = rewind(&["--dry-run"]);
    assert!(
        !failed.success() && failed.stderr.contains("could not open file"),
        "{failed:?}"
    );
    rewind(&["-c"]).expect_success();
    primary.start_again();
    wait_caught_up(&primary, &standby);
    let sum = |cluster: &Cluster| cluster.psql("SELECT sum(a) FROM t");
    primary.wait_until("it follows", PATIENCE, || sum(&primary) == "106");
}
