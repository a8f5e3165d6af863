//! Leaving files out that the parent has as they are.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;

use tokio_util::sync::CancellationToken;

use crate::backup::pack::{Packed, Shared, described, member_name};
use crate::backup::walk::{FileEntry, Owner};
use crate::error::{Error, Result};
use crate::formats::files_metadata::FileDescription;
use crate::formats::manifest::ManifestFile;

/// Looks at the files after the start of the backup: what is written later, the WAL writes anew. Returns those that may have
/// changed, and what is to be told of the others.
pub(in crate::backup) fn leave_out(
    shared: &Shared,
    files: Vec<FileEntry>,
    cancel: &CancellationToken,
) -> Result<(Vec<FileEntry>, Packed)> {
    let mut packed = Packed::default();
    let Some(delta) = shared.delta.get() else {
        return Ok((files, packed));
    };
    let (mut left, mut bytes) = (Vec::new(), 0);
    for file in files {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let found = match delta.may_be_unchanged(&file.path) {
            true => look(shared, &file)?,
            false => None,
        };
        let unchanged = found.and_then(|found| Some((delta.unchanged(&file.path, &found)?, Owner::from(&found))));
        let Some((unchanged, owner)) = unchanged else {
            left.push(file);
            continue;
        };
        bytes += unchanged.identity.size;
        let description = FileDescription {
            is_skipped: true,
            ..described(&owner)
        };
        packed.manifest.push(ManifestFile {
            size: unchanged.identity.size,
            last_modified: description.mtime,
            checksum: unchanged.checksum,
            path: file.path.clone(),
        });
        let name = String::from_utf8_lossy(member_name(&file.path).as_bytes()).into_owned();
        packed.members.push((
            name,
            FileDescription {
                identity: Some(unchanged.identity),
                ..description
            },
        ));
    }
    tracing::debug!(
        files = packed.manifest.len(),
        bytes,
        "files that have not changed are left out"
    );
    Ok((left, packed))
}

/// None if it is gone.
fn look(shared: &Shared, file: &FileEntry) -> Result<Option<Metadata>> {
    let path = shared.data_dir.join(&file.path);
    match std::fs::symlink_metadata(&path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path, error)),
    }
}
