//! The directory of a drill. All of a drill is below it, and whoever holds the lock in it is at work there. A drill that was killed
//! leaves it, without a holder: the next one stops its server and removes it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::{Flock, FlockArg, OFlag};
use walarchive_core::{Error, Result};

use super::dead;

const PREFIX: &str = "walarchive-drill-";
const LOCK: &str = "lock";
const KEPT: &str = "kept";

/// While it is being made, the lock has this name.
const NEW_LOCK: &str = "lock.new";

/// Somebody who fetches WAL ahead may write for some seconds more.
const REMOVING: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(100);

/// A directory without a lock file that is younger is being made.
const MADE_WITHIN: Duration = Duration::from_secs(3600);

/// A Unix socket's path has no more bytes, on any system.
const LONGEST_SOCKET: usize = 103;

/// The directory of this drill.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Scratch {
    /// Make one below `parent`. Nobody else can look into it.
    pub fn create(parent: &Path) -> Result<Self> {
        let parent = fs::canonicalize(parent).map_err(|error| Error::io("open", parent, error))?;
        refuse_inside(&parent)?;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let root = parent.join(format!("{PREFIX}{}-{:x}", std::process::id(), now.as_nanos()));
        let socket = root.join("socket/.s.PGSQL.5432");
        if socket.as_os_str().len() > LONGEST_SOCKET {
            return Err(Error::refused(
                format!(
                    "the path of directory \"{}\" is too long for a socket",
                    parent.display()
                ),
                "Give another directory with --directory, whose path has no more than 40 characters.",
            ));
        }
        make(&root)?;
        let lock = root.join(LOCK);
        let new = root.join(NEW_LOCK);
        let locked = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        let file = locked.map_err(|error| Error::io("create", &new, error))?;
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| Error::io("lock", &new, error.into()))?;
        // Nobody sees the lock before it is held.
        fs::rename(&new, &lock).map_err(|error| Error::io("rename", &new, error))?;
        let scratch = Scratch { root, _lock: held };
        make(&scratch.socket())?;
        Ok(scratch)
    }

    /// Its name, which no other has.
    pub fn name(&self) -> String {
        let name = self.root.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The directory of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("socket")
    }

    /// The tablespaces are below it.
    pub fn tablespaces(&self) -> PathBuf {
        self.root.join("tablespaces")
    }

    /// Any other file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Remove everything.
    pub async fn remove(self) -> Result<()> {
        remove(&self.root).await
    }

    /// Leave everything, as long as its server runs.
    pub fn keep(self) -> Result<()> {
        let kept = self.root.join(KEPT);
        fs::write(&kept, "").map_err(|error| Error::io("write", &kept, error))
    }
}

/// What is in a data directory or a tablespace is the server's, and goes into its backups.
fn refuse_inside(parent: &Path) -> Result<()> {
    let is_of_server = |directory: &&Path| directory.join("PG_VERSION").exists() || is_tablespace(directory);
    match parent.ancestors().find(is_of_server) {
        None => Ok(()),
        Some(inside) => Err(Error::refused(
            format!("directory \"{}\" belongs to a server", inside.display()),
            "Give a directory outside of all data directories and tablespaces with --directory.",
        )),
    }
}

/// Such a directory has one for each version, for example PG_15_202209061.
fn is_tablespace(directory: &Path) -> bool {
    let mut entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.any(|entry| {
        let name = entry.file_name();
        let rest = name.to_string_lossy();
        let parts = rest.strip_prefix("PG_").and_then(|rest| rest.split_once('_'));
        parts.is_some_and(|(major, catalog)| {
            let is_number =
                |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            is_number(major) && is_number(catalog)
        })
    })
}

/// Remove a tree, into which somebody may still write.
async fn remove(root: &Path) -> Result<()> {
    let begun = Instant::now();
    loop {
        match fs::remove_dir_all(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && begun.elapsed() < REMOVING => {
                tokio::time::sleep(AGAIN).await;
            }
            removed => return removed.map_err(|error| Error::io("remove", root, error)),
        }
    }
}

/// Is that a name that a drill gives to its directory?
fn is_ours(name: &str) -> bool {
    let parts = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(pid, time)| {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) && !time.is_empty() && time.bytes().all(is_hex)
    })
}

fn make(directory: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(directory);
    made.map_err(|error| Error::io("create", directory, error))
}

/// The directories of drills that are at work no more.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// They are removed.
    pub removed: Vec<PathBuf>,
    /// Their servers were kept, and run.
    pub kept: Vec<PathBuf>,
}

/// Remove what drills have left below `parent` that were killed, or whose server was kept and has ended.
pub async fn remove_dead(parent: &Path) -> Result<Left> {
    let entries = fs::read_dir(parent).map_err(|error| Error::io("read", parent, error))?;
    let mut left = Left::default();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("read", parent, error))?;
        let root = entry.path();
        if !is_ours(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let Some(_held) = abandoned(&root) else { continue };
        let data = root.join("data");
        if root.join(KEPT).exists() && dead::postmaster(&data).is_some() {
            left.kept.push(root);
            continue;
        }
        dead::stop(&data).await?;
        remove(&root).await?;
        left.removed.push(root);
    }
    Ok(left)
}

/// The lock of a directory of ours, if nobody else has it.
fn abandoned(root: &Path) -> Option<Option<Flock<File>>> {
    let meta = fs::symlink_metadata(root).ok()?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return None;
    }
    let no_links = OFlag::O_NOFOLLOW.bits();
    match OpenOptions::new()
        .write(true)
        .custom_flags(no_links)
        .open(root.join(LOCK))
    {
        Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock).ok().map(Some),
        Err(_) => {
            // Without any lock, somebody else has made it, whatever its name is.
            let is_new = fs::symlink_metadata(root.join(NEW_LOCK)).is_ok_and(|lock| lock.is_file());
            let age = meta.modified().ok()?.elapsed().ok()?;
            (is_new && age > MADE_WITHIN).then_some(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_nobody_holds_is_removed() {
        let place = tempfile::tempdir().expect("a directory");
        let other = place.path().join("walarchive-drill-not");
        fs::write(&other, "a file").expect("written");
        let dead = Scratch::create(place.path()).expect("created");
        let root = dead.root.clone();
        assert_eq!(fs::metadata(&root).expect("there").mode() & 0o777, 0o700);
        fs::create_dir_all(dead.data().join("base/1")).expect("created");
        assert!(
            remove_dead(place.path()).await.expect("looked").removed.is_empty(),
            "it is held"
        );
        drop(dead);
        let alive = Scratch::create(place.path()).expect("created");
        assert_eq!(remove_dead(place.path()).await.expect("removed").removed, [root]);
        assert!(alive.root.is_dir() && other.is_file());
        let kept = alive.root.clone();
        alive.keep().expect("kept");
        // Its server does not run any more.
        assert_eq!(remove_dead(place.path()).await.expect("removed").removed, [kept]);
    }

    #[tokio::test]
    async fn what_others_have_made_stays() {
        let place = tempfile::tempdir().expect("a directory");
        let mine = place.path().join("walarchive-drill-notes");
        let alike = place.path().join("walarchive-drill-1-a");
        for directory in [&mine, &alike] {
            fs::create_dir(directory).expect("created");
            fs::write(directory.join("file"), "").expect("written");
            let old = SystemTime::now() - 3 * MADE_WITHIN;
            File::open(directory)
                .and_then(|file| file.set_modified(old))
                .expect("aged");
        }
        fs::write(mine.join(LOCK), "").expect("written");
        assert_eq!(remove_dead(place.path()).await.expect("looked"), Left::default());
        assert!(mine.is_dir() && alike.is_dir());
        assert!(
            is_ours("walarchive-drill-17-18c0ffee")
                && !is_ours("walarchive-drill-17-")
                && !is_ours("walarchive-drill-17")
        );
    }

    #[tokio::test]
    async fn a_writer_that_ends_late_does_not_keep_the_directory() {
        let place = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::create(place.path()).expect("created");
        let (root, wal) = (scratch.root.clone(), scratch.data().join("pg_wal"));
        fs::create_dir_all(&wal).expect("created");
        let writer = std::thread::spawn(move || {
            let mut written = 0;
            while written < 3000 && fs::write(wal.join(written.to_string()), "").is_ok() {
                written += 1;
            }
        });
        scratch.remove().await.expect("removed");
        writer.join().expect("ended");
        assert!(!root.exists());
    }

    #[test]
    fn a_servers_directory_is_refused() {
        let place = tempfile::tempdir().expect("a directory");
        for (mark, below) in [
            ("data/PG_VERSION", "data/base"),
            ("space/PG_15_202209061", "space/mine"),
        ] {
            let below = place.path().join(below);
            fs::create_dir_all(&below).expect("created");
            fs::create_dir(place.path().join(mark)).expect("created");
            let error = Scratch::create(&below).expect_err("refused");
            assert!(error.to_string().contains("belongs to a server"), "{error}");
        }
    }

    #[test]
    fn a_socket_must_fit() {
        let place = tempfile::tempdir().expect("a directory");
        let long = place.path().join("x".repeat(90));
        fs::create_dir(&long).expect("created");
        let error = Scratch::create(&long).expect_err("too long");
        assert!(error.to_string().contains("too long for a socket"), "{error}");
        assert_eq!(fs::read_dir(&long).expect("read").count(), 0);
    }
}
