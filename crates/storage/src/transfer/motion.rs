//! Motion: whether a transfer gets on, and who has to stand back.
//!
//! How long something has taken tells nothing of a link that others use too. So whatever waits for the store waits for as long
//! as bytes move: every backend notes here what the network took and gave, without being told for whom.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Less than this is no progress, in bytes: a server that gives a byte now and then keeps nobody waiting.
const NOTABLE: u64 = 4 << 10;

/// The bytes that a transfer that stands back still sends on each connection in a second: it is not to be taken for dead.
const TRICKLE: u64 = 2 << 10;

/// How often somebody who stands back looks whether that is over.
const LOOK: Duration = Duration::from_millis(100);

/// The bytes that move for one purpose, and when they did last.
#[derive(Debug)]
pub struct Motion {
    begun: Instant,
    /// When it got on last, in milliseconds since `begun`. May be ahead: until then nothing needs to move.
    last_ms: AtomicU64,
    /// Bytes that went out or came in, repetitions included.
    bytes: AtomicU64,
    /// Of those, the ones before the last progress.
    noted: AtomicU64,
    /// The bytes of all that is to be sent, 0 before that is known.
    whole: AtomicU64,
    /// When that was known.
    sending: OnceLock<Instant>,
    /// The motion that this is a part of.
    above: Option<Arc<Motion>>,
}

impl Default for Motion {
    fn default() -> Self {
        Motion::of(None)
    }
}

impl Motion {
    fn of(above: Option<Arc<Motion>>) -> Self {
        Motion {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            noted: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            sending: OnceLock::new(),
            above,
        }
    }

    /// A part of this.
    pub fn part(self: &Arc<Self>) -> Arc<Motion> {
        Arc::new(Motion::of(Some(Arc::clone(self))))
    }

    /// Bytes that went out or came in so far, repetitions included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// For how long nothing has moved.
    pub fn quiet(&self) -> Duration {
        Instant::now().saturating_duration_since(self.last())
    }

    /// So many bytes are to be sent from now on.
    pub fn will_send(&self, bytes: u64) {
        self.whole.store(self.bytes() + bytes, Ordering::Relaxed);
        self.sending.get_or_init(Instant::now);
    }

    /// Since when that is known; none while it is not.
    pub fn sending_since(&self) -> Option<std::time::Instant> {
        self.sending.get().map(|since| since.into_std())
    }

    /// The bytes of all that is to be sent, with those that were sent before that was known; none while it is not.
    pub fn to_send(&self) -> Option<u64> {
        Some(self.whole.load(Ordering::Relaxed)).filter(|whole| *whole > 0)
    }

    /// Is all that is to be sent on its way, and only an answer missing? If something is sent again, this is too early.
    pub fn has_sent_all(&self) -> bool {
        let whole = self.whole.load(Ordering::Relaxed);
        whole > 0 && self.bytes() >= whole
    }

    /// So many bytes have moved by now, be it unseen.
    pub fn reached(&self, bytes: u64) {
        self.moved(bytes.saturating_sub(self.bytes()));
    }

    /// So many bytes moved.
    pub(crate) fn moved(&self, bytes: u64) {
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if total.saturating_sub(self.noted.load(Ordering::Relaxed)) >= NOTABLE {
            self.noted.store(total, Ordering::Relaxed);
            self.note(Instant::now());
        }
        if let Some(above) = &self.above {
            above.moved(bytes);
        }
    }

    /// The server answered.
    pub(crate) fn answered(&self) {
        self.allow(Duration::ZERO);
    }

    /// For that long nothing needs to move.
    pub(crate) fn allow(&self, time: Duration) {
        self.note(Instant::now() + time);
        if let Some(above) = &self.above {
            above.allow(time);
        }
    }

    fn note(&self, at: Instant) {
        let ms = at.saturating_duration_since(self.begun).as_millis();
        self.last_ms
            .fetch_max(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// Wait until nothing has moved for that long.
    pub(crate) async fn stopped(&self, quiet: Duration) {
        loop {
            let until = self.last() + quiet;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Held on, a transfer stands back for others that are more urgent: it goes on so slowly that it takes nothing away from them,
/// but its connections live. Clones are the same brake.
#[derive(Debug, Clone, Default)]
pub struct Brake(Arc<AtomicBool>);

impl Brake {
    /// Stand back, or no longer.
    pub fn hold(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }

    fn is_held(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The tasks that wait for motion, and the brake that makes it stand back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow {
    pub(crate) motion: Arc<Motion>,
    pub(crate) brake: Option<Brake>,
}

tokio::task_local! {
    static FLOW: Flow;
}

impl Flow {
    /// The motion of the present operation.
    pub(crate) fn current() -> Flow {
        FLOW.try_with(Flow::clone).unwrap_or_default()
    }

    /// Do the work with this as its flow. None: nothing has moved for that long.
    pub(crate) async fn watch<T>(self, quiet: Duration, work: impl Future<Output = T>) -> Option<T> {
        let motion = Arc::clone(&self.motion);
        tokio::select! {
            biased;
            done = FLOW.scope(self, work) => Some(done),
            () = motion.stopped(quiet) => None,
        }
    }

    /// Before so many bytes are sent.
    pub(crate) async fn stand_back(&self, bytes: usize) {
        let mut pause = Pause::default();
        std::future::poll_fn(|cx| pause.poll(self, bytes, cx)).await;
    }
}

/// The wait of somebody who stands back.
#[derive(Default)]
pub(crate) struct Pause {
    until: Option<Instant>,
    look: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    /// Ready when so many bytes may be sent.
    pub(crate) fn poll(&mut self, flow: &Flow, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        let Some(brake) = &flow.brake else {
            return Poll::Ready(());
        };
        loop {
            if !brake.is_held() {
                break;
            }
            let now = Instant::now();
            let until = *self.until.get_or_insert_with(|| {
                let pause = Duration::from_millis(bytes as u64 * 1000 / TRICKLE);
                flow.motion.allow(pause);
                now + pause
            });
            if until <= now {
                break;
            }
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            if look.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            look.as_mut().reset(now + LOOK);
        }
        self.until = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(600);

    #[tokio::test]
    async fn work_has_all_the_time_while_something_moves() {
        let flow = Flow::default();
        let work = async {
            for _ in 0..20 {
                tokio::time::sleep(QUIET / 6).await;
                Flow::current().motion.moved(NOTABLE);
            }
        };
        assert_eq!(flow.watch(QUIET, work).await, Some(()));
    }

    #[tokio::test]
    async fn a_byte_now_and_then_is_no_progress() {
        let begun = Instant::now();
        let work = async {
            loop {
                tokio::time::sleep(QUIET / 6).await;
                Flow::current().motion.moved(1);
            }
        };
        let done: Option<()> = Flow::default().watch(QUIET, work).await;
        assert_eq!(done, None);
        assert!(begun.elapsed() >= QUIET, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn who_stands_back_trickles_and_is_not_taken_for_stopped() {
        let brake = Brake::default();
        brake.hold(true);
        let flow = Flow {
            brake: Some(brake.clone()),
            ..Flow::default()
        };
        let begun = Instant::now();
        let work = async {
            Flow::current().stand_back(TRICKLE as usize * 2).await;
            assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
            let flow = Flow::current();
            tokio::join!(flow.stand_back(1 << 30), async {
                tokio::time::sleep(LOOK * 3).await;
                brake.hold(false);
            });
        };
        assert_eq!(flow.watch(QUIET, work).await, Some(()));
    }

    #[test]
    fn it_knows_when_all_is_on_its_way() {
        let motion = Motion::default();
        motion.moved(1);
        assert!(!motion.has_sent_all());
        assert_eq!(motion.to_send(), None);
        assert!(motion.sending_since().is_none());
        motion.will_send(2);
        assert_eq!(motion.to_send(), Some(3));
        assert!(motion.sending_since().is_some());
        motion.moved(1);
        assert!(!motion.has_sent_all());
        motion.moved(1);
        assert!(motion.has_sent_all());
    }

    #[test]
    fn what_moves_for_a_part_moves_for_the_whole() {
        let whole = Arc::new(Motion::default());
        whole.part().moved(NOTABLE);
        whole.part().moved(1);
        assert_eq!(whole.bytes(), NOTABLE + 1);
    }
}
