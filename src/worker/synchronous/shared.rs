//! What the tasks of the synchronous standby and the main thread share.

use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use walarchive_core::archive::tail::{Position, Shipped};
use walarchive_core::{Error, Lsn};

use super::progress::{Progress, Rules};
use crate::bridge::Bridge;
use crate::shmem::{Failure, SyncState};

/// Is this process, which serves the connection, one of this server's?
struct Question {
    pid: i32,
    answer: oneshot::Sender<bool>,
}

pub(super) struct Shared {
    bridge: &'static Bridge,
    progress: Mutex<Progress>,
    /// Why there is no connection, and since when. The last failure counts.
    unconnected: Mutex<Option<(Box<Failure>, Instant)>>,
    /// Why nothing was stored at the last attempt.
    refused: Mutex<Option<Box<Failure>>>,
    /// How far the server is.
    wanted: watch::Sender<Position>,
    /// Nothing is stored before that is true.
    may_store: watch::Sender<bool>,
    /// What was asked for last, and what the store had then.
    shipped: Mutex<Option<(Position, Shipped)>>,
    /// The server is to be told something new, perhaps.
    news: Notify,
    /// Connect at once.
    retry: Notify,
    question: Mutex<Option<Question>>,
}

/// What the main thread shows.
pub(super) struct Shown {
    pub(super) state: SyncState,
    pub(super) safe: Lsn,
    /// Why there is no connection, and since when.
    pub(super) unconnected: Option<(Box<Failure>, Instant)>,
    /// Why nothing is stored.
    pub(super) refused: Option<Box<Failure>>,
}

impl Shared {
    pub(super) fn new(bridge: &'static Bridge, position: Position) -> Self {
        Shared {
            bridge,
            progress: Mutex::default(),
            unconnected: Mutex::default(),
            refused: Mutex::default(),
            wanted: watch::Sender::new(position),
            may_store: watch::Sender::new(false),
            shipped: Mutex::default(),
            news: Notify::new(),
            retry: Notify::new(),
            question: Mutex::default(),
        }
    }

    /// Change something. The main thread looks if it makes a difference to what is shown.
    fn change(&self, work: impl FnOnce(&mut Progress, Instant)) {
        let now = Instant::now();
        let is_other = {
            let mut progress = self.progress.lock();
            let before = progress.state(now);
            work(&mut progress, now);
            before != progress.state(now)
        };
        if is_other {
            self.bridge.wake();
        }
    }

    /// What the main thread knows: the rules, whether commits wait for a standby, and how far the server is.
    pub(super) fn tick(&self, rules: Rules, commits_wait: bool, position: Position) -> Shown {
        self.want(position);
        let now = Instant::now();
        let (state, safe, is_other) = {
            let mut progress = self.progress.lock();
            let before = (progress.state(now), progress.rules);
            progress.rules = rules;
            progress.tick(commits_wait, now);
            let state = progress.state(now);
            (state, progress.safe(), (state, rules) != before)
        };
        if is_other {
            self.news.notify_one();
        }
        Shown {
            state,
            safe: safe.unwrap_or(Lsn(0)),
            unconnected: self.unconnected.lock().clone(),
            refused: self.refused.lock().clone(),
        }
    }

    /// Do not wait with the next attempt to connect: what was wrong may have been put right.
    pub(super) fn try_again(&self) {
        self.retry.notify_one();
    }

    pub(super) async fn retry(&self) {
        self.retry.notified().await;
    }

    // The stream.

    /// A stream has begun there.
    pub(super) fn connected(&self, position: Position) {
        *self.unconnected.lock() = None;
        self.change(|progress, now| progress.connected(position.flushed, now));
        self.want(position);
    }

    /// There is none.
    pub(super) fn disconnected(&self, error: &Error) {
        let failure = Box::new(Failure::from(error));
        {
            let mut unconnected = self.unconnected.lock();
            let since = unconnected.as_ref().map_or_else(Instant::now, |(_, since)| *since);
            *unconnected = Some((failure, since));
        }
        self.change(|progress, _| progress.disconnected());
    }

    /// It has come so far.
    pub(super) fn received(&self, position: Position) {
        self.change(|progress, now| progress.received(position.flushed, now));
        self.want(position);
    }

    /// What the server is to be told.
    pub(super) fn report(&self) -> Lsn {
        self.progress.lock().report()
    }

    /// Wait until that may be something else.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    // The store.

    /// How far the server is, and what changes of that.
    pub(super) fn wanted(&self) -> watch::Receiver<Position> {
        self.wanted.subscribe()
    }

    /// All WAL of before the promotion of this server is archived, or there is none: what is stored now is not behind a hole.
    pub(super) fn let_store(&self) {
        self.may_store.send_if_modified(|may| !std::mem::replace(may, true));
    }

    /// Wait for that.
    pub(super) async fn may_store(&self) {
        // An error tells that the main thread has ended this.
        let _ = self.may_store.subscribe().wait_for(|may| *may).await;
    }

    fn want(&self, position: Position) {
        let is_later = |known: &Position| (position.timeline, position.flushed) > (known.timeline, known.flushed);
        self.wanted.send_if_modified(|known| {
            let later = is_later(known);
            if later {
                *known = position;
            }
            later
        });
    }

    /// The store has what was asked for, or has taken it, unless something of before is missing.
    pub(super) fn stored(&self, asked: Position, shipped: Shipped) {
        *self.refused.lock() = None;
        *self.shipped.lock() = Some((asked, shipped));
        self.change(|progress, now| progress.stored(asked.flushed, shipped.safe, now));
        self.news.notify_one();
    }

    /// It has not taken it.
    pub(super) fn failed(&self, error: &Error) {
        *self.refused.lock() = Some(Box::new(Failure::from(error)));
        self.change(|progress, now| progress.failed(now));
        // The main thread may not know yet why.
        self.bridge.wake();
    }

    /// What was asked for last, and what the store had then.
    pub(super) fn shipped(&self) -> Option<(Position, Shipped)> {
        *self.shipped.lock()
    }

    // Whose connection is it?

    /// Ask the main thread whether this process is one of this server's. None if it does not answer.
    pub(super) async fn is_of_this_server(&self, pid: i32) -> Option<bool> {
        let (answer, answered) = oneshot::channel();
        *self.question.lock() = Some(Question { pid, answer });
        self.bridge.wake();
        answered.await.ok()
    }

    /// Answer what is asked.
    pub(super) fn answer(&self, is_of_this_server: impl FnOnce(i32) -> bool) {
        let asked = self.question.lock().take();
        if let Some(Question { pid, answer }) = asked {
            // The task may have ended meanwhile.
            let _ = answer.send(is_of_this_server(pid));
        }
    }
}
