//! Leaving files out that the parent has as they are.

use std::fs::Metadata;
use std::io;

use tokio_util::sync::CancellationToken;

use crate::backup::pack::notes::{Notes, Packed};
use crate::backup::pack::packer::{Shared, described, member_name};
use crate::backup::read::files::{FileEntry, FileList};
use crate::backup::read::rules;
use crate::backup::read::walk::Attributes;
use crate::error::{Error, Result};
use crate::formats::files_metadata::FileDescription;
use crate::formats::manifest::ManifestFile;

/// Looks at the files after the start of the backup: what is written later, the WAL writes again. Returns those that may have
/// changed, and what is to be told of the others.
pub(in crate::backup) fn leave_out(
    shared: &Shared,
    files: &FileList,
    cancel: &CancellationToken,
) -> Result<(FileList, Packed)> {
    let (mut left, mut notes) = (FileList::default(), Notes::default());
    let (mut count, mut bytes) = (0u64, 0);
    let failed = |error| Error::io("note the files of", &shared.data_dir, error);
    for file in (0..files.len()).map(|index| files.get(index)) {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let delta = shared.delta.get().filter(|delta| delta.may_be_unchanged(&file.path));
        let unchanged = match delta {
            Some(delta) => look(shared, &file)?
                .and_then(|found| Some((delta.unchanged(&file.path, &found)?, Attributes::from(&found)))),
            None => None,
        };
        let Some((unchanged, owner)) = unchanged else {
            left.push(&file.path, file.size);
            continue;
        };
        count += 1;
        bytes += unchanged.identity.size;
        let description = FileDescription {
            is_skipped: true,
            identity: Some(unchanged.identity),
            all_visible: delta.and_then(|delta| delta.all_visible(&file.path)),
            ..described(&owner)
        };
        let name = member_name(&file.path);
        notes.member(&name, &description).map_err(failed)?;
        let file = ManifestFile {
            size: description.identity.map_or(file.size, |identity| identity.size),
            last_modified: description.mtime,
            checksum: unchanged.checksum,
            path: file.path,
        };
        notes.file(&file).map_err(failed)?;
    }
    tracing::debug!(files = count, bytes, "files that have not changed are left out");
    Ok((left, notes.close(0).map_err(failed)?))
}

/// None if it is gone.
fn look(shared: &Shared, file: &FileEntry) -> Result<Option<Metadata>> {
    let path = shared.data_dir.join(&file.path);
    let found = match rules::is_of_server(&file.path) {
        true => std::fs::metadata(&path),
        false => std::fs::symlink_metadata(&path),
    };
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path, error)),
    }
}
