//! Which databases are the ones that the parent holds.
//!
//! A page tells by its LSN whether it was changed since the parent was taken only if it was there then, under that name. That
//! is so unless somebody copies files as they are, LSNs and all: `CREATE DATABASE … STRATEGY FILE_COPY` and `ALTER DATABASE …
//! SET TABLESPACE` do, into a directory whose name a dropped database may have had. Both write a new `PG_VERSION` into the
//! directory; so does a restore. A database is the same if its `PG_VERSION` is where it was, and was modified when it was.
//!
//! One case remains: a database that is dropped and made again, with the same OID, while the parent is being taken. Then the
//! parent may hold files of the old one and the `PG_VERSION` of the new one. So `PG_VERSION` must have been there before the
//! parent began. The parent may have only a part of a file that is being copied meanwhile;
//! [`changes`](crate::backup::delta::changes) sees that by the size.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};

use crate::backup::read::rules;
use crate::data_dir::PG_VERSION;
use crate::error::{Error, Result};

/// A `PG_VERSION` so much older than the start of the parent was there before it for sure, whatever was done to the clock.
const SETTLED_AFTER: TimeDelta = TimeDelta::hours(1);

/// The `PG_VERSION` of a database, as the parent holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backup) struct Version {
    /// Relative to the data directory.
    pub(super) path: String,
    pub(super) modified: DateTime<Utc>,
    /// It has an identity, so it was there before the parent began.
    pub(super) settled: bool,
}

/// The OID of the database whose `PG_VERSION` this is, by its path below the data directory.
pub(super) fn of_version(path: &Path) -> Option<u32> {
    let is_version = path.file_name().is_some_and(|name| name == PG_VERSION);
    is_version.then(|| of_file(path))?
}

/// The OID of the database whose directory, in any tablespace, has the file.
pub(in crate::backup) fn of_file(path: &Path) -> Option<u32> {
    let directory = path.parent().filter(|directory| rules::is_database(directory))?;
    directory.file_name()?.to_str()?.parse().ok()
}

/// The OIDs of the databases that are the same as in the parent, which began at `start`. `homes` are all present files whose
/// database [`of_version`] knows.
pub(super) fn same(
    homes: &[PathBuf],
    data_dir: &Path,
    versions: &[Version],
    start: DateTime<Utc>,
) -> Result<HashSet<u32>> {
    // A database that is being moved, or was then, has two homes.
    let mut then: BTreeMap<u32, Vec<&Version>> = BTreeMap::new();
    for version in versions {
        if let Some(database) = of_version(Path::new(&version.path)) {
            then.entry(database).or_default().push(version);
        }
    }
    let mut now: BTreeMap<u32, Vec<&PathBuf>> = BTreeMap::new();
    for path in homes {
        if let Some(database) = of_version(path) {
            now.entry(database).or_default().push(path);
        }
    }
    let mut same = HashSet::new();
    for (database, homes) in now {
        let ([home], Some([version])) = (&homes[..], then.get(&database).map(Vec::as_slice)) else {
            continue;
        };
        let settled = version.settled || version.modified < start - SETTLED_AFTER;
        if home.as_os_str() == version.path.as_str()
            && settled
            && modified(&data_dir.join(home))? == Some(version.modified)
        {
            same.insert(database);
        }
    }
    Ok(same)
}

/// None if it is gone.
fn modified(path: &Path) -> Result<Option<DateTime<Utc>>> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(DateTime::from_timestamp(
            meta.mtime(),
            u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn version(path: &str, at: SystemTime) -> Version {
        Version {
            path: path.to_owned(),
            modified: at.into(),
            settled: true,
        }
    }

    #[test]
    fn files_are_of_databases_by_their_directory() {
        for (path, database) in [
            ("base/5/1259", Some(5)),
            ("base/5/PG_VERSION", Some(5)),
            ("pg_tblspc/16400/PG_15_202209061/6/1.2", Some(6)),
            ("global/1262", None),
            ("base/5/x/1", None),
            ("PG_VERSION", None),
            ("base/99999999999/1", None),
        ] {
            assert_eq!(of_file(Path::new(path)), database, "{path}");
        }
        assert_eq!(of_version(Path::new("base/5/PG_VERSION")), Some(5));
        assert_eq!(of_version(Path::new("base/5/1259")), None);
    }

    #[test]
    fn a_database_is_the_same_if_its_version_file_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = SystemTime::now() - Duration::from_secs(7200);
        let put = |path: &str| {
            let full = dir.path().join(path);
            std::fs::create_dir_all(full.parent().expect("a parent")).expect("made");
            let file = std::fs::File::create(full).expect("made");
            file.set_modified(old).expect("set");
            PathBuf::from(path)
        };
        let ts = "pg_tblspc/9/PG_15_1/5/PG_VERSION";
        let (base, other) = (put("base/5/PG_VERSION"), put("base/6/PG_VERSION"));
        let start: DateTime<Utc> = SystemTime::now().into();
        let same_as = |files: &[&PathBuf], versions: &[Version], start| {
            let homes: Vec<PathBuf> = files.iter().map(|path| path.to_path_buf()).collect();
            let mut same: Vec<u32> = same(&homes, dir.path(), versions, start)
                .expect("looked")
                .into_iter()
                .collect();
            same.sort();
            same
        };
        let before = [version("base/5/PG_VERSION", old), version("base/6/PG_VERSION", old)];
        assert_eq!(same_as(&[&base, &other], &before, start), [5, 6]);
        // New since, gone since, made again since.
        assert_eq!(same_as(&[&base, &other], &before[..1], start), [5]);
        assert_eq!(same_as(&[&base], &before, start), [5]);
        let anew = [version("base/5/PG_VERSION", old - Duration::from_nanos(1))];
        assert_eq!(same_as(&[&base], &anew, start), [0; 0]);
        // Moved since, or being moved, then or now.
        assert_eq!(same_as(&[&base], &[version(ts, old)], start), [0; 0]);
        assert_eq!(same_as(&[&base], &[before[0].clone(), version(ts, old)], start), [0; 0]);
        assert_eq!(same_as(&[&base, &put(ts)], &before, start), [0; 0]);
        // Perhaps made while the parent was taken.
        let mut fresh = before[0].clone();
        fresh.settled = false;
        assert_eq!(same_as(&[&base], &[fresh.clone()], start), [5]);
        let soon_after: DateTime<Utc> = (old + Duration::from_secs(3599)).into();
        assert_eq!(same_as(&[&base], &[fresh], soon_after), [0; 0]);
        std::fs::remove_file(dir.path().join(&base)).expect("removed");
        assert_eq!(same_as(&[&base], &before, start), [0; 0]);
    }
}
