//! The file named by `walarchive.credentials_file`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// The largest file that is taken for one, in bytes.
const LIMIT: u64 = 64 << 10;

/// The `key = value` lines of the file. An AWS credentials file is one: its `[default]` section is taken, others are not.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>> {
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
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
    let mut pairs = Vec::new();
    let mut wanted = true;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            wanted = section.trim() == "default";
            continue;
        }
        // The line itself is a secret: say where it is, not what it says.
        let (key, value) = line.split_once('=').ok_or_else(|| {
            Error::config(
                format!(
                    "line {} of credentials file \"{}\" is not of the form \"key = value\"",
                    number + 1,
                    path.display()
                ),
                "It holds lines like \"aws_access_key_id = …\".",
            )
        })?;
        if wanted {
            pairs.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    Ok(pairs)
}
