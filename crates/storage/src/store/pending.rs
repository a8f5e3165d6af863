//! Uploads that were begun and are not complete: what there is, and removing it.

use chrono::TimeDelta;
use futures::StreamExt;
use object_store::path::Path;

use super::Store;
use crate::error::{Error, Result};
use crate::fence::Write;
use crate::pending::{BelowPrefix, Pending, PendingUpload, PendingUploads};

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
        self.permitted(Write::Deletion).await?;
        let deadline = self.deadline_for(upload.bytes.unwrap_or(0));
        let discarded = self.asked_within(deadline, "delete", &upload.key, pending.discard(upload, older_than));
        match self.guarded(Write::Deletion, discarded).await? {
            Err(Error::NotFound { .. }) => Ok(true),
            outcome => outcome,
        }
    }

    /// A store for tests, with the uploads that they have pending.
    pub fn with_pending(mut self, uploads: impl PendingUploads + 'static) -> Self {
        self.pending = Some(BelowPrefix::new(uploads, Path::default()));
        self
    }
}

/// The sentence for a store that cannot say. A failure that may pass by itself remains an error.
fn unknown(error: Error, permission: Option<&str>) -> Result<String> {
    const STAY: &str = "Uploads that were never completed are not deleted, because the store";
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
    use std::sync::Arc;

    use async_trait::async_trait;
    use chrono::DateTime;
    use futures::stream::BoxStream;
    use object_store::Result as StoreResult;

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
            "Uploads that were never completed are not deleted, because the store refuses to list them: \
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
