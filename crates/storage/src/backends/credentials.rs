//! The file named by `walarchive.credentials_file`.

use std::path::Path;

use crate::error::{Error, Result};
use crate::secret_file::check_mode;

/// The largest file that is taken for one, in bytes.
const LIMIT: u64 = 64 << 10;

/// A line of the file.
#[derive(PartialEq, Eq)]
pub(crate) struct Line {
    /// In lower case.
    pub key: String,
    pub value: String,
    /// The section it stands in: other programs, which know other keys, read these too.
    pub section: Option<String>,
}

/// What messages call the file.
pub(crate) fn origin(path: &Path) -> String {
    // One that is only in memory has the secrets of a file that names the storage, too.
    match path.starts_with("/proc/self/fd") {
        true => "the configuration file with this storage".to_owned(),
        false => format!("the file \"{}\" (walarchive.credentials_file)", path.display()),
    }
}

/// The file's text, if it is one that only those can read who may.
pub(crate) fn text(path: &Path) -> Result<String> {
    let meta = std::fs::metadata(path).map_err(|error| unreadable("open", path, &error))?;
    check_mode("credentials file", path, &meta)?;
    if !meta.is_file() || meta.len() > LIMIT {
        return Err(Error::config(
            format!("\"{}\" is not a credentials file", path.display()),
            "It holds lines like \"aws_access_key_id = …\".",
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable("read", path, &error))?;
    // So is one that is about to be written. Without it, credentials would be looked for elsewhere.
    if text.trim().is_empty() {
        return Err(Error::config(
            format!("credentials file \"{}\" is empty", path.display()),
            "Put the credentials into it, or do not name it. It is looked at again by itself.",
        ));
    }
    Ok(text)
}

/// The error for a file that somebody named and that is not there, or cannot be read.
pub(crate) fn unreadable(operation: &str, path: &Path, error: &std::io::Error) -> Error {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound => {
            "Put the file there, or correct the setting or the variable that names it. No reload is needed."
        }
        std::io::ErrorKind::PermissionDenied => "Let the user of the process read the file, and enter its directories.",
        _ => "The file must be one that the user of the process can read.",
    };
    Error::config(
        format!("could not {operation} credentials file \"{}\": {error}", path.display()),
        hint,
    )
}

/// The `key = value` lines of the file. Of an AWS credentials file, its `[default]` section is taken.
pub(crate) fn read(path: &Path) -> Result<Vec<(String, String)>> {
    let wanted = |line: &Line| line.section.as_deref().is_none_or(|section| section == "default");
    let lines = lines(&text(path)?, path)?.into_iter().filter(wanted);
    Ok(lines.map(|line| (line.key, line.value)).collect())
}

/// The lines of a text of `key = value` lines with `[section]`s. Lines that are indented belong to a value with parts of its
/// own, as in `~/.aws/config`, and are left out.
pub(crate) fn lines(text: &str, path: &Path) -> Result<Vec<Line>> {
    let mut found = Vec::new();
    let mut section = None;
    for (number, line) in text.lines().enumerate() {
        let indented = line.starts_with([' ', '\t']) && section.is_some();
        let line = line.trim();
        if line.is_empty() || indented || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = Some(name.0.trim().to_owned());
            continue;
        }
        // The line itself is a secret: say where it is, not what it says.
        let (key, value) = line.split_once('=').ok_or_else(|| {
            Error::config(
                format!(
                    "line {} of \"{}\" is not of the form \"key = value\"",
                    number + 1,
                    path.display()
                ),
                "A credentials file holds lines like \"aws_access_key_id = …\".",
            )
        })?;
        found.push(Line {
            key: key.trim().to_ascii_lowercase(),
            value: value.trim().to_owned(),
            section: section.clone(),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_comments_and_indented_lines() {
        let text =
            "plain = 1\n# c\n; c\n[default]\nA_Key = x=y \ns3 =\n  addressing_style = path\n[ other ] # c\nb=2\n";
        let found: Vec<_> = lines(text, Path::new("f"))
            .expect("lines")
            .into_iter()
            .map(|line| (line.section.unwrap_or_default(), line.key, line.value))
            .collect();
        let expected = [
            ("", "plain", "1"),
            ("default", "a_key", "x=y"),
            ("default", "s3", ""),
            ("other", "b", "2"),
        ];
        assert_eq!(
            found,
            expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()))
        );
    }

    #[test]
    fn a_file_in_memory_is_not_called_by_its_number() {
        assert_eq!(
            origin(Path::new("/proc/self/fd/9")),
            "the configuration file with this storage"
        );
        assert_eq!(origin(Path::new("/c")), "the file \"/c\" (walarchive.credentials_file)");
    }

    #[test]
    fn a_line_that_cannot_be_read_is_not_repeated() {
        let error = lines("a = 1\nhunter2\n", Path::new("/f")).err().expect("refused");
        assert_eq!(error.to_string(), "line 2 of \"/f\" is not of the form \"key = value\"");
    }
}
