//! The files of a backup, in about 30 bytes each: a cluster may have millions.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A file that was found. The path is relative to the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileEntry {
    pub(crate) path: PathBuf,
    /// When it was found; it may differ when it is read.
    pub(crate) size: u64,
}

/// Files in the order of the walk.
#[derive(Debug, Default)]
pub(crate) struct FileList {
    directories: Vec<PathBuf>,
    /// One after the other.
    names: Vec<u8>,
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    /// Which of the directories.
    directory: usize,
    /// The end of its name, which begins at the end of the one before.
    end: usize,
    size: u64,
}

impl FileList {
    pub(crate) fn push(&mut self, path: &Path, size: u64) {
        let directory = path.parent().unwrap_or(Path::new(""));
        if self.directories.last().is_none_or(|last| last != directory) {
            self.directories.push(directory.to_owned());
        }
        self.names
            .extend_from_slice(path.file_name().unwrap_or_default().as_bytes());
        self.files.push(File {
            directory: self.directories.len() - 1,
            end: self.names.len(),
            size,
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Panics if there are not so many.
    pub(crate) fn get(&self, index: usize) -> FileEntry {
        let file = &self.files[index];
        let start = index.checked_sub(1).map_or(0, |before| self.files[before].end);
        let name = OsStr::from_bytes(&self.names[start..file.end]);
        FileEntry {
            path: self.directories[file.directory].join(name),
            size: file.size,
        }
    }

    /// The sizes, in order.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> {
        self.files.iter().map(|file| file.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        let entries: Vec<FileEntry> = [
            "PG_VERSION",
            "base/1/1259",
            "base/1/1259_fsm",
            "base/4/1259",
            "base/x",
            "global/1",
        ]
        .iter()
        .zip(7..)
        .map(|(path, size)| FileEntry {
            path: path.into(),
            size,
        })
        .collect();
        let mut list = FileList::default();
        for entry in &entries {
            list.push(&entry.path, entry.size);
        }
        assert_eq!(list.len(), entries.len());
        assert!((0..list.len()).map(|index| list.get(index)).eq(entries));
        assert_eq!(list.sizes().sum::<u64>(), (7..13).sum::<u64>());
    }
}
