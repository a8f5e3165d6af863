//! Listings.

use std::ops::ControlFlow;

use futures::StreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::Store;
use crate::error::{Error, Result};
use crate::key::path;

/// More than any folder has: 800 TB of WAL are as many. A listing without an end must not fill the memory.
const MOST_OBJECTS: u64 = 50_000_000;

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the prefix of the store's URL.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// When it was written last.
    pub last_modified: chrono::DateTime<chrono::Utc>,
}

impl Store {
    /// Look at all objects below a folder, in no particular order, while the pages of the listing come in. Each page has the
    /// deadline of one operation.
    pub async fn each(&self, folder: &str, mut look: impl FnMut(Listed)) -> Result<()> {
        let pages = self.inner.list(Some(&path(folder)));
        self.visit(folder, pages, |object| {
            look(object);
            ControlFlow::Continue(())
        })
        .await
    }

    /// The same until `look` has seen enough.
    pub async fn each_while(&self, folder: &str, look: impl FnMut(Listed) -> ControlFlow<()>) -> Result<()> {
        self.visit(folder, self.inner.list(Some(&path(folder))), look).await
    }

    /// The same for those whose key comes after `after`, until `look` has seen enough.
    pub async fn each_after(
        &self,
        folder: &str,
        after: &str,
        look: impl FnMut(Listed) -> ControlFlow<()>,
    ) -> Result<()> {
        let pages = self.inner.list_with_offset(Some(&path(folder)), &path(after));
        self.visit(folder, pages, look).await
    }

    /// Does a listing usually come in the order of the keys, so that it can be ended early? An object that such a listing does
    /// not show is to be looked for again.
    pub fn lists_in_order(&self) -> bool {
        !self.may_vanish()
    }

    /// Can a listing begin behind a key at the cost of what comes after it? Swift's is made from the beginning here, and what comes
    /// before the key is left out.
    pub fn lists_from_anywhere(&self) -> bool {
        self.lists_in_order() && !self.url().starts_with("swift:")
    }

    /// The keys of the symbolic links below these folders, or in their place, in order. Nothing behind one is ever removed. Only
    /// a directory of this machine can have any that listings follow.
    pub async fn links(&self, folders: &[&str]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if let Some(pending) = &self.pending {
            for folder in folders {
                found.extend(self.asked("list", folder, pending.links(folder)).await?);
            }
        }
        found.sort();
        Ok(found)
    }

    /// All objects below a folder, in no particular order.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        self.each(folder, |object| found.push(object)).await?;
        Ok(found)
    }

    /// All objects below a folder whose key comes after `after`, in no particular order.
    pub async fn list_after(&self, folder: &str, after: &str) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        self.each_after(folder, after, |object| {
            found.push(object);
            ControlFlow::Continue(())
        })
        .await?;
        Ok(found)
    }

    /// The objects that are directly in a folder, not those of its subfolders.
    pub async fn list_shallow(&self, folder: &str) -> Result<Vec<Listed>> {
        self.list_folder(folder).await.map(|(objects, _)| objects)
    }

    /// The same, and the keys of the subfolders. In a store with directories a folder may be empty.
    pub async fn list_folder(&self, folder: &str) -> Result<(Vec<Listed>, Vec<String>)> {
        let prefix = path(folder);
        let result = self
            .asked("list", folder, self.inner.list_with_delimiter(Some(&prefix)))
            .await?;
        let folders = result.common_prefixes.iter().map(ToString::to_string).collect();
        Ok((result.objects.into_iter().map(listed).collect(), folders))
    }

    async fn visit(
        &self,
        folder: &str,
        mut pages: futures::stream::BoxStream<'static, object_store::Result<ObjectMeta>>,
        mut look: impl FnMut(Listed) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut left = MOST_OBJECTS;
        while let Some(meta) = self
            .asked("list", folder, async { pages.next().await.transpose() })
            .await?
        {
            left -= 1;
            if left == 0 {
                return Err(Error::Store {
                    operation: "list",
                    object: self.object_url(folder),
                    reason: format!("The listing has {MOST_OBJECTS} objects, and goes on."),
                });
            }
            if look(listed(meta)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn listed(meta: ObjectMeta) -> Listed {
    Listed {
        key: meta.location.to_string(),
        size: meta.size,
        last_modified: meta.last_modified,
    }
}
