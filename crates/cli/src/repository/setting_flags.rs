//! WAL-G's settings as flags: `--walg-file-prefix /backup` is WALG_FILE_PREFIX, and comes before the environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::names::{is_known, is_secret};

/// A command line, taken apart. It may hold secrets.
pub struct CommandLine {
    /// All but the settings; the first one is the name of this program.
    pub arguments: Vec<OsString>,
    /// The settings, by the names of their variables. The last one of a name counts.
    pub settings: Vec<(OsString, OsString)>,
}

impl CommandLine {
    /// That of this process.
    pub fn of_process() -> Self {
        Self::of(std::env::args_os())
    }

    /// A setting without a value stays where it is: the parser of the other flags tells of it.
    pub fn of(all: impl IntoIterator<Item = OsString>) -> Self {
        let mut all = all.into_iter();
        let (mut arguments, mut settings) = (Vec::from_iter(all.next()), Vec::new());
        while let Some(argument) = all.next() {
            let bytes = argument.as_bytes();
            if bytes == b"--" {
                arguments.push(argument);
                arguments.extend(all.by_ref());
                break;
            }
            let mut halves = bytes.splitn(2, |byte| *byte == b'=');
            let Some(name) = halves.next().and_then(variable) else {
                arguments.push(argument);
                continue;
            };
            match halves.next().map(|value| OsStr::from_bytes(value).to_owned()) {
                Some(value) => settings.push((name, value)),
                None => match all.next() {
                    Some(value) => settings.push((name, value)),
                    None => arguments.push(argument),
                },
            }
        }
        CommandLine { arguments, settings }
    }

    /// The names of the settings that hold secrets.
    pub fn secrets(&self) -> Vec<String> {
        let names = self.settings.iter().filter(|(_, value)| !value.is_empty());
        let names = names.filter_map(|(name, _)| name.to_str().filter(|name| is_secret(name)));
        names.map(str::to_owned).collect()
    }
}

/// The variable that a flag stands for.
fn variable(flag: &[u8]) -> Option<OsString> {
    let name = flag.strip_prefix(b"--")?;
    if name.iter().any(|byte| byte.is_ascii_uppercase() || *byte == b'_') {
        return None;
    }
    let upper = name.iter().map(|byte| match byte {
        b'-' => b'_',
        byte => byte.to_ascii_uppercase(),
    });
    let name = String::from_utf8(upper.collect()).ok()?;
    // Verbs have a flag of their own for the data directory, and what is walarchive's has flags of its own.
    let is_own = name == "PGDATA" || name.starts_with("WALARCHIVE_");
    (is_known(&name) && !is_own).then(|| OsString::from_vec(name.into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> (String, String) {
        let line = CommandLine::of(text.split(' ').map(OsString::from));
        let arguments: Vec<_> = line.arguments.iter().map(|text| text.to_string_lossy()).collect();
        let pair = |(name, value): &(OsString, OsString)| format!("{}={}", name.display(), value.display());
        let settings: Vec<_> = line.settings.iter().map(pair).collect();
        (arguments.join(" "), settings.join(" "))
    }

    #[test]
    fn settings_are_told_from_other_flags() {
        for (text, arguments, settings) in [
            (
                "wal-g --walg-file-prefix /b backup-list --json",
                "wal-g backup-list --json",
                "WALG_FILE_PREFIX=/b",
            ),
            (
                "wal-g backup-push --pghost=a,b --pgport 5433 /data",
                "wal-g backup-push /data",
                "PGHOST=a,b PGPORT=5433",
            ),
            (
                "wal-g st put --walg-compression-method=a=b x y",
                "wal-g st put x y",
                "WALG_COMPRESSION_METHOD=a=b",
            ),
            (
                "wal-g wal-fetch a b --aws-region=",
                "wal-g wal-fetch a b",
                "AWS_REGION=",
            ),
            ("wal-g wal-verify --pgdata /d", "wal-g wal-verify --pgdata /d", ""),
            (
                "wal-g st cat -- --walg-file-prefix /b",
                "wal-g st cat -- --walg-file-prefix /b",
                "",
            ),
            (
                "wal-g backup-list --walg-s3-prefix",
                "wal-g backup-list --walg-s3-prefix",
                "",
            ),
            ("--walg-s3-prefix backup-list", "--walg-s3-prefix backup-list", ""),
            (
                "w --path /p --ld-preload /x --WALG_X=1 --walg_x=1 --walarchive-storage=u -walg-x=1",
                "w --path /p --ld-preload /x --WALG_X=1 --walg_x=1 --walarchive-storage=u -walg-x=1",
                "",
            ),
        ] {
            assert_eq!(split(text), (arguments.to_owned(), settings.to_owned()), "{text}");
        }
    }

    #[test]
    fn secrets_are_named_without_their_value() {
        let line = ["w", "--aws-secret-access-key", "k", "--aws-region=x", "--pgpassword="];
        let line = CommandLine::of(line.map(OsString::from));
        assert_eq!(line.secrets(), ["AWS_SECRET_ACCESS_KEY"]);
    }
}
