//! Servers that know nothing of walarchive but their `archive_command`, and the binary that backs them up.

use std::process::Command;

use walarchive_testkit::{Builder, Cluster, run};

use crate::site::Site;

/// A server that archives by `walarchive wal-push`. Nothing is preloaded, and no database has the extension.
pub fn builder(site: &Site, name: &str) -> Builder {
    let mut command = format!("walarchive wal-push \"%p\" --storage {}", site.url());
    for option in site.options().split(',').filter(|option| !option.is_empty()) {
        command.push_str(&format!(" --storage-option {option}"));
    }
    let builder = Cluster::builder(site.dir(), name)
        .setting("archive_mode", "on")
        .setting("archive_command", &command);
    let with = |builder: Builder, (name, value): &(String, String)| builder.env(name, value);
    site.env().iter().fold(builder, with)
}

/// Such a server that runs.
#[track_caller]
pub fn primary(site: &Site, settings: &[(&str, &str)]) -> Cluster {
    let with = |builder: Builder, (name, value): &(&str, &str)| builder.setting(name, value);
    settings.iter().fold(builder(site, "primary"), with).start()
}

/// `walarchive backup-push DATADIR` with further arguments, for this server.
pub fn command(site: &Site, cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = site.walarchive(&["backup-push", &cluster.datadir().to_string_lossy()]);
    command.args(args);
    server_of(&mut command, cluster);
    command
}

/// The variables that lead to this server.
pub fn server_of<'a>(command: &'a mut Command, cluster: &Cluster) -> &'a mut Command {
    command
        .env("PGHOST", cluster.socket_dir())
        .env("PGPORT", cluster.port().to_string())
        .env("PGUSER", "postgres")
}

/// Take a backup, and return its name.
#[track_caller]
pub fn push(site: &Site, cluster: &Cluster, args: &[&str]) -> String {
    run(&mut command(site, cluster, args)).expect_success()
}
