//! May a tablespace go to where only the repository says that it was? Whoever can write the repository can say anything there.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

use super::options::RestoreMode;
use super::owner::Owner;
use super::plan::RestorePlan;
use super::root::{Directories, leads_to};
use super::tablespaces::{Tablespace, settled};
use crate::error::{Error, Result};

/// Directories of the system, in which nobody has a tablespace.
const OF_THE_SYSTEM: [&str; 15] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/systemd",
    "/var/spool",
];

/// Below those, and yet places for data.
const FOR_DATA: [&str; 2] = ["/dev/shm", "/usr/local"];

/// So many are named in an error.
const NAMED: usize = 8;

/// Confirm the locations that need no question: those that the user gave are confirmed already, and those of the server whose
/// directory is restored into are its own. Others must be accepted. That, too, takes no directory of the system, and where root
/// restores for another user, that one must own the directory or, where it is absent, the one in which it is made: then root does
/// nothing for the repository that this user could not do himself.
pub(super) fn confirm(
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

/// Is it a directory of the system, or in one? The path is without links.
pub(super) fn is_of_the_system(real: &Path) -> bool {
    let is_below = |directories: &[&str]| directories.iter().any(|directory| real.starts_with(directory));
    is_below(&OF_THE_SYSTEM) && !is_below(&FOR_DATA)
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

impl RestorePlan {
    /// The tablespaces whose places only the repository names. [`super::apply`] refuses as long as there are some.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &Tablespace> {
        // Who only reads writes to none of them.
        let writes = self.mode != RestoreMode::VerifyOnly;
        self.tablespaces
            .iter()
            .filter(move |tablespace| writes && !tablespace.confirmed)
    }

    /// Somebody who was asked wants them there.
    pub fn confirm_locations(&mut self) {
        let unconfirmed = self.tablespaces.iter_mut();
        unconfirmed.for_each(|tablespace| tablespace.confirmed = true);
    }

    /// An error if some are not confirmed.
    pub fn check_locations(&self) -> Result<()> {
        let places: Vec<_> = self
            .unconfirmed()
            .filter_map(|tablespace| Some((tablespace.oid.as_str(), tablespace.location.as_ref()?)))
            .collect();
        let Some((oid, _)) = places.first() else {
            return Ok(());
        };
        let would: Vec<String> = places
            .iter()
            .take(NAMED)
            .map(|(oid, location)| format!("tablespace {oid} would go to {location:?}"))
            .collect();
        let more = match places.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", {more} more elsewhere"),
        };
        let hint = match self.accepts_originals {
            false => format!(
                "Say where it goes: --tablespace-map {oid}=DIR, or --tablespace-map-all DIR for all of them. \
                 --tablespace-map-original puts them where the repository says that they were."
            ),
            true => format!(
                "Say where it goes with --tablespace-map {oid}=DIR. --tablespace-map-original takes no directory of the system, and \
                 for root only those that the user of --owner owns or could make."
            ),
        };
        let would = would.join(", ");
        Err(Error::config(
            format!("{would}{more}, and only the repository says so"),
            hint,
        ))
    }
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
