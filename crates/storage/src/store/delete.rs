//! Removing objects.

use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::Store;
use super::fenced::Permitted;
use crate::error::{Error, Result};
use crate::fence::Write;
use crate::key::path;
use crate::renewal;

impl Store {
    /// Remove an object; one that is not there is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.permitted(Write::Deletion).await?;
        self.delete_permitted(key).await
    }

    /// Remove an object that nobody needs but the one who wrote it, which is this user. So it is permitted as that write was.
    pub async fn delete_own(&self, key: &str) -> Result<()> {
        self.permitted(Write::Object).await?;
        self.delete_permitted(key).await
    }

    async fn delete_permitted(&self, key: &str) -> Result<()> {
        let path = path(key);
        let deleted = self.asked("delete", key, self.inner.delete(&path));
        match self.guarded(Write::Deletion, deleted).await? {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => self.delete_again(key, error).await,
        }
    }

    /// Azure's deletions come as a batch, and each is signed by itself, so that a denial of one does not show where requests
    /// are signed again. After a look at the files it has the credentials of now.
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
    pub async fn delete_many<K: AsRef<str>>(&self, keys: &[K], mut each: impl FnMut(usize)) -> Result<()> {
        let at_once = self.deletes_at_once(keys.len());
        for (index, batch) in keys.chunks(at_once).enumerate() {
            self.permitted(Write::Deletion).await?;
            self.delete_batch(batch, |at| each(index * at_once + at)).await?;
        }
        Ok(())
    }

    async fn delete_batch<K: AsRef<str>>(&self, keys: &[K], mut each: impl FnMut(usize)) -> Result<()> {
        let paths: Vec<object_store::Result<Path>> = keys.iter().map(|key| Ok(path(key.as_ref()))).collect();
        let mut answers = self.inner.delete_stream(futures::stream::iter(paths).boxed());
        let mut permitted = Permitted::now();
        // The answers come in the order of the keys. If each is a request of its own, a few are under way at a time, and asking
        // for one answer sends the next request.
        for (index, key) in keys.iter().map(AsRef::as_ref).enumerate() {
            permitted.renew(self).await?;
            let answer = self.asked("delete", key, async { answers.next().await.transpose() });
            match self.guarded(Write::Deletion, answer).await? {
                Ok(Some(_)) | Err(Error::NotFound { .. }) => each(index),
                Ok(None) => {
                    return Err(Error::Store {
                        operation: "delete",
                        object: self.object_url(key),
                        reason: "The store did not say what became of it.".to_owned(),
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
}
