//! Files that are noticed when they change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::settle;

/// Files as they were just before they were read. Links are followed: what counts is what they lead to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Vec<(PathBuf, Option<Stamp>)>);

/// The facts that tell one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// The same, of its owner and mode too.
    changed: (i64, i64),
}

impl Stamp {
    /// None if the file is not there.
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

impl Watch {
    /// To be called before the file is read, so that no change falls between. A file that is not there may come.
    pub(crate) fn add(&mut self, path: impl Into<PathBuf>) {
        let path = path.into();
        let stamp = Stamp::of(&path);
        self.0.push((path, stamp));
    }

    /// Was one of the files changed within this time?
    pub(crate) fn has_just_changed(&self, within: Duration) -> bool {
        let mut there = self.0.iter().filter(|(_, stamp)| stamp.is_some());
        there.any(|(path, _)| settle::has_just_changed(path, within))
    }

    /// Is one of the files another one than when it was added?
    pub(crate) fn has_changed(&self) -> bool {
        self.0.iter().any(|(path, stamp)| Stamp::of(path) != *stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_replace_a_file_is_noticed() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().expect("a directory");
        let (path, data) = (dir.path().join("f"), dir.path().join("..data"));
        let at = |name: &str| dir.path().join(name);
        let ways: [(&str, &dyn Fn()); 6] = [
            ("it came", &|| std::fs::write(&path, "one").expect("written")),
            ("rewritten", &|| std::fs::write(&path, "three").expect("written")),
            ("another file", &|| {
                std::fs::write(at("g"), "seven").expect("written");
                std::fs::rename(at("g"), &path).expect("renamed");
            }),
            ("its mode", &|| {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).expect("mode set");
            }),
            ("it went", &|| std::fs::remove_file(&path).expect("removed")),
            ("a link to a directory that changes", &|| {
                std::fs::create_dir(at("v1")).expect("created");
                std::fs::write(at("v1").join("f"), "link").expect("written");
                symlink("v1", &data).expect("linked");
                symlink("..data/f", &path).expect("linked");
            }),
        ];
        for (what, way) in ways {
            let mut watch = Watch::default();
            watch.add(&path);
            assert!(!watch.has_changed(), "{what}");
            way();
            assert!(watch.has_changed(), "{what}");
        }
        let mut watch = Watch::default();
        watch.add(&path);
        std::fs::create_dir(at("v2")).expect("created");
        std::fs::write(at("v2").join("f"), "link").expect("written");
        symlink("v2", at("..new")).expect("linked");
        std::fs::rename(at("..new"), &data).expect("renamed");
        assert!(watch.has_changed(), "Kubernetes replaces the link in the middle");
    }
}
