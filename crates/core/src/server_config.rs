//! The `walarchive.*` settings of a data directory, for the binary: read from the files, since no server may be there.

pub mod encryption;
mod find;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::encryption::EncryptionSettings;
use crate::error::{Error, Result};

/// PostgreSQL's own bound for files that include files.
const MAX_DEPTH: usize = 10;

/// The largest file that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// The settings that the server's command line may have, too, where they win over the files.
const OF_COMMAND_LINE: [&str; 6] = [
    "walarchive.lease_interval",
    "walarchive.prefetch",
    "shared_preload_libraries",
    "primary_conninfo",
    "promote_trigger_file",
    "wal_retrieve_retry_interval",
];

/// The settings that matter to the binary, as the files write them. Empty values count as unset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerConfig {
    /// `walarchive.storage`.
    pub storage: Option<String>,
    /// `walarchive.storage_options`.
    pub storage_options: Option<String>,
    /// `walarchive.credentials_file`; a relative path is relative to the data directory.
    pub credentials_file: Option<PathBuf>,
    /// `walarchive.encryption` and what belongs to it.
    pub encryption: EncryptionSettings,
    /// `walarchive.compression`.
    pub compression: Option<String>,
    /// `walarchive.compression_level`.
    pub compression_level: Option<String>,
    /// PostgreSQL's own `archive_mode`.
    pub archive_mode: Option<String>,
    /// `walarchive.lease_interval`.
    pub lease_interval: Option<Duration>,
    /// `walarchive.prefetch`.
    pub prefetch: Option<usize>,
    /// Is walarchive among the `shared_preload_libraries`, so that a worker of the server's is at work?
    pub preloads: bool,
    /// PostgreSQL's own `primary_conninfo`, where it is no setting of `recovery.conf`.
    pub primary_conninfo: Option<String>,
    /// PostgreSQL's own `promote_trigger_file`, of 12 to 15; a relative path is relative to the data directory.
    pub trigger_file: Option<PathBuf>,
    /// PostgreSQL's own `wal_retrieve_retry_interval`.
    pub retry_interval: Option<Duration>,
}

/// One line of a configuration file.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Setting(String, String),
    Include(String),
    IncludeIfExists(String),
    IncludeDir(String),
}

impl ServerConfig {
    /// Read `postgresql.conf` and then `postgresql.auto.conf`; a later line wins. If `postgresql.conf` is elsewhere (as on
    /// Debian), the command line of the last start tells its place, or the cluster among those of Debian's tools that has this
    /// data directory. Files that do not exist are no error.
    pub fn read(data_dir: &Path) -> Result<Self> {
        Self::read_among(data_dir, &debian_clusters())
    }

    fn read_among(data_dir: &Path, clusters: &Path) -> Result<Self> {
        let mut values = BTreeMap::new();
        let in_place = data_dir.join("postgresql.conf");
        let main = match find::config_file_of_last_start(data_dir) {
            Some(config_file) => config_file,
            None if in_place.exists() => in_place,
            None => find::config_file_among(clusters, data_dir).unwrap_or(in_place),
        };
        for file in [main, data_dir.join("postgresql.auto.conf")] {
            if file.exists() {
                read_file(&file, 0, &mut values, &mut Vec::new())?;
            }
        }
        // The command line wins over the files. The programs beside the server must know these settings of it.
        for (name, value) in find::settings_of_last_start(data_dir) {
            if OF_COMMAND_LINE.contains(&name.as_str()) {
                values.insert(name, value);
            }
        }
        let mut take = |name: &str| values.remove(name).filter(|value: &String| !value.is_empty());
        let is_on = |value: Option<String>| value.and_then(|value| encryption::switch(&value)) == Some(true);
        Ok(ServerConfig {
            storage: take("walarchive.storage"),
            storage_options: take("walarchive.storage_options"),
            credentials_file: take("walarchive.credentials_file").map(|file| data_dir.join(file)),
            encryption: EncryptionSettings {
                method: take("walarchive.encryption"),
                key_file: take("walarchive.encryption_key_file"),
                key_command: take("walarchive.encryption_key_command"),
                accept_plain: is_on(take("walarchive.encryption_accept_plain")),
                metadata: is_on(take("walarchive.encrypt_metadata")),
                directory: data_dir.to_owned(),
            },
            compression: take("walarchive.compression"),
            compression_level: take("walarchive.compression_level"),
            archive_mode: take("archive_mode"),
            lease_interval: take("walarchive.lease_interval").and_then(|value| units::seconds(&value)),
            prefetch: take("walarchive.prefetch").and_then(|value| value.trim().parse().ok()),
            preloads: take("shared_preload_libraries").is_some_and(|libraries| libraries.contains("walarchive")),
            primary_conninfo: take("primary_conninfo"),
            trigger_file: take("promote_trigger_file").map(|file| data_dir.join(file)),
            retry_interval: take("wal_retrieve_retry_interval").and_then(|value| units::milliseconds(&value)),
        })
    }
}

/// The value that a configuration file, or one that it includes, gives to a setting; none if no file can be read that does.
pub fn value_in(file: &Path, name: &str) -> Option<String> {
    let mut values = BTreeMap::new();
    // Settings count that were read before a file that cannot be read.
    let _ = read_file(file, 0, &mut values, &mut Vec::new());
    values.remove(name)
}

/// The directory of Debian's tools with the configuration of clusters, as `MAJOR/NAME/postgresql.conf`.
fn debian_clusters() -> PathBuf {
    let root = std::env::var_os("PG_CLUSTER_CONF_ROOT").filter(|root| !root.is_empty());
    root.map_or_else(|| PathBuf::from("/etc/postgresql"), PathBuf::from)
}

/// The data directories of the clusters that Debian's tools know.
pub fn data_directories() -> Vec<PathBuf> {
    find::clusters(&debian_clusters())
        .into_iter()
        .map(|(_, data_dir)| data_dir)
        .collect()
}

/// The configuration file and all that it includes. Files that cannot be read are passed over.
pub fn files_of(config_file: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Err(error) = read_file(config_file, 0, &mut BTreeMap::new(), &mut files) {
        tracing::warn!("not all files of the configuration are known: {error}");
    }
    files
}

fn read_file(path: &Path, depth: usize, values: &mut BTreeMap<String, String>, files: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::config(
            format!(
                "configuration files include each other more than {MAX_DEPTH} times, last \"{}\"",
                path.display()
            ),
            "PostgreSQL refuses that too; remove the circular include.",
        ));
    }
    let meta = std::fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
    if !meta.is_file() || meta.len() > LIMIT {
        return Err(Error::config(
            format!("\"{}\" is not a configuration file", path.display()),
            "Correct the include that names it.",
        ));
    }
    let content = std::fs::read(path).map_err(|error| Error::io("read", path, error))?;
    files.push(path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    for line in String::from_utf8_lossy(&content).lines().filter_map(parse_line) {
        match line {
            Line::Setting(name, value) => {
                values.insert(name, value);
            }
            Line::Include(file) => read_file(&folder.join(file), depth + 1, values, files)?,
            Line::IncludeIfExists(file) => {
                let file = folder.join(file);
                if file.exists() {
                    read_file(&file, depth + 1, values, files)?;
                }
            }
            Line::IncludeDir(directory) => {
                for file in files_of_directory(&folder.join(directory))? {
                    read_file(&file, depth + 1, values, files)?;
                }
            }
        }
    }
    Ok(())
}

/// The files that `include_dir` takes: `*.conf` without a leading dot, by name in the C locale.
pub(crate) fn files_of_directory(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error| Error::io("read", directory, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        names.push(entry.map_err(unreadable)?.file_name());
    }
    names.retain(|name| {
        let name = name.as_encoded_bytes();
        name.ends_with(b".conf") && !name.starts_with(b".")
    });
    names.sort();
    Ok(names
        .into_iter()
        .map(|name| directory.join(name))
        .filter(|path| path.is_file())
        .collect())
}

/// One line by the rules of PostgreSQL's `guc-file.l`; none for an empty one. A line that PostgreSQL would refuse is none
/// too: it is not for us to complain about settings that are not ours.
fn parse_line(line: &str) -> Option<Line> {
    let line = line.trim_start();
    let end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.')))
        .unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let (value, rest) = if rest.starts_with('\'') {
        quoted(rest)?
    } else {
        bare(rest)?
    };
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with('#') {
        return None;
    }
    let name = name.to_ascii_lowercase();
    Some(match name.as_str() {
        "include" => Line::Include(value),
        "include_if_exists" => Line::IncludeIfExists(value),
        "include_dir" => Line::IncludeDir(value),
        _ => Line::Setting(name, value),
    })
}

fn bare(text: &str) -> Option<(String, &str)> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || !c.is_ascii() || "_-.:/+$".contains(c)))
        .unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// A quoted value: `''` and `\'` are a quote, `\b \f \n \r \t` and octal escapes as in C, any other `\x` is `x`.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 1;
    loop {
        match (*bytes.get(at)?, bytes.get(at + 1)) {
            (b'\'', Some(b'\'')) => {
                value.push(b'\'');
                at += 2;
            }
            (b'\'', _) => return Some((String::from_utf8_lossy(&value).into_owned(), &text[at + 1..])),
            (b'\\', Some(b'0'..=b'7')) => {
                let digits = bytes[at + 1..]
                    .iter()
                    .take(3)
                    .take_while(|digit| matches!(digit, b'0'..=b'7'));
                let (count, code) = digits.fold((0, 0u32), |(count, code), digit| {
                    (count + 1, code << 3 | u32::from(digit - b'0'))
                });
                value.push(code as u8);
                at += 1 + count;
            }
            (b'\\', Some(escaped)) => {
                value.push(match escaped {
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => *other,
                });
                at += 2;
            }
            (byte, _) => {
                value.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_read_as_postgresql_reads_them() {
        let setting = |name: &str, value: &str| Some(Line::Setting(name.to_owned(), value.to_owned()));
        for (line, expected) in [
            (
                "walarchive.storage = 's3://b/p' # why",
                setting("walarchive.storage", "s3://b/p"),
            ),
            (
                "  WalArchive.Storage 'a''b\\'c\\\\d\\x\\101\\n'",
                setting("walarchive.storage", "a'b'c\\dxA\n"),
            ),
            ("port=5432", setting("port", "5432")),
            ("x = on# comment", setting("x", "on")),
            ("x = ''", setting("x", "")),
            ("x = 'ü'", setting("x", "ü")),
            ("include 'a.conf'", Some(Line::Include("a.conf".to_owned()))),
            ("include_dir = conf.d", Some(Line::IncludeDir("conf.d".to_owned()))),
            ("include_if_exists='b'", Some(Line::IncludeIfExists("b".to_owned()))),
            ("# x = 1", None),
            ("", None),
            ("x", None),
            ("x =", None),
            ("x = 'unterminated", None),
            ("x = 'a' b", None),
            ("1x = 2", None),
        ] {
            assert_eq!(parse_line(line), expected, "{line}");
        }
    }

    #[test]
    fn later_lines_win_and_includes_are_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            std::fs::write(path, text).expect("written");
        };
        let mut nothing = ServerConfig::default();
        nothing.encryption.directory = dir.path().to_owned();
        assert_eq!(ServerConfig::read(dir.path()).expect("read"), nothing);
        write(
            "postgresql.conf",
            "walarchive.storage = 'file:///one'\ninclude_dir 'conf.d'\ninclude_if_exists 'missing'\n\
             walarchive.credentials_file = 'keys'\nwalarchive.compression = ''\n\
             walarchive.encryption = openpgp\nwalarchive.encryption_key_file = 'public, /old'\n\
             walarchive.encryption_key_command = '/bin/key \"of us\"'\nwalarchive.encryption_accept_plain = yes\n\
             walarchive.encrypt_metadata = on\n",
        );
        write("conf.d/20.conf", "walarchive.storage = 'file:///twenty'\n");
        write(
            "conf.d/10.conf",
            "walarchive.storage = 'file:///ten'\nwalarchive.storage_options = 'a=b'\n",
        );
        write("conf.d/.30.conf", "walarchive.storage = 'file:///hidden'\n");
        let config = ServerConfig::read(dir.path()).expect("read");
        assert_eq!(config.storage.as_deref(), Some("file:///twenty"));
        assert_eq!(config.storage_options.as_deref(), Some("a=b"));
        assert_eq!(config.credentials_file, Some(dir.path().join("keys")));
        assert_eq!(config.compression, None);
        let encryption = config.encryption.config().expect("right");
        assert_eq!(encryption.key_files, [dir.path().join("public"), PathBuf::from("/old")]);
        assert_eq!(encryption.key_command, ["/bin/key", "of us"]);
        assert!(encryption.accept_plain && encryption.metadata && encryption.writes.is_some());
        write("postgresql.auto.conf", "walarchive.storage = 'file:///auto'\n");
        let config = ServerConfig::read(dir.path()).expect("read");
        assert_eq!(config.storage.as_deref(), Some("file:///auto"));
        write("postgresql.conf", "include 'postgresql.conf'\n");
        assert!(matches!(ServerConfig::read(dir.path()), Err(Error::Setting { .. })));
    }

    #[test]
    fn a_configuration_file_elsewhere_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let elsewhere = dir.path().join("etc dir");
        std::fs::create_dir(&elsewhere).expect("made");
        let file = elsewhere.join("postgresql.conf");
        std::fs::write(&file, "walarchive.storage = 'file:///elsewhere'\n").expect("written");
        let (file, elsewhere) = (file.display().to_string(), elsewhere.display().to_string());
        for args in [
            format!("\"-D\" \"/data\" \"-c\" \"config_file={file}\""),
            format!("\"-D\" \"/data\" \"-cconfig_file={file}\""),
            format!("\"--config-file={file}\" \"-D\" \"/data\""),
            format!("\"-D\" \"{elsewhere}\""),
            format!("\"-D{elsewhere}\""),
        ] {
            let opts = format!("/usr/bin/postgres {args}\n");
            std::fs::write(dir.path().join("postmaster.opts"), opts).expect("written");
            // The server does not read the file that initdb has put into the data directory.
            for in_place in ["", "walarchive.storage = 'file:///in-place'\n"] {
                std::fs::write(dir.path().join("postgresql.conf"), in_place).expect("written");
                let config = ServerConfig::read(dir.path()).expect("read");
                assert_eq!(config.storage.as_deref(), Some("file:///elsewhere"), "{args}");
            }
        }
        // Of a file that is not there any more nothing is known.
        std::fs::write(
            dir.path().join("postmaster.opts"),
            "postgres \"-c\" \"config_file=/gone\"\n",
        )
        .expect("written");
        let config = ServerConfig::read(dir.path()).expect("read");
        assert_eq!(config.storage.as_deref(), Some("file:///in-place"));
    }

    #[test]
    fn the_command_line_of_the_last_start_wins_over_the_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        write(
            "postgresql.conf",
            "walarchive.lease_interval = '2min'\nshared_preload_libraries = 'pg_stat_statements'\n",
        );
        let read = || {
            let config = ServerConfig::read(dir.path()).expect("read");
            (
                config.lease_interval.map(|interval| interval.as_secs()),
                config.preloads,
            )
        };
        assert_eq!(read(), (Some(120), false));
        for args in [
            "\"-c\" \"walarchive.lease_interval=45\" \"--shared-preload-libraries=walarchive\"",
            "\"-cwalarchive.lease_interval=45s\" \"-c\" \"shared_preload_libraries=a,walarchive\"",
        ] {
            write(
                "postmaster.opts",
                &format!("/usr/bin/postgres \"-D\" \"/data\" {args}\n"),
            );
            assert_eq!(read(), (Some(45), true), "{args}");
        }
    }

    #[test]
    fn a_cluster_of_debian_is_found_by_its_data_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let (etc, data) = (dir.path().join("etc"), dir.path().join("data"));
        std::fs::create_dir(&data).expect("made");
        std::os::unix::fs::symlink(&data, dir.path().join("link")).expect("linked");
        for (cluster, data_dir) in [("15/main", "link"), ("15/other", "elsewhere"), ("16/broken", "")] {
            let folder = etc.join(cluster);
            std::fs::create_dir_all(&folder).expect("made");
            let text = match data_dir {
                "" => "include 'none'\n".to_owned(),
                _ => format!(
                    "data_directory = '{}'\nwalarchive.storage = 'file:///{cluster}'\n",
                    dir.path().join(data_dir).display()
                ),
            };
            std::fs::write(folder.join("postgresql.conf"), text).expect("written");
        }
        let config = ServerConfig::read_among(&data, &etc).expect("read");
        assert_eq!(config.storage.as_deref(), Some("file:///15/main"));
        let none = ServerConfig::read_among(dir.path(), &etc).expect("read");
        assert_eq!(none.storage, None);
        assert_eq!(find::clusters(&etc).len(), 2);
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in "(x = )?.{0,40}") {
            let _ = parse_line(&line);
        }
    }
}
