//! The store behind `walarchive.storage`: one door for all backends. No operation waits for long where nothing moves, and
//! errors tell what to do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutPayload};

use crate::backends;
use crate::config::StorageConfig;
use crate::create_only::Learned;
use crate::crypt::Keyring;
use crate::error::{Error, Result};
use crate::errors;
use crate::fence::{Fence, Write};
use crate::http::bounds;
use crate::key::path;
use crate::odd::Odd;
use crate::opened::Origin;
use crate::pending::BelowPrefix;
use crate::transfer::motion::{Brake, Flow, Motion};
use crate::transfer::{collect, deadlines};
use crate::url;

mod create;
mod delete;
mod fenced;
mod list;
mod pending;

pub use list::Listed;

/// A repository's store. Keys are relative to the prefix of its URL. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<dyn ObjectStore>,
    /// None if no upload leaves anything that it does not remove itself.
    pub(crate) pending: Option<BelowPrefix>,
    url: String,
    /// The longest that an operation waits while nothing moves.
    pub(crate) deadline: Duration,
    pub(crate) learned: Arc<Learned>,
    odd: Arc<Odd>,
    origin: Option<Origin>,
    /// The bytes that must move in a second if the backend cannot tell whether they move.
    pub(crate) slowest: u64,
    pub(crate) flow: Flow,
    /// Is asked before each request that changes anything.
    pub(crate) fence: Option<Arc<dyn Fence>>,
    keyring: Keyring,
}

/// Without what is below: some of object_store's types show their credentials.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("url", &self.url)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The store that the configuration names. Nothing is asked of it yet.
    pub fn open(config: &StorageConfig) -> Result<Self> {
        let url = url::parse(&config.url)?;
        let opened = backends::open(&url, config)?;
        // The attempts and the pauses between them. The last attempt begins when patience ends.
        let deadline = config.request_timeout + config.patience;
        Ok(Store {
            inner: opened.objects,
            pending: opened.pending,
            url: config.url.trim_end_matches('/').to_owned(),
            deadline,
            learned: Arc::default(),
            odd: opened.odd,
            origin: opened.origin,
            slowest: deadlines::SLOWEST,
            flow: Flow::default(),
            fence: None,
            keyring: Keyring::new(&config.encryption),
        })
    }

    /// A store for tests of the layers above it.
    pub fn of(inner: Arc<dyn ObjectStore>, url: impl Into<String>) -> Self {
        Store {
            inner,
            pending: None,
            url: url.into(),
            deadline: StorageConfig::REQUEST_TIMEOUT,
            learned: Arc::default(),
            odd: Arc::default(),
            origin: None,
            slowest: deadlines::SLOWEST,
            flow: Flow::default(),
            fence: None,
            keyring: Keyring::default(),
        }
    }

    /// The keys of its objects.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The same store, whose objects are read with the keys of another.
    pub fn with_keys_of(&self, other: &Store) -> Self {
        let mut store = self.clone();
        store.keyring = other.keyring.clone();
        store
    }

    /// The same store; what is asked of it by this handle and its clones is noted in `motion`.
    pub fn noting(&self, motion: Arc<Motion>) -> Self {
        let mut store = self.clone();
        store.flow.motion = motion;
        store
    }

    /// The same store; whoever holds the brake makes this handle and its clones send slowly.
    pub fn with_brake(&self, brake: Brake) -> Self {
        let mut store = self.clone();
        store.flow.brake = Some(brake);
        store
    }

    /// Is this URL one that [`Store::open`] takes? Looks at its text only.
    pub fn check_url(url: &str) -> Result<()> {
        url::parse(url).map(|_| ())
    }

    /// The URL, which holds no secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Can the store be gone without an error, as a directory can after its file system was unmounted?
    pub fn may_vanish(&self) -> bool {
        self.url.starts_with("file:") || self.url.starts_with("sftp:")
    }

    /// Objects that listings of this store have passed over so far, since no key can name them: escaped, for messages. Of
    /// many not all.
    pub fn passed_over(&self) -> Vec<String> {
        self.odd.names()
    }

    /// The full URL of an object, for messages.
    pub fn object_url(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    /// Write an object, over whatever is there.
    pub async fn put(&self, key: &str, content: Bytes) -> Result<()> {
        self.permitted(Write::Object).await?;
        let path = path(key);
        let deadline = self.deadline_for(content.len() as u64);
        let put = self.inner.put(&path, PutPayload::from(content));
        let put = self.asked_within(deadline, "write", key, put);
        self.guarded(Write::Object, put).await?.map(|_| ())
    }

    /// The size of an object in bytes; none if it is not there.
    pub async fn size(&self, key: &str) -> Result<Option<u64>> {
        let path = path(key);
        match self.asked("read", key, self.inner.head(&path)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A small object as a whole, which may hold up to `limit` bytes; none if it is not there.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        match self.read(key, GetOptions::new(), limit).await {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A part of an object.
    pub async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes> {
        let limit = range.end.saturating_sub(range.start);
        let options = GetOptions::new().with_range(Some(range));
        self.read(key, options, limit).await.map(|(bytes, _)| bytes)
    }

    /// The first `limit` bytes of an object and its whole size; none if it is not there.
    pub(crate) async fn get_first(&self, key: &str, limit: u64) -> Result<Option<(Bytes, u64)>> {
        let options = GetOptions::new().with_range(Some(0..limit));
        match self.read(key, options, limit).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error @ (Error::Timeout { .. } | Error::NoAnswer { .. })) => Err(error),
            // No range of an empty object can be satisfied.
            Err(error) => match self.size(key).await {
                Ok(Some(0)) => Ok(Some((Bytes::new(), 0))),
                _ => Err(error),
            },
        }
    }

    /// The bytes that the options ask for, at most `limit` of them, and the size of the whole object.
    async fn read(&self, key: &str, options: GetOptions, limit: u64) -> Result<(Bytes, u64)> {
        let path = path(key);
        let options = bounds::content(options);
        let found = self.asked("read", key, self.inner.get_opts(&path, options)).await?;
        let (size, bytes) = (found.meta.size, found.range.end.saturating_sub(found.range.start));
        if bytes > limit {
            return Err(Error::damaged(
                self.object_url(key),
                format!("The object has {size} bytes, no more than {limit} were expected."),
            ));
        }
        let deadline = self.deadline_for(bytes);
        let bytes = self
            .asked_within(deadline, "read", key, collect::collect(&*self.inner, &path, found))
            .await?;
        Ok((bytes, size))
    }

    pub(crate) async fn asked<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        self.asked_within(self.deadline, operation, key, work).await
    }

    pub(crate) async fn asked_within<T>(
        &self,
        deadline: Duration,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        match self.within(deadline, work).await {
            Some(result) => result.map_err(|error| self.error(operation, key, error)),
            None => Err(self.timeout(operation, key, deadline)),
        }
    }

    /// None: for that long nothing has moved.
    pub(crate) fn within<T, W>(&self, deadline: Duration, work: W) -> impl Future<Output = Option<T>> + use<T, W>
    where
        W: Future<Output = T>,
    {
        let motion = self.flow.motion.part();
        let brake = self.flow.brake.clone();
        Flow { motion, brake }.watch(deadline, work)
    }

    /// How long nothing may move in an operation that moves that many bytes: a file system does not tell how far it is.
    pub(crate) fn deadline_for(&self, bytes: u64) -> Duration {
        self.deadline + deadlines::time_at(self.slowest, bytes)
    }

    pub(crate) fn error(&self, operation: &'static str, key: &str, error: object_store::Error) -> Error {
        let mut error = errors::translate(operation, self.object_url(key), &self.url, error);
        if let (Error::Unauthorized { credentials, .. }, Some(origin)) = (&mut error, &self.origin) {
            *credentials = Some(origin()).filter(|origin| !origin.is_empty());
        }
        error
    }

    pub(crate) fn timeout(&self, operation: &'static str, key: &str, deadline: Duration) -> Error {
        Error::timeout(operation, self.object_url(key), deadline)
    }
}
