//! Listings of a directory that go on at a name that is no key. object_store's fail as a whole, and nobody could be restored
//! from a repository with one odd file.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ListResult, ObjectMeta, ObjectStore, Result};
use walkdir::{DirEntry, WalkDir};

use super::{blocking, failed};
use crate::backends::layer::{Layer, Layered};
use crate::odd::{Odd, escaped};

/// Entries that are read at a time.
const PAGE: usize = 1000;

/// A store of a directory, with listings of our own.
#[derive(Debug)]
pub(super) struct Lenient<T> {
    inner: T,
    root: PathBuf,
    odd: Arc<Odd>,
}

impl<T> Lenient<T> {
    /// A store in front of `inner`.
    pub(super) fn over(inner: T, root: PathBuf, odd: Arc<Odd>) -> Layered<Self> {
        Layered(Lenient { inner, root, odd })
    }

    fn walk(&self, prefix: Option<&Path>) -> WalkDir {
        let parts = prefix
            .map_or("", Path::as_ref)
            .split('/')
            .filter(|part| !part.is_empty());
        let start = parts.fold(self.root.clone(), |path, part| path.join(part));
        // A folder may be a link to another file system.
        WalkDir::new(start).min_depth(1).follow_links(true)
    }

    fn objects(&self, prefix: Option<&Path>, after: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (walk, after) = (self.walk(prefix).into_iter(), after.cloned());
        let (root, odd) = (self.root.clone(), self.odd.clone());
        stream::try_unfold(walk, move |mut walk| {
            let (root, odd, after) = (root.clone(), odd.clone(), after.clone());
            async move {
                let page = blocking(move || {
                    let mut found = Vec::new();
                    for _ in 0..PAGE {
                        let Some(entry) = walk.next() else {
                            return Ok((found, walk, true));
                        };
                        let Some(entry) = unless_gone(entry)? else { continue };
                        let Some(key) = key(&root, &odd, &entry) else { continue };
                        if after.as_ref().is_none_or(|after| key > *after) {
                            found.extend(object(&entry, key)?);
                        }
                    }
                    Ok((found, walk, false))
                });
                let page: Result<_> = page.await?;
                let (found, walk, at_end) = page?;
                let any = !found.is_empty();
                Ok::<_, Error>((any || !at_end).then_some((stream::iter(found.into_iter().map(Ok)), walk)))
            }
        })
        .try_flatten()
        .boxed()
    }
}

/// Others are at work in the directories that are read; and a link may lead nowhere, or back.
fn unless_gone(entry: walkdir::Result<DirEntry>) -> Result<Option<DirEntry>> {
    match entry.map_err(walkdir::Error::into_io_error) {
        Ok(entry) => Ok(Some(entry)),
        Err(Some(error)) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        Err(_) => Ok(None),
    }
}

/// None for an entry that has none, or is not to be seen.
fn key(root: &FilePath, odd: &Odd, entry: &DirEntry) -> Option<Path> {
    let relative = entry.path().strip_prefix(root).ok()?;
    let key = relative
        .to_str()
        .and_then(|text| Path::parse(text).ok().filter(|path| path.as_ref() == text));
    if key.is_none() && !entry.file_type().is_dir() {
        let name = escaped(relative.as_os_str().as_encoded_bytes());
        odd.meet(&format!("file://{}", root.display()), &name);
    }
    key
}

/// A file that is being written has a mark and a number at the end of its name.
fn is_temporary(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    name.split_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn object(entry: &DirEntry, location: Path) -> Result<Option<ObjectMeta>> {
    if !entry.file_type().is_file() || is_temporary(entry) {
        return Ok(None);
    }
    let meta = match entry.metadata().map_err(walkdir::Error::into_io_error) {
        Ok(meta) => meta,
        Err(Some(error)) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Err(_) => return Ok(None),
    };
    let written = meta.modified().map_or(DateTime::UNIX_EPOCH, DateTime::<Utc>::from);
    Ok(Some(ObjectMeta {
        location,
        last_modified: written,
        size: meta.len(),
        e_tag: None,
        version: None,
    }))
}

#[async_trait]
impl<T: ObjectStore> Layer for Lenient<T> {
    type Inner = T;

    fn inner(&self) -> &T {
        &self.inner
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (walk, root, odd) = (self.walk(prefix).max_depth(1), self.root.clone(), self.odd.clone());
        let read = blocking(move || {
            let (mut folders, mut objects) = (BTreeSet::new(), Vec::new());
            for entry in walk {
                let Some(entry) = unless_gone(entry)? else { continue };
                let Some(key) = key(&root, &odd, &entry) else { continue };
                if entry.file_type().is_dir() {
                    folders.insert(key);
                } else {
                    objects.extend(object(&entry, key)?);
                }
            }
            Ok(ListResult {
                common_prefixes: folders.into_iter().collect(),
                objects,
                extensions: Default::default(),
            })
        });
        read.await?
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use crate::config::StorageConfig;
    use crate::store::Store;

    #[tokio::test]
    async fn names_without_a_key_are_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("wal_005");
        std::fs::create_dir_all(folder.join("b\tc")).expect("made");
        let odd = [&b"a\tb"[..], b"\xff\xfe", b"\x1b[1m", b"b\tc/inside"];
        for name in [&b"good"[..], b"100%", b"later"].iter().chain(&odd) {
            std::fs::write(folder.join(OsStr::from_bytes(name)), "x").expect("written");
        }
        std::fs::write(folder.join("good#1"), "x").expect("written");
        let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("a store");
        let keys = |mut listed: Vec<crate::Listed>| {
            listed.sort_by(|left, right| left.key.cmp(&right.key));
            listed.into_iter().map(|object| object.key).collect::<Vec<_>>()
        };
        let all = ["wal_005/100%", "wal_005/good", "wal_005/later"];
        assert_eq!(keys(store.list("wal_005").await.expect("listed")), all);
        assert_eq!(keys(store.list_shallow("wal_005").await.expect("listed")), all);
        let after = store.list_after("wal_005", "wal_005/good").await.expect("listed");
        assert_eq!(keys(after), ["wal_005/later"]);
        let said = store.passed_over().join(" ");
        assert_eq!(store.passed_over().len(), odd.len(), "{said}");
        for name in ["a\\tb", "\\xff\\xfe", "\\u{1b}[1m", "b\\tc/inside"] {
            assert!(said.contains(name), "{name}: {said}");
        }
        assert!(store.list("nowhere").await.expect("listed").is_empty());
    }
}
