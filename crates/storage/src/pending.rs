//! Uploads in parts that were begun and are not complete. The parts that a crash leaves take room in the store, and no listing
//! of objects shows them.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::Result as StoreResult;
use object_store::path::Path;

/// An upload that is no object yet. Somebody may be at work on it: only its age tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingUpload {
    /// The key of the object that it would become, relative to the prefix of the store's URL.
    pub key: String,
    /// By which the store tells it from others of the same key.
    pub id: String,
    /// When it was begun.
    pub begun: DateTime<Utc>,
    /// When something was added to it last; when it was begun, if the store does not tell.
    pub touched: DateTime<Utc>,
    /// When it was looked at, by the same clock as the other times.
    pub seen: DateTime<Utc>,
    /// Stored bytes of its parts; none if the store does not tell.
    pub bytes: Option<u64>,
}

impl PendingUpload {
    /// How long nothing had been added to it when it was looked at; not negative.
    pub fn age(&self) -> TimeDelta {
        // Clocks of servers that tell whole seconds are behind those that tell more.
        (self.seen - self.touched).max(TimeDelta::zero())
    }
}

/// A store's answer about its pending uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// These there are.
    Known(Vec<PendingUpload>),
    /// It does not say, for a reason that does not pass by itself: a sentence for the user.
    Unknown(String),
    /// It ends them by itself after some time, or the listing of objects does.
    Unneeded,
}

/// The second half of a backend, of those whose uploads leave something. Keys are those of the whole bucket.
#[async_trait]
pub trait PendingUploads: Send + Sync {
    /// All below a folder, in pages; a page may be empty.
    fn list(&self, folder: &Path) -> BoxStream<'_, StoreResult<Vec<PendingUpload>>>;

    /// Remove what there is of one. False if it stays: it has become an object, or was touched less than `older_than` ago.
    /// One that is gone is removed.
    async fn discard(&self, upload: &PendingUpload, older_than: TimeDelta) -> StoreResult<bool>;

    /// The keys of the symbolic links below a folder, or in its place, if the backend has links that its listings follow.
    async fn links(&self, _folder: &Path) -> StoreResult<Vec<String>> {
        Ok(Vec::new())
    }

    /// The permission that a user needs for a listing, if that is one of its own.
    fn permission(&self) -> Option<&'static str> {
        None
    }
}

/// Those of one prefix.
#[derive(Clone)]
pub(crate) struct BelowPrefix {
    prefix: Path,
    pub(crate) uploads: Arc<dyn PendingUploads>,
}

impl BelowPrefix {
    pub(crate) fn new(uploads: impl PendingUploads + 'static, prefix: Path) -> Self {
        BelowPrefix {
            prefix,
            uploads: Arc::new(uploads),
        }
    }

    pub(crate) fn list(&self, folder: &str) -> BoxStream<'_, StoreResult<Vec<PendingUpload>>> {
        let folder = self.full(folder);
        let pages = self.uploads.list(&folder);
        pages
            .map(move |page| {
                // Servers were seen that take no notice of a prefix, and what is elsewhere is somebody else's.
                let ours = |upload: &PendingUpload| below(&upload.key, &folder).is_some() && is_key(&upload.key);
                Ok(page?
                    .into_iter()
                    .filter(ours)
                    .filter_map(|upload| self.ours(upload))
                    .collect())
            })
            .boxed()
    }

    pub(crate) async fn links(&self, folder: &str) -> StoreResult<Vec<String>> {
        let links = self.uploads.links(&self.full(folder)).await?;
        let ours = |link: &String| below(link, &self.prefix).map(str::to_owned);
        Ok(links.iter().filter_map(ours).collect())
    }

    pub(crate) async fn discard(&self, upload: &PendingUpload, older_than: TimeDelta) -> StoreResult<bool> {
        let upload = PendingUpload {
            key: self.full(&upload.key).into(),
            ..upload.clone()
        };
        self.uploads.discard(&upload, older_than).await
    }

    pub(crate) fn full(&self, key: &str) -> Path {
        self.prefix.parts().chain(crate::key::path(key).parts()).collect()
    }

    pub(crate) fn ours(&self, upload: PendingUpload) -> Option<PendingUpload> {
        let key = below(&upload.key, &self.prefix)?.to_owned();
        Some(PendingUpload { key, ..upload })
    }
}

/// The rest of a key below a folder.
fn below<'a>(key: &'a str, folder: &Path) -> Option<&'a str> {
    match folder.as_ref() {
        "" => Some(key),
        folder => key.strip_prefix(folder)?.strip_prefix('/'),
    }
}

/// Does a key lead back to the object that has it?
fn is_key(key: &str) -> bool {
    Path::parse(key).is_ok_and(|path| path.as_ref() == key)
}
