//! `recovery.signal` or `standby.signal`, and the settings in `postgresql.auto.conf`.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use super::member::{BACKUP_LABEL, BACKUP_MANIFEST, MemberPath};
use super::plan::RestorePlan;
use super::target::{RecoveryTarget, RestoreTarget};
use super::tree::Tree;
use crate::error::{Error, Result};
use crate::wal::Parameters;
use walarchive_storage::StorageConfig;

/// Stands above the settings, and lets a later restore find them.
const COMMENT: &str = "# written by walarchive backup-fetch";

/// For a copy that must not archive where the original does.
const ARCHIVE_OFF: &str = "archive_mode = 'off'";

/// Where databases were left out: their pages are zeros, and recovery would stop at a change of such a page that comes without an
/// image of it. `VACUUM` writes such ones where there are neither data checksums nor `wal_log_hints`, and everything does
/// where `full_page_writes` is off.
const IGNORE_INVALID_PAGES: &str =
    "ignore_invalid_pages = 'on' # databases were left out; after recovery: ALTER SYSTEM RESET ignore_invalid_pages";

const IGNORE_INVALID_PAGES_NAME: &str = "ignore_invalid_pages";

/// The first version that has it.
const IGNORE_INVALID_PAGES_SINCE: u32 = 13;

const CONF: &str = "postgresql.conf";

const AUTO_CONF: &str = "postgresql.auto.conf";

/// What a restore writes itself, or takes from a tar in which it has no mode of its own.
pub(super) const OWN_FILES: [&str; 5] = [
    BACKUP_LABEL,
    BACKUP_MANIFEST,
    AUTO_CONF,
    "recovery.signal",
    "standby.signal",
];

/// More than any has, in bytes.
const AUTO_CONF_LIMIT: u64 = 64 << 20;

/// The settings of the five kinds of target.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// What the restored server is told.
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
            RecoveryMode::Recovery => "recovery.signal",
            RecoveryMode::Standby => "standby.signal",
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
        values.push((
            "recovery_target_inclusive",
            if target.inclusive { "on" } else { "off" }.to_owned(),
        ));
        values.push(("recovery_target_timeline", target.timeline.to_string()));
        values.push(("recovery_target_action", target.action.to_string()));
        values
            .into_iter()
            .map(|(name, value)| format!("{name} = {}", quote(&value)))
            .collect()
    }

    /// Does recovery have a target at which the action matters?
    pub fn has_target(&self) -> bool {
        self.target.target != RestoreTarget::Latest
    }
}

impl RestorePlan {
    /// Does `postgresql.auto.conf` tell recovery to go on at pages that are not valid, as those of databases that were left out?
    /// It must not do so for good: what else is wrong with a page would go unnoticed in the next recovery.
    pub fn ignores_invalid_pages(&self) -> bool {
        !self.databases.is_all() && !(1..IGNORE_INVALID_PAGES_SINCE).contains(&self.major)
    }

    /// Settings that have nothing to do with where to recovery goes.
    pub(super) fn further_settings(&self) -> Vec<&'static str> {
        let archive_off = self.archive_off.then_some(ARCHIVE_OFF);
        let ignore_invalid_pages = self.ignores_invalid_pages().then_some(IGNORE_INVALID_PAGES);
        archive_off.into_iter().chain(ignore_invalid_pages).collect()
    }
}

/// Write the settings and then the signal file. Whatever goes wrong, either both count or the server cannot start yet, as
/// `pg_control` is not there.
pub(super) fn write(
    recovery: Option<&RecoverySettings>,
    further: &[&str],
    parameters: Option<&Parameters>,
    tree: &Tree,
) -> Result<()> {
    let mut settings = recovery.map_or_else(Vec::new, RecoverySettings::settings);
    settings.extend(further.iter().map(|line| (*line).to_owned()));
    let read = |name: &str| {
        let path = MemberPath::parse(name.as_bytes()).map_err(|reason| Error::damaged(name, reason))?;
        Ok::<_, Error>(tree.read(&path, AUTO_CONF_LIMIT)?.unwrap_or_default())
    };
    let old = read(AUTO_CONF)?;
    if let Some(parameters) = parameters {
        settings.extend(raised(parameters, &[read(CONF)?, b"\n".to_vec(), old.clone()].concat()));
    }
    // ALTER SYSTEM drops comments, so the name alone tells what a restore of some databases once left in it.
    let is_stale = !further.contains(&IGNORE_INVALID_PAGES) && old.split(is_newline).any(ignores_invalid_pages);
    if is_stale {
        tracing::warn!(
            "{IGNORE_INVALID_PAGES_NAME} was set in the backup's {AUTO_CONF}; it was taken away, as recovery would go over \
             damaged pages"
        );
    }
    if settings.is_empty() && !is_stale {
        return Ok(());
    }
    put(tree, AUTO_CONF, &merge(&old, &settings))?;
    recovery.map_or(Ok(()), |recovery| put(tree, recovery.mode.file_name(), b""))
}

/// The settings of which the configuration has less than the server had when it wrote the WAL: recovery would stop.
fn raised(parameters: &Parameters, configuration: &[u8]) -> Vec<String> {
    let value_of = |wanted: &str, default: i32| {
        let mut lines = configuration.split(is_newline).rev();
        let Some(line) = lines.find(|line| name(line) == wanted.as_bytes()) else {
            return default;
        };
        let text = String::from_utf8_lossy(line);
        let value = text.trim_start()[wanted.len()..].trim_start().trim_start_matches('=');
        let value = value.split('#').next().unwrap_or_default().trim().trim_matches('\'');
        // What cannot be read is written anew.
        value.parse().unwrap_or(0)
    };
    let lacking = parameters
        .each()
        .filter(|(name, value, default)| value_of(name, *default) < *value);
    lacking.map(|(name, value, _)| format!("{name} = '{value}'")).collect()
}

/// Write a small file of the data directory.
pub(super) fn put(tree: &Tree, name: &str, content: &[u8]) -> Result<()> {
    let path = MemberPath::parse(name.as_bytes()).map_err(|reason| Error::damaged(name, reason))?;
    let mut new = tree.create_file(&path)?;
    new.file
        .write_all(content)
        .map_err(|error| Error::io("write", &new.path, error))?;
    new.keep(0o600, true)
}

fn is_newline(byte: &u8) -> bool {
    *byte == b'\n'
}

/// The name of the setting in a line, in lower case; empty where there is none.
fn name(line: &[u8]) -> Vec<u8> {
    let line = line.trim_ascii_start();
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let end = line.iter().position(|byte| !is_of_name(byte)).unwrap_or(line.len());
    line[..end].to_ascii_lowercase()
}

fn ignores_invalid_pages(line: &[u8]) -> bool {
    name(line) == IGNORE_INVALID_PAGES_NAME.as_bytes()
}

/// The old file without the lines that set the same, and without `ignore_invalid_pages`; and the new lines at its end.
fn merge(old: &[u8], settings: &[String]) -> Vec<u8> {
    let ours: Vec<Vec<u8>> = settings.iter().map(|line| name(line.as_bytes())).collect();
    let comment = (!settings.is_empty()).then_some(COMMENT);
    let mut text = Vec::with_capacity(old.len());
    for line in old.split(is_newline) {
        let is_blank = line.trim_ascii().is_empty();
        let is_of_earlier = ignores_invalid_pages(line)
            || ours.contains(&name(line))
            || comment.is_some_and(|comment| line.trim_ascii() == comment.as_bytes());
        if !is_blank && !is_of_earlier {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
    }
    for line in comment.into_iter().chain(settings.iter().map(String::as_str)) {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    text
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

#[cfg(test)]
mod tests {
    use super::super::target::{TargetAction, TargetTimeline};
    use super::*;

    fn settings(binary: &str, url: &str) -> RecoverySettings {
        RecoverySettings {
            mode: RecoveryMode::Recovery,
            restore_command: RestoreCommand {
                binary: PathBuf::from(binary),
                storage: StorageConfig::new(url),
                flags: Vec::new(),
            },
            target: RecoveryTarget::default(),
        }
    }

    #[test]
    fn all_targets_are_written_and_the_one_that_is_set_comes_last() {
        let mut recovery = settings("/usr/bin/walarchive", "s3://b/p");
        recovery.restore_command.storage.options = "aws_endpoint=http://h:1,allow_http=true".parse().expect("options");
        recovery.restore_command.storage.credentials_file = Some(PathBuf::from("/etc/keys"));
        recovery.target = RecoveryTarget {
            target: RestoreTarget::name("before 'it'").expect("a name"),
            inclusive: false,
            timeline: TargetTimeline::Number(3),
            action: TargetAction::Promote,
        };
        let expected = "restore_command = '/usr/bin/walarchive wal-fetch --storage s3://b/p --storage-option \
             allow_http=true --storage-option aws_endpoint=http://h:1 --credentials-file /etc/keys %f \"%p\"'\n\
             recovery_target = ''\nrecovery_target_lsn = ''\nrecovery_target_time = ''\nrecovery_target_xid = ''\n\
             recovery_target_name = 'before ''it'''\nrecovery_target_inclusive = 'off'\n\
             recovery_target_timeline = '3'\nrecovery_target_action = 'promote'";
        assert_eq!(recovery.settings().join("\n"), expected);
        recovery.restore_command.flags = vec!["--config".to_owned(), "/home/a b/.walg.json".to_owned()];
        let command = recovery.restore_command.to_string();
        let start = "/usr/bin/walarchive wal-fetch --config '/home/a b/.walg.json' --storage s3://b/p ";
        assert!(command.starts_with(start), "{command}");
        assert_eq!(
            settings("/w", "s3://b")
                .settings()
                .iter()
                .filter(|line| line.ends_with("''"))
                .count(),
            5
        );
    }

    #[test]
    fn a_command_survives_the_configuration_file_and_the_shell() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = "it's 100% \"odd\" $HOME\\";
        let script = dir.path().join(name);
        std::fs::write(&script, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").expect("written");
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
        let recovery = settings(&script.to_string_lossy(), "file:///a b/%20'c");
        std::fs::write(
            dir.path().join("postgresql.auto.conf"),
            recovery
                .settings()
                .join("\n")
                .replace("restore_command", "walarchive.storage"),
        )
        .expect("written");
        let read = crate::server_config::ServerConfig::read(dir.path()).expect("read");
        // What the server does with the placeholders before it calls the shell.
        let command = read
            .storage
            .expect("the command")
            .replace("%f", "F")
            .replace("%p", "P")
            .replace("%%", "%");
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(command)
            .output()
            .expect("run");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "wal-fetch\n--storage\nfile:///a b/%20'c\nF\nP\n"
        );
    }

    #[test]
    fn earlier_lines_of_the_same_settings_go() {
        let old =
            "# Do not edit this file manually!\nwork_mem = '1MB'\nRecovery_Target_Time='x'\n\n  restore_command 'y'\n";
        let lines = settings("/w", "s3://b").settings();
        let once = merge(old.as_bytes(), &lines);
        let text = String::from_utf8(once.clone()).expect("text");
        assert!(text.starts_with(&format!(
            "# Do not edit this file manually!\nwork_mem = '1MB'\n{COMMENT}\nrestore_command = '/w "
        )));
        assert!(!text.contains("'x'") && !text.contains("'y'"));
        assert_eq!(merge(&once, &lines), once, "a second time changes nothing");
        let mut more = lines.clone();
        more.push(IGNORE_INVALID_PAGES.to_owned());
        let partial = merge(&once, &more);
        assert_eq!(partial.len(), once.len() + IGNORE_INVALID_PAGES.len() + 1);
        assert_eq!(merge(&partial, &more), partial);
        assert_eq!(merge(&partial, &lines), once, "what only that restore needed goes");
        // As ALTER SYSTEM writes it.
        let rewritten = [b"Ignore_Invalid_Pages = 'on'\n", &once[..]].concat();
        assert_eq!(merge(&rewritten, &lines), once);
        assert_eq!(merge(&rewritten, &[]), once, "the rest stays");
    }
}
