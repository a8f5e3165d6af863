//! The store itself: object_store's, but that only regular files are read, and that nothing is removed behind a link.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path as FilePath, PathBuf};

use async_trait::async_trait;
use chrono::DateTime;
use futures::StreamExt;
use futures::stream::BoxStream;
use nix::fcntl::OFlag;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, Result};

use super::remove::{Refused, remove};
use super::{blocking, failed};
use crate::backends::layer::{Layer, Layered};

/// Objects that are being removed at a time.
const DELETIONS: usize = 10;

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    inner: LocalFileSystem,
    /// Without links.
    root: PathBuf,
}

impl Directory {
    /// A store in front of `inner`.
    pub(super) fn over(inner: LocalFileSystem, root: PathBuf) -> Layered<Self> {
        Layered(Directory { inner, root })
    }
}

/// Opens what is a regular file, or a link to one. To open a named pipe would wait for a writer, and to open a device may do
/// anything, so it is looked at first; and once more afterwards, as somebody may have exchanged it.
fn open_regular(path: &FilePath) -> IoResult<(File, Metadata)> {
    let is_regular = |meta: &Metadata| match (meta.is_file(), meta.is_dir()) {
        (true, _) => Ok(()),
        // As in any object store.
        (_, true) => Err(IoError::from(ErrorKind::NotFound)),
        _ => Err(IoError::other("it is not a regular file")),
    };
    is_regular(&std::fs::metadata(path)?)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let meta = file.metadata()?;
    is_regular(&meta)?;
    Ok((file, meta))
}

/// There is nothing below something that is not a directory.
fn is_missing(error: &IoError) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn describe(location: Path, meta: &Metadata) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: meta.modified().map(DateTime::from).unwrap_or_default(),
        size: meta.len(),
        e_tag: Some(format!(
            "{:x}-{:x}-{:x}-{:x}",
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.len()
        )),
        version: None,
    }
}

#[async_trait]
impl Layer for Directory {
    type Inner = LocalFileSystem;

    fn inner(&self) -> &LocalFileSystem {
        &self.inner
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = self.inner.path_to_filesystem(location)?;
        let location = location.clone();
        let work = move || {
            let (file, meta) = open_regular(&path).map_err(|error| match is_missing(&error) {
                true => Error::NotFound {
                    path: path.display().to_string(),
                    source: error.into(),
                },
                false => failed(error),
            })?;
            let meta = describe(location, &meta);
            options.check_preconditions(&meta)?;
            let range = match &options.range {
                Some(range) => range.as_range(meta.size).map_err(|error| Error::Generic {
                    store: crate::backends::file::STORE,
                    source: Box::new(error),
                })?,
                None => 0..meta.size,
            };
            Ok(GetResult {
                payload: GetResultPayload::File(file, path),
                attributes: Default::default(),
                range,
                meta,
                extensions: Default::default(),
            })
        };
        blocking(work).await?
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let root = self.root.clone();
        locations
            .map(move |location| {
                let root = root.clone();
                async move {
                    let location = location?;
                    let key = location.to_string();
                    match blocking(move || remove(&root, &key)).await? {
                        Ok(()) => Ok(location),
                        Err(Refused::Link(link)) => Err(Error::Generic {
                            store: crate::backends::file::STORE,
                            source: Box::new(link),
                        }),
                        Err(Refused::Io(error)) if is_missing(&error) => Err(Error::NotFound {
                            path: location.to_string(),
                            source: error.into(),
                        }),
                        Err(Refused::Io(error)) => Err(failed(error)),
                    }
                }
            })
            .buffered(DELETIONS)
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::stat::Mode;

    use crate::config::StorageConfig;
    use crate::{RangeReader, Store};

    #[tokio::test]
    async fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "12345").expect("written");
        std::os::unix::fs::symlink(at("file"), at("link")).expect("linked");
        std::fs::create_dir(at("folder")).expect("made");
        nix::unistd::mkfifo(&at("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).expect("made");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bound");
        let store = Store::open(&StorageConfig::new(format!("file://{}", dir.path().display()))).expect("opened");
        for name in ["file", "link"] {
            assert_eq!(
                store.get(name, 10).await.expect("read").as_deref(),
                Some(&b"12345"[..]),
                "{name}"
            );
            assert_eq!(&store.get_range(name, 1..3).await.expect("read")[..], b"23");
            assert_eq!(store.size(name).await.expect("asked"), Some(5));
        }
        for name in ["folder", "none", "file/below"] {
            assert_eq!(store.get(name, 10).await.expect("asked"), None, "{name}");
            assert_eq!(store.size(name).await.expect("asked"), None, "{name}");
        }
        // A thread that waits for a writer cannot be cancelled: the runtime of this test would never end.
        for name in ["pipe", "socket"] {
            let asked = async {
                let read = store.get(name, 10).await.expect_err("refused");
                let size = store.size(name).await.expect_err("refused");
                let opened = RangeReader::open(&store, name).await.err().expect("refused");
                [read, size, opened]
            };
            for error in tokio::time::timeout(Duration::from_secs(20), asked)
                .await
                .expect("no wait")
            {
                let detail = error.detail().unwrap_or_default();
                assert!(detail.contains("it is not a regular file"), "{name}: {error} {detail}");
            }
        }
        let device = Store::open(&StorageConfig::new("file:///dev")).expect("opened");
        assert!(device.get("zero", 10).await.is_err());
    }
}
