//! The place for the content of a file.

use std::io::Write;
use std::os::unix::fs::FileExt;

use super::tree::{Flush, NewFile};
use crate::error::{Error, Result};

/// A file of the target, or nowhere: a backup can be read with all checks of a restore and without writing anything.
pub(crate) enum Output {
    File(NewFile),
    Nowhere,
}

impl Output {
    /// Append.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Output::File(new) => new
                .file
                .write_all(bytes)
                .map_err(|error| Error::io("write", &new.path, error)),
            Output::Nowhere => Ok(()),
        }
    }

    /// Write at an offset, in bytes.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match self {
            Output::File(new) => new
                .file
                .write_all_at(bytes, offset)
                .map_err(|error| Error::io("write", &new.path, error)),
            Output::Nowhere => Ok(()),
        }
    }

    /// Make it so many bytes long; what was not written is a hole.
    pub(crate) fn set_size(&self, bytes: u64) -> Result<()> {
        match self {
            Output::File(new) => new
                .file
                .set_len(bytes)
                .map_err(|error| Error::io("write", &new.path, error)),
            Output::Nowhere => Ok(()),
        }
    }

    /// Give it its name.
    pub(crate) fn keep(self, mode: u32, flush: Flush) -> Result<()> {
        match self {
            Output::File(new) => new.keep(mode, flush),
            Output::Nowhere => Ok(()),
        }
    }

    /// Leave it under its temporary name, to go on later.
    pub(crate) fn park(self) {
        if let Output::File(new) = self {
            new.park();
        }
    }
}
