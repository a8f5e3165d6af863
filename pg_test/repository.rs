//! A repository in a directory, as somebody sees it who has no walarchive: files, and `zstd`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use walarchive_testkit::{Builder, Cluster, PATIENCE, Pg, TestDir, run};

use crate::archiving::SEGMENT;

/// The directory of a repository, whether walarchive writes to it as `file://` or through an S3 server.
pub struct Repository {
    dir: PathBuf,
}

/// One object: what must not change once it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its file's inode.
    pub inode: u64,
    /// When the file was written: nanoseconds since 1970.
    pub modified_ns: i128,
    /// The stored bytes.
    pub bytes: Vec<u8>,
}

impl Repository {
    /// A new, empty one for `file://`.
    pub fn new(dir: &TestDir, name: &str) -> Repository {
        Repository { dir: dir.subdir(name) }
    }

    /// The one that lies in this directory.
    pub fn at(dir: impl Into<PathBuf>) -> Repository {
        Repository { dir: dir.into() }
    }

    /// For `walarchive.storage`.
    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    /// Its place.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The file of the object that holds a WAL file.
    pub fn object(&self, wal_file: &str) -> PathBuf {
        self.dir.join("wal_005").join(format!("{wal_file}.zst"))
    }

    /// The WAL files that it holds, sorted by name, without what a killed writer left under a temporary name.
    pub fn wal_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("wal_005")).into_iter().flatten().flatten();
        let mut files: Vec<String> = entries
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".zst")?.to_owned()))
            .collect();
        files.sort();
        files
    }

    /// The whole segments among them, of all timelines.
    pub fn segments(&self) -> Vec<String> {
        let mut files = self.wal_files();
        files.retain(|file| file.len() == 24);
        files
    }

    /// Everything in `wal_005`, by the name of the WAL file.
    pub fn snapshot(&self) -> BTreeMap<String, Object> {
        let object = |file: String| {
            let path = self.object(&file);
            let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let object = Object {
                inode: meta.ino(),
                modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
                bytes: fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            };
            (file, object)
        };
        self.wal_files().into_iter().map(object).collect()
    }

    /// The content of an archived WAL file, as `zstd -dc` gives it.
    #[track_caller]
    pub fn content(&self, wal_file: &str) -> Vec<u8> {
        let object = self.object(wal_file);
        let output = Command::new("zstd").arg("-dc").arg(&object).output();
        let output = output.unwrap_or_else(|e| panic!("could not run zstd: {e}"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "zstd -dc {}: {error}", object.display());
        output.stdout
    }

    /// Panics unless an archived file has the content that the server's `pg_wal` has under that name.
    #[track_caller]
    pub fn assert_same_as_local(&self, cluster: &Cluster, wal_file: &str) {
        let path = cluster.datadir().join("pg_wal").join(wal_file);
        let local = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(
            self.content(wal_file) == local,
            "{wal_file} in the repository is not that of pg_wal"
        );
    }

    /// Panics if a segment of timeline 1 is missing, from `first` to `last`, or differs from the one in `pg_wal`. Returns how
    /// many there are.
    #[track_caller]
    pub fn assert_complete(&self, cluster: &Cluster, first: &str, last: &str) -> usize {
        let numbers = segment_number(first)..=segment_number(last);
        for segment in numbers.clone().map(|number| segment_name(1, number)) {
            assert!(
                self.object(&segment).is_file(),
                "{segment} is missing, of those from {first} to {last}"
            );
            self.assert_same_as_local(cluster, &segment);
        }
        numbers.count()
    }

    /// Lets the server write to it, or forbids it, as a file system that was mounted read-only does.
    pub fn set_writable(&self, writable: bool) {
        let mode = if writable { 0o755 } else { 0o555 };
        for folder in ["", "wal_005", "walarchive_005"] {
            let path = self.dir.join(folder);
            if path.is_dir() {
                fs::set_permissions(&path, Permissions::from_mode(mode))
                    .unwrap_or_else(|e| panic!("could not change the mode of {}: {e}", path.display()));
            }
        }
    }

    /// Restores LATEST from here into a new cluster of that name, and returns it when it has replayed everything there is
    /// and is promoted. It does not archive.
    #[track_caller]
    pub fn restore(&self, dir: &TestDir, name: &str) -> Cluster {
        let builder = Cluster::builder(dir, name).setting("archive_mode", "off");
        restore(builder, &dir.join(name), &["--storage", &self.url()], &[])
    }
}

/// Restores LATEST into `datadir` and starts a server there. `storage` are the arguments of backup-fetch that name the
/// storage, `env` its environment.
#[track_caller]
pub fn restore(builder: Builder, datadir: &Path, storage: &[&str], env: &[(&str, &str)]) -> Cluster {
    let mut fetch = Pg::find().program("walarchive");
    fetch.arg("backup-fetch").arg(datadir).arg("LATEST").args(storage);
    run(fetch.envs(env.iter().copied())).expect_success();
    let restored = builder.envs(env.iter().copied()).attach(datadir);
    restored.wait_promoted(PATIENCE);
    restored
}

/// The name of a segment of [`SEGMENT`] bytes.
pub fn segment_name(timeline: u32, number: usize) -> String {
    let per_log = (1usize << 32) / SEGMENT;
    format!("{timeline:08X}{:08X}{:08X}", number / per_log, number % per_log)
}

/// The number of a segment of [`SEGMENT`] bytes, counted over all of its timeline.
#[track_caller]
pub fn segment_number(name: &str) -> usize {
    let hex = |range| usize::from_str_radix(&name[range], 16).unwrap_or_else(|e| panic!("{name}: {e}"));
    hex(8..16) * ((1usize << 32) / SEGMENT) + hex(16..24)
}
