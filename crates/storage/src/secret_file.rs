//! Who may read a file with a secret.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// Check a file by PostgreSQL's rule for `ssl_key_file`, also one that links lead to: it belongs to the user of the process and
/// nobody else has any permission, or it belongs to root and its group may read it.
pub(crate) fn check_mode(what: &str, path: &Path, meta: &Metadata) -> Result<()> {
    let us = nix::unistd::geteuid().as_raw();
    match fault(meta.uid(), meta.mode(), us) {
        None => Ok(()),
        Some(fault) => Err(Error::config(
            format!("{what} \"{}\" {fault}", path.display()),
            "Set its mode to 0600 or stricter; it must belong to the user of the process, or to root with mode 0640 or \
             stricter. Links are followed: the file at their end counts.",
        )),
    }
}

fn fault(owner: u32, mode: u32, us: u32) -> Option<&'static str> {
    match (owner, us) {
        // Root reads any file, whoever the server runs as.
        _ if mode & 0o077 == 0 && (owner == us || owner == 0 || us == 0) => None,
        (0, _) if mode & 0o037 == 0 => None,
        _ if mode & 0o077 != 0 => Some("can be read by others"),
        _ => Some("is owned by neither the user of the process nor root"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_that_of_ssl_key_file() {
        const US: u32 = 26;
        for (owner, mode, accepted) in [
            (US, 0o600, true),
            (US, 0o400, true),
            (US, 0o640, false),
            (US, 0o604, false),
            (US, 0o620, false),
            (0, 0o600, true),
            (0, 0o640, true),
            (0, 0o440, true),
            (0, 0o660, false),
            (0, 0o650, false),
            (0, 0o644, false),
            (1000, 0o600, false),
            (1000, 0o440, false),
        ] {
            assert_eq!(fault(owner, mode, US).is_none(), accepted, "{owner} {mode:o}");
        }
        assert_eq!(fault(1000, 0o600, 0), None, "root restores for others");
        assert_eq!(fault(1000, 0o640, 0), Some("can be read by others"));
    }
}
