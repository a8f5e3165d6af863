//! The restored server's settings for recovery.

use std::fmt;
use std::path::PathBuf;

use walarchive_storage::StorageConfig;

use super::target::{RecoveryTarget, RestoreTarget, TargetAction, TargetTimeline};
use crate::data_dir::{RECOVERY_SIGNAL, STANDBY_SIGNAL, has_recovery_conf};
use crate::server_config::encryption::of_words;

/// The settings of the five kinds of target.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// The restored server's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverySettings {
    /// Recover to a target, or follow as a standby.
    pub mode: RecoveryMode,
    /// `restore_command`.
    pub restore_command: RestoreCommand,
    /// How far.
    pub target: RecoveryTarget,
}

/// Which signal file is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RecoveryMode {
    /// `recovery.signal`: recover, then become a primary.
    #[default]
    Recovery,
    /// `standby.signal`: follow the archive until promoted.
    Standby,
}

impl RecoveryMode {
    /// The file that selects it.
    pub fn file_name(self) -> &'static str {
        match self {
            RecoveryMode::Recovery => RECOVERY_SIGNAL,
            RecoveryMode::Standby => STANDBY_SIGNAL,
        }
    }
}

/// The call of `walarchive wal-fetch` that finds the same repository again. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreCommand {
    /// The binary, absolute.
    pub binary: PathBuf,
    /// The repository.
    pub storage: StorageConfig,
    /// Flags and their values that tell where else settings stand, such as the secrets.
    pub flags: Vec<String>,
}

impl fmt::Display for RestoreCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |text: &str| shell_word(text).replace('%', "%%");
        write!(f, "{} wal-fetch", word(&self.binary.to_string_lossy()))?;
        for flag in &self.flags {
            write!(f, " {}", word(flag))?;
        }
        write!(f, " --storage {}", word(&self.storage.url))?;
        for pair in self.storage.options.pairs() {
            write!(f, " --storage-option {}", word(&pair))?;
        }
        if let Some(file) = &self.storage.credentials_file {
            write!(f, " --credentials-file {}", word(&file.to_string_lossy()))?;
        }
        for file in &self.storage.encryption.key_files {
            write!(f, " --encryption-key-file {}", word(&file.to_string_lossy()))?;
        }
        if !self.storage.encryption.key_command.is_empty() {
            let command = of_words(&self.storage.encryption.key_command);
            write!(f, " --encryption-key-command {}", word(&command))?;
        }
        if self.storage.encryption.accept_plain {
            f.write_str(" --accept-plain")?;
        }
        write!(f, " %f \"%p\"")
    }
}

impl RecoverySettings {
    /// The lines for `postgresql.auto.conf`. Every setting that could disturb is written, so that what the restored
    /// `postgresql.conf` says of an earlier recovery does not count.
    pub fn settings(&self) -> Vec<String> {
        let target = &self.target;
        let chosen = target.target.setting();
        let mut values = vec![("restore_command", self.restore_command.to_string())];
        // The server refuses a second target even while it reads empty ones: the one that is set must come last.
        let unset = TARGETS
            .into_iter()
            .filter(|name| chosen.as_ref().is_none_or(|(chosen, _)| chosen != name));
        values.extend(unset.map(|name| (name, String::new())));
        values.extend(chosen);
        values.push(("recovery_target_inclusive", on_or_off(target.inclusive)));
        values.push(("recovery_target_timeline", target.timeline.to_string()));
        values.push(("recovery_target_action", target.action.to_string()));
        lines(values)
    }

    /// The lines for a server of this major version: those of `recovery.conf` up to PostgreSQL 11, and of `postgresql.auto.conf`
    /// for later ones.
    pub fn lines(&self, major: u32) -> Vec<String> {
        match has_recovery_conf(major) {
            true => self.recovery_conf(),
            false => self.settings(),
        }
    }

    /// The lines of `recovery.conf`, which holds nothing else. It knows no empty target, and no timeline "current": that is the
    /// default there.
    fn recovery_conf(&self) -> Vec<String> {
        let target = &self.target;
        let is_standby = self.mode == RecoveryMode::Standby;
        let mut values = Vec::new();
        values.extend(is_standby.then(|| ("standby_mode", "on".to_owned())));
        values.push(("restore_command", self.restore_command.to_string()));
        if let Some(chosen) = target.target.setting() {
            values.push(chosen);
            values.push(("recovery_target_inclusive", on_or_off(target.inclusive)));
            values.push(("recovery_target_action", target.action.to_string()));
        }
        if target.timeline != TargetTimeline::Current {
            values.push(("recovery_target_timeline", target.timeline.to_string()));
        }
        lines(values)
    }

    /// Is the server to pause when it has reached its target?
    pub fn pauses(&self) -> bool {
        self.has_target() && self.mode == RecoveryMode::Recovery && self.target.action == TargetAction::Pause
    }

    /// Does recovery have a target, so that the action matters?
    pub fn has_target(&self) -> bool {
        self.target.target != RestoreTarget::Latest
    }
}

fn on_or_off(value: bool) -> String {
    if value { "on" } else { "off" }.to_owned()
}

fn lines(values: Vec<(&str, String)>) -> Vec<String> {
    let values = values.into_iter();
    values
        .map(|(name, value)| format!("{name} = {}", quote(&value)))
        .collect()
}

/// A value for a configuration file.
fn quote(value: &str) -> String {
    let mut quoted = String::from("'");
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// A word for the shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
