//! The flags of `restore-test`.

use std::path::PathBuf;
use std::time::Duration;

use walarchive_core::restore::{RecoveryTarget, TargetAction};
use walarchive_core::schedule::Schedule;
use walarchive_core::{Error, Result};

use crate::parse::by;
use crate::repository::Storage;
use crate::verbs::target::Target;

/// Generous: a drill of some terabytes takes hours.
const DEADLINE_SECONDS: u64 = 24 * 3600;

/// `restore-test`.
#[derive(Debug, clap::Args)]
pub struct RestoreTest {
    /// The name of a backup, or LATEST for the newest one that ends before the target.
    #[arg(default_value = "LATEST")]
    pub backup: String,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
    #[allow(missing_docs)]
    #[command(flatten)]
    to: Target,
    /// Run the SQL in this file on the restored server. The drill fails if a statement does.
    #[arg(long, value_name = "SQLFILE")]
    pub run: Option<PathBuf>,
    /// The database in which it is run.
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    pub database: String,
    /// Run it as this role of the cluster. By default a role is made that can read everything and is no superuser.
    #[arg(long, value_name = "ROLE", requires = "run")]
    pub run_as: Option<String>,
    /// The role that checks the databases, a superuser; by default postgres, or else the user of this program.
    #[arg(long, value_name = "ROLE")]
    pub username: Option<String>,
    /// Restore below this directory; by default TMPDIR, or else /tmp. A schedule needs it.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The directory with the programs of PostgreSQL, of the backup's major version.
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Set a parameter of the restored server, for example shared_preload_libraries=timescaledb. May be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = by(setting))]
    pub settings: Vec<String>,
    /// Leave the server running, and print how to connect to it.
    #[arg(long, conflicts_with = "schedule")]
    pub keep: bool,
    /// Run again and again, at the times of this cron expression, until a signal ends it.
    #[arg(long, value_name = "CRON", requires = "directory", value_parser = by(|text| text.parse::<Schedule>()))]
    pub schedule: Option<Schedule>,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = DEADLINE_SECONDS, value_parser = clap::value_parser!(u64).range(1..))]
    deadline: u64,
    /// Do not write the result into the repository.
    #[arg(long)]
    pub no_record: bool,
    /// Only remove what drills have left in the directory that were killed.
    #[arg(long, conflicts_with_all = ["schedule", "keep", "run"])]
    pub remove_dead: bool,
    /// A server starts drills with this flag: end in order when standard input is closed, as it is when the server ends.
    #[arg(long, hide = true)]
    pub with_stdin: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress bar.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What keeps the restored server apart from everything else.
const OURS: [&str; 21] = [
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
    "data_directory",
    "event_triggers",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "max_logical_replication_workers",
    "port",
    "primary_conninfo",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restore_command",
    "synchronous_standby_names",
    "unix_socket_directories",
    "unix_socket_group",
];

fn setting(text: &str) -> Result<String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let name = name.trim().to_ascii_lowercase();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.');
    if name.is_empty() || !name.chars().all(is_name) || !text.contains('=') {
        return Err(Error::config(
            format!("\"{text}\" is not a setting"),
            "Write NAME=VALUE, for example work_mem=64MB.",
        ));
    }
    let loads_us = name == "shared_preload_libraries" && value.contains("walarchive");
    if OURS.contains(&name.as_str()) || name.starts_with("recovery_target") || loads_us {
        return Err(Error::config(
            format!("the restore drill sets {name} itself"),
            "It keeps the restored server from the network, from archiving and from other servers.",
        ));
    }
    Ok(format!("{name}={value}"))
}

impl RestoreTest {
    /// The recovery target that the flags name. The server is promoted there.
    pub fn target(&self) -> RecoveryTarget {
        RecoveryTarget {
            target: self.to.point(),
            inclusive: true,
            timeline: self.to.timeline(),
            action: TargetAction::Promote,
        }
    }

    /// Where the directories of drills are.
    pub fn directory(&self) -> PathBuf {
        self.directory.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// The time that a drill may take.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::setting;

    #[test]
    fn what_keeps_the_server_apart_cannot_be_set() {
        assert_eq!(setting("Work_mem = 1MB").expect("a setting"), "work_mem= 1MB");
        assert!(setting("shared_preload_libraries=timescaledb").is_ok());
        for text in [
            "x",
            "=1",
            "a b=1",
            "archive_mode=on",
            "ARCHIVE_MODE=on",
            "recovery_target_time=x",
            "shared_preload_libraries=x,walarchive",
        ] {
            assert!(setting(text).is_err(), "{text}");
        }
    }
}
