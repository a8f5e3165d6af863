//! Clusters of PostgreSQL 9.6 to 14, which no module can be loaded into: the binary archives, backs up and restores.

use std::path::{Path, PathBuf};
use std::process::Command;

use walarchive_testkit::{Builder, Cluster, run};

pub use crate::push::server_of;
use crate::site::Site;

/// A cluster that archives into the site's store by `archive_command`. The settings of the binary stand in its configuration file.
pub fn builder(site: &Site, name: &str) -> Builder {
    let builder = restored(site, name)
        .setting("wal_level", "replica")
        .setting("max_wal_senders", "3")
        .setting("archive_mode", "on")
        .setting("archive_command", "walarchive wal-push %p")
        .setting("walarchive.storage", &site.url());
    match site.options().as_str() {
        "" => builder,
        options => builder.setting("walarchive.storage_options", options),
    }
}

/// A server on a restored directory, which can be read while it recovers.
pub fn restored(site: &Site, name: &str) -> Builder {
    let with = |builder: Builder, (name, value): (String, String)| builder.env(&name, &value);
    let builder = Cluster::builder(site.dir(), name).setting("hot_standby", "on");
    site.env().into_iter().fold(builder, with)
}

/// `walarchive` beside a running server, as a cron job of its user calls it: the connection is that of psql, and the settings are
/// those of the data directory.
pub fn walarchive(site: &Site, cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = site.pg().program("walarchive");
    command.args(args).current_dir(cluster.datadir()).envs(site.env());
    server_of(&mut command, cluster);
    command
}

/// Takes a backup with these flags of `backup-push`, and returns its name.
#[track_caller]
pub fn backup(site: &Site, cluster: &Cluster, flags: &[&str]) -> String {
    let datadir = cluster.datadir().to_string_lossy();
    let mut command = walarchive(site, cluster, &["backup-push", &datadir]);
    run(command.args(flags).env("WALG_DELTA_MAX_STEPS", "3")).expect_success()
}

/// Restores a backup into a directory of this name.
#[track_caller]
pub fn restore(site: &Site, name: &str, backup: &str, args: &[&str]) -> PathBuf {
    let (target, output) = site.backup_fetch(name, backup, args);
    output.expect_success();
    check_recovery_files(site, &target);
    target
}

/// The recovery settings are in the files of this version, and in no others: a server does not start otherwise, or does not
/// recover.
fn check_recovery_files(site: &Site, target: &Path) {
    let major = site.pg().major();
    let is_there = |name: &str| target.join(name).exists();
    assert_eq!(is_there("recovery.conf"), major < 12);
    assert_eq!(is_there("recovery.signal") || is_there("standby.signal"), major >= 12);
    assert_eq!(is_there("backup_manifest"), major >= 13);
    assert!(target.join(site.pg().wal_directory()).is_dir());
}
