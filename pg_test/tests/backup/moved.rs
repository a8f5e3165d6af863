//! Databases that get another place while they are backed up.

use std::fs;

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::PATIENCE;

/// Recovery repeats the move by copying the database from where it was. Files that are not there any more when the backup comes
/// to them are lost, in PostgreSQL's own base backups too: pg_basebackup says nothing, and recovery succeeds.
#[test]
fn a_database_that_moves_while_it_is_backed_up_is_not_lost() {
    let site = Site::on_files();
    let space = site.dir().subdir("space");
    let primary = site.primary(&[
        ("walarchive.backup_concurrency", "1"),
        ("walarchive.backup_rate_limit", "2MB"),
    ]);
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.pgbench(&["-i", "-s", "2", "-q"]);
    primary.psql("CREATE DATABASE mover");
    primary.psql_db("mover", "CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let mut statement = primary.background_psql("SELECT walarchive_backup_push()");
    primary.wait_until("the backup copies", PATIENCE, || {
        assert!(statement.is_running(), "the backup is over");
        primary.psql("SELECT phase FROM walarchive_progress") == "copying files"
    });
    primary.psql("ALTER DATABASE mover SET TABLESPACE space");
    assert!(
        statement.is_running(),
        "the backup was over before the database had moved"
    );
    let refused = statement.wait(PATIENCE);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let says = "database \"mover\" was moved to another tablespace during the backup";
    assert!(
        refused.stderr.contains(says) && refused.stderr.contains("HINT:"),
        "{refused:?}"
    );
    assert_eq!(site.objects("basebackups_005"), Vec::<String>::new());

    primary.set("walarchive.backup_rate_limit", "0");
    primary.reload();
    backup(&primary, "");
    archive_all(&primary);
    lose(&primary);
    fs::remove_dir_all(&space).expect("could not remove the tablespace");
    let target = site.restore("restored", "LATEST", &["--tablespace-map-original"]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql_db("mover", "SELECT count(*) FROM t"), "1000");
}
