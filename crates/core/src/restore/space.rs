//! Is there room for what will be written?

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::error::{Error, Result};

/// A file system, with what is to be written to it.
struct Room {
    /// The first of the directories on it.
    path: PathBuf,
    needed: u64,
    free: u64,
}

/// Refuse if the directories, of which some may not exist yet, have not so many bytes free.
pub(super) fn check(needs: &[(PathBuf, u64)]) -> Result<()> {
    let mut rooms: BTreeMap<u64, Room> = BTreeMap::new();
    for (path, needed) in needs {
        let existing = path
            .ancestors()
            .find(|ancestor| ancestor.exists())
            .unwrap_or(Path::new("/"));
        let meta = existing
            .metadata()
            .map_err(|error| Error::io("open", existing, error))?;
        let stat = statvfs(existing).map_err(|error| Error::io("open", existing, error.into()))?;
        let free = match nix::unistd::geteuid().is_root() {
            true => stat.blocks_free(),
            false => stat.blocks_available(),
        };
        let room = rooms.entry(meta.dev()).or_insert_with(|| Room {
            path: path.clone(),
            needed: 0,
            free: free.saturating_mul(stat.fragment_size()),
        });
        room.needed = room.needed.saturating_add(*needed);
    }
    let full = rooms.into_values().find(|room| room.needed > room.free);
    full.map_or(Ok(()), |room| {
        Err(Error::config(
            format!(
                "the file system of \"{}\" has {} bytes free, and {} will be written there",
                room.path.display(),
                room.free,
                room.needed
            ),
            "Free some space, or restore to another place; tablespaces go elsewhere with --tablespace-map. If the file system \
             compresses or grows, use --no-space-check.",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_one_file_system_is_added_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        check(&[(at("a/b"), 4096), (at("c"), 4096)]).expect("some bytes are free");
        let half = u64::MAX / 2;
        let error = check(&[(at("a/b"), half), (at("c"), half + 1)]).expect_err("too much");
        let text = error.to_string();
        assert!(text.contains("a/b") && text.contains(&u64::MAX.to_string()), "{text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--no-space-check")));
    }
}
