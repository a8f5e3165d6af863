//! May a tablespace go to a place that only the repository names? Anybody who can write the repository can name any place.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

use super::directories::Directories;
use super::owner::Owner;
use super::root::leads_to;
use super::system::is_of_the_system;
use super::tablespaces::{Tablespace, settled};
use crate::error::Result;

/// Confirm the locations that need no question: those that the user gave are confirmed already, and those of the server whose
/// directory is restored into are its own. Others must be accepted. That, too, takes no directory of the system, and where root
/// restores for another user, that one must own the directory or, where it is absent, the one in which it is made: then root does
/// nothing for the repository that this user could not do himself.
pub(crate) fn confirm(
    tablespaces: &mut [Tablespace],
    found: &Directories,
    accepted: bool,
    owner: Option<Owner>,
) -> Result<()> {
    let links = found
        .target
        .as_ref()
        .map(|target| target.look(&[b"pg_tblspc".to_vec()]));
    let links = links.transpose()?.flatten();
    for tablespace in tablespaces.iter_mut().filter(|tablespace| !tablespace.confirmed) {
        let Some(location) = &tablespace.location else {
            tablespace.confirmed = true;
            continue;
        };
        let is_own = |links| leads_to(links, OsStr::new(&tablespace.oid), location);
        tablespace.confirmed =
            links.as_ref().is_some_and(is_own) || (accepted && may_be_accepted(location, geteuid().is_root(), owner)?);
    }
    Ok(())
}

fn may_be_accepted(location: &Path, is_root: bool, owner: Option<Owner>) -> Result<bool> {
    let real = settled(location)?;
    if is_of_the_system(&real) {
        return Ok(false);
    }
    if !is_root {
        return Ok(true);
    }
    let Some(owner) = owner.filter(|owner| owner.uid != 0) else {
        return Ok(false);
    };
    let nearest = real.ancestors().find_map(|ancestor| ancestor.symlink_metadata().ok());
    Ok(nearest.is_some_and(|meta| meta.is_dir() && meta.uid() == owner.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_does_for_the_repository_only_what_the_owner_could_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let uid = dir.path().metadata().expect("there").uid();
        let owned = |uid| Some(Owner { uid, gid: 1 });
        let ask = |path: &Path, is_root, owner| may_be_accepted(path, is_root, owner).expect("looked");
        let absent = dir.path().join("a/b");
        assert!(ask(&absent, false, None) && ask(dir.path(), false, None));
        assert!(!ask(&absent, true, None), "nobody is named");
        assert!(!ask(&absent, true, owned(uid + 1)), "of somebody else");
        assert!(!ask(&absent, true, owned(0)), "no server runs as root");
        if uid == 0 {
            std::os::unix::fs::chown(dir.path(), Some(12_345), Some(12_345)).expect("given");
            assert!(ask(&absent, true, owned(12_345)) && ask(dir.path(), true, owned(12_345)));
            let file = dir.path().join("file");
            std::fs::write(&file, "").expect("written");
            std::os::unix::fs::chown(&file, Some(12_345), Some(12_345)).expect("given");
            assert!(!ask(&file, true, owned(12_345)), "no directory");
        }
        for system in ["/etc/x.d", "/usr/lib/x", "/proc/1", "/root/x"] {
            assert!(!ask(Path::new(system), false, None), "{system}");
        }
        assert!(ask(Path::new("/usr/local/x"), false, None) && ask(Path::new("/dev/shm/x"), false, None));
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("linked");
        assert!(
            !ask(&dir.path().join("link/x"), false, None),
            "where a link leads counts"
        );
    }
}
