//! Symbolic links and special files in the data directory: which of them were followed, and what was left out.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::rules;
use crate::error::{Error, Result};
use crate::formats::{FollowedLink, LeftOut};

/// So many of a kind are named; a data directory with more of them is a thing of its own.
const NAMED: usize = 1000;

/// A link that was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Followed {
    /// Relative to the data directory.
    path: PathBuf,
    /// Canonical.
    target: PathBuf,
    leads_to: LinkTarget,
}

/// The kind of file that a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkTarget {
    File,
    Directory,
}

/// Links that the walk and the packing have found.
#[derive(Debug, Default)]
pub(crate) struct Links {
    followed: Mutex<Vec<Followed>>,
    /// The first ones, and how many there are.
    left_out: Mutex<(Vec<LeftOut>, u64)>,
}

impl Links {
    /// Note a link that leads to `target`.
    pub(crate) fn follow(&self, path: &Path, target: PathBuf, leads_to: LinkTarget) {
        let mut followed = self.followed.lock();
        if followed.len() < NAMED {
            tracing::debug!(path = %path.display(), target = %target.display(), "a symbolic link is followed");
            followed.push(Followed {
                path: path.to_owned(),
                target,
                leads_to,
            });
        }
    }

    /// Note what is not in the backup. `full` is its path.
    pub(crate) fn leave_out(&self, path: &Path, full: &Path, meta: &Metadata) {
        let what = match meta.is_symlink() {
            true => {
                let target = std::fs::read_link(full).unwrap_or_default();
                format!("symbolic link to \"{}\"", target.to_string_lossy().escape_debug())
            }
            false => "special file".to_owned(),
        };
        tracing::warn!(file = %full.display(), "left out of the backup: {what}");
        self.note(path, what);
    }

    /// Note a file that is not in the backup, and why.
    pub(crate) fn name(&self, path: &Path, why: &str) {
        tracing::warn!(file = %path.display(), "left out of the backup: {why}");
        self.note(path, why.to_owned());
    }

    fn note(&self, path: &Path, what: String) {
        let mut left_out = self.left_out.lock();
        left_out.1 += 1;
        if left_out.0.len() < NAMED {
            left_out.0.push(LeftOut {
                path: path.to_string_lossy().into_owned(),
                what,
            });
        }
    }

    /// Do the links still lead to where they led? If not, the copy is of two places. A database may have been dropped.
    pub(crate) fn check(&self, data_dir: &Path) -> Result<()> {
        for link in self
            .followed
            .lock()
            .iter()
            .filter(|link| link.leads_to == LinkTarget::Directory)
        {
            let full = data_dir.join(&link.path);
            let now = match full.canonicalize() {
                Ok(now) if now == link.target => continue,
                Ok(now) => format!("leads to \"{}\" now", now.display()),
                Err(_) if rules::is_database(&link.path) => continue,
                Err(error) => format!("leads to nothing now ({error})"),
            };
            return Err(Error::server(
                format!(
                    "symbolic link \"{}\" led to \"{}\" at the start of the backup, and now {now}",
                    full.display(),
                    link.target.display()
                ),
                "Take another backup; move directories of the server only while it is stopped.",
            ));
        }
        Ok(())
    }

    pub(crate) fn followed(&self) -> Vec<FollowedLink> {
        let followed = self.followed.lock();
        let described = followed.iter().map(|link| FollowedLink {
            path: link.path.to_string_lossy().into_owned(),
            target: link.target.to_string_lossy().into_owned(),
            is_directory: link.leads_to == LinkTarget::Directory,
        });
        described.collect()
    }

    pub(crate) fn left_out(&self) -> (Vec<LeftOut>, u64) {
        self.left_out.lock().clone()
    }
}

/// Find the target of a link that the server itself follows. An error if the target is not there, as the server would miss it
/// too; none if the link is gone by now.
pub(crate) fn target_of(full: &Path) -> Result<Option<(PathBuf, Metadata)>> {
    let reached = full
        .canonicalize()
        .and_then(|target| Ok((std::fs::metadata(&target)?, target)));
    match reached {
        Ok((meta, target)) => Ok(Some((target, meta))),
        Err(error) => match std::fs::symlink_metadata(full) {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(meta) if meta.is_symlink() => {
                let target = std::fs::read_link(full).unwrap_or_default();
                Err(Error::refused(
                    format!(
                        "cannot follow symbolic link \"{}\" to \"{}\": {error}",
                        full.display(),
                        target.display()
                    ),
                    "The server's own data is behind it, and a backup without it could not be restored.",
                ))
            }
            _ => Err(Error::io("open", full, error)),
        },
    }
}
