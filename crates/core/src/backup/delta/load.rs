//! Reading what the parent holds: its manifest for the sizes, its files metadata for the rest, both as streams.

use std::io;
use std::path::Path;

use super::databases;
use super::databases::Version;
use super::files::{Known, Listed, ParentFiles};
use crate::blocking::blocking;
use crate::encrypted;
use crate::error::{Error, Result, StorageError};
use crate::formats::files_metadata::{FileDescription, Identity, Listener};
use crate::formats::manifest::{ChecksumAlgorithm, ManifestFile};
use crate::formats::{FILES_LIMIT, files_metadata, manifest};
use crate::repository::layout::{self, Key};
use walarchive_storage::{RangeReader, Store};

/// All files of a backup. [`Error::NotFound`] and [`Error::Damaged`] say why it cannot be a parent.
pub(super) async fn load(store: &Store, backup: &str) -> Result<ParentFiles> {
    let listed = read(store, layout::backup_manifest(backup), list).await?;
    read(store, layout::files_metadata(backup), |source| {
        describe(listed.finish(), source)
    })
    .await
}

/// Read an object with `work`, whose inner error is that of the source.
async fn read<T: Send + 'static>(
    store: &Store,
    key: Key,
    work: impl FnOnce(&mut RangeReader) -> Result<io::Result<T>> + Send + 'static,
) -> Result<T> {
    let object = store.object_url(&key);
    let Some(mut reader) = encrypted::open(store, &key).await? else {
        return Err(Error::Storage(StorageError::NotFound { object }));
    };
    blocking(move || {
        let failed = match work(&mut reader) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => format!("It cannot be read: {error}."),
            Err(Error::Damaged { reason, .. }) => reason,
            Err(error) => return Err(error),
        };
        Err(reader
            .take_failure()
            .map_or_else(|| Error::damaged(object, failed), Error::from))
    })
    .await
}

fn list(source: &mut RangeReader) -> Result<io::Result<Listed>> {
    let mut listed = Listed::default();
    let read = manifest::listen(source, |file: ManifestFile| {
        if listed.len() >= FILES_LIMIT {
            return Err(Error::damaged(
                "backup_manifest",
                format!("It lists more than {FILES_LIMIT} files."),
            ));
        }
        // Of a name that is not UTF-8 nothing is relied on.
        if let Some(path) = file.path.to_str() {
            listed.add(path, file.size);
        }
        Ok(())
    })?;
    Ok(read.map(|_| listed))
}

fn describe(files: ParentFiles, source: &mut RangeReader) -> Result<io::Result<ParentFiles>> {
    let mut described = Described(files);
    Ok(files_metadata::listen(source, &mut described).map(|()| described.0))
}

/// Listens to the files metadata.
struct Described(ParentFiles);

impl Listener for Described {
    type File = FileDescription;

    fn file(&mut self, path: &str, description: FileDescription) -> Result<(), String> {
        if self.0.versions.len() >= FILES_LIMIT {
            return Err("it names too many databases".to_owned());
        }
        // `backup_label` has no slash, and a path that is not UTF-8 is not told whole: neither is relied on.
        if let Some(path) = path.strip_prefix('/') {
            file(&mut self.0, path, &description);
        }
        Ok(())
    }
}

fn file(files: &mut ParentFiles, path: &str, description: &FileDescription) {
    let identity = description.identity.as_ref();
    if databases::of_version(Path::new(path)).is_some() {
        files.versions.push(Version {
            path: path.to_owned(),
            modified: description.mtime,
            settled: identity.is_some(),
        });
    }
    // Of corrupt pages every backup must tell, and what was put right without a WAL record must come in: such a file goes whole,
    // as if the parent did not have it.
    if description.corrupt_blocks.is_some() {
        return;
    }
    let sum = identity.and_then(checksum);
    let known = identity.map(|identity| Known {
        size: identity.size,
        inode: identity.inode,
        changed: identity.changed,
        checksum: sum.as_ref().map(|(algorithm, sum)| (*algorithm, &sum[..])),
    });
    files.describe(path, known);
    if let Some(marked) = &description.all_visible {
        files.mark(path, marked);
    }
}

fn checksum(identity: &Identity) -> Option<(ChecksumAlgorithm, Vec<u8>)> {
    let (algorithm, sum) = identity.checksum.split_once(':')?;
    let algorithm: ChecksumAlgorithm = algorithm.parse().ok()?;
    let sum = manifest::unhex(sum).filter(|sum| sum.len() == algorithm.length())?;
    Some((algorithm, sum))
}
