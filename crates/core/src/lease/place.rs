//! Where a data directory is: by this it is told from a copy of it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::clock;
use crate::error::{Error, Result};

/// Directories that the server never makes again. That of the data directory itself says little where it is the root of a file
/// system: all of a kind have the same number.
const DIRECTORIES: [&str; 2] = ["base", "global"];

/// A place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `/etc/machine-id`; empty where there is none.
    pub machine: String,
    /// The kernel's boot ID.
    pub boot: String,
    /// The host's name.
    pub host: String,
    /// The data directory, without symbolic links.
    pub path: String,
    /// The file system. The number means something until the next boot.
    pub device: u64,
    /// The numbers of its own directories.
    pub inodes: Vec<u64>,
}

/// Is a place the one that was noted?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// It is.
    Same,
    /// The very directory, or a copy of its whole disk, on another machine, or after another boot under another name.
    Moved,
    /// Another directory.
    Other,
}

impl Place {
    /// That of a data directory.
    pub fn of(data_dir: &Path) -> Result<Self> {
        let path = std::fs::canonicalize(data_dir).map_err(|error| Error::io("open", data_dir, error))?;
        let mut device = 0;
        let mut inodes = Vec::new();
        for directory in DIRECTORIES {
            let directory = path.join(directory);
            let meta = std::fs::metadata(&directory).map_err(|error| Error::io("open", &directory, error))?;
            device = meta.dev();
            inodes.push(meta.ino());
        }
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        Ok(Place {
            machine: machine.trim().to_owned(),
            boot: clock::boot().to_owned(),
            host: host(),
            path: path.to_string_lossy().into_owned(),
            device,
            inodes,
        })
    }

    /// Compare what was noted with what is found.
    pub fn compare(&self, found: &Place) -> Sameness {
        // Within a boot the numbers name the directory, wherever it was moved to. After another boot they may name a copy on
        // another machine, whose disk was cloned.
        let same = match self.boot == found.boot {
            true => self.device == found.device,
            false => {
                !self.machine.is_empty()
                    && self.machine == found.machine
                    && self.host == found.host
                    && self.path == found.path
            }
        };
        match (self.inodes == found.inodes, same) {
            (true, true) => Sameness::Same,
            (true, false) => Sameness::Moved,
            (false, _) => Sameness::Other,
        }
    }
}

/// The host's name.
pub(super) fn host() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            machine: "m".to_owned(),
            boot: "b".to_owned(),
            host: "h".to_owned(),
            path: "/data".to_owned(),
            device: 1,
            inodes: vec![7, 8],
        }
    }

    #[test]
    fn a_copy_is_told_from_the_original() {
        let other = |edit: &dyn Fn(&mut Place)| {
            let mut found = place();
            edit(&mut found);
            place().compare(&found)
        };
        assert_eq!(other(&|_| {}), Sameness::Same);
        // A reboot: device numbers may be dealt out again.
        assert_eq!(other(&|p| (p.boot, p.device) = ("c".to_owned(), 2)), Sameness::Same);
        // The volume in another pod on another node; a snapshot of it beside the original; a directory that was renamed, before
        // and after a boot.
        assert_eq!(
            other(&|p| (p.boot, p.host) = ("c".to_owned(), "i".to_owned())),
            Sameness::Moved
        );
        assert_eq!(
            other(&|p| (p.boot, p.machine) = ("c".to_owned(), String::new())),
            Sameness::Moved
        );
        assert_eq!(other(&|p| p.device = 2), Sameness::Moved);
        assert_eq!(
            other(&|p| (p.path, p.host) = ("/d".to_owned(), "i".to_owned())),
            Sameness::Same
        );
        assert_eq!(
            other(&|p| (p.boot, p.path) = ("c".to_owned(), "/d".to_owned())),
            Sameness::Moved
        );
        assert_eq!(other(&|p| p.inodes = vec![7, 9]), Sameness::Other);
    }
}
