//! How far the store is, and what the server is told of it.
//!
//! The server is told what is in the store and never more, but for one case: `walarchive.synchronous_timeout` has passed, and no
//! other standby may take this one's place.

use std::time::{Duration, Instant};

use walarchive_core::Lsn;

use crate::shmem::SyncState;

/// The store is slow if it has stored nothing for so long while there is something to store.
pub(super) const SLOW: Duration = Duration::from_secs(3);

/// What the settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rules {
    /// For so long commits wait for a store that takes nothing; none is for ever.
    pub(super) timeout: Option<Duration>,
    /// Enough other standbys are named for commits to do without the store.
    pub(super) others_suffice: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) rules: Rules,
    /// How far the server's WAL has come by the stream; none without one.
    received: Option<Lsn>,
    /// Everything before is in the store; none while that is not known.
    safe: Option<Lsn>,
    /// The last attempt to store something failed.
    has_failed: bool,
    /// Since when the store is behind and takes nothing.
    still_since: Option<Instant>,
    /// Since when a commit waits meanwhile.
    stuck_since: Option<Instant>,
    /// The server's commits do without the store since then.
    degraded_since: Option<Instant>,
    /// The server was told so much that was not stored.
    claimed: Lsn,
    /// Commits from here on wait for the store, or will.
    goal: Lsn,
}

impl Progress {
    /// A stream has begun there.
    pub(super) fn connected(&mut self, at: Lsn, now: Instant) {
        self.goal = self.goal.max(at);
        self.stuck_since = None;
        self.received(at, now);
    }

    /// The stream has ended.
    pub(super) fn disconnected(&mut self) {
        self.received = None;
        (self.still_since, self.stuck_since) = (None, None);
    }

    /// The stream has come so far.
    pub(super) fn received(&mut self, lsn: Lsn, now: Instant) {
        self.received = Some(lsn);
        self.watch(now);
    }

    /// The store has taken WAL up to the first position, or had it. Everything before the second one is there.
    pub(super) fn stored(&mut self, asked: Lsn, safe: Option<Lsn>, now: Instant) {
        self.has_failed = false;
        if safe > self.safe {
            self.safe = safe;
            (self.still_since, self.stuck_since) = (None, None);
        }
        if self.safe >= Some(asked) && self.degraded_since.take().is_some() {
            // What it was told beside the truth must be true before a commit is synchronous again.
            self.goal = self.goal.max(self.claimed);
        }
        self.watch(now);
    }

    /// The store has not taken it.
    pub(super) fn failed(&mut self, now: Instant) {
        self.has_failed = true;
        self.watch(now);
    }

    /// Look at the clock. `commits_wait`: a commit waits for a standby.
    pub(super) fn tick(&mut self, commits_wait: bool, now: Instant) {
        match commits_wait && self.still_since.is_some() {
            true => _ = self.stuck_since.get_or_insert(now),
            false => self.stuck_since = None,
        }
        let since = |since: Instant| now.duration_since(since);
        let is_over = |timeout| self.stuck_since.map(since) >= Some(timeout);
        match self.rules.timeout {
            Some(timeout) if is_over(timeout) => _ = self.degraded_since.get_or_insert(now),
            Some(_) => {}
            None if self.degraded_since.take().is_some() => self.goal = self.goal.max(self.claimed),
            None => {}
        }
    }

    fn watch(&mut self, now: Instant) {
        match self.is_behind() {
            true => _ = self.still_since.get_or_insert(now),
            false => (self.still_since, self.stuck_since) = (None, None),
        }
    }

    fn is_behind(&self) -> bool {
        self.received.is_some() && self.safe < self.received
    }

    /// What the server is to be told; 0 tells it that nothing is known, so that it does not count this standby.
    pub(super) fn report(&mut self) -> Lsn {
        let Some(received) = self.received else { return Lsn(0) };
        match self.degraded_since {
            None => self.safe.map_or(Lsn(0), |safe| safe.min(received)),
            Some(_) if self.rules.others_suffice => Lsn(0),
            Some(_) => {
                self.claimed = self.claimed.max(received);
                received
            }
        }
    }

    /// As `walarchive_status` shows it.
    pub(super) fn state(&self, now: Instant) -> SyncState {
        let is_slow = self.still_since.is_some_and(|since| now.duration_since(since) >= SLOW);
        match self.received {
            None => SyncState::Connecting,
            Some(_) if self.degraded_since.is_some() => SyncState::Degraded,
            Some(_) if self.is_behind() && (is_slow || self.has_failed) => SyncState::Waiting,
            Some(_) if self.safe < Some(self.goal) => SyncState::CatchingUp,
            Some(_) => SyncState::Synchronous,
        }
    }

    /// Everything before is in the store.
    pub(super) fn safe(&self) -> Option<Lsn> {
        self.safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    fn connected(others_suffice: bool, now: Instant) -> Progress {
        let mut progress = Progress {
            rules: Rules {
                timeout: Some(WAIT),
                others_suffice,
            },
            ..Progress::default()
        };
        progress.connected(Lsn(100), now);
        progress
    }

    #[test]
    fn nothing_is_told_that_is_not_stored() {
        let now = Instant::now();
        let mut progress = connected(false, now);
        assert_eq!(
            (progress.report(), progress.state(now)),
            (Lsn(0), SyncState::CatchingUp)
        );
        progress.stored(Lsn(100), None, now);
        assert_eq!(progress.report(), Lsn(0), "older WAL is not archived");
        progress.stored(Lsn(100), Some(Lsn(50)), now);
        assert_eq!(
            (progress.report(), progress.state(now)),
            (Lsn(50), SyncState::CatchingUp)
        );
        progress.stored(Lsn(100), Some(Lsn(100)), now);
        progress.received(Lsn(200), now);
        assert_eq!(
            (progress.report(), progress.state(now)),
            (Lsn(100), SyncState::Synchronous)
        );
        assert_eq!(progress.state(now + SLOW), SyncState::Waiting);
        progress.failed(now);
        assert_eq!((progress.report(), progress.state(now)), (Lsn(100), SyncState::Waiting));
        // What the position of the server itself has led to may be ahead of the stream.
        progress.stored(Lsn(300), Some(Lsn(300)), now);
        assert_eq!(
            (progress.report(), progress.state(now)),
            (Lsn(200), SyncState::Synchronous)
        );
        progress.disconnected();
        assert_eq!(
            (progress.report(), progress.state(now)),
            (Lsn(0), SyncState::Connecting)
        );
    }

    #[test]
    fn commits_wait_so_long_and_no_longer() {
        let start = Instant::now();
        let mut progress = connected(false, start);
        progress.stored(Lsn(100), Some(Lsn(100)), start);
        progress.received(Lsn(200), start);
        progress.tick(true, start);
        progress.tick(true, start + WAIT / 2);
        // It was no commit that waited: the next one has all the time.
        progress.tick(false, start + WAIT);
        progress.tick(true, start + WAIT);
        progress.tick(true, start + WAIT + WAIT / 2);
        assert_eq!(progress.report(), Lsn(100));
        let late = start + WAIT + WAIT;
        progress.tick(true, late);
        assert_eq!(
            (progress.report(), progress.state(late)),
            (Lsn(200), SyncState::Degraded)
        );
        progress.received(Lsn(300), late);
        assert_eq!(progress.report(), Lsn(300));
        // The store is back, and still behind: what was asked when it was back is there, and the truth is told from now on.
        progress.received(Lsn(400), late);
        progress.stored(Lsn(250), Some(Lsn(250)), late);
        assert_eq!(
            (progress.report(), progress.state(late)),
            (Lsn(250), SyncState::CatchingUp)
        );
        progress.stored(Lsn(400), Some(Lsn(300)), late);
        assert_eq!(
            (progress.report(), progress.state(late)),
            (Lsn(300), SyncState::Synchronous)
        );
    }

    #[test]
    fn the_time_without_a_connection_does_not_count() {
        let start = Instant::now();
        let mut progress = connected(false, start);
        progress.tick(true, start);
        progress.disconnected();
        progress.tick(true, start + WAIT);
        progress.connected(Lsn(100), start + WAIT);
        progress.tick(true, start + WAIT);
        assert_eq!(progress.report(), Lsn(0));
        progress.tick(true, start + 2 * WAIT);
        assert_eq!(progress.report(), Lsn(100));
        // Nor does it end what has begun.
        progress.disconnected();
        progress.connected(Lsn(200), start + 2 * WAIT);
        assert_eq!(progress.report(), Lsn(200));
    }

    #[test]
    fn progress_is_no_standstill() {
        let start = Instant::now();
        let mut progress = connected(false, start);
        for second in 0..40 {
            let now = start + Duration::from_secs(second);
            progress.received(Lsn(1000 + second), now);
            progress.tick(true, now);
            progress.stored(Lsn(1000 + second), Some(Lsn(second)), now);
            assert!(progress.report() <= Lsn(second), "{second}");
        }
    }

    #[test]
    fn other_standbys_take_over() {
        let start = Instant::now();
        let mut progress = connected(true, start);
        progress.stored(Lsn(100), Some(Lsn(100)), start);
        progress.received(Lsn(200), start);
        progress.tick(true, start);
        progress.tick(true, start + WAIT);
        let state = progress.state(start + WAIT);
        assert_eq!((progress.report(), state), (Lsn(0), SyncState::Degraded));
        progress.stored(Lsn(200), Some(Lsn(200)), start + WAIT);
        let state = progress.state(start + WAIT);
        assert_eq!((progress.report(), state), (Lsn(200), SyncState::Synchronous));
    }

    #[test]
    fn without_a_timeout_they_wait_for_ever() {
        let start = Instant::now();
        let mut progress = connected(false, start);
        progress.tick(true, start);
        progress.tick(true, start + WAIT);
        assert_eq!(progress.report(), Lsn(100));
        progress.rules.timeout = None;
        progress.tick(true, start + WAIT);
        assert_eq!(
            (progress.report(), progress.state(start)),
            (Lsn(0), SyncState::CatchingUp)
        );
        progress.tick(true, start + 1000 * WAIT);
        assert_eq!(progress.report(), Lsn(0));
    }
}
