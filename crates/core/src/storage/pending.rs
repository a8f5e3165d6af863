//! Uploads in parts that were begun and are not complete. What a crash leaves of one takes room in the store, and no listing
//! of objects shows it.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::Result as StoreResult;
use object_store::path::Path;

use super::Store;
use crate::error::{Error, Result};

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

/// What a store says about its pending uploads.
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
pub(crate) trait PendingUploads: Send + Sync {
    /// All below a folder, in pages; a page may be empty.
    fn list(&self, folder: &Path) -> BoxStream<'_, StoreResult<Vec<PendingUpload>>>;

    /// Remove what there is of one. False if it stays: it has become an object, or was touched less than `older_than` ago.
    /// One that is gone is removed.
    async fn discard(&self, upload: &PendingUpload, older_than: TimeDelta) -> StoreResult<bool>;

    /// The keys of the symbolic links below a folder, or in its place, if the backend has links that its listings follow.
    async fn links(&self, _folder: &Path) -> StoreResult<Vec<String>> {
        Ok(Vec::new())
    }

    /// What a user must be allowed to do for a listing, if that is a permission of its own.
    fn permission(&self) -> Option<&'static str> {
        None
    }
}

/// Those of one prefix.
#[derive(Clone)]
pub(super) struct BelowPrefix {
    prefix: Path,
    uploads: Arc<dyn PendingUploads>,
}

impl BelowPrefix {
    pub(super) fn new(uploads: impl PendingUploads + 'static, prefix: Path) -> Self {
        BelowPrefix {
            prefix,
            uploads: Arc::new(uploads),
        }
    }

    fn list(&self, folder: &str) -> BoxStream<'_, StoreResult<Vec<PendingUpload>>> {
        let folder = self.full(folder);
        let pages = self.uploads.list(&folder);
        pages
            .map(move |page| {
                // Servers were seen that take no notice of a prefix, and what lies elsewhere is somebody else's.
                let ours = |upload: &PendingUpload| below(&upload.key, &folder).is_some() && is_key(&upload.key);
                Ok(page?
                    .into_iter()
                    .filter(ours)
                    .filter_map(|upload| self.ours(upload))
                    .collect())
            })
            .boxed()
    }

    pub(super) async fn links(&self, folder: &str) -> StoreResult<Vec<String>> {
        let links = self.uploads.links(&self.full(folder)).await?;
        let ours = |link: &String| below(link, &self.prefix).map(str::to_owned);
        Ok(links.iter().filter_map(ours).collect())
    }

    async fn discard(&self, upload: &PendingUpload, older_than: TimeDelta) -> StoreResult<bool> {
        let upload = PendingUpload {
            key: self.full(&upload.key).into(),
            ..upload.clone()
        };
        self.uploads.discard(&upload, older_than).await
    }

    fn full(&self, key: &str) -> Path {
        self.prefix.parts().chain(super::path(key).parts()).collect()
    }

    fn ours(&self, upload: PendingUpload) -> Option<PendingUpload> {
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

impl Store {
    /// The uploads below a folder that are not complete, in no particular order. Each page of their listing has the deadline
    /// of one operation.
    pub async fn pending_uploads(&self, folder: &str) -> Result<Pending> {
        let Some(pending) = &self.pending else {
            return Ok(Pending::Unneeded);
        };
        let mut found = Vec::new();
        let mut pages = pending.list(folder);
        loop {
            match self
                .asked("list", folder, async { pages.next().await.transpose() })
                .await
            {
                Ok(Some(page)) => found.extend(page),
                Ok(None) => return Ok(Pending::Known(found)),
                Err(error) => return unknown(error, pending.uploads.permission()).map(Pending::Unknown),
            }
        }
    }

    /// Remove what there is of an upload, unless it has become an object or something was added to it within `older_than`.
    /// False if it stays.
    pub async fn discard_upload(&self, upload: &PendingUpload, older_than: TimeDelta) -> Result<bool> {
        let Some(pending) = &self.pending else {
            return Ok(false);
        };
        self.permitted(super::Write::Deletion).await?;
        let deadline = self.deadline_for(upload.bytes.unwrap_or(0));
        let discarded = self.asked_within(deadline, "delete", &upload.key, pending.discard(upload, older_than));
        match self.guarded(super::Write::Deletion, discarded).await? {
            Err(Error::NotFound { .. }) => Ok(true),
            outcome => outcome,
        }
    }

    /// The same store with pending uploads of a test.
    #[cfg(test)]
    pub(crate) fn with_pending(mut self, uploads: impl PendingUploads + 'static) -> Self {
        self.pending = Some(BelowPrefix::new(uploads, Path::default()));
        self
    }
}

/// The sentence for a store that cannot say. What may pass by itself remains an error.
fn unknown(error: Error, permission: Option<&str>) -> Result<String> {
    const STAY: &str = "Uploads that were never completed are not deleted, as the store";
    match (&error, permission) {
        (Error::Unauthorized { .. }, Some(permission)) => {
            Ok(format!("{STAY} refuses to list them: {permission} is missing."))
        }
        (Error::Unauthorized { reason, .. }, None) => Ok(format!("{STAY} refuses to list them: {reason}")),
        (Error::Unsupported { .. }, _) => Ok(format!(
            "{STAY} cannot list them; let it end them by a rule of its own, if it has such rules."
        )),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Careless;

    #[async_trait]
    impl PendingUploads for Careless {
        /// All of the bucket, whatever was asked for.
        fn list(&self, _: &Path) -> BoxStream<'_, StoreResult<Vec<PendingUpload>>> {
            let keys = [
                "p q/wal_005/a%20b",
                "p q/wal_0051",
                "p q/other/a",
                "wal_005/a",
                "p q/wal_005//a",
            ];
            let page = keys.map(upload).to_vec();
            futures::stream::iter([Ok(page)]).boxed()
        }

        async fn discard(&self, upload: &PendingUpload, _: TimeDelta) -> StoreResult<bool> {
            Ok(upload.key == "p q/wal_005/a%20b")
        }
    }

    fn upload(key: &str) -> PendingUpload {
        PendingUpload {
            key: key.to_owned(),
            id: "1".to_owned(),
            begun: DateTime::UNIX_EPOCH,
            touched: DateTime::UNIX_EPOCH,
            seen: DateTime::UNIX_EPOCH,
            bytes: None,
        }
    }

    #[tokio::test]
    async fn only_what_lies_below_the_prefix_and_the_folder_is_ours() {
        let mut store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        assert_eq!(
            store.pending_uploads("wal_005").await.expect("asked"),
            Pending::Unneeded
        );
        store.pending = Some(BelowPrefix::new(Careless, Path::parse("p q").expect("a prefix")));
        let found = store.pending_uploads("wal_005").await.expect("asked");
        let ours = upload("wal_005/a%20b");
        assert_eq!(found, Pending::Known(vec![ours.clone()]));
        assert!(store.discard_upload(&ours, TimeDelta::zero()).await.expect("asked"));
    }

    #[test]
    fn a_refusal_becomes_a_sentence_and_an_outage_stays_an_error() {
        let (operation, object, reason) = ("list", "s3://b/p/wal_005".to_owned(), "no".to_owned());
        let refused = Error::Unauthorized {
            operation,
            object: object.clone(),
            reason: reason.clone(),
            credentials: None,
        };
        let says = unknown(refused, Some("s3:ListBucketMultipartUploads")).expect("a sentence");
        assert_eq!(
            says,
            "Uploads that were never completed are not deleted, as the store refuses to list them: \
             s3:ListBucketMultipartUploads is missing."
        );
        let away = Error::Store {
            operation,
            object,
            reason,
        };
        assert!(unknown(away, None).is_err());
    }
}
