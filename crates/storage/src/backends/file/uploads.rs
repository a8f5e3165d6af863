//! Files that are being written: object_store calls them `name#N`, gives them their name when they are whole, and never lists
//! them.

use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::path::{Path as FilePath, PathBuf};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{Error, Result};
use walkdir::WalkDir;

use super::remove::{Refused, remove};
use super::{STORE, blocking, failed};
use crate::pending::{PendingUpload, PendingUploads};

/// Entries of directories that are looked at for one page.
const PAGE: usize = 1000;

/// Those below a directory.
pub(super) struct Temporaries {
    root: PathBuf,
}

impl Temporaries {
    pub(super) fn below(root: PathBuf) -> Self {
        Temporaries { root }
    }

    /// Links are not followed: what is behind one is not ours to remove.
    fn walk(&self, folder: &Path) -> WalkDir {
        WalkDir::new(self.file(folder.as_ref()))
            .follow_links(false)
            .follow_root_links(false)
    }

    fn file(&self, key: &str) -> PathBuf {
        let parts = key.split('/').filter(|part| !part.is_empty());
        parts.fold(self.root.clone(), |path, part| path.join(part))
    }
}

/// The key and the number of a temporary file, if it is one.
fn parse(root: &FilePath, path: &FilePath) -> Option<(String, String)> {
    let path = path.strip_prefix(root).ok()?.to_str()?;
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    // As object_store does, from the first mark on.
    let (_, number) = path[name..].split_once('#')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| (path[..path.len() - number.len() - 1].to_owned(), number.to_owned()))
}

fn look(root: &FilePath, path: &FilePath) -> IoResult<Option<PendingUpload>> {
    let Some((key, id)) = parse(root, path) else {
        return Ok(None);
    };
    // Not what a link points to.
    let meta = std::fs::symlink_metadata(path)?;
    if !meta.is_file() {
        return Ok(None);
    }
    let touched = DateTime::from(meta.modified()?);
    Ok(Some(PendingUpload {
        key,
        id,
        // Not all file systems know it.
        begun: meta.created().map_or(touched, DateTime::from).min(touched),
        touched,
        seen: Utc::now(),
        bytes: Some(meta.len()),
    }))
}

/// Somebody else is at work in the directories that are read.
fn unless_gone<T>(result: IoResult<Option<T>>) -> IoResult<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result,
    }
}

#[async_trait]
impl PendingUploads for Temporaries {
    fn list(&self, folder: &Path) -> BoxStream<'_, Result<Vec<PendingUpload>>> {
        let walk = self.walk(folder).into_iter();
        stream::try_unfold(walk, move |mut walk| {
            let root = self.root.clone();
            async move {
                let page = blocking(move || -> IoResult<_> {
                    let mut found = Vec::new();
                    for _ in 0..PAGE {
                        let Some(entry) = walk.next() else {
                            return Ok((found, walk, true));
                        };
                        if let Some(entry) = unless_gone(entry.map(Some).map_err(IoError::from))? {
                            found.extend(unless_gone(look(&root, entry.path()))?);
                        }
                    }
                    Ok((found, walk, false))
                });
                let (found, walk, at_end) = page.await?.map_err(failed)?;
                Ok((!at_end || !found.is_empty()).then_some((found, walk)))
            }
        })
        .boxed()
    }

    async fn discard(&self, upload: &PendingUpload, older_than: TimeDelta) -> Result<bool> {
        let key = format!("{}#{}", upload.key, upload.id);
        let (root, path) = (self.root.clone(), self.file(&key));
        let discarded = blocking(move || -> Result<bool, Refused> {
            match unless_gone(look(&root, &path)).map_err(Refused::Io)? {
                Some(found) if found.age() < older_than => Ok(false),
                Some(_) => match remove(&root, &key) {
                    Err(Refused::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(true),
                    removed => removed.map(|()| true),
                },
                None => Ok(true),
            }
        });
        discarded.await?.map_err(|refused| match refused {
            Refused::Io(error) => failed(error),
            Refused::Link(link) => Error::Generic {
                store: STORE,
                source: Box::new(link),
            },
        })
    }

    async fn links(&self, folder: &Path) -> Result<Vec<String>> {
        let (root, walk) = (self.root.clone(), self.walk(folder).into_iter());
        let links = blocking(move || -> IoResult<Vec<String>> {
            let mut found = Vec::new();
            for entry in walk {
                if let Some(entry) = unless_gone(entry.map(Some).map_err(IoError::from))?
                    && entry.path_is_symlink()
                    && let Ok(key) = entry.path().strip_prefix(&root)
                {
                    found.push(key.to_string_lossy().into_owned());
                }
            }
            Ok(found)
        });
        links.await?.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_after_the_first_mark_are_temporary() {
        let parsed = |path: &str| parse(FilePath::new("/r#1"), &FilePath::new("/r#1").join(path));
        let of = |key: &str, id: &str| Some((key.to_owned(), id.to_owned()));
        assert_eq!(parsed("wal_005/a.zst#1"), of("wal_005/a.zst", "1"));
        assert_eq!(parsed("d#2/a#12"), of("d#2/a", "12"));
        for path in ["a", "a#", "a#b", "a#1b", "d#1/a", "a#1#2"] {
            assert_eq!(parsed(path), None, "{path}");
        }
    }

    #[tokio::test]
    async fn links_and_directories_are_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("wal_005/d#1")).expect("made");
        for file in ["wal_005/a#1", "wal_005/d#1/b#2", "wal_005/c", "d#1"] {
            std::fs::write(at(file), "12345").expect("written");
        }
        std::os::unix::fs::symlink(at("wal_005/c"), at("wal_005/link#1")).expect("linked");
        std::os::unix::fs::symlink(at("wal_005"), at("wal_005/loop")).expect("linked");
        let store = Temporaries::below(dir.path().to_owned());
        let mut found = Vec::new();
        let mut pages = store.list(&Path::from("wal_005"));
        while let Some(page) = pages.next().await {
            found.extend(page.expect("a page"));
        }
        found.sort_by(|left, right| left.key.cmp(&right.key));
        let keys: Vec<_> = found.iter().map(|upload| upload.key.as_str()).collect();
        assert_eq!(keys, ["wal_005/a", "wal_005/d#1/b"]);
        assert_eq!(found[0].bytes, Some(5));
        let none: Vec<_> = store.list(&Path::from("other")).collect().await;
        assert!(
            none.iter().all(|page| page.as_ref().is_ok_and(Vec::is_empty)),
            "{none:?}"
        );
    }
}
