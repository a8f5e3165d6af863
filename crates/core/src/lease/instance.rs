//! The file in the data directory that tells an instance from its copies, and what it knows of the lease.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::clock::{Moment, random};
use super::place::{Place, Sameness};
use super::record::{Lease, VERSION};
use super::{STALE, VALID};
use crate::data_dir::wal_directory;
use crate::error::{Error, Result};

/// Its name in the directory of WAL. No base backup, of whatever program, has the content of that directory, and
/// `pg_verifybackup` does not look at it.
const FILE: &str = "walarchive.instance";

/// Where it is in a data directory.
pub fn file(data_dir: &Path) -> PathBuf {
    wal_directory(data_dir).join(FILE)
}

/// More than the file ever has, in bytes.
const LIMIT: u64 = 256 << 10;

/// Tokens that are remembered: a request that was given up may still arrive after later ones.
const TOKENS: usize = 16;

/// Repositories that this server remembers.
const REPOSITORIES: usize = 8;

/// How long another process may be at work with the lease.
const LOCK: Duration = Duration::from_secs(30);
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// The origin of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Origin {
    /// From initdb, or from a time before there were leases, or it has had the lease since.
    Own,
    /// From `backup-fetch`.
    Restored,
    /// By a copy of a directory that had this file.
    Copied,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instance {
    version: u32,
    /// Drawn once; a copy gets another one.
    pub(super) id: String,
    /// The place of the directory when this was written; none when `backup-fetch` wrote it.
    pub(super) place: Option<Place>,
    pub(super) origin: Origin,
    /// Somebody wants it to have the lease, whoever has it.
    #[serde(default)]
    pub(super) take_over: bool,
    /// The server was a standby, and had not been promoted yet.
    #[serde(default)]
    pub(super) standby: bool,
    /// By URL.
    #[serde(default)]
    pub(super) repositories: BTreeMap<String, Known>,
}

/// Our knowledge of a repository's lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) held: Option<Held>,
    /// A lease that was asked for, and may be held: the answer is not there yet, or was lost.
    #[serde(default)]
    pub(super) claim: Option<Held>,
    pub(super) watch: Option<Watch>,
    /// The epoch that has taken the lease from it.
    #[serde(default)]
    pub(super) lost: Option<u64>,
    /// The last holder that was seen, for people.
    #[serde(default)]
    pub(super) seen: Option<Seen>,
    /// A repository was found there while this server was in recovery, in which it takes no lease.
    #[serde(default)]
    pub(super) found: bool,
    /// All of the repository was deleted on purpose, and nobody has taken a lease there since.
    #[serde(default)]
    pub(super) forgotten: bool,
}

/// A lease that is held, or will be if its object turns out to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) epoch: u64,
    /// The last ones that were drawn, newest last.
    pub(super) tokens: Vec<String>,
    /// None: not known yet whether it is held.
    pub(super) renewed: Option<Moment>,
    pub(super) interval_ms: u64,
}

/// Since when the counter has not moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watch {
    pub(super) epoch: u64,
    pub(super) mark: String,
    pub(super) since: Moment,
    /// How long that has to last, in milliseconds.
    pub(super) needs_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) epoch: u64,
    pub(super) holder: String,
    pub(super) timeline: u32,
}

impl Known {
    /// Was a repository seen there?
    pub(super) fn has_met(&self) -> bool {
        self.held.is_some() || self.lost.is_some() || self.seen.is_some() || self.found
    }
}

impl Held {
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// May be written under it now?
    pub(super) fn is_valid(&self, now: &Moment) -> bool {
        let age = self.renewed.as_ref().and_then(|renewed| now.since(renewed));
        age.is_some_and(|age| age < self.interval() * VALID)
    }

    pub(super) fn has_drawn(&self, token: &str) -> bool {
        self.tokens.iter().any(|drawn| drawn == token)
    }

    /// Draw a token, which is to be written down before it is used.
    pub(super) fn draw(&mut self) -> String {
        let token = random();
        self.tokens.push(token.clone());
        let too_many = self.tokens.len().saturating_sub(TOKENS);
        self.tokens.drain(..too_many);
        token
    }

    /// Keep the token that the store shows, however many were drawn that it did not take.
    pub(super) fn keep(&mut self, shown: &str) {
        if !self.has_drawn(shown) {
            self.tokens.insert(0, shown.to_owned());
        }
    }
}

impl Watch {
    /// Note the lease that is seen now, and since when.
    pub(super) fn look(before: Option<&Watch>, epoch: u64, mark: &str, needs: Duration, now: &Moment) -> Watch {
        let goes_on = before.filter(|watch| watch.epoch == epoch && watch.mark == mark && watch.since.boot == now.boot);
        Watch {
            epoch,
            mark: mark.to_owned(),
            since: goes_on.map_or_else(|| now.clone(), |watch| watch.since.clone()),
            needs_ms: u64::try_from(needs.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// For how long it has not moved.
    pub(super) fn lasted(&self, now: &Moment) -> Duration {
        now.since(&self.since).unwrap_or_default()
    }
}

impl Instance {
    pub(super) fn new(origin: Origin, place: Option<Place>) -> Self {
        Instance {
            version: VERSION,
            id: random(),
            place,
            origin,
            take_over: false,
            standby: false,
            repositories: BTreeMap::new(),
        }
    }

    /// The file of a data directory; none if there is none, or it is of no use.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = file(data_dir);
        let content = match std::fs::metadata(&path) {
            Ok(meta) if meta.len() <= LIMIT => std::fs::read(&path),
            Ok(_) => return Ok(None),
            Err(error) => Err(error),
        };
        match content {
            Ok(content) => Ok(serde_json::from_slice(&content).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    /// Of the directory that is there: a copy of another one begins again.
    pub(super) fn of(data_dir: &Path) -> Result<(Self, Sameness)> {
        let here = Place::of(data_dir)?;
        let Some(mut instance) = Self::read(data_dir)? else {
            return Ok((Instance::new(Origin::Own, Some(here)), Sameness::Same));
        };
        match instance.place.as_ref().map(|place| place.compare(&here)) {
            // As backup-fetch left it.
            None => {
                instance.place = Some(here);
                Ok((instance, Sameness::Same))
            }
            Some(Sameness::Other) => {
                let mut copy = Instance::new(Origin::Copied, Some(here));
                // An earlier watch was on this machine, too.
                copy.repositories = instance.repositories;
                copy.repositories
                    .values_mut()
                    .for_each(|known| (known.held, known.claim, known.lost) = (None, None, None));
                Ok((copy, Sameness::Other))
            }
            Some(sameness) => Ok((instance, sameness)),
        }
    }

    /// Is the lease of that repository held, and may be written under it? The shortest way, without any request.
    pub(super) fn permits(data_dir: &Path, url: &str, now: &Moment) -> Result<Option<Held>> {
        let Some(instance) = Self::read(data_dir)? else {
            return Ok(None);
        };
        let held = instance.repositories.get(url).and_then(|known| known.held.clone());
        let Some(held) = held.filter(|held| held.is_valid(now) && !instance.take_over) else {
            return Ok(None);
        };
        let here = Place::of(data_dir)?;
        Ok(Some(held).filter(|_| {
            instance
                .place
                .is_some_and(|place| place.compare(&here) == Sameness::Same)
        }))
    }

    /// Our knowledge of a repository. The same one may have been known by another URL: then its tokens tell.
    pub(super) fn known(&mut self, url: &str, token: Option<&str>) -> &mut Known {
        if !self.repositories.contains_key(url) {
            let is_it = |known: &Known| {
                let held = known.held.as_ref();
                held.is_some_and(|held| held.tokens.iter().any(|known| Some(known.as_str()) == token))
            };
            let other = self
                .repositories
                .iter()
                .find(|(_, known)| is_it(known))
                .map(|(url, _)| url.clone());
            let known = other
                .and_then(|other| self.repositories.remove(&other))
                .unwrap_or_default();
            while self.repositories.len() >= REPOSITORIES {
                self.repositories.pop_first();
            }
            self.repositories.insert(url.to_owned(), known);
        }
        self.repositories.entry(url.to_owned()).or_default()
    }

    /// Write it, so that it outlasts a crash of the machine. If root writes it, it belongs to the owner of the directory.
    pub(super) fn write(&self, data_dir: &Path) -> Result<()> {
        let new = file(data_dir).with_extension("instance.new");
        let path = file(data_dir);
        let failed = |error| Error::io("write", &path, error);
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        let mut file = create(&new, data_dir).map_err(failed)?;
        file.set_len(0).map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&new, &path).map_err(failed)?;
        let folder = path.parent().unwrap_or(data_dir);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

/// As the owner of the directory, where we are root.
fn create(path: &Path, data_dir: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)?;
    if nix::unistd::geteuid().is_root() {
        let meta = std::fs::metadata(data_dir)?;
        std::os::unix::fs::fchown(&file, Some(meta.uid()), Some(meta.gid()))?;
    }
    Ok(file)
}

/// The lock of the file, for as long as the returned value lives. It is a file of its own, as the other one is replaced.
pub(super) async fn lock(data_dir: &Path) -> Result<Flock<File>> {
    let path: PathBuf = file(data_dir).with_extension("instance.lock");
    let mut file = create(&path, data_dir).map_err(|error| Error::io("open", &path, error))?;
    let deadline = tokio::time::Instant::now() + LOCK;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if tokio::time::Instant::now() < deadline => file = back,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(Error::timeout("lock", path.display().to_string(), LOCK));
            }
            Err((_, error)) => return Err(Error::io("lock", path, error.into())),
        }
        tokio::time::sleep(LOCK_AGAIN).await;
    }
}

/// Write the note that `backup-fetch` leaves in a directory that will not be a standby: it waits for a stale lease. With
/// `take_over` it does not wait. `seen` is the lease as it was seen when the restore began, so that the wait counts from then.
pub fn mark_restored(data_dir: &Path, take_over: bool, url: &str, seen: Option<(&Lease, &Moment)>) -> Result<()> {
    let mut instance = Instance::new(Origin::Restored, None);
    instance.take_over = take_over;
    instance.known(url, None).watch =
        seen.map(|(lease, at)| Watch::look(None, lease.holder.epoch, &lease.mark(), lease.interval() * STALE, at));
    instance.write(data_dir)
}

/// The interval that the server of a data directory has promised last, if it holds the lease of that repository.
pub fn promised(data_dir: &Path, url: &str) -> Option<Duration> {
    let mut instance = Instance::read(data_dir).ok().flatten()?;
    let held = instance.repositories.remove(url)?.held?;
    Some(held.interval())
}

/// Have the server of a data directory take the lease at its next write, whoever has it.
pub async fn request_take_over(data_dir: &Path) -> Result<()> {
    let _lock = lock(data_dir).await?;
    let (mut instance, _) = Instance::of(data_dir)?;
    instance.take_over = true;
    instance.write(data_dir)
}
