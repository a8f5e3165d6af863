//! The content of an object, which goes on where a connection broke.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use reqwest::{Method, Response, StatusCode};

use super::client::{Call, Client};
use super::exchange::{Failure, causes};
use crate::transfer::motion::Flow;
use crate::transfer::retry::Attempts;

/// A download that is on its way.
struct Download {
    client: Arc<Client>,
    object: String,
    /// Only a piece of the same object fits.
    e_tag: Option<String>,
    response: Response,
    /// The part that is still missing.
    range: Range<u64>,
    attempts: Attempts,
}

/// The bytes of the range. The response holds at least the first of them.
pub(super) fn download(
    client: Arc<Client>,
    object: String,
    e_tag: Option<String>,
    response: Response,
    range: Range<u64>,
) -> BoxStream<'static, object_store::Result<Bytes>> {
    let path = object.clone();
    let download = Download {
        attempts: client.retry().begin(),
        client,
        object,
        e_tag,
        response,
        range,
    };
    stream::try_unfold(download, Download::next)
        .map_err(move |failure: Failure| failure.about(&path))
        .boxed()
}

impl Download {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Failure> {
        while !self.range.is_empty() {
            let reason = match tokio::time::timeout(self.client.timeout(), self.response.chunk()).await {
                Ok(Ok(Some(mut bytes))) => {
                    bytes.truncate(usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX));
                    self.range.start += bytes.len() as u64;
                    Flow::current().motion.moved(bytes.len() as u64);
                    // A download that gets on is not trying the same again.
                    self.attempts = self.client.retry().begin();
                    return Ok(Some((bytes, self)));
                }
                Ok(Ok(None)) => "the connection ended early".to_owned(),
                Ok(Err(error)) => causes(error),
                Err(_) => format!("nothing came for {} ms", self.client.timeout().as_millis()),
            };
            let failure = Failure::new(format!(
                "the download broke off {} bytes before its end: {reason}",
                self.range.end - self.range.start
            ));
            let pause = self.attempts.next_pause(None).ok_or_else(|| failure.clone())?;
            tracing::debug!(%failure, "a download is resumed");
            tokio::time::sleep(pause).await;
            self.response = self.resumed().await?.ok_or(failure)?;
        }
        Ok(None)
    }

    /// The rest, if the server understands what we want.
    async fn resumed(&self) -> Result<Option<Response>, Failure> {
        let mut call = Call::new(Method::GET, &self.object)
            .header("range", &format!("bytes={}-{}", self.range.start, self.range.end - 1))
            .streamed();
        if let Some(e_tag) = &self.e_tag {
            call = call.header("if-match", &format!("\"{e_tag}\""));
        }
        let answer = self.client.ask(call).await.map_err(|failure| match failure.status {
            Some(StatusCode::PRECONDITION_FAILED) => Failure::new("the object was overwritten while it was read"),
            _ => failure,
        })?;
        let starts = format!("bytes {}-", self.range.start);
        let fits = answer.status == StatusCode::PARTIAL_CONTENT
            && answer
                .header("content-range")
                .is_some_and(|range| range.starts_with(&starts));
        Ok(answer.unread.filter(|_| fits))
    }
}
