//! Archive one WAL file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::frames::{Frame, Frames};
use super::making::{Body, Making};
use super::notes::{forget_unless, note_digest, note_timeline};
use super::source::{Fingerprint, SegmentSource};
use crate::blocking::blocking;
use crate::codec::{Compression, Format};
use crate::encrypted::Wrapping;
use crate::error::{Error, Result, StorageError};
use crate::lease::Writer;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout::Key;
use crate::repository::{self, cluster, encryption, layout};
use crate::threads::Threads;
use crate::wal::{Segment, WalFileName};
use walarchive_storage::{Brake, CreateOnly, Created, Motion, Store, Write};

/// Up to this size, in bytes, a file's compressed form is held in memory and stored by one request. Larger segments go in
/// parts, which takes more requests and memory for some parts only.
const WHOLE_IN_MEMORY: u64 = 64 << 20;

/// The WAL archive of one cluster, for writing.
#[derive(Debug)]
pub struct Archive {
    store: Store,
    identity: ClusterIdentity,
    compression: Compression,
    /// When the compression was chosen.
    opened: SystemTime,
    /// The timeline of a file younger than that which was found under no other compression; 0 before there is one.
    alone: AtomicU32,
    /// How often the repository has begun anew.
    anew: AtomicU32,
    wrapping: OnceCell<Wrapping>,
    /// When it was looked last whether the repository is encrypted as this archive writes.
    agreed: Mutex<Option<Instant>>,
    owned: OnceCell<Option<Bytes>>,
    claimed: OnceCell<CreateOnly>,
    /// What the tail has compressed.
    frames: Arc<Frames>,
    /// None where nobody asks who may write, as in tests.
    writer: Option<Arc<Writer>>,
    /// Another program may store the same files meanwhile, compressed in another way.
    beside_others: bool,
    /// Where files are compressed; none where it may take what it needs.
    threads: Option<Arc<Threads>>,
}

/// A WAL file that the store has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The same content was there before.
    pub already_there: bool,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the object, as it would be or was written.
    pub stored_bytes: u64,
    /// The file that was read.
    pub fingerprint: Fingerprint,
}

impl Archive {
    /// The archive in this store. Nothing is asked of the store yet.
    pub fn new(store: Store, identity: ClusterIdentity, compression: Compression) -> Self {
        Archive {
            store,
            identity,
            compression,
            opened: SystemTime::now(),
            alone: AtomicU32::new(0),
            anew: AtomicU32::new(0),
            wrapping: OnceCell::new(),
            agreed: Mutex::default(),
            owned: OnceCell::new(),
            claimed: OnceCell::new(),
            frames: Arc::default(),
            writer: None,
            beside_others: false,
            threads: None,
        }
    }

    /// The same, beside another program that may store the same files meanwhile: for each file it is looked whether it is there,
    /// compressed in another way.
    pub fn beside_others(self) -> Self {
        Archive {
            beside_others: true,
            ..self
        }
    }

    /// The same, for a server that writes only while it holds the repository's lease.
    pub fn with_writer(self, writer: Arc<Writer>) -> Self {
        Archive {
            writer: Some(writer),
            ..self
        }
    }

    /// The same, whose files are compressed in these threads. What the tail has to compress does not wait for them.
    pub fn with_threads(self, threads: Arc<Threads>) -> Self {
        Archive {
            threads: Some(threads),
            ..self
        }
    }

    /// The same archive, asked through another store for the same repository. What was found is not asked again.
    pub fn through(&self, store: Store) -> Self {
        Archive {
            writer: self.writer.as_ref().map(|writer| writer.through(store.clone())),
            store,
            identity: self.identity,
            compression: self.compression,
            opened: self.opened,
            alone: AtomicU32::new(self.alone.load(Ordering::Relaxed)),
            anew: AtomicU32::new(self.begun_anew()),
            wrapping: self.wrapping.clone(),
            agreed: Mutex::new(*self.agreed.lock()),
            owned: self.owned.clone(),
            claimed: self.claimed.clone(),
            frames: Arc::clone(&self.frames),
            beside_others: self.beside_others,
            threads: self.threads.clone(),
        }
    }

    /// The server, as the lease knows it.
    pub fn writer(&self) -> Option<&Arc<Writer>> {
        self.writer.as_ref()
    }

    /// The store for a piece of work that changes the repository: nothing is changed that this server may not change now.
    pub fn writable(&self) -> Store {
        match &self.writer {
            Some(writer) => writer.fenced(&self.store),
            None => self.store.clone(),
        }
    }

    /// The cluster.
    pub(super) fn identity(&self) -> &ClusterIdentity {
        &self.identity
    }

    /// How WAL files are compressed.
    pub(super) fn compression(&self) -> Compression {
        self.compression
    }

    /// Keep what the tail has compressed for the object of the whole segment, if that is made alike and at once.
    pub(super) fn keep_frame(&self, segment: Segment, frame: Frame) {
        if self.compression.format() == Format::Zstd && self.identity.segment_size.bytes() <= WHOLE_IN_MEMORY {
            self.frames.keep(segment, frame);
        }
    }

    /// The store, for messages.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Make sure, once, that the repository is not another cluster's, and that this server may write into it. It is not made this
    /// cluster's yet: that takes [`Archive::claim`].
    pub async fn permit(&self) -> Result<()> {
        self.owned().await.map(|_| ())
    }

    async fn owned(&self) -> Result<&Option<Bytes>> {
        let owned = async || {
            // Before the lease is taken, too.
            let owned = async {
                // What is wrong with a key is told first.
                self.wrapping().await?;
                let owned = cluster::owned(&self.store, &self.identity).await?;
                encryption::permit_found(&self.store, owned.as_ref()).await?;
                Ok(owned)
            };
            match self.writer.as_ref().filter(|writer| !writer.in_recovery()) {
                // It is much, and asked once.
                Some(writer) => Box::pin(writer.permit_after(owned)).await,
                None => owned.await,
            }
        };
        self.owned.get_or_try_init(owned).await
    }

    /// Make sure, once, that the repository is this cluster's.
    pub async fn claim(&self) -> Result<CreateOnly> {
        let claim = async || {
            let owned = self.owned().await?.clone();
            // Who may not write does not make it his, either. If that was asked just now, nothing is asked.
            if let Some(writer) = self.writer.as_ref().filter(|writer| !writer.in_recovery()) {
                writer.permit(Write::Object).await?;
            }
            let recovering = self.writer.as_ref().filter(|writer| writer.in_recovery());
            if let Some(writer) = recovering {
                writer.remember_in_recovery(owned.is_some()).await?;
            }
            let is_new = owned.is_none();
            let claimed = cluster::claim_found(&self.store, &self.identity, owned).await?;
            *self.agreed.lock() = Some(Instant::now());
            if let Some(writer) = recovering.filter(|_| is_new) {
                writer.remember_in_recovery(true).await?;
            }
            Ok(claimed)
        };
        self.claimed.get_or_try_init(claim).await.copied()
    }

    /// How its objects are made.
    pub(super) async fn wrapping(&self) -> Result<&Wrapping> {
        let make = || Wrapping::of(&self.store, self.compression);
        self.wrapping.get_or_try_init(make).await
    }

    /// Is the repository still encrypted as this archive writes? Somebody may have turned encryption on, or have gone over to another
    /// key, since it was asked.
    async fn agree(&self) -> Result<()> {
        let asked = *self.agreed.lock();
        if asked.is_some_and(|asked| asked.elapsed() < encryption::AGREED_FOR) {
            return Ok(());
        }
        encryption::settle(&self.writable()).await?;
        *self.agreed.lock() = Some(Instant::now());
        Ok(())
    }

    /// As if that was asked long ago.
    #[cfg(test)]
    pub(crate) fn forget_agreement(&self) {
        *self.agreed.lock() = None;
    }

    async fn claim_anew(&self) -> Result<CreateOnly> {
        // A server that may not write does not make the repository its own, either.
        if let Some(writer) = self.writer.as_ref().filter(|writer| !writer.in_recovery()) {
            cluster::is_owned(&self.store, &self.identity).await?;
            writer.permit(Write::Object).await?;
        }
        cluster::claim(&self.store, &self.identity).await
    }

    /// A repository begins anew if all of it was deleted on purpose. One that has vanished does not: its file system is not mounted,
    /// perhaps.
    async fn begin_anew(&self) -> Result<()> {
        let writer = self.writer.as_ref().filter(|writer| !writer.in_recovery());
        if let Some(writer) = writer
            && writer.has_forgotten()?
        {
            self.claim_anew().await?;
            self.note_begun_anew();
        }
        Ok(())
    }

    pub(super) fn note_begun_anew(&self) {
        self.anew.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the repository has begun anew, as far as this archive has seen it: nothing that was there before is there.
    pub(super) fn begun_anew(&self) -> u32 {
        self.anew.load(Ordering::Relaxed)
    }

    /// What comes before each write: the repository is there, it is this cluster's, and it is encrypted as this archive writes.
    pub(super) async fn enter(&self) -> Result<()> {
        // The first time it is much, and it must not make every push so large.
        Box::pin(self.claim()).await?;
        Box::pin(self.begin_anew()).await?;
        Box::pin(self.agree()).await?;
        if self.store.may_vanish() && self.store.size(&layout::CLUSTER).await?.is_none() {
            return Err(repository::none_in(&self.store));
        }
        Ok(())
    }

    /// Archive `directory/name`. Returns only after the store has acknowledged the object, or after the object that was
    /// there was found to have the same content. Never overwrites. Memory is bounded, whatever the size of a segment. It takes
    /// the time that it needs, as long as something moves.
    pub async fn push(&self, directory: &Path, name: &WalFileName) -> Result<Pushed> {
        self.push_noting(directory, name, Arc::default(), Brake::default())
            .await
    }

    /// The same; how far it is can be read in `motion`, and it stands back while the brake is held.
    pub async fn push_noting(
        &self,
        directory: &Path,
        name: &WalFileName,
        motion: Arc<Motion>,
        brake: Brake,
    ) -> Result<Pushed> {
        let path = directory.join(name.to_string());
        self.push_file(path, name, motion, brake).await
    }

    /// The same for a file that is somewhere under another name.
    pub(super) async fn push_file(
        &self,
        path: PathBuf,
        name: &WalFileName,
        motion: Arc<Motion>,
        brake: Brake,
    ) -> Result<Pushed> {
        self.enter().await?;
        let store = self.store.noting(Arc::clone(&motion)).with_brake(brake);
        let key = layout::wal(name, self.compression.format());
        let source = {
            let (path, name, identity) = (path.clone(), *name, self.identity);
            blocking(move || SegmentSource::open(&path, &name, &identity)).await?
        };
        let (file_bytes, fingerprint) = (source.bytes(), source.fingerprint());
        if let Some(reason) = self.no_segment(&source, name).await? {
            // A standby may have got the rest meanwhile.
            source.check_unchanged()?;
            tracing::info!("\"{name}\" is not archived: {reason}");
            return Ok(Pushed {
                already_there: true,
                file_bytes,
                stored_bytes: 0,
                fingerprint,
            });
        }
        let (created, stored_bytes, key) = match self.found_by_standby(&store, name, &key).await? {
            Some(bytes) => (Created::Exists, bytes, key),
            None => self.push_permitted(&store, name, source, key, &motion).await?,
        };
        if created == Created::Exists && !self.is_same(&key, &path).await? {
            return Err(Error::Storage(StorageError::Store {
                operation: "write",
                object: self.store.object_url(&key),
                reason: "the store says that the object exists, and that it does not".to_owned(),
            }));
        }
        if created == Created::Yes {
            motion.reached(stored_bytes);
        }
        if let WalFileName::Segment(segment) = *name {
            self.frames.forget(segment);
        }
        Ok(Pushed {
            already_there: created == Created::Exists,
            file_bytes,
            stored_bytes,
            fingerprint,
        })
    }

    /// A server in recovery that archives too writes only files that are missing, and only those that the holder of the lease
    /// would write. Returns the size of the object that is there. Any other server may write now, or this is an error.
    async fn found_by_standby(&self, store: &Store, name: &WalFileName, key: &Key) -> Result<Option<u64>> {
        let Some(writer) = &self.writer else { return Ok(None) };
        if !writer.in_recovery() {
            return writer.permit(Write::Object).await.map(|()| None);
        }
        let found = store.size(key).await?;
        if found.is_none() {
            writer.permit_standby(name, self.identity.segment_size).await?;
        }
        Ok(found)
    }

    /// Write the file, which [`Archive::found_by_standby`] has permitted. A standby has its own fence.
    async fn push_permitted(
        &self,
        store: &Store,
        name: &WalFileName,
        source: SegmentSource,
        key: Key,
        motion: &Motion,
    ) -> Result<(Created, u64, Key)> {
        match self.writer.as_ref().filter(|writer| !writer.in_recovery()) {
            Some(writer) => {
                let fenced = writer.fenced(store);
                writer
                    .looking_beside(self.push_new(&fenced, name, source, key, motion))
                    .await
            }
            None => self.push_new(store, name, source, key, motion).await,
        }
    }

    /// Write the file under its key, unless it is there, be it compressed in another way: under another key no store would
    /// refuse it. Returns the key under which it is now.
    async fn push_new(
        &self,
        store: &Store,
        name: &WalFileName,
        source: SegmentSource,
        key: Key,
        motion: &Motion,
    ) -> Result<(Created, u64, Key)> {
        let (bytes, fingerprint, path) = (source.bytes(), source.fingerprint(), source.path().to_owned());
        let making = Making {
            source,
            identity: self.identity,
            wrapping: self.wrapping().await?.clone(),
            key: key.clone(),
            threads: self.threads.clone(),
        };
        if bytes > WHOLE_IN_MEMORY {
            // Before gigabytes are compressed and sent.
            if let Some((bytes, key)) = self.in_another_kind(name, &fingerprint).await? {
                return Ok((Created::Exists, bytes, key));
            }
            let (created, bytes) = making.in_parts(store, name).await?;
            return Ok((created, bytes, key));
        }
        if let (WalFileName::History(timeline), false) = (*name, making.wrapping.reads()) {
            note_timeline(store, timeline, path).await?;
        }
        let frames = match (*name, self.compression.format()) {
            (WalFileName::Segment(segment), Format::Zstd) => self.frames.of(segment),
            _ => Vec::new(),
        };
        let (body, other) = tokio::join!(making.whole(frames), self.in_another_kind(name, &fingerprint));
        if let Some((bytes, key)) = other? {
            return Ok((Created::Exists, bytes, key));
        }
        let Body { content, digest } = body?;
        let bytes = content.len() as u64;
        motion.will_send(bytes);
        let note = match digest {
            Some((sum, digest)) => Some(note_digest(store, name, sum, digest).await?),
            None => None,
        };
        let created = store.create(&key, content).await?;
        forget_unless(created, store, &key, note).await;
        Ok((created, bytes, key))
    }

    /// The stored bytes and the key of the file as another setting has compressed it, all looked for at once. A primary has not
    /// stored a file that is younger than this setting with another one, and asks only for the first of them on each timeline:
    /// another server may have written that timeline from there on.
    async fn in_another_kind(&self, name: &WalFileName, file: &Fingerprint) -> Result<Option<(u64, Key)>> {
        let in_recovery = self.writer.as_ref().is_some_and(|writer| writer.in_recovery());
        let is_young = !in_recovery && !self.beside_others && !file.is_older_than(self.opened);
        let timeline = name.segment().map_or(0, |segment| segment.timeline);
        if is_young && timeline != 0 && self.alone.load(Ordering::Relaxed) == timeline {
            return Ok(None);
        }
        let own = self.compression.format();
        let others = Format::ALL.into_iter().filter(|format| *format != own);
        let look = others.map(|format| async move {
            let key = layout::wal(name, format);
            let size = self.store.size(&key).await?;
            Ok::<_, Error>(size.map(|size| (size, key)))
        });
        let found = futures::future::try_join_all(look).await?.into_iter().flatten().next();
        if is_young && found.is_none() && timeline != 0 {
            self.alone.store(timeline, Ordering::Relaxed);
        }
        Ok(found)
    }
}
