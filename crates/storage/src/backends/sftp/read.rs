//! Reading: several requests on their way, going on where it stopped when a connection is lost.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesOrdered};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetResult, GetResultPayload, ObjectMeta};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{Data, OpenFlags};

use super::failure::{Failure, lost};
use super::pool::Pool;
use super::retry::again;
use super::session::{Attributes, OpenFile, Session, WINDOW};
use crate::transfer::motion::Flow;
use crate::transfer::retry::Attempts;

pub(super) fn meta(location: Path, attributes: Attributes) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: chrono::DateTime::from_timestamp(i64::from(attributes.mtime), 0).unwrap_or_default(),
        size: attributes.size,
        e_tag: Some(format!("{:x}-{:x}", attributes.mtime, attributes.size)),
        version: None,
    }
}

pub(super) async fn get(pool: &Arc<Pool>, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
    let path = pool.path_of(location);
    let (file, attributes) = pool
        .run(|session, _| look(session, &path, options.head))
        .await
        .map_err(|failure| failure.at(location))?;
    let meta = meta(location.clone(), attributes);
    options.check_preconditions(&meta)?;
    let range = match &options.range {
        Some(range) => range
            .as_range(meta.size)
            .map_err(|error| object_store::Error::Generic {
                store: "SFTP",
                source: Box::new(error),
            })?,
        None => 0..meta.size,
    };
    let reader = Reader {
        pool: pool.clone(),
        path,
        location: location.clone(),
        attributes,
        at: range.start,
        asked: range.start,
        end: range.end,
        file,
        pending: FuturesOrdered::new(),
        attempts: pool.begin(),
    };
    Ok(GetResult {
        payload: GetResultPayload::Stream(reader.stream()),
        meta,
        range,
        attributes: Default::default(),
        extensions: Default::default(),
    })
}

/// The file, unless only its attributes are wanted.
async fn look(
    session: Arc<Session>,
    path: &str,
    only_attributes: bool,
) -> Result<(Option<Arc<OpenFile>>, Attributes), Failure> {
    let found = if only_attributes {
        session.stat(path).await.map(|attributes| (None, attributes))
    } else {
        open(&session, path)
            .await
            .map(|(file, attributes)| (Some(file), attributes))
    };
    match found {
        Ok((_, attributes)) if attributes.is_dir => Err(Failure::NotFound),
        Ok((_, attributes)) if attributes.is_special => Err(not_regular()),
        Err(Failure::NotFound) => {
            session.check_root().await?;
            Err(Failure::NotFound)
        }
        found => found,
    }
}

fn not_regular() -> Failure {
    Failure::Unusable("It is not a regular file.".to_owned())
}

async fn open(session: &Arc<Session>, path: &str) -> Result<(Arc<OpenFile>, Attributes), Failure> {
    // A server that opens a named pipe waits for a writer, and answers nothing else in the meantime.
    if session.stat(path).await?.is_special {
        return Err(not_regular());
    }
    let file = session.open(path, OpenFlags::READ).await?;
    let attributes = file.stat().await?;
    Ok((Arc::new(file), attributes))
}

type Answer = (u32, Result<Data, SftpError>);

struct Reader {
    pool: Arc<Pool>,
    path: String,
    location: Path,
    attributes: Attributes,
    /// Everything before it was handed on.
    at: u64,
    /// Everything before it was asked for.
    asked: u64,
    end: u64,
    file: Option<Arc<OpenFile>>,
    pending: FuturesOrdered<BoxFuture<'static, Answer>>,
    attempts: Attempts,
}

impl Reader {
    fn stream(self) -> BoxStream<'static, object_store::Result<Bytes>> {
        stream::try_unfold(self, |mut reader| async move {
            match reader.next().await {
                Ok(Some(bytes)) => Ok(Some((bytes, reader))),
                Ok(None) => Ok(None),
                Err(failure) => Err(failure.at(&reader.location)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.at < self.end {
            match self.advance().await {
                Ok(bytes) => {
                    self.at += bytes.len() as u64;
                    Flow::current().motion.moved(bytes.len() as u64);
                    self.attempts = self.pool.begin();
                    return Ok(Some(bytes));
                }
                Err(failure) => {
                    self.file = None;
                    self.ask_again_from(self.at);
                    if !failure.is_transient() || !again(&mut self.attempts, &failure).await {
                        return Err(failure);
                    }
                    tracing::debug!(location = %self.location, %failure, "trying again to read from the SFTP server");
                }
            }
        }
        Ok(None)
    }

    fn ask_again_from(&mut self, offset: u64) {
        self.pending = FuturesOrdered::new();
        self.asked = offset;
    }

    async fn advance(&mut self) -> Result<Bytes, Failure> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => {
                let session = self.pool.session().await?;
                let (file, attributes) = open(&session, &self.path).await?;
                if attributes != self.attributes {
                    return Err(Failure::Server("The file changed while it was read.".to_owned()));
                }
                self.file = Some(file.clone());
                file
            }
        };
        let session = file.session();
        let most = session.features.read_bytes;
        while self.asked < self.end && self.pending.len() < (WINDOW / most as usize).max(1) {
            let bytes = (self.end - self.asked).min(u64::from(most)) as u32;
            let (file, offset) = (file.clone(), self.asked);
            self.pending.push_back(
                async move {
                    let read = file.session().raw().read(file.handle(), offset, bytes);
                    (bytes, read.await)
                }
                .boxed(),
            );
            self.asked += u64::from(bytes);
        }
        let pending = &mut self.pending;
        let answer = async {
            let (wanted, data) = pending.next().await.ok_or(SftpError::UnexpectedPacket)?;
            data.map(|data| (wanted, data.data))
        };
        let (wanted, data) = session.ask(answer).await?;
        if data.is_empty() || data.len() > wanted as usize {
            return Err(lost("The server's answer to a read makes no sense."));
        }
        if data.len() < wanted as usize {
            // It may give less than was asked for; what comes next was asked for too late then.
            self.ask_again_from(self.at + data.len() as u64);
        }
        Ok(data.into())
    }
}
