//! The lines of manifest and files metadata about the files that were packed.

use std::ffi::OsStr;
use std::io;

use super::spool::{Lines, Spool};
use crate::formats::files_metadata::{FileDescription, FileEntry};
use crate::formats::manifest::ManifestFile;

/// Taken while a tar is packed.
#[derive(Default)]
pub(crate) struct Notes {
    members: Spool,
    manifest: Spool,
    /// The sum of the members' sizes.
    pub(crate) bytes: u64,
}

/// Of a tar that is complete.
#[derive(Default)]
pub(crate) struct Packed {
    /// Of each member its name, as the tar has it, and what it is: lines of [`FileEntry::line`].
    pub(crate) members: Lines,
    /// Of each regular file its entry in the manifest: lines of [`ManifestFile::line`].
    pub(crate) manifest: Lines,
    /// The sum of the members' sizes.
    pub(crate) bytes: u64,
    /// Bytes of the object.
    pub(crate) stored: u64,
}

impl Notes {
    /// A member, for the files metadata. JSON knows text only: of a name that is not UTF-8 it has what can be read of it.
    pub(crate) fn member(&mut self, name: &OsStr, description: &FileDescription) -> io::Result<()> {
        self.members
            .push(&FileEntry::line(&name.to_string_lossy(), description)?)
    }

    /// A regular file, for the manifest.
    pub(crate) fn file(&mut self, file: &ManifestFile) -> io::Result<()> {
        self.manifest.push(&file.line())
    }

    /// That was all. The object has so many bytes.
    pub(crate) fn close(self, stored: u64) -> io::Result<Packed> {
        Ok(Packed {
            members: self.members.close()?,
            manifest: self.manifest.close()?,
            bytes: self.bytes,
            stored,
        })
    }
}
