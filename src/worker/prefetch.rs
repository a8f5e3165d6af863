//! The prefetcher: while the server recovers, it fetches the WAL that recovery will ask for next. It ends with recovery, for good.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use walarchive_core::Result;
use walarchive_core::archive::prefetch::{Ended, Prefetcher, Situation, Spool};
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::lsn::Lsn;
use walarchive_core::recovery_state::is_in_recovery;
use walarchive_storage::Store;

use crate::bridge::Bridge;
use crate::error::{self, Severity};
use crate::guc::{self, ArchiveSettings};
use crate::pg::{process, server};
use crate::shmem::Failure;

/// How often the server's state is looked at while WAL is fetched, and otherwise.
const LOOK: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(1);

/// One that was ended by a defect is not begun again sooner.
const AGAIN: Duration = Duration::from_secs(10);

/// What the main thread and a task tell each other: the task must not call the server.
#[derive(Default)]
struct Known {
    replayed: AtomicU64,
    /// A segment has come that recovery was told is not there.
    arrived: AtomicBool,
}

/// A prefetcher that runs. Nobody else fetches ahead as long as it has the claim.
struct Running {
    task: AbortHandle,
    ended: Receiver<Ended>,
    _claim: File,
}

/// Shall it be begun?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// As soon as possible.
    Begin,
    /// Not before then: it was ended by a defect.
    At(Instant),
    /// Not with these settings.
    Wait,
}

impl Next {
    fn is_due(self) -> bool {
        match self {
            Next::Begin => true,
            Next::At(time) => Instant::now() >= time,
            Next::Wait => false,
        }
    }
}

/// What follows when it has ended by itself. None: it panicked, and said nothing.
fn after(ended: Option<Ended>, now: Instant) -> Next {
    ended.map_or(Next::At(now + AGAIN), |_| Next::Wait)
}

/// How the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Recovery is over: it is not needed any more.
    Promoted,
    /// The server told it to end.
    Told,
}

pub(super) struct Worker {
    bridge: &'static Bridge,
    known: Arc<Known>,
    /// Makes a process of wal-fetch's leave the work to this one.
    lock: Option<File>,
    running: Option<Running>,
    next: Next,
}

impl Worker {
    pub(super) fn new() -> Self {
        Worker {
            bridge: Bridge::get(),
            known: Arc::default(),
            lock: None,
            running: None,
            next: Next::Begin,
        }
    }

    /// Work until recovery is over.
    pub(super) fn run(mut self) -> End {
        let end = loop {
            if process::shutdown_requested() {
                break End::Told;
            }
            if process::reload_requested() {
                process::reload_configuration();
                self.end();
                self.next = Next::Begin;
            }
            if !server::in_recovery() {
                break End::Promoted;
            }
            self.known.replayed.store(server::wal_position().1, Ordering::Relaxed);
            if self.known.arrived.swap(false, Ordering::Relaxed) {
                server::wake_recovery();
            }
            self.look_after();
            if self.running.is_none() && self.next.is_due() {
                self.begin();
            }
            let is_at_work = self.running.is_some() || self.lock.is_some();
            self.bridge.wait(Some(if is_at_work { LOOK } else { IDLE }));
        };
        // What a worker left that was killed goes, too.
        self.end();
        Spool::remove_from(&wal_directory());
        end
    }

    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
        }
        self.lock = None;
    }

    /// Has the prefetcher ended by itself?
    fn look_after(&mut self) {
        let Some(running) = &self.running else { return };
        let ended = match running.ended.try_recv() {
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => None,
            Ok(ended) => Some(ended),
        };
        self.end();
        self.next = after(ended, Instant::now());
        let said = match ended {
            Some(Ended::OtherRepository) => {
                "restore_command reads another repository than walarchive.storage, or has a key: wal-fetch fetches ahead by itself"
            }
            Some(Ended::NoKey) => {
                "the WAL seems to be encrypted, and the server has no key: wal-fetch fetches ahead by itself"
            }
            _ => return,
        };
        error::log_line(Severity::Log, said);
    }

    fn begin(&mut self) {
        match self.try_begin() {
            Ok(begun) => self.running = begun,
            Err(error) => {
                error::warn("could not fetch WAL ahead of recovery", &Failure::from(&error));
                self.end();
                self.next = Next::Wait;
            }
        }
    }

    /// None: not now.
    fn try_begin(&mut self) -> Result<Option<Running>> {
        let most = guc::prefetch();
        // A server that recovers from a crash needs no archive.
        if most == 0 || !is_in_recovery(&server::data_directory()) || server::setting(c"restore_command").is_empty() {
            return Ok(None);
        }
        // The archiver reports wrong settings.
        let Ok(settings) = ArchiveSettings::current() else {
            return Ok(None);
        };
        let spool = Spool::new(&wal_directory(), &settings.storage);
        if self.lock.is_none() {
            self.lock = spool.claim_for_worker();
        }
        // A process of wal-fetch's may have begun before. It leaves now.
        let Some(claim) = spool.claim().filter(|_| self.lock.is_some()) else {
            return Ok(None);
        };
        let prefetcher = Prefetcher {
            store: Store::open(&settings.storage)?,
            spool,
            reads_first: settings.compression.format(),
            identity: server::identity(),
            most,
            idle_limit: None,
            asked: None,
        };
        let (sender, ended) = channel();
        let known = Arc::clone(&self.known);
        let look = move || Situation::Recovering(Some(Lsn(known.replayed.load(Ordering::Relaxed))));
        let (known, bridge) = (Arc::clone(&self.known), self.bridge);
        let arrived = move || {
            known.arrived.store(true, Ordering::Relaxed);
            bridge.wake();
        };
        // A server that streams does not wait for the archive.
        let arrived = server::setting(c"primary_conninfo").is_empty().then_some(arrived);
        let task = self.bridge.spawn(prefetcher.run(look, arrived), move |ended| {
            // This fails if the worker is ending.
            let _ = sender.send(ended);
        });
        Ok(Some(Running {
            task,
            ended,
            _claim: claim,
        }))
    }
}

fn wal_directory() -> PathBuf {
    server::data_directory().join(PG_WAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_panicked_is_begun_again() {
        let now = Instant::now();
        assert_eq!(after(None, now), Next::At(now + AGAIN));
        assert!(Next::At(now).is_due() && !Next::At(now + AGAIN).is_due());
        for ended in [Ended::OtherRepository, Ended::NoKey] {
            assert_eq!(after(Some(ended), now), Next::Wait);
        }
    }
}
