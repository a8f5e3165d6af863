//! The body of a response, which must keep coming.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};
use tokio::time::{Instant, Sleep};

use crate::storage::motion::{Flow, Motion};

/// The most that is read of a body before its response is handed on, in bytes: a page of a listing, the answer to an upload
/// and the text of an error are less. object_store asks again for a response that fails, but not for one of whose body the
/// end is missing.
const READ_FIRST: u64 = 2 << 20;

/// A body in which no pause is longer than the idle timeout.
pub(super) struct Answer {
    /// What was read already.
    read: VecDeque<Bytes>,
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
            read: VecDeque::new(),
            rest: body,
            idle_timeout,
            idle: Box::pin(tokio::time::sleep(idle_timeout)),
            waiting: false,
            motion: Flow::current().motion,
        }
    }

    /// Reads it first, unless it is large.
    pub(super) async fn read(body: HttpResponseBody, idle_timeout: Duration) -> Result<Self, HttpError> {
        let mut answer = Self::stream(body, idle_timeout);
        let mut bytes = 0;
        while bytes <= READ_FIRST && bytes + answer.rest.size_hint().lower() <= READ_FIRST {
            match poll_fn(|cx| answer.poll_rest(cx)).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        bytes += data.len() as u64;
                        answer.read.push_back(data);
                    }
                }
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(answer)
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
        // The time in which nobody wanted more does not count.
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
        match self.read.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => self.poll_rest(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read: u64 = self.read.iter().map(|data| data.len() as u64).sum();
        let mut hint = self.rest.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint.set_lower(hint.lower().saturating_add(read));
        hint
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the answer timed out: nothing came for {} s", .0.as_secs_f32())]
struct Stalled(Duration);
