//! The body of a request, handed to the network piece by piece, so that it can be seen how far it is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::transfer::motion::{Flow, Motion, Pause};

/// The bytes that are handed over at a time. The HTTP client takes sixteen such pieces before it waits for the network, and
/// nobody can hold back a piece that it has taken.
const PIECE: usize = 4 << 10;

/// The bytes that may be between us and the network, on one connection: in the HTTP client and in the kernel's socket buffer
/// (the third figure of `net.ipv4.tcp_wmem`, and some).
const BUFFERED: u64 = (4 << 20) + (512 << 10);

/// The bytes between us and the network move at least so fast, in bytes a second, over all connections. Nothing tells how far
/// they are; the kernel watches by TCP_USER_TIMEOUT that the connection lives.
const SLOWEST: u64 = 16 << 10;

/// However much there is, an answer comes within this.
const LONGEST: Duration = Duration::from_secs(600);

/// More than this is a transfer, in bytes.
const SMALL: u64 = 64 << 10;

/// The longest that the network may take nothing of a transfer. A request that sends little is answered sooner, or is not.
pub(crate) const STALLED: Duration = Duration::from_secs(30);

/// The bytes that were handed over and are not answered, of all requests that share a client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unanswered(Arc<AtomicU64>);

impl Unanswered {
    fn add(&self, bytes: u64) -> u64 {
        self.0.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
}

/// One attempt to send a request. Dropped when it has ended.
pub(crate) struct Sending {
    /// Of this attempt.
    pub(crate) motion: Arc<Motion>,
    unanswered: Unanswered,
    counted: Arc<AtomicU64>,
}

impl Sending {
    /// Of a request without a body worth the name.
    pub(crate) fn nothing() -> Self {
        Outgoing::new(Vec::new(), &Unanswered::default(), Duration::ZERO).1
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let counted = self.counted.load(Ordering::Relaxed);
        self.unanswered.0.fetch_sub(counted, Ordering::Relaxed);
    }
}

/// The body of a request.
pub(crate) struct Outgoing {
    left: Bytes,
    /// The pieces after it.
    rest: Vec<Bytes>,
    flow: Flow,
    pause: Pause,
    bytes: u64,
    /// How much longer than `request_timeout` nothing may move.
    longer: Duration,
    unanswered: Unanswered,
    counted: Arc<AtomicU64>,
}

impl Outgoing {
    /// Pieces for the operation that is under way. The wait ends when nothing has moved for `request_timeout`.
    pub(crate) fn new(mut pieces: Vec<Bytes>, unanswered: &Unanswered, request_timeout: Duration) -> (Self, Sending) {
        let Flow { motion, brake } = Flow::current();
        let (motion, counted) = (motion.part(), Arc::default());
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        pieces.reverse();
        let longer = match bytes > SMALL {
            true => STALLED.saturating_sub(request_timeout),
            false => Duration::ZERO,
        };
        motion.allow(longer);
        let sending = Sending {
            motion: Arc::clone(&motion),
            unanswered: unanswered.clone(),
            counted: Arc::clone(&counted),
        };
        let body = Outgoing {
            left: Bytes::new(),
            rest: pieces,
            flow: Flow { motion, brake },
            pause: Pause::default(),
            bytes,
            longer,
            unanswered: unanswered.clone(),
            counted,
        };
        (body, sending)
    }

    fn is_over(&self) -> bool {
        self.left.is_empty() && self.rest.iter().all(Bytes::is_empty)
    }

    /// All of it was handed over. Until it has left this machine there is no answer, and nothing to be seen.
    fn end(&self) {
        let buffered = self.bytes.min(BUFFERED);
        self.counted.store(buffered, Ordering::Relaxed);
        let all = self.unanswered.add(buffered);
        let time = Duration::from_millis(all.saturating_mul(1000) / SLOWEST);
        self.flow.motion.allow(self.longer + time.min(LONGEST));
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        while this.left.is_empty() {
            match this.rest.pop() {
                Some(next) => this.left = next,
                None => return Poll::Ready(None),
            }
        }
        let bytes = this.left.len().min(PIECE);
        ready!(this.pause.poll(&this.flow, bytes, cx));
        this.flow.motion.moved(bytes as u64);
        if !this.longer.is_zero() {
            this.flow.motion.allow(this.longer);
        }
        let piece = this.left.split_to(bytes);
        if this.is_over() {
            this.end();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let rest: usize = self.rest.iter().map(Bytes::len).sum();
        SizeHint::with_exact((self.left.len() + rest) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_waited_for_as_long_as_buffers_may_take_to_drain() {
        let unanswered = Unanswered::default();
        let mut sending = Vec::new();
        for _ in 0..2 {
            let pieces = vec![
                Bytes::from(vec![1; 5 << 10]),
                Bytes::new(),
                Bytes::from(vec![2; 19 << 10]),
            ];
            let (mut body, attempt) = Outgoing::new(pieces, &unanswered, Duration::from_millis(100));
            assert_eq!(body.size_hint().exact(), Some(24 << 10));
            let mut sent = Vec::new();
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                let piece = frame.into_data().expect("data");
                assert!(piece.len() <= PIECE);
                sent.extend_from_slice(&piece);
            }
            assert!(body.is_end_stream() && sent == [vec![1; 5 << 10], vec![2; 19 << 10]].concat());
            sending.push(attempt);
        }
        let begun = tokio::time::Instant::now();
        // The second one shares the link with the first one.
        sending[1].motion.stopped(Duration::from_millis(100)).await;
        assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
        drop(sending);
        assert_eq!(unanswered.0.load(Ordering::Relaxed), 0, "what ended is not waited for");
    }
}
