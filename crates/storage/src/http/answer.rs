//! The body of a response, which must keep coming.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};
use tokio::time::{Instant, Sleep};

use crate::transfer::motion::{Flow, Motion};

/// A body without a pause longer than the idle timeout.
pub(super) struct Answer {
    rest: HttpResponseBody,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    /// The timer runs.
    waiting: bool,
    motion: Arc<Motion>,
}

impl Answer {
    /// A body that comes bit by bit.
    pub(super) fn stream(body: HttpResponseBody, idle_timeout: Duration) -> Self {
        Answer {
            rest: body,
            idle_timeout,
            idle: Box::pin(tokio::time::sleep(idle_timeout)),
            waiting: false,
            motion: Flow::current().motion,
        }
    }

    /// Read all of a body, or so many bytes of it. The second value is false if more would come. The length that the server
    /// announces is not believed.
    pub(super) async fn whole(
        body: HttpResponseBody,
        idle_timeout: Duration,
        limit: usize,
    ) -> Result<(Bytes, bool), HttpError> {
        let mut answer = Self::stream(body, idle_timeout);
        let mut bytes = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| answer.poll_rest(cx)).await {
            let Ok(data) = frame?.into_data() else { continue };
            let room = limit - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Ok((bytes.freeze(), false));
            }
        }
        Ok((bytes.freeze(), true))
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let polled = Pin::new(&mut self.rest).poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            self.waiting = false;
            if let Some(Ok(frame)) = frame {
                self.motion.moved(frame.data_ref().map_or(0, Bytes::len) as u64);
            }
            return polled;
        }
        // The time does not count while nobody wants more.
        if !self.waiting {
            self.waiting = true;
            let end = Instant::now() + self.idle_timeout;
            self.idle.as_mut().reset(end);
        }
        match self.idle.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(HttpError::new(
                HttpErrorKind::Timeout,
                Stalled(self.idle_timeout),
            )))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.poll_rest(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.size_hint()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the answer timed out: nothing came for {} s", .0.as_secs_f32())]
pub(crate) struct Stalled(Duration);
