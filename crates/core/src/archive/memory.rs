//! What `wal-push` has stored before the server asked for it, remembered until it asks: each call is a process of its own.
//!
//! A memory that is wrong would lose WAL. So an entry counts only for the very file that was stored (a file that is written, renamed
//! or copied has other times), in the very repository and with the settings with which it was stored, in the same boot of the
//! machine and for [`VALID`]. In any other case the file is pushed again, and the store is asked.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::codec::Compression;
use crate::data_dir::wal_directory;
use crate::error::{Error, Result};
use crate::lease::Moment;
use crate::wal::WalFileName;
use walarchive_storage::StorageConfig;

/// Where the entries are, one a file, in `pg_wal` or `pg_xlog`: what is there is in no base backup, of whatever program.
const FOLDER: &str = "walarchive.ahead";

/// The server asks for the next file at once, or is late because it stood still. Another store may be behind the same URL then.
const VALID: Duration = Duration::from_secs(600);

/// Entries that may wait to be asked for. Beyond that nothing is stored ahead.
const MOST: usize = 128;

/// More than any entry has, in bytes.
const LIMIT: u64 = 4096;

const VERSION: u32 = 1;

/// The memory of one data directory, for the present settings.
#[derive(Debug, Clone)]
pub struct Memory {
    pg_wal: PathBuf,
    folder: PathBuf,
    settings: String,
}

/// Tells a file from any other, and from itself after it was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Mark {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i64,
    /// Nobody can set this one.
    changed_ns: i64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    version: u32,
    settings: String,
    file: Mark,
    stored: Moment,
}

impl Mark {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
        let ns = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
        Ok(Mark {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.size(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Is this a variable of a cloud that is no secret?
fn names_a_place(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let of_cloud = ["AWS_", "AZURE_", "GOOGLE_", "OS_", "ST_"];
    let secret = ["SECRET", "KEY", "TOKEN", "PASSWORD"];
    of_cloud.iter().any(|start| name.starts_with(start)) && !secret.iter().any(|word| name.contains(word))
}

/// The files that the store may take its place from, as they are now. A place that is changed there is another one. Their
/// content may be secret, and their times tell of each change as well.
fn marks_of_files(storage: &StorageConfig, variables: &[(OsString, OsString)]) -> Vec<(PathBuf, Option<Mark>)> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let usual = [".aws/config", ".aws/credentials", ".ssh/config", ".ssh/known_hosts"];
    let usual = home.iter().flat_map(|home| usual.map(|file| home.join(file)));
    let named = variables.iter().map(|(_, value)| PathBuf::from(value));
    let options = storage.options.iter().map(|(_, value)| PathBuf::from(value));
    let files = usual
        .chain(named)
        .chain(options)
        .chain(storage.credentials_file.clone());
    files
        .map(|path| {
            let mark = Mark::of(&path).ok();
            (path, mark)
        })
        .collect()
}

impl Memory {
    /// Of this data directory. Nothing of it is read yet.
    pub fn new(data_dir: &Path, storage: &StorageConfig, compression: Compression) -> Self {
        let (mut hasher, pg_wal) = (DefaultHasher::new(), wal_directory(data_dir));
        // The store may take its endpoint from there, too.
        let mut places: Vec<_> = std::env::vars_os().filter(|(name, _)| names_a_place(name)).collect();
        places.sort();
        places.hash(&mut hasher);
        marks_of_files(storage, &places).hash(&mut hasher);
        // A later version of this program may find another number: then it pushes again.
        (
            &storage.url,
            &storage.options,
            &storage.credentials_file,
            &storage.encryption,
            compression,
        )
            .hash(&mut hasher);
        Memory {
            folder: pg_wal.join(FOLDER),
            pg_wal,
            settings: format!("{:016x}", hasher.finish()),
        }
    }

    /// Was this file of `pg_wal` stored by an earlier call? The entry is removed, since the server asks once. After a crash it may
    /// ask again, and then the store knows.
    pub fn take(&self, name: &WalFileName) -> bool {
        let entry = self.read(name);
        if entry.is_some() {
            self.forget(name);
        }
        entry.is_some_and(|entry| self.holds(name, &entry))
    }

    /// Files that wait to be archived after this one, the first ones first, that were not stored ahead. None if there is no such
    /// file as the server's archiver leaves for the one it asks for: then nobody will ask for the others in turn.
    pub(super) fn others(&self, asked: &WalFileName, limit: usize) -> Result<Vec<WalFileName>> {
        // In another user's directory a file of ours would be in the way of its owner's programs.
        let is_own = fs::metadata(&self.pg_wal).is_ok_and(|meta| meta.uid() == geteuid().as_raw());
        let status = self.pg_wal.join("archive_status");
        if !is_own || !status.join(format!("{asked}.ready")).exists() {
            return Ok(Vec::new());
        }
        let known = self.tidy(&status)?;
        let room = MOST.saturating_sub(known.len()).min(limit);
        if room == 0 {
            return Ok(Vec::new());
        }
        let mut ready = super::ready_files(&status, known.len() + room + 1)?;
        ready.retain(|name| name != asked && !known.contains(name));
        ready.truncate(room);
        Ok(ready)
    }

    /// The file with this mark is stored. If that cannot be written down, it is pushed again later.
    pub(super) fn note(&self, name: &WalFileName, file: Mark) {
        let entry = Entry {
            version: VERSION,
            settings: self.settings.clone(),
            file,
            stored: Moment::now(),
        };
        if let Err(error) = self.write(name, &entry) {
            tracing::debug!(%name, %error, "could not write down that the file is stored");
        }
    }

    fn write(&self, name: &WalFileName, entry: &Entry) -> std::io::Result<()> {
        if !self.folder.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&self.folder)?;
        }
        let mut file = tempfile::Builder::new().prefix(".").tempfile_in(&self.folder)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        file.persist(self.path(name))?;
        Ok(())
    }

    fn read(&self, name: &WalFileName) -> Option<Entry> {
        let path = self.path(name);
        let meta = fs::symlink_metadata(&path).ok()?;
        if !meta.is_file() || meta.len() > LIMIT {
            return None;
        }
        serde_json::from_slice(&fs::read(&path).ok()?).ok()
    }

    fn holds(&self, name: &WalFileName, entry: &Entry) -> bool {
        let age = Moment::now().since(&entry.stored);
        entry.version == VERSION
            && entry.settings == self.settings
            && age.is_some_and(|age| age < VALID)
            && Mark::of(&self.pg_wal.join(name.to_string())).is_ok_and(|now| now == entry.file)
    }

    fn forget(&self, name: &WalFileName) {
        // Nobody is harmed by one that stays: it counts for this very file only.
        let _ = fs::remove_file(self.path(name));
    }

    /// The files that are known to be stored. What is of no use any more is removed.
    fn tidy(&self, status: &Path) -> Result<Vec<WalFileName>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &self.folder, error)),
        };
        let mut known = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let name: Option<WalFileName> = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.parse().ok());
            let waits = name.filter(|name| status.join(format!("{name}.ready")).exists());
            match waits.filter(|name| self.read(name).is_some_and(|entry| self.holds(name, &entry))) {
                Some(name) => known.push(name),
                // Also what a call left that was killed.
                None => {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(known)
    }

    fn path(&self, name: &WalFileName) -> PathBuf {
        self.folder.join(name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        memory: Memory,
    }

    fn storage(url: &str) -> StorageConfig {
        StorageConfig::new(url)
    }

    fn name(number: u32) -> WalFileName {
        format!("0000000100000000{number:08X}").parse().expect("a name")
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir_all(dir.path().join("pg_wal/archive_status")).expect("created");
            let memory = Memory::new(dir.path(), &storage("file:///a"), Compression::Plain);
            Fixture { dir, memory }
        }

        fn path(&self, number: u32) -> PathBuf {
            self.dir.path().join("pg_wal").join(name(number).to_string())
        }

        fn ready(&self, number: u32) -> PathBuf {
            let status = self.dir.path().join("pg_wal/archive_status");
            status.join(format!("{}.ready", name(number)))
        }

        /// Such a file waits to be archived.
        fn add(&self, number: u32) {
            fs::write(self.path(number), "content").expect("written");
            fs::write(self.ready(number), "").expect("written");
        }

        fn note(&self, number: u32) {
            self.memory
                .note(&name(number), Mark::of(&self.path(number)).expect("there"));
        }

        fn entries(&self) -> usize {
            fs::read_dir(&self.memory.folder).map_or(0, Iterator::count)
        }
    }

    #[test]
    fn what_is_stored_is_told_once() {
        let fixture = Fixture::new();
        fixture.add(1);
        assert!(!fixture.memory.take(&name(1)));
        fixture.note(1);
        assert!(fixture.memory.take(&name(1)));
        assert!(!fixture.memory.take(&name(1)), "the store knows it then");
        assert_eq!(fixture.entries(), 0);
    }

    #[test]
    fn another_file_of_that_name_is_not_the_one_that_was_stored() {
        let changes: [fn(&Fixture); 4] = [
            |fixture| fs::write(fixture.path(1), "content").expect("written"),
            |fixture| {
                // The server uses a segment again under another name; and somebody sets its times.
                let modified = fs::metadata(fixture.path(1))
                    .and_then(|meta| meta.modified())
                    .expect("a time");
                fs::write(fixture.path(1), "CONTENT").expect("written");
                let file = fs::File::options().write(true).open(fixture.path(1)).expect("opened");
                file.set_modified(modified).expect("set");
            },
            |fixture| {
                fs::copy(fixture.path(1), fixture.path(2)).expect("copied");
                fs::rename(fixture.path(2), fixture.path(1)).expect("renamed");
            },
            |fixture| fs::remove_file(fixture.path(1)).expect("removed"),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let fixture = Fixture::new();
            fixture.add(1);
            fixture.note(1);
            // The clock of file systems ticks some hundred times a second.
            std::thread::sleep(Duration::from_millis(20));
            change(&fixture);
            assert!(!fixture.memory.take(&name(1)), "{at}");
        }
    }

    #[test]
    fn other_settings_are_another_store() {
        let fixture = Fixture::new();
        fixture.add(1);
        for other in [
            Memory::new(fixture.dir.path(), &storage("file:///b"), Compression::Plain),
            Memory::new(fixture.dir.path(), &storage("file:///a"), Compression::Zstd(1)),
        ] {
            fixture.note(1);
            assert!(!other.take(&name(1)));
            assert!(!fixture.memory.take(&name(1)), "it is gone");
        }
    }

    /// The endpoint may be in a file, which keeps its name.
    #[test]
    fn a_file_of_the_store_that_was_changed_is_another_store() {
        let fixture = Fixture::new();
        fixture.add(1);
        let file = fixture.dir.path().join("file");
        let as_option = |file: &Path| {
            let mut config = storage("s3://b");
            config
                .options
                .insert("aws_config_file", &file.to_string_lossy())
                .expect("an option");
            config
        };
        let as_credentials = |file: &Path| StorageConfig {
            credentials_file: Some(file.to_owned()),
            ..storage("s3://b")
        };
        for config in [as_option(&file), as_credentials(&file)] {
            fs::write(&file, "aws_endpoint = http://127.0.0.1:1").expect("written");
            let memory = || Memory::new(fixture.dir.path(), &config, Compression::Plain);
            memory().note(&name(1), Mark::of(&fixture.path(1)).expect("there"));
            assert!(memory().take(&name(1)), "it is the same file");
            memory().note(&name(1), Mark::of(&fixture.path(1)).expect("there"));
            std::thread::sleep(Duration::from_millis(20));
            fs::write(&file, "aws_endpoint = http://127.0.0.1:2").expect("written");
            assert!(!memory().take(&name(1)), "{config:?}");
        }
    }

    #[test]
    fn old_and_broken_entries_count_for_nothing_and_are_removed() {
        let fixture = Fixture::new();
        (1..=4).for_each(|number| fixture.add(number));
        let edit = |number: u32, change: fn(&mut serde_json::Value)| {
            fixture.note(number);
            let path = fixture.memory.path(&name(number));
            let mut entry = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
            change(&mut entry);
            fs::write(&path, entry.to_string()).expect("written");
        };
        edit(1, |entry| {
            let ms = entry["stored"]["ms"].as_u64().expect("a number");
            entry["stored"]["ms"] = ms.saturating_sub(700_000).into();
        });
        edit(2, |entry| entry["stored"]["boot"] = "another".into());
        edit(3, |entry| *entry = serde_json::Value::Null);
        fixture.note(4);
        fs::remove_file(fixture.ready(4)).expect("it is archived");
        fs::write(fixture.memory.folder.join(".left"), "").expect("written");
        fixture.add(5);
        assert_eq!(
            fixture.memory.others(&name(5), 8).expect("read"),
            [name(1), name(2), name(3)]
        );
        assert_eq!(fixture.entries(), 0);
    }

    #[test]
    fn the_first_that_are_not_stored_are_next_and_memory_is_bounded() {
        let fixture = Fixture::new();
        (1..=9).for_each(|number| fixture.add(number));
        fixture.note(2);
        fixture.note(3);
        let others = |limit| fixture.memory.others(&name(1), limit).expect("read");
        assert_eq!(others(3), [name(4), name(5), name(6)]);
        assert_eq!(others(100).len(), 6);
        assert_eq!(
            fixture.memory.others(&name(77), 3).expect("read"),
            [],
            "nobody asks in turn"
        );
        for number in 100..100 + MOST as u32 {
            fixture.add(number);
            fixture.note(number);
        }
        assert_eq!(others(3), []);
    }
}
