//! `.pgpass`: a password by host, port, database and user.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// A connection, as the file names it.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: &'a str,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

/// The password of the first line that fits. A file that others may read is not used, as with libpq, and the log is told.
pub(crate) fn find(file: &Path, wanted: &Wanted<'_>) -> Option<String> {
    let meta = std::fs::metadata(file).ok()?;
    if !meta.is_file() || meta.len() > LIMIT {
        tracing::warn!(file = %file.display(), "the password file is not used: it is not a plain file");
        return None;
    }
    if meta.mode() & 0o077 != 0 {
        tracing::warn!(
            file = %file.display(),
            "the password file is not used: its group or others may read it; set its mode to 0600"
        );
        return None;
    }
    let text = std::fs::read(file).ok()?;
    text.split(|byte| *byte == b'\n')
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .find_map(|line| password(line.trim_end_matches('\r'), wanted))
}

/// The password of a line, if it fits.
fn password(line: &str, wanted: &Wanted<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    for value in [wanted.host, wanted.port, wanted.database, wanted.user] {
        let (field, after) = field(rest);
        if field != Field::Any && field != Field::Text(value.to_owned()) {
            return None;
        }
        rest = after?;
    }
    match field(rest).0 {
        Field::Any => Some("*".to_owned()),
        Field::Text(password) => Some(password).filter(|password| !password.is_empty()),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Field {
    /// `*`.
    Any,
    Text(String),
}

/// The field up to the next colon, and what follows that. A backslash takes the next character as it is.
fn field(line: &str) -> (Field, Option<&str>) {
    let mut text = String::new();
    let (mut plain, mut rest) = (true, None);
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => {
                rest = Some(&line[at + 1..]);
                break;
            }
            '\\' => {
                plain = false;
                if let Some((_, next)) = characters.next() {
                    text.push(next);
                }
            }
            other => text.push(other),
        }
    }
    let field = match plain && text == "*" {
        true => Field::Any,
        false => Field::Text(text),
    };
    (field, rest)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn wanted() -> Wanted<'static> {
        Wanted {
            host: "h",
            port: "5432",
            database: "d",
            user: "u",
        }
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        for (line, expected) in [
            ("h:5432:d:u:secret", Some("secret")),
            ("*:*:*:*:a\\:b\\\\c", Some("a:b\\c")),
            ("h:5432:d:u:with:colon", Some("with")),
            ("h:5432:*:u:*", Some("*")),
            ("\\*:5432:d:u:x", None),
            ("other:5432:d:u:x", None),
            ("#h:5432:d:u:x", None),
            ("h:5432:d", None),
            ("h:5432:d:u:", None),
            ("", None),
        ] {
            assert_eq!(password(line, &wanted()).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn others_must_not_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pgpass");
        std::fs::write(&file, "x:*:*:*:no\r\nh:*:*:*:yes\r\n").expect("written");
        let with = |mode: u32| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("set");
            find(&file, &wanted())
        };
        assert_eq!(with(0o600).as_deref(), Some("yes"));
        assert_eq!(with(0o640), None);
        assert_eq!(with(0o604), None);
        assert_eq!(find(dir.path(), &wanted()), None);
    }
}
