//! An index of an unlogged table whose building begins before a real server is backed up and ends before the backup does.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use walarchive_core::backup::{Backup, BackupOptions, BackupRequest, StopResult};
use walarchive_core::control_file::ControlFile;
use walarchive_core::restore::{self, RestoreOptions};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::{Cluster, PATIENCE, Session, TestDir, wait_until};

/// The index is built for as long as somebody holds the lock.
const SETUP: &str = "CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 40) AS id;
    CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_advisory_lock_shared(1), pg_advisory_unlock_shared(1); RETURN $1; END$$";

#[test]
fn recovery_ends_though_the_main_fork_was_copied_before_there_was_an_init_fork() {
    let program = Path::new("/usr/lib/postgresql/15/bin/initdb");
    if std::env::var_os("WALARCHIVE_TEST_PG_CONFIG").is_none() && !program.exists() {
        eprintln!("no PostgreSQL is installed: nothing was tested");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = TestDir::new();
    let repository = dir.subdir("repository");
    let wal = dir.subdir("repository/wal_005");
    let cluster = Cluster::builder(&dir, "primary")
        .setting("archive_mode", "on")
        .setting("wal_level", "replica")
        .setting("hot_standby", "on")
        .setting("archive_command", &format!("cp %p {}/%f", wal.display()))
        .start();
    cluster.psql(SETUP);
    let store = Store::open(&StorageConfig::new(format!("file://{}", repository.display()))).expect("a store");

    let mut holder = Session::begin(&cluster);
    holder.ask("SELECT pg_advisory_lock(1)::text || 'held'");
    let building = cluster.background_psql("CREATE INDEX slowly ON u (slow(id))");
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_until("the index is being built", PATIENCE, || cluster.psql(waiting) == "1");
    let mut session = Session::begin(&cluster);
    let start = session.ask("SELECT pg_backup_start('test', true)");
    let control = ControlFile::read(cluster.datadir()).expect("intact");
    let version = session.ask("SHOW server_version_num").parse().expect("a number");
    let start = start.parse().expect("an LSN");
    let request = BackupRequest::full(cluster.datadir().to_owned(), &control, version, start);
    let cancel = CancellationToken::new();
    let begun = Backup::begin(&store, request, BackupOptions::default(), Arc::default(), cancel);
    let mut backup = runtime.block_on(begun).expect("begun");
    runtime.block_on(backup.copy()).expect("copied");
    holder.ask("SELECT pg_advisory_unlock(1)");
    building.wait(PATIENCE).expect_success();
    let stopped = session.ask("SELECT lsn || '|' || replace(labelfile, E'\\n', '~') FROM pg_backup_stop(false)");
    let (lsn, label) = stopped.split_once('|').expect("two columns");
    let stop = StopResult::new(lsn.parse().expect("an LSN"), label.replace('~', "\n"));
    let prepared = runtime.block_on(backup.finish(stop)).expect("finished");
    let file = cluster.switch_wal();
    cluster.wait_archived(&file, PATIENCE);
    let name = runtime.block_on(prepared.commit()).expect("committed");

    let index = cluster.psql("SELECT pg_relation_filepath('slowly')");
    let place = dir.subdir("restored");
    let target = place.join("data");
    let planned = runtime.block_on(restore::plan(&store, &name, &target, RestoreOptions::default()));
    let applied = restore::apply(planned.expect("planned"), Arc::default(), CancellationToken::new());
    runtime.block_on(applied).expect("restored");
    assert!(!target.join(&index).exists(), "{index} was restored");
    let chown = Command::new("chown").arg("-R").arg("postgres").arg(&place).status();
    assert!(!nix::unistd::geteuid().is_root() || chown.is_ok_and(|status| status.success()));
    let restore = format!("cp {}/%f %p", wal.display());
    let recovery = [("restore_command", restore.as_str())];
    cluster.pg().tell_to_recover(&target, recovery);
    let restored = Cluster::builder(&place, "server")
        .setting("archive_mode", "off")
        .attach(&target);
    restored.wait_promoted(PATIENCE);
    let through_index = "SET enable_seqscan = off; SELECT count(*) FROM u WHERE slow(id) = 7";
    assert_eq!(restored.psql(through_index), "0", "an unlogged table comes back empty");
}
