//! Does the server of a data directory recover, and is it a standby? Its files tell: signal files, and up to PostgreSQL 11
//! `recovery.conf`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::data_dir::{
    PROMOTE_SIGNAL, RECOVERY_CONF, RECOVERY_SIGNAL, STANDBY_SIGNAL, has_recovery_conf, major_version,
};
use crate::server_config::{ServerConfig, value_in};

/// `wal_retrieve_retry_interval` unless it is set.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A standby that gets WAL from its archive and from nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveFollower {
    /// Its `wal_retrieve_retry_interval`: for so long it does nothing when the archive does not have the next segment.
    pub retry_interval: Duration,
    /// A file that tells it to promote is one of these.
    promote_files: Vec<PathBuf>,
}

impl ArchiveFollower {
    /// The server of a data directory, if it is one.
    pub fn of(data_dir: &Path) -> Option<Self> {
        if !is_standby(data_dir) {
            return None;
        }
        let config = ServerConfig::read(data_dir).ok()?;
        let (primary, trigger) = match reads_recovery_conf(data_dir) {
            true => {
                let set = |name| value_in(&data_dir.join(RECOVERY_CONF), name).filter(|value| !value.is_empty());
                (
                    set("primary_conninfo"),
                    set("trigger_file").map(|file| data_dir.join(file)),
                )
            }
            false => (config.primary_conninfo, config.trigger_file),
        };
        primary.is_none().then(|| ArchiveFollower {
            retry_interval: config.retry_interval.unwrap_or(RETRY_INTERVAL),
            promote_files: trigger.into_iter().chain([data_dir.join(PROMOTE_SIGNAL)]).collect(),
        })
    }

    /// Is it told to promote? It cannot before `restore_command` ends.
    pub fn is_told_to_promote(&self) -> bool {
        self.promote_files.iter().any(|file| file.exists())
    }
}

/// Is it a standby, or will it be one when it starts?
pub fn is_standby(data_dir: &Path) -> bool {
    match reads_recovery_conf(data_dir) {
        true => value_in(&data_dir.join(RECOVERY_CONF), "standby_mode").is_some_and(|value| is_true(&value)),
        false => data_dir.join(STANDBY_SIGNAL).exists(),
    }
}

/// Is it told to recover, or to be a standby?
pub fn is_in_recovery(data_dir: &Path) -> bool {
    match reads_recovery_conf(data_dir) {
        true => data_dir.join(RECOVERY_CONF).exists(),
        false => [STANDBY_SIGNAL, RECOVERY_SIGNAL]
            .iter()
            .any(|name| data_dir.join(name).exists()),
    }
}

/// Is it told to recover, and not to be a standby?
pub fn is_recovering_only(data_dir: &Path) -> bool {
    match reads_recovery_conf(data_dir) {
        true => is_in_recovery(data_dir) && !is_standby(data_dir),
        false => data_dir.join(RECOVERY_SIGNAL).exists(),
    }
}

fn reads_recovery_conf(data_dir: &Path) -> bool {
    major_version(data_dir).is_some_and(has_recovery_conf)
}

/// As PostgreSQL reads a boolean: a beginning of the word is enough, if no other word begins so.
fn is_true(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_with_a_primary_does_not_only_follow_the_archive() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = |name: &str, content: &str| std::fs::write(dir.path().join(name), content).expect("written");
        let follower = || ArchiveFollower::of(dir.path());
        set("PG_VERSION", "15\n");
        assert_eq!(follower(), None);
        set("standby.signal", "");
        assert_eq!(follower().map(|follower| follower.retry_interval), Some(RETRY_INTERVAL));
        set("postgresql.conf", "primary_conninfo = 'host=x'\n");
        assert_eq!(follower(), None);
        let text = "primary_conninfo = ''\nwal_retrieve_retry_interval = 200\npromote_trigger_file = 'now'\n";
        set("postgresql.auto.conf", text);
        let found = follower().expect("no primary is set");
        assert_eq!(found.retry_interval, Duration::from_millis(200));
        for name in ["promote", "now"] {
            assert!(!found.is_told_to_promote(), "{name}");
            set(name, "");
            assert!(found.is_told_to_promote(), "{name}");
            std::fs::remove_file(dir.path().join(name)).expect("removed");
        }

        set("PG_VERSION", "11\n");
        set("recovery.conf", "standby_mode = on\ntrigger_file = 'now'\n");
        set("now", "");
        assert!(follower().expect("no primary is set").is_told_to_promote());
        set("recovery.conf", "standby_mode = on\nprimary_conninfo = 'host=x'\n");
        assert_eq!(follower(), None);
    }

    #[test]
    fn the_files_of_each_version_are_asked() {
        let dir = tempfile::tempdir().expect("a directory");
        let set = |name: &str, content: &str| std::fs::write(dir.path().join(name), content).expect("written");
        let state = || {
            (
                is_in_recovery(dir.path()),
                is_standby(dir.path()),
                is_recovering_only(dir.path()),
            )
        };
        set("PG_VERSION", "11\n");
        assert_eq!(state(), (false, false, false));
        set("standby.signal", "");
        assert_eq!(state(), (false, false, false), "it does not know that file");
        set("recovery.conf", "restore_command = 'x'\n#standby_mode = on\n");
        assert_eq!(state(), (true, false, true));
        for value in ["on", "'TRUE'", "t", "y", "1"] {
            set(
                "recovery.conf",
                &format!("restore_command = 'x'\nStandby_Mode = {value}\n"),
            );
            assert_eq!(state(), (true, true, false), "{value}");
        }
        for value in ["off", "o", "'f'", "0", "''"] {
            set("recovery.conf", &format!("standby_mode = {value}\n"));
            assert_eq!(state(), (true, false, true), "{value}");
        }
        set("PG_VERSION", "12\n");
        assert_eq!(state(), (true, true, false));
        std::fs::remove_file(dir.path().join("standby.signal")).expect("removed");
        assert_eq!(state(), (false, false, false));
        set("recovery.signal", "");
        assert_eq!(state(), (true, false, true));
    }
}
