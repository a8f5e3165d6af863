//! The store as object_store sees it.

use std::fmt;
use std::sync::Arc;

use futures::future::try_join_all;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::config::Settings;
use super::failure::Failure;
use super::multipart::Multipart;
use super::pool::Pool;
use super::session::Session;
use super::temporary::is_temporary;
use super::write::Publish;
use super::{list, read, write};
use crate::odd::Odd;
use crate::renewal::Followed;

/// Objects that are being removed at a time.
const DELETIONS: usize = 8;

/// The bytes of a part when a file is copied, through us.
const COPY_PART: usize = 8 << 20;

/// A directory on an SSH server.
pub(super) struct SftpStore {
    pool: Arc<Pool>,
}

impl SftpStore {
    pub(super) fn new(settings: Arc<Followed<Settings>>, odd: Arc<Odd>) -> Self {
        SftpStore {
            pool: Arc::new(Pool::new(settings, odd)),
        }
    }
}

impl fmt::Display for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.pool.settings;
        let Settings {
            user, host, port, root, ..
        } = settings.as_ref();
        write!(f, "Sftp({user}@{host}:{port}:{root})")
    }
}

impl fmt::Debug for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names that listings would not show.
fn check(location: &Path) -> object_store::Result<()> {
    if location.filename().is_some_and(is_temporary) {
        return Err(Failure::Server("Names of this form are those of temporary files.".to_owned()).at(location));
    }
    Ok(())
}

fn stored() -> PutResult {
    PutResult {
        e_tag: None,
        version: None,
        extensions: Default::default(),
    }
}

#[async_trait::async_trait]
impl ObjectStore for SftpStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        check(location)?;
        let publish = match options.mode {
            PutMode::Overwrite => Publish::Over,
            PutMode::Create => Publish::New,
            PutMode::Update(_) => {
                return Err(object_store::Error::NotImplemented {
                    operation: "put_opts with PutMode::Update".to_owned(),
                    implementer: self.to_string(),
                });
            }
        };
        let written = write::put(&self.pool, location.as_ref(), &payload, publish).await;
        written.map(|()| stored()).map_err(|failure| failure.at(location))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        check(location)?;
        match Multipart::start(&self.pool, location, Publish::Over).await {
            Ok(upload) => Ok(Box::new(upload)),
            Err(failure) => Err(failure.at(location)),
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        read::get(&self.pool, location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let pool = self.pool.clone();
        locations
            .map(move |location| {
                let pool = pool.clone();
                async move {
                    let location = location?;
                    delete(&pool, &location)
                        .await
                        .map_err(|failure| failure.at(&location))?;
                    Ok(location)
                }
            })
            .buffered(DELETIONS)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        list::all(&self.pool, prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        list::shallow(&self.pool, prefix).await
    }

    /// Through us: few servers copy by themselves.
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        check(to)?;
        let publish = match options.mode {
            CopyMode::Overwrite => Publish::Over,
            CopyMode::Create => Publish::New,
        };
        let found = self.get_opts(from, GetOptions::default()).await?;
        let started = Multipart::start(&self.pool, to, publish).await;
        let mut upload = started.map_err(|failure| failure.at(to))?;
        let copied = async {
            let mut content = found.into_stream();
            let mut part = Vec::new();
            while let Some(bytes) = content.try_next().await? {
                part.extend_from_slice(&bytes);
                if part.len() >= COPY_PART {
                    upload.put_part(std::mem::take(&mut part).into()).await?;
                }
            }
            upload.put_part(part.into()).await?;
            upload.complete().await
        };
        match copied.await {
            Ok(_) => Ok(()),
            Err(error) => {
                // Dropping it tries again, so nothing more is to be said.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }
}

/// Removes a file, and the directories that became empty by that.
async fn delete(pool: &Arc<Pool>, location: &Path) -> Result<(), Failure> {
    let path = pool.path_of(location);
    let removed = pool
        .run(|session, again| {
            let path = &path;
            async move {
                refuse_links(pool, &session, location.as_ref()).await?;
                match session.remove(path).await {
                    // It was there when we first asked, and the answer was lost.
                    Err(Failure::NotFound) if again => Ok(session),
                    Err(Failure::NotFound) => session.check_root().await.and(Err(Failure::NotFound)),
                    result => result.map(|()| session),
                }
            }
        })
        .await;
    let session = removed?;
    remove_empty(pool, &session, location.as_ref()).await;
    Ok(())
}

/// The protocol knows no descriptors of directories, so they are looked at before, all at once.
async fn refuse_links(pool: &Pool, session: &Session, key: &str) -> Result<(), Failure> {
    let ends = key.match_indices('/').map(|(end, _)| end).chain([key.len()]);
    let looks = ends.map(|end| async move {
        let is_link = session.is_link(&pool.path(&key[..end])).await?;
        Ok::<_, Failure>(is_link.then_some(end))
    });
    match try_join_all(looks).await?.into_iter().flatten().next() {
        Some(end) => Err(Failure::BehindLink(key[..end].to_owned())),
        None => Ok(()),
    }
}

/// From the inside to the outside, until one is not empty. A writer that is at work makes them again.
async fn remove_empty(pool: &Pool, session: &Session, mut key: &str) {
    while let Some((folder, _)) = key.rsplit_once('/') {
        let path = pool.path(folder);
        if session.ask(session.raw().rmdir(path)).await.is_err() {
            return;
        }
        key = folder;
    }
}
