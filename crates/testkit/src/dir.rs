use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::process::server_user;

/// A directory of one test's own, directly under `/tmp` because the path of a socket must be short.
///
/// It belongs to the user who runs the servers. It is removed when dropped, unless the test panicked or
/// `WALARCHIVE_TEST_KEEP` is set; then its path is printed.
pub struct TestDir {
    // None only while being dropped.
    dir: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl TestDir {
    /// Makes a new, empty one.
    #[allow(clippy::new_without_default)] // A default that writes to the disk would surprise.
    pub fn new() -> TestDir {
        let dir = tempfile::Builder::new()
            .prefix("wa-")
            .tempdir_in("/tmp")
            .expect("could not create a test directory");
        let path = dir.path().to_owned();
        give_to_server(&path);
        TestDir { dir: Some(dir), path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a subdirectory that the servers may write to, and returns its path. It may exist already.
    pub fn subdir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("could not create {}: {e}", path.display()));
        give_to_server(&path);
        path
    }
}

impl Deref for TestDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        if std::thread::panicking() || std::env::var_os("WALARCHIVE_TEST_KEEP").is_some() {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// Makes a file or directory the property of the user who runs the servers; nothing to do unless we are root.
pub(crate) fn give_to_server(path: &Path) {
    let Some((uid, gid)) = server_user() else { return };
    std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw()))
        .unwrap_or_else(|e| panic!("could not change the owner of {}: {e}", path.display()));
}
