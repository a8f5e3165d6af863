//! The place for the content of a file.

use std::io::Write;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};

use super::tree::{Flush, NewFile};
use crate::error::{Error, Result};

/// The size from which on a file's room is taken at once, in bytes.
const RESERVED_BYTES: u64 = 1 << 20;

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

    /// It will be so many bytes long, and all of them will be written. Their room is taken at once where that makes writing cheaper.
    /// As it may be taken for nothing, the size must not come from what the repository says alone.
    pub(crate) fn reserve(&self, bytes: u64) {
        if let Output::File(new) = self
            && bytes >= RESERVED_BYTES
            // Others gain nothing, or lose: what was reserved is not compressed by btrfs.
            && fstatfs(&new.file).is_ok_and(|system| system.filesystem_type() == EXT4_SUPER_MAGIC)
            && let Ok(length) = bytes.try_into()
        {
            // What is wrong is said when it is written.
            let _ = fallocate(&new.file, FallocateFlags::empty(), 0, length);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::directory::directories::Directories;
    use crate::restore::directory::tree::Tree;
    use crate::stored::member::MemberPath;

    #[test]
    fn reserved_room_is_nothing_but_room() {
        let place = tempfile::tempdir().expect("a directory");
        let tree = Tree::open(Directories::default(), place.path(), &[], None).expect("open");
        let path = MemberPath::parse(b"1").expect("a path");
        let content: Vec<u8> = (0..RESERVED_BYTES + 1).map(|at| at as u8).collect();
        let mut output = Output::File(tree.create_file(&path).expect("created"));
        output.reserve(content.len() as u64);
        output.write(&content).expect("written");
        output.keep(0o600, Flush::AtTheEnd).expect("kept");
        assert!(std::fs::read(place.path().join("1")).expect("read") == content);
        // More than there can be is not reserved, and no failure before it is written.
        let path = MemberPath::parse(b"2").expect("a path");
        let mut output = Output::File(tree.create_file(&path).expect("created"));
        output.reserve(u64::MAX);
        output.reserve(i64::MAX as u64);
        output.write(b"2").expect("written");
        output.keep(0o600, Flush::AtTheEnd).expect("kept");
        assert_eq!(std::fs::read(place.path().join("2")).expect("read"), b"2");
        Output::Nowhere.reserve(RESERVED_BYTES);
    }
}
