//! The steps of a server's move from WAL-G to walarchive, and back, as docs/wal-g.md tells them. A link named wal-g stands for
//! the program that the server's configuration and the scripts name.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use walarchive_pg_test::push::server_of;
use walarchive_pg_test::site::{Site, archive_all, backup, wait_settled};
use walarchive_testkit::{Cluster, PATIENCE, StopMode, run};

fn link(site: &Site) -> PathBuf {
    site.dir().join("wal-g")
}

/// `wal-g` with these arguments, as a cron job of the server's user calls it.
fn wal_g(site: &Site, cluster: &Cluster, args: &[&str]) -> Command {
    // An absolute path is not looked for among the programs of PostgreSQL.
    let mut command = site.pg().program(&link(site).to_string_lossy());
    command.args(args).env("WALG_FILE_PREFIX", site.dir().join("store"));
    command.env("PGDATA", cluster.datadir());
    server_of(&mut command, cluster);
    command
}

fn pushed(site: &Site, cluster: &Cluster) -> String {
    let data = cluster.datadir().to_string_lossy().into_owned();
    let mut push = wal_g(site, cluster, &["backup-push", &data]);
    run(push.env("WALG_DELTA_MAX_STEPS", "6")).expect_success();
    let list = run(&mut wal_g(site, cluster, &["backup-list"])).expect_success();
    let last = list.lines().last().expect("a backup");
    last.split(' ').next().expect("a name").to_owned()
}

/// Some rows more, and all WAL in the archive, which misses nothing.
fn archived(site: &Site, cluster: &Cluster) {
    cluster.psql("INSERT INTO t SELECT generate_series(1, 100)");
    archive_all(cluster);
    let verified = run(&mut wal_g(site, cluster, &["wal-verify", "integrity", "timeline"]));
    assert!(verified.success(), "{verified:?}");
    assert_eq!(cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
}

fn by_command(site: &Site) -> String {
    format!("{} wal-push \"%p\"", link(site).display())
}

#[test]
fn each_step_of_the_move_works_and_can_be_taken_back() {
    let site = Site::on_files();
    symlink(site.pg().bindir().join("walarchive"), link(&site)).expect("linked");
    // The environment of the server, as it was for WAL-G.
    let store = site.dir().join("store").display().to_string();
    let primary = Cluster::builder(site.dir(), "primary")
        .setting("archive_mode", "on")
        .setting("archive_command", &by_command(&site))
        .env("WALG_FILE_PREFIX", &store)
        .start();
    primary.psql("CREATE TABLE t (a int)");

    // 1. The binary in WAL-G's place.
    archived(&site, &primary);
    let full = pushed(&site, &primary);
    assert!(!full.contains("_D_"), "{full}");
    wait_settled(&primary);
    archived(&site, &primary);
    let delta = pushed(&site, &primary);
    assert!(delta.contains("_D_"), "{delta}");

    // 2. The server archives by itself.
    primary.set("archive_command", "");
    primary.set("archive_library", "walarchive");
    primary.set("shared_preload_libraries", "walarchive");
    primary.set("walarchive.storage", &site.url());
    primary.set("walarchive.delta_max_steps", "6");
    primary.restart();
    primary.psql("CREATE EXTENSION walarchive");
    archived(&site, &primary);
    let checks = primary.psql("SELECT check_name, detail FROM walarchive_check() WHERE status = 'failed'");
    assert_eq!(checks, "");
    // The cron job goes on as before; the server takes the backup now, with its own settings.
    assert!(pushed(&site, &primary).contains("_D_"));
    let own = backup(&primary, "");
    let list = run(&mut wal_g(&site, &primary, &["backup-list"])).expect_success();
    assert!(list.contains(&own) && list.contains(&full), "{list}");

    // 3. Schedule and retention in place of cron.
    primary.set("walarchive.backup_schedule", "* * * * * *");
    primary.set("walarchive.retention", "full 1");
    primary.reload();
    let newer = format!("SELECT count(*) > 0 FROM walarchive_backups WHERE backup_name > '{own}'");
    primary.wait_until("a backup comes by itself", PATIENCE, || primary.psql(&newer) == "t");

    // Back: 3.
    primary.set("walarchive.backup_schedule", "");
    primary.set("walarchive.retention", "");
    primary.reload();
    primary.wait_until("no backup runs any more", PATIENCE, || {
        primary.psql(
            "SELECT next_backup_time IS NULL AND NOT EXISTS
                 (SELECT FROM pg_stat_activity WHERE backend_type = 'walarchive backup') FROM walarchive_status",
        ) == "t"
    });
    archived(&site, &primary);
    // 2. The line of the configuration file counts again.
    primary.psql("DROP EXTENSION walarchive");
    primary.set("archive_library", "");
    primary.set("shared_preload_libraries", "");
    primary.set("archive_command", &by_command(&site));
    primary.restart();
    archived(&site, &primary);
    let last = pushed(&site, &primary);
    let rows = primary.psql("SELECT count(*) FROM t");
    archive_all(&primary);
    primary.stop(StopMode::Fast);

    let target = site.dir().join("restored").display().to_string();
    run(&mut wal_g(&site, &primary, &["backup-fetch", &target, &last])).expect_success();
    let restored = site.restored("restored").attach(&site.dir().join("restored"));
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), rows);
}
