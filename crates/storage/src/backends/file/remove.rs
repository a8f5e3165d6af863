//! Removing by descriptors: each directory on the way is opened below the one before, and none of them may be a link. Otherwise
//! somebody who can write into the repository could have anything removed that the server's user may remove.

use std::io::Error as IoError;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::link::BehindLink;

/// Why something was not removed.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is a link, or is behind one.
    Link(BehindLink),
    /// The system's error.
    Io(IoError),
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Refused::Io(error.into())
    }
}

/// Remove the regular file of this key below `root`, and the directories that become empty by that.
pub(super) fn remove(root: &Path, key: &str) -> Result<(), Refused> {
    let parts: Vec<&str> = key.split('/').filter(|part| !part.is_empty()).collect();
    let Some((name, folders)) = parts.split_last() else {
        return Err(Errno::ENOENT.into());
    };
    // A directory that is only passed through needs no permission to read it.
    let passing = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut opened: Vec<OwnedFd> = vec![open(root, passing, Mode::empty())?];
    for (depth, folder) in folders.iter().enumerate() {
        let above = &opened[depth];
        match openat(above, *folder, passing | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(folder) => opened.push(folder),
            Err(Errno::ENOTDIR | Errno::ELOOP) if is(look(above, folder)?, SFlag::S_IFLNK) => {
                return Err(Refused::Link(BehindLink(parts[..=depth].join("/"))));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let kind = look(&opened[folders.len()], name)?;
    if is(kind, SFlag::S_IFLNK) {
        return Err(Refused::Link(BehindLink(parts.join("/"))));
    }
    if is(kind, SFlag::S_IFDIR) {
        return Err(Errno::ENOENT.into());
    }
    if !is(kind, SFlag::S_IFREG) {
        return Err(Refused::Io(IoError::other("it is not a regular file")));
    }
    // Should it be a link by now, the link goes, not what it leads to.
    unlinkat(&opened[folders.len()], *name, UnlinkatFlags::NoRemoveDir)?;
    // From the inside to the outside, until one is not empty. A writer that is at work makes them again.
    for (depth, folder) in folders.iter().enumerate().rev() {
        if unlinkat(&opened[depth], *folder, UnlinkatFlags::RemoveDir).is_err() {
            break;
        }
    }
    Ok(())
}

fn look(folder: &OwnedFd, name: &str) -> Result<FileStat, Errno> {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn is(found: FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == kind
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn link_of(result: Result<(), Refused>) -> String {
        match result {
            Err(Refused::Link(BehindLink(link))) => link,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_goes_behind_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("elsewhere/d")).expect("made");
        std::fs::create_dir_all(at("root/wal/deep")).expect("made");
        for file in ["elsewhere/d/f", "elsewhere/g", "root/wal/a", "root/wal/deep/b"] {
            std::fs::write(at(file), "x").expect("written");
        }
        symlink(at("elsewhere"), at("root/link")).expect("linked");
        symlink(at("elsewhere/g"), at("root/wal/g")).expect("linked");
        symlink("..", at("root/wal/up")).expect("linked");
        let root = at("root");
        assert_eq!(link_of(remove(&root, "link/g")), "link");
        assert_eq!(link_of(remove(&root, "link/d/f")), "link");
        assert_eq!(link_of(remove(&root, "wal/g")), "wal/g");
        assert_eq!(link_of(remove(&root, "wal/up/wal/a")), "wal/up");
        for missing in ["wal/none", "none/a", "wal/deep", ""] {
            let Err(Refused::Io(error)) = remove(&root, missing) else {
                panic!("{missing}")
            };
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{missing}");
        }
        nix::unistd::mkfifo(&at("root/wal/pipe"), Mode::S_IRUSR).expect("made");
        assert!(matches!(remove(&root, "wal/pipe"), Err(Refused::Io(_))));
        remove(&root, "wal/deep/b").expect("removed");
        assert!(!at("root/wal/deep").exists() && at("root/wal/a").exists());
        remove(&root, "wal/a").expect("removed");
        for file in [
            "elsewhere/d/f",
            "elsewhere/g",
            "root/link",
            "root/wal/g",
            "root/wal/pipe",
        ] {
            assert!(at(file).symlink_metadata().is_ok(), "{file}");
        }
        // The directory of the repository itself may be a link.
        symlink(at("root"), at("to-root")).expect("linked");
        std::fs::write(at("root/wal/c"), "x").expect("written");
        remove(&at("to-root"), "wal/c").expect("removed");
    }
}
