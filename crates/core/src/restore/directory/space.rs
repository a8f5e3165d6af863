//! Is there room for the restore?

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use crate::error::{Error, Result};

/// For a restore.
pub(crate) const OTHER_PLACE: &str = "Free some space, or restore to another place; tablespaces go elsewhere with --tablespace-map. \
    If the file system compresses or grows, use --no-space-check.";

/// The bytes that go to a directory, which may not exist yet.
#[derive(Debug, Default)]
pub(crate) struct Need {
    pub(crate) place: PathBuf,
    /// Of all files that are to be there at the end.
    pub(crate) bytes: u64,
    /// Those that are there already, and those that become free.
    pub(crate) room: u64,
    /// The bytes that go there or to one of the other directories.
    pub(crate) bytes_anywhere: u64,
}

/// A file system.
struct FileSystem {
    /// The first of the directories on it.
    place: PathBuf,
    needed: u64,
    free: u64,
    room: u64,
}

impl FileSystem {
    fn find(place: &Path) -> Result<(u64, Self)> {
        let existing = place
            .ancestors()
            .find(|ancestor| ancestor.exists())
            .unwrap_or(Path::new("/"));
        let meta = existing
            .metadata()
            .map_err(|error| Error::io("open", existing, error))?;
        let stat = statvfs(existing).map_err(|error| Error::io("open", existing, error.into()))?;
        let blocks = match nix::unistd::geteuid().is_root() {
            true => stat.blocks_free(),
            false => stat.blocks_available(),
        };
        let file_system = FileSystem {
            place: place.to_owned(),
            needed: 0,
            free: blocks.saturating_mul(stat.fragment_size()),
            room: 0,
        };
        Ok((meta.dev(), file_system))
    }

    fn is_full(&self) -> bool {
        self.needed > self.free.saturating_add(self.room)
    }
}

/// Refuse if a file system has too little room, or all together have. `hint` says what to do then.
pub(crate) fn check(needs: &[Need], hint: &str) -> Result<()> {
    let mut file_systems: BTreeMap<u64, FileSystem> = BTreeMap::new();
    for need in needs {
        let (device, found) = FileSystem::find(&need.place)?;
        let file_system = file_systems.entry(device).or_insert(found);
        file_system.needed = file_system.needed.saturating_add(need.bytes);
        file_system.room = file_system.room.saturating_add(need.room);
    }
    if let Some(full) = file_systems.values().find(|file_system| file_system.is_full()) {
        return Err(too_little(
            format!("the file system of \"{}\" has", full.place.display()),
            full.free,
            full.needed.saturating_sub(full.room),
            hint,
        ));
    }
    let sum = |of: &dyn Fn(&FileSystem) -> u64| file_systems.values().map(of).fold(0, u64::saturating_add);
    let (free, room) = (sum(&|one| one.free), sum(&|one| one.room));
    let needed = needs
        .iter()
        .map(|need| need.bytes_anywhere)
        .fold(sum(&|one| one.needed), u64::saturating_add);
    if needed <= free.saturating_add(room) {
        return Ok(());
    }
    let places: Vec<String> = file_systems
        .values()
        .map(|one| format!("\"{}\"", one.place.display()))
        .collect();
    let which = match &places[..] {
        [place] => format!("the file system of {place} has"),
        places => format!("the file systems of {} have together", places.join(", ")),
    };
    Err(too_little(which, free, needed.saturating_sub(room), hint))
}

fn too_little(which: String, free: u64, needed: u64, hint: &str) -> Error {
    Error::refused(
        format!("{which} {free} bytes free, and {needed} will be written there"),
        hint,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(place: &Path, bytes: u64, room: u64, bytes_anywhere: u64) -> Need {
        Need {
            place: place.to_owned(),
            bytes,
            room,
            bytes_anywhere,
        }
    }

    fn refused(needs: &[Need]) -> String {
        let error = check(needs, OTHER_PLACE).expect_err("too much");
        assert!(error.hint().is_some_and(|hint| hint.contains("--no-space-check")));
        error.to_string()
    }

    #[test]
    fn what_goes_to_one_file_system_is_added_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        check(&[need(&at("a/b"), 4096, 0, 0), need(&at("c"), 4096, 0, 0)], OTHER_PLACE).expect("some bytes are free");
        let half = u64::MAX / 2;
        let text = refused(&[need(&at("a/b"), half, 0, 0), need(&at("c"), half + 1, 0, 0)]);
        assert!(text.contains("a/b") && text.contains(&u64::MAX.to_string()), "{text}");
        // Room that is there or becomes free in one of them serves both.
        check(
            &[
                need(&at("a/b"), half, 10, 0),
                need(&at("c"), half + 1, u64::MAX - 10, 0),
            ],
            OTHER_PLACE,
        )
        .expect("room");
    }

    #[test]
    fn what_goes_anywhere_must_fit_into_all_together() {
        let dir = tempfile::tempdir().expect("a directory");
        // Always another file system than that of the first one.
        let other = Path::new("/proc");
        let free = |place: &Path| FileSystem::find(place).expect("a file system").1.free;
        assert_eq!(free(other), 0);
        check(&[need(dir.path(), 0, 0, 4096), need(other, 0, 0, 0)], OTHER_PLACE).expect("the first one has room");
        check(&[need(other, 0, 0, 4096), need(dir.path(), 0, 0, 0)], OTHER_PLACE).expect("it need not be that one");
        let much = u64::MAX / 2;
        check(&[need(dir.path(), 0, 0, much), need(other, 0, much, 0)], OTHER_PLACE).expect("becomes free");
        let text = refused(&[need(dir.path(), 0, 0, much), need(other, 0, 0, 0)]);
        assert!(text.contains("have together") && text.contains("/proc"), "{text}");
        let text = refused(&[need(dir.path(), 0, 0, much)]);
        assert!(text.starts_with("the file system of"), "{text}");
    }
}
