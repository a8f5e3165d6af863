//! The directories of a restore must be apart, and have nothing in them that somebody may want.

use std::path::{Path, PathBuf};

use super::bare::is_bare;
use super::condition::Marker;
use super::root::Root;
use super::tablespaces::{Tablespace, settled};
use crate::data_dir::wal_directory_name;
use crate::error::{Error, Result};
use crate::restore::options::RestoreMode;

/// Check that no directory is inside another and, for a fresh restore, that all are empty or absent. Returns the target with its
/// links resolved. `major` is the version of the server.
pub(crate) fn check_directories(
    target: &Path,
    tablespaces: &[Tablespace],
    mode: RestoreMode,
    major: u32,
) -> Result<PathBuf> {
    let must_be_empty = mode == RestoreMode::Fresh;
    let target = settled(target)?;
    if must_be_empty {
        let hint = match Marker::is_there(&target) {
            true => {
                "A restore into it was interrupted. Run the same command with --delta to go on with it, or empty the directory."
            }
            false => {
                "Restore into a new directory, or empty this one first. With --delta, the restore uses its content."
            }
        };
        // The target is looked at when it is opened.
        let wal = std::fs::read_link(target.join(wal_directory_name(major))).ok();
        check_empty(&target, wal.as_deref(), hint)?;
    }
    let mut taken = vec![target.clone()];
    for location in tablespaces
        .iter()
        .filter_map(|tablespace| tablespace.location.as_deref())
    {
        let settled = settled(location)?;
        if let Some(other) = taken
            .iter()
            .find(|other| other.starts_with(&settled) || settled.starts_with(other))
        {
            return Err(Error::config(
                format!(
                    "tablespace directory \"{}\" and directory \"{}\" overlap",
                    location.display(),
                    other.display()
                ),
                "Give each a directory of its own with --tablespace-map OLD=NEW.",
            ));
        }
        if must_be_empty {
            check_empty(
                &settled,
                None,
                "Empty it if nothing uses it, or restore to another place with --tablespace-map OLD=NEW.",
            )?;
        }
        taken.push(settled);
    }
    Ok(target)
}

fn check_empty(path: &Path, wal: Option<&Path>, hint: &str) -> Result<()> {
    match Root::find(path)? {
        Some(root) if !is_bare(&root, wal)? => Err(Error::refused(
            format!("directory \"{}\" is not empty", path.display()),
            hint,
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_must_be_empty_and_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        let tablespace = |path: PathBuf| Tablespace {
            oid: "1".to_owned(),
            original: String::new(),
            location: Some(path),
            confirmed: true,
        };
        std::fs::create_dir(at("full")).expect("created");
        std::fs::write(at("full/x"), "").expect("written");
        std::fs::create_dir(at("empty")).expect("created");
        std::os::unix::fs::symlink(at("empty"), at("link")).expect("linked");
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).expect("linked");
        check_directories(&at("new"), &[tablespace(at("empty"))], RestoreMode::Fresh, 15).expect("fine");
        let real = dir.path().canonicalize().expect("real");
        assert_eq!(
            check_directories(&at("link"), &[], RestoreMode::Fresh, 15).expect("fine"),
            real.join("empty")
        );
        for (target, location) in [
            ("full", "other"),
            ("new", "full"),
            ("new", "new/ts"),
            ("new/data", "new"),
            ("empty", "link"),
            ("full/x", "other"),
            ("dangling", "other"),
            ("a/../b", "other"),
        ] {
            assert!(
                check_directories(&at(target), &[tablespace(at(location))], RestoreMode::Fresh, 15).is_err(),
                "{target} {location}"
            );
        }
    }
}
