//! The file named by `walarchive.credentials_file`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// The largest file that is taken for one, in bytes.
const LIMIT: u64 = 64 << 10;

/// A line of the file.
#[derive(PartialEq, Eq)]
pub(super) struct Line {
    /// In lower case.
    pub key: String,
    pub value: String,
    /// The section it stands in: other programs, which know other keys, read these too.
    pub section: Option<String>,
}

/// The file's text, if none but its owner can read it.
pub(super) fn text(path: &Path) -> Result<String> {
    let meta = std::fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
    if meta.mode() & 0o077 != 0 {
        return Err(Error::config(
            format!("credentials file \"{}\" can be read by others", path.display()),
            "Set its mode to 0600 (or 0400); it must belong to the user of the process.",
        ));
    }
    if !meta.is_file() || meta.len() > LIMIT {
        return Err(Error::config(
            format!("\"{}\" is not a credentials file", path.display()),
            "It holds lines like \"aws_access_key_id = …\".",
        ));
    }
    std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))
}

/// The `key = value` lines of the file. Of an AWS credentials file, its `[default]` section is taken.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>> {
    let wanted = |line: &Line| line.section.as_deref().is_none_or(|section| section == "default");
    let lines = lines(&text(path)?, path)?.into_iter().filter(wanted);
    Ok(lines.map(|line| (line.key, line.value)).collect())
}

/// The lines of a text of `key = value` lines with `[section]`s. Lines that are indented belong to a value with parts of its
/// own, as in `~/.aws/config`, and are left out.
pub(super) fn lines(text: &str, path: &Path) -> Result<Vec<Line>> {
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
    fn a_line_that_cannot_be_read_is_not_repeated() {
        let error = lines("a = 1\nhunter2\n", Path::new("/f")).err().expect("refused");
        assert_eq!(error.to_string(), "line 2 of \"/f\" is not of the form \"key = value\"");
    }
}
