//! `recovery.signal` or `standby.signal`, and the settings in `postgresql.auto.conf`; up to PostgreSQL 11 `recovery.conf`.

use std::io::Write;

use crate::data_dir::{
    BACKUP_LABEL, BACKUP_MANIFEST, RECOVERY_CONF, RECOVERY_SIGNAL, STANDBY_SIGNAL, has_recovery_conf,
};
use crate::error::{Error, Result};
use crate::restore::directory::tree::{Flush, Tree};
use crate::restore::settings::RecoverySettings;
use crate::stored::member::MemberPath;
use crate::wal::Parameters;

/// Stands above the settings, and lets a later restore find them.
const COMMENT: &str = "# written by walarchive backup-fetch";

/// If databases were left out: their pages are zeros, and recovery would stop at a change of such a page that comes without an
/// image of it. `VACUUM` writes such changes if there are neither data checksums nor `wal_log_hints`, and everything does if
/// `full_page_writes` is off.
pub(crate) const IGNORE_INVALID_PAGES: &str =
    "ignore_invalid_pages = 'on' # databases were left out; after recovery: ALTER SYSTEM RESET ignore_invalid_pages";

const IGNORE_INVALID_PAGES_NAME: &str = "ignore_invalid_pages";

const CONF: &str = "postgresql.conf";

const AUTO_CONF: &str = "postgresql.auto.conf";

/// The mode of files that a restore writes itself, or takes from a tar that has no mode for them.
pub(crate) const OWN_FILES: [&str; 6] = [
    BACKUP_LABEL,
    BACKUP_MANIFEST,
    AUTO_CONF,
    RECOVERY_CONF,
    RECOVERY_SIGNAL,
    STANDBY_SIGNAL,
];

/// More than any has, in bytes.
const AUTO_CONF_LIMIT: u64 = 64 << 20;

/// Write the settings and then the signal file, as a server of this major version reads them. After any failure either both count
/// or the server cannot start yet, as `pg_control` is not there.
pub(crate) fn write(
    recovery: Option<&RecoverySettings>,
    major: u32,
    further: &[&str],
    parameters: Option<&Parameters>,
    tree: &Tree,
) -> Result<()> {
    // An old server does not start with a setting of recovery.conf in another file, nor a later one with that file.
    let is_old = has_recovery_conf(major);
    let recovery_conf = recovery.filter(|_| is_old);
    let recovery = recovery.filter(|_| !is_old);
    if let Some(recovery) = recovery_conf {
        let lines = std::iter::once(COMMENT.to_owned()).chain(recovery.lines(major));
        let text: String = lines.map(|line| line + "\n").collect();
        put(tree, RECOVERY_CONF, text.as_bytes())?;
    }
    let mut settings = recovery.map_or_else(Vec::new, |recovery| recovery.lines(major));
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
            "{IGNORE_INVALID_PAGES_NAME} was set in the backup's {AUTO_CONF}; it was removed, because recovery would \
             pass over damaged pages"
        );
    }
    if settings.is_empty() && !is_stale {
        return Ok(());
    }
    put(tree, AUTO_CONF, &merge(&old, &settings))?;
    recovery.map_or(Ok(()), |recovery| put(tree, recovery.mode.file_name(), b""))
}

/// The settings that are lower in the configuration than they were on the server when it wrote the WAL: recovery would stop.
fn raised(parameters: &Parameters, configuration: &[u8]) -> Vec<String> {
    let value_of = |wanted: &str, default: i32| {
        let mut lines = configuration.split(is_newline).rev();
        let Some(line) = lines.find(|line| name(line) == wanted.as_bytes()) else {
            return default;
        };
        let text = String::from_utf8_lossy(line);
        let value = text.trim_start()[wanted.len()..].trim_start().trim_start_matches('=');
        let value = value.split('#').next().unwrap_or_default().trim().trim_matches('\'');
        // A file that cannot be read is written again.
        value.parse().unwrap_or(0)
    };
    let lacking = parameters
        .each()
        .filter(|(name, value, default)| value_of(name, *default) < *value);
    lacking.map(|(name, value, _)| format!("{name} = '{value}'")).collect()
}

/// Write a small file of the data directory.
pub(crate) fn put(tree: &Tree, name: &str, content: &[u8]) -> Result<()> {
    let path = MemberPath::parse(name.as_bytes()).map_err(|reason| Error::damaged(name, reason))?;
    let mut new = tree.create_file(&path)?;
    new.file
        .write_all(content)
        .map_err(|error| Error::io("write", &new.path, error))?;
    new.keep(0o600, Flush::Now)
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use walarchive_storage::StorageConfig;
    use walarchive_storage::crypt::EncryptionConfig;

    use super::*;
    use crate::restore::settings::{RecoveryMode, RestoreCommand};
    use crate::restore::target::{RecoveryTarget, RestoreTarget, TargetAction, TargetTimeline};

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
        recovery.restore_command.storage.encryption = EncryptionConfig {
            key_files: vec![PathBuf::from("/etc/a key")],
            key_command: vec!["/bin/vault".to_owned(), "a key".to_owned()],
            wal_g: true,
            accept_plain: true,
            ..EncryptionConfig::default()
        };
        recovery.target = RecoveryTarget {
            target: RestoreTarget::name("before 'it'").expect("a name"),
            inclusive: false,
            timeline: TargetTimeline::Number(3),
            action: TargetAction::Promote,
        };
        let expected = "restore_command = '/usr/bin/walarchive wal-fetch --storage s3://b/p --storage-option \
             allow_http=true --storage-option aws_endpoint=http://h:1 --credentials-file /etc/keys \
             --encryption-key-file ''/etc/a key'' --encryption-key-command ''/bin/vault \"a key\"'' --accept-plain %f \"%p\"'\n\
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
    fn up_to_11_only_what_is_set_is_written_and_goes_into_recovery_conf() {
        let mut recovery = settings("/usr/bin/walarchive", "s3://b/p");
        let command = "restore_command = '/usr/bin/walarchive wal-fetch --storage s3://b/p %f \"%p\"'";
        assert_eq!(recovery.lines(9), [command, "recovery_target_timeline = 'latest'"]);
        recovery.mode = RecoveryMode::Standby;
        recovery.target.timeline = TargetTimeline::Current;
        assert_eq!(recovery.lines(11), ["standby_mode = 'on'", command]);
        recovery.mode = RecoveryMode::Recovery;
        recovery.target = RecoveryTarget {
            target: RestoreTarget::name("it's").expect("a name"),
            inclusive: false,
            timeline: TargetTimeline::Number(3),
            action: TargetAction::Promote,
        };
        let expected = [
            command,
            "recovery_target_name = 'it''s'",
            "recovery_target_inclusive = 'off'",
            "recovery_target_action = 'promote'",
            "recovery_target_timeline = '3'",
        ];
        assert_eq!(recovery.lines(10), expected);
        assert_eq!(recovery.lines(12), recovery.settings());
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
        // The server's treatment of the placeholders, before it calls the shell.
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
