//! Large files, in parts: each is written to its place and flushed before it is acknowledged.
//!
//! So an upload outlives the connection, and even the server's machine: no part that was acknowledged has to be sent again.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, UploadPart};
use russh_sftp::protocol::OpenFlags;

use super::failure::Failure;
use super::pool::Pool;
use super::retry;
use super::session::Session;
use super::temporary::Temporary;
use super::write;
use super::write::Publish;

pub(super) struct Multipart {
    pool: Arc<Pool>,
    location: Path,
    temporary: Temporary,
    publish: Publish,
    /// The beginning of the next part.
    offset: u64,
}

impl fmt::Debug for Multipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Multipart").field(&self.location).finish()
    }
}

impl Multipart {
    pub(super) async fn start(pool: &Arc<Pool>, location: &Path, publish: Publish) -> Result<Self, Failure> {
        let target = pool.path_of(location);
        let temporary = pool
            .run(|session, _| {
                let target = &target;
                async move {
                    let (temporary, mut file) = write::create(pool, &session, location.as_ref(), target).await?;
                    file.close().await?;
                    Ok(temporary)
                }
            })
            .await?;
        Ok(Multipart {
            pool: pool.clone(),
            location: location.clone(),
            temporary,
            publish,
            offset: 0,
        })
    }
}

#[async_trait::async_trait]
impl MultipartUpload for Multipart {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let offset = self.offset;
        self.offset += payload.content_length() as u64;
        let (pool, path, location) = (
            self.pool.clone(),
            self.temporary.path().to_owned(),
            self.location.clone(),
        );
        async move {
            let written = pool
                .run(|session, _| write_part(session, &path, offset, &payload))
                .await;
            written.map_err(|failure| failure.at(&location))
        }
        .boxed()
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let target = self.pool.path_of(&self.location);
        let mut attempts = self.pool.begin();
        let mut unsure = false;
        loop {
            let attempt = async {
                let session = self.pool.session().await?;
                let again = std::mem::replace(&mut unsure, true);
                write::publish(&session, &mut self.temporary, &target, self.publish, again).await
            };
            match attempt.await {
                Ok(()) => {
                    return Ok(PutResult {
                        e_tag: None,
                        version: None,
                        extensions: Default::default(),
                    });
                }
                Err(failure) if failure.is_transient() && retry::again(&mut attempts, &failure).await => {}
                Err(failure) => return Err(failure.at(&self.location)),
            }
        }
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        let path = self.temporary.path().to_owned();
        let removed = self
            .pool
            .run(|session, _| {
                let path = &path;
                async move { session.remove(path).await }
            })
            .await;
        match removed {
            Ok(()) | Err(Failure::NotFound) => {
                self.temporary.is_gone();
                Ok(())
            }
            Err(failure) => Err(failure.at(&self.location)),
        }
    }
}

/// The file must be there: a part that comes after the upload was given up makes no new one.
async fn write_part(session: Arc<Session>, path: &str, offset: u64, payload: &PutPayload) -> Result<(), Failure> {
    let file = session.open(path, OpenFlags::WRITE).await?;
    let done = async {
        file.write(offset, payload).await?;
        file.finish().await
    };
    match done.await {
        Ok(()) => Ok(()),
        Err(failure) => Err(session.explain(failure).await),
    }
}
