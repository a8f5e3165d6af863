//! The store behind `walarchive.storage`: one door for all backends. No operation waits for long where nothing moves, and
//! errors tell what to do.

mod azure;
mod cloud;
mod create;
mod credentials;
mod errors;
mod fence;
mod file;
mod gcs;
mod http;
mod link;
mod list;
mod motion;
mod odd;
mod parts;
pub(crate) mod pending;
mod reader;
mod renewal;
mod retry;
mod s3;
mod sftp;
mod storage_class;
mod swift;
mod transfer;
mod upload;
mod url;
mod xml_uploads;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutPayload};

use crate::config::StorageConfig;
use crate::error::{Error, Result};
use crate::layout;
use motion::Flow;

pub use create::{CreateOnly, Created};
pub use fence::{Fence, Write};
pub use http::on_connection;
pub use list::Listed;
pub use motion::{Brake, Motion};
pub use pending::{Pending, PendingUpload};
pub use reader::{PART_BYTES, RangeReader};
pub use upload::{Upload, UploadTask, Uploaded};

/// A repository's store. Keys are relative to the prefix of its URL. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// None if no upload leaves anything that it does not remove itself.
    pending: Option<pending::BelowPrefix>,
    url: String,
    /// The longest that an operation waits while nothing moves.
    deadline: Duration,
    learned: Arc<create::Learned>,
    odd: Arc<odd::Odd>,
    origin: Option<Origin>,
    /// Of what moves unseen, because the backend cannot tell: what must move in a second, in bytes.
    slowest: u64,
    flow: Flow,
    /// Is asked before each request that changes anything.
    fence: Option<Arc<dyn Fence>>,
}

/// Tells where the credentials in use are from.
type Origin = Arc<dyn Fn() -> String + Send + Sync>;

/// What a backend opens.
struct Opened {
    objects: Arc<dyn ObjectStore>,
    pending: Option<pending::BelowPrefix>,
    /// What was passed over.
    odd: Arc<odd::Odd>,
    origin: Option<Origin>,
}

impl Opened {
    /// With the uploads of the whole bucket, as seen from the prefix that the URL names.
    fn with_pending(self, uploads: impl pending::PendingUploads + 'static, url: &::url::Url) -> Result<Self> {
        let pending = Some(pending::BelowPrefix::new(uploads, url::prefix(url)?));
        Ok(Opened { pending, ..self })
    }

    /// With what a denial says of the credentials.
    fn with_origin(self, origin: impl Fn() -> String + Send + Sync + 'static) -> Self {
        let origin: Option<Origin> = Some(Arc::new(origin));
        Opened { origin, ..self }
    }
}

/// Without what lies below: some of object_store's types show their credentials.
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
        let opened = match url.scheme() {
            "file" => file::open(&url)?,
            "gs" => gcs::open(&url, config)?,
            "az" => azure::open(&url, config)?,
            "swift" => swift::open(&url, config)?,
            "sftp" => sftp::open(&url, config)?,
            _ => s3::open(&url, config)?,
        };
        // The attempts and the pauses between them, of which the last attempt begins when patience ends.
        let deadline = config.request_timeout + config.patience;
        Ok(Store {
            inner: opened.objects,
            pending: opened.pending,
            url: config.url.trim_end_matches('/').to_owned(),
            deadline,
            learned: Arc::default(),
            odd: opened.odd,
            origin: opened.origin,
            slowest: transfer::SLOWEST,
            flow: Flow::default(),
            fence: None,
        })
    }

    /// A store for tests of what lies above it.
    pub fn of(inner: Arc<dyn ObjectStore>, url: impl Into<String>) -> Self {
        Store {
            inner,
            pending: None,
            url: url.into(),
            deadline: StorageConfig::REQUEST_TIMEOUT,
            learned: Arc::default(),
            odd: Arc::default(),
            origin: None,
            slowest: transfer::SLOWEST,
            flow: Flow::default(),
            fence: None,
        }
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

    /// Can the store be gone without an error, as a directory can from which a file system was unmounted?
    pub fn may_vanish(&self) -> bool {
        self.url.starts_with("file:") || self.url.starts_with("sftp:")
    }

    /// Is anything there that a repository begins with? Without that, "not found" is no answer to believe. Objects that stand
    /// for folders, and those of other programs, make no repository.
    pub async fn is_repository(&self) -> Result<bool> {
        if self.size(layout::CLUSTER).await?.is_some() {
            return Ok(true);
        }
        // WAL-G's has no such file, but WAL or backups.
        let mut found = false;
        let mut look = |is_ours: bool| {
            found |= is_ours;
            if found {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        self.each_while(layout::WAL_FOLDER, |object| {
            look(layout::wal_of_object(&object.key).is_some())
        })
        .await?;
        if !found {
            let objects = self.list_shallow(layout::BACKUPS_FOLDER).await?;
            found = objects
                .iter()
                .any(|object| layout::backup_of_sentinel(&object.key).is_some());
        }
        Ok(found)
    }

    /// The error for a store without a repository.
    pub fn no_repository(&self) -> Error {
        Error::NoSuchStore {
            target: self.url.clone(),
            reason:
                "There is no repository in it: neither the file that tells its owner, nor WAL, nor backups. It may not \
                     be mounted, or the prefix is another one."
                    .to_owned(),
        }
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
    async fn get_first(&self, key: &str, limit: u64) -> Result<Option<(Bytes, u64)>> {
        let options = GetOptions::new().with_range(Some(0..limit));
        match self.read(key, options, limit).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            // No range of an empty object can be satisfied.
            Err(error) => match self.size(key).await {
                Ok(Some(0)) => Ok(Some((Bytes::new(), 0))),
                _ => Err(error),
            },
        }
    }

    /// What the options ask for, which must not be more than `limit` bytes, and the size of the whole object.
    async fn read(&self, key: &str, options: GetOptions, limit: u64) -> Result<(Bytes, u64)> {
        let path = path(key);
        let options = http::bounds::content(options);
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
            .asked_within(deadline, "read", key, transfer::collect(&*self.inner, &path, found))
            .await?;
        Ok((bytes, size))
    }

    /// Remove an object; one that is not there is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.permitted(Write::Deletion).await?;
        let path = path(key);
        let deleted = self.asked("delete", key, self.inner.delete(&path));
        match self.guarded(Write::Deletion, deleted).await? {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => self.delete_again(key, error).await,
        }
    }

    /// Azure's deletions come as a batch in which each is signed by itself, so that a denial of one does not show where
    /// requests are signed anew. After a look at the files it has the credentials of now.
    async fn delete_again(&self, key: &str, error: Error) -> Result<()> {
        if !self.url.starts_with("az:") || !matches!(error, Error::Unauthorized { .. }) {
            return Err(error);
        }
        tokio::time::sleep(renewal::LOOK_EVERY).await;
        self.permitted(Write::Deletion).await?;
        let path = path(key);
        let deleted = self.asked("delete", key, self.inner.delete(&path));
        match self.guarded(Write::Deletion, deleted).await? {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Remove objects, many at a time, with one request where the store can do that; those that are not there are fine. `each`
    /// is told the index of every one that is gone. Each answer has the deadline of one operation. Up to a thousand make one
    /// request.
    pub async fn delete_many(&self, keys: &[String], mut each: impl FnMut(usize)) -> Result<()> {
        let at_once = self.deletes_at_once(keys.len());
        for (index, batch) in keys.chunks(at_once).enumerate() {
            self.permitted(Write::Deletion).await?;
            self.delete_batch(batch, |at| each(index * at_once + at)).await?;
        }
        Ok(())
    }

    async fn delete_batch(&self, keys: &[String], mut each: impl FnMut(usize)) -> Result<()> {
        let paths: Vec<object_store::Result<Path>> = keys.iter().map(|key| Ok(path(key))).collect();
        let mut answers = self.inner.delete_stream(futures::stream::iter(paths).boxed());
        // The answers come in the order of the keys.
        for (index, key) in keys.iter().enumerate() {
            let answer = self.asked("delete", key, async { answers.next().await.transpose() });
            match self.guarded(Write::Deletion, answer).await? {
                Ok(Some(_)) | Err(Error::NotFound { .. }) => each(index),
                Ok(None) => {
                    return Err(Error::Store {
                        operation: "delete",
                        object: self.object_url(key),
                        reason: "The store has not said what became of it.".to_owned(),
                    });
                }
                Err(error) => {
                    self.delete_again(key, error).await?;
                    each(index);
                }
            }
        }
        Ok(())
    }

    /// Remove everything below a folder. Returns how many objects there were.
    pub async fn delete_folder(&self, folder: &str) -> Result<usize> {
        let keys = self.list(folder).await?;
        for object in &keys {
            self.delete(&object.key).await?;
        }
        Ok(keys.len())
    }

    async fn asked<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        self.asked_within(self.deadline, operation, key, work).await
    }

    async fn asked_within<T>(
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
    fn within<T, W>(&self, deadline: Duration, work: W) -> impl Future<Output = Option<T>> + use<T, W>
    where
        W: Future<Output = T>,
    {
        let motion = self.flow.motion.part();
        let brake = self.flow.brake.clone();
        Flow { motion, brake }.watch(deadline, work)
    }

    /// How long nothing may move in an operation that moves that many bytes: a file system does not tell how far it is.
    fn deadline_for(&self, bytes: u64) -> Duration {
        self.deadline + transfer::time_at(self.slowest, bytes)
    }

    fn error(&self, operation: &'static str, key: &str, error: object_store::Error) -> Error {
        let mut error = errors::translate(operation, self.object_url(key), &self.url, error);
        if let (Error::Unauthorized { credentials, .. }, Some(origin)) = (&mut error, &self.origin) {
            *credentials = Some(origin()).filter(|origin| !origin.is_empty());
        }
        error
    }

    fn timeout(&self, operation: &'static str, key: &str, deadline: Duration) -> Error {
        Error::Timeout {
            operation,
            object: self.object_url(key),
            deadline,
        }
    }
}

/// The key as it is: what a listing names must be found under that name, whoever wrote it. `Path::from` would encode a `%`
/// anew; it remains for what cannot be a path, such as one with `..` in it.
fn path(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}

#[cfg(test)]
pub(crate) mod meddler;
#[cfg(test)]
pub(crate) mod pretender;
#[cfg(test)]
mod tests;
