//! The uploader stores the tail: what is new of the segment that is being written, at most once in `walarchive.tail_interval`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use walarchive_core::archive::Archive;
use walarchive_core::archive::tail::{Cleaner, Position, Shipped, Shipper};
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::wal::Segment;
use walarchive_core::{Error, Lsn, Result};

use super::backfill::Link;
use crate::bridge::{self, Bridge};
use crate::error;
use crate::guc::{self, ArchiveSettings};
use crate::pg::{archiver, server};
use crate::shmem::{ARCHIVING, Failure, Tail as Shown, TailState, Text, now_us};

/// After a failure the next attempt comes so much later, and each time twice as late.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The result of a task.
enum News {
    Shipped(Seen, Result<Shipped>),
    Cleaned(Result<usize>),
}

/// How far the server was, and when: microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) position: Position,
    pub(super) at_us: i64,
}

impl Seen {
    /// It is here now. Not in recovery.
    pub(super) fn now() -> Self {
        let at_us = now_us();
        let (timeline, flushed) = server::wal_position();
        let position = Position {
            timeline,
            flushed: Lsn(flushed),
        };
        Seen { position, at_us }
    }
}

/// One epoch.
struct Epoch {
    archive: Arc<Archive>,
    generation: u64,
    shipper: Arc<Mutex<Shipper>>,
    cleaner: Cleaner,
    /// What was stored last, and up to where it was to be.
    last: Option<(Position, Shipped)>,
}

pub(super) struct Tail {
    pg_wal: PathBuf,
    epoch: Option<Epoch>,
    shipping: Option<AbortHandle>,
    cleaning: Option<AbortHandle>,
    due: Instant,
    pause: Duration,
    clean_due: Instant,
    sender: Sender<News>,
    news: Receiver<News>,
}

impl Tail {
    pub(super) fn new() -> Self {
        let (sender, news) = channel();
        Tail {
            pg_wal: server::data_directory().join(PG_WAL),
            epoch: None,
            shipping: None,
            cleaning: None,
            due: Instant::now(),
            pause: FIRST_PAUSE,
            clean_due: Instant::now(),
            sender,
            news,
        }
    }

    /// The settings have changed.
    pub(super) fn restart(&mut self) {
        (self.due, self.pause) = (Instant::now(), FIRST_PAUSE);
    }

    /// Do what is due. Returns when to call this again; the end of a task wakes the uploader.
    pub(super) fn turn(&mut self, bridge: &'static Bridge, link: Link) -> Duration {
        self.collect();
        let Some(interval) = guc::tail_interval().filter(|_| is_archived_here()) else {
            self.rest(TailState::Off);
            return guc::lease_interval();
        };
        if server::in_recovery() {
            self.rest(TailState::Recovery);
            return interval;
        }
        let now = Instant::now();
        if self.shipping.is_none() && now >= self.due {
            self.due = now + interval;
            self.begin(bridge, link, interval);
        }
        self.clean(bridge, now);
        self.due.saturating_duration_since(now)
    }

    fn collect(&mut self) {
        // A task sends its result before it ends. One that has ended without a result has panicked.
        let panicked = self.shipping.as_ref().is_some_and(AbortHandle::is_finished);
        let news: Vec<News> = self.news.try_iter().collect();
        let is_told = news.iter().any(|news| matches!(news, News::Shipped(..)));
        for news in news {
            match news {
                News::Shipped(seen, result) => {
                    self.shipping = None;
                    match result {
                        Ok(shipped) => self.succeeded(&seen, shipped),
                        Err(error) => self.failed(&error),
                    }
                }
                News::Cleaned(result) => {
                    self.cleaning = None;
                    if let Err(error) = result {
                        debug1!("walarchive: chunks of WAL that are not needed any more stay for now: {error}");
                        self.clean_due = Instant::now() + LONGEST_PAUSE;
                    }
                }
            }
        }
        if panicked && !is_told {
            self.shipping = None;
            self.failed(&Error::defect("the upload of new WAL ended without a result"));
        }
        self.cleaning.take_if(|task| task.is_finished());
    }

    fn succeeded(&mut self, seen: &Seen, shipped: Shipped) {
        let Some(epoch) = &mut self.epoch else { return };
        epoch.last = Some((seen.position, shipped));
        self.pause = FIRST_PAUSE;
        if publish(seen, &shipped, epoch.generation) {
            log!("walarchive: new WAL is stored again");
        }
    }

    fn failed(&mut self, failed: &Error) {
        self.due = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        // The archiver reports who writes.
        if !matches!(failed, Error::NotWriter { .. }) {
            error::warn("could not store new WAL of the present segment", &Failure::from(failed));
        }
        let mut archiving = ARCHIVING.exclusive();
        archiving.tail.state = TailState::Failing;
        (archiving.tail.error, archiving.tail.error_us) = (Text::new(&failed.to_string()), now_us());
    }

    fn begin(&mut self, bridge: &'static Bridge, link: Link, interval: Duration) {
        let seen = Seen::now();
        let position = seen.position;
        // Nothing is new, and nothing of before waits.
        let is_known = |(known, shipped): &(Position, Shipped)| {
            *known == position && shipped.safe.is_some_and(|safe| safe >= position.flushed)
        };
        let settings = match ArchiveSettings::for_writing() {
            Ok(settings) => settings,
            Err(error) => return self.failed(&error),
        };
        let archive = match bridge::archive(&settings) {
            Ok(archive) => archive,
            Err(error) => return self.failed(&error),
        };
        let epoch = match self.epoch.take() {
            Some(epoch) if Arc::ptr_eq(&epoch.archive, &archive) => epoch,
            _ => {
                mark_before(&position);
                let shipper = Shipper::new(Arc::clone(&archive), self.pg_wal.clone());
                Epoch {
                    archive,
                    generation: settings.generation(),
                    cleaner: shipper.cleaner(),
                    shipper: Arc::new(Mutex::new(shipper)),
                    last: None,
                }
            }
        };
        let epoch = self.epoch.insert(epoch);
        if epoch.last.as_ref().is_some_and(is_known) {
            ARCHIVING.exclusive().tail.safe_us = seen.at_us;
            return;
        }
        if link == Link::Needed {
            self.due = Instant::now() + interval;
            ARCHIVING.exclusive().tail.state = TailState::Waiting;
            return;
        }
        let (shipper, sender) = (Arc::clone(&epoch.shipper), self.sender.clone());
        let work = async move { shipper.lock().await.ship(position).await };
        self.shipping = Some(bridge.spawn(work, move |result| {
            // This fails if the loop has ended.
            let _ = sender.send(News::Shipped(seen, result));
        }));
    }

    fn clean(&mut self, bridge: &'static Bridge, now: Instant) {
        let Some(epoch) = self.epoch.as_ref().filter(|_| now >= self.clean_due) else {
            return;
        };
        if self.cleaning.is_some() || !epoch.cleaner.has_work() {
            return;
        }
        let (cleaner, sender) = (epoch.cleaner.clone(), self.sender.clone());
        self.cleaning = Some(bridge.spawn(async move { cleaner.clean().await }, move |result| {
            // This fails if the loop has ended.
            let _ = sender.send(News::Cleaned(result));
        }));
    }

    /// Nothing is stored here, and what was shown is out of date soon.
    fn rest(&mut self, state: TailState) {
        self.stop();
        if ARCHIVING.share().tail.state != state {
            ARCHIVING.exclusive().tail = Shown { state, ..Shown::NONE };
        }
    }

    /// End all tasks. What was under way counts as not stored.
    pub(super) fn stop(&mut self) {
        let tasks = [self.shipping.take(), self.cleaning.take()];
        tasks.iter().flatten().for_each(AbortHandle::abort);
        self.epoch = None;
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop();
    }
}

/// After a crash the last segment that is complete may wait for its mark until a checkpoint comes that would remove it, and nothing
/// is shipped before it is archived.
pub(super) fn mark_before(position: &Position) {
    let size = server::identity().segment_size;
    let last = Lsn(position.flushed.0.saturating_sub(1));
    let present = Segment::containing(position.timeline, last, size).number(size);
    if let Some(before) = present.checked_sub(1) {
        let name = Segment::from_number(position.timeline, before, size).to_string();
        if server::data_directory().join(PG_WAL).join(&name).exists() {
            archiver::mark_as_ready(&name);
        }
    }
}

/// Show how far the tail is stored. The archiver goes on there when the server stops. Returns whether it could not be stored before.
pub(super) fn publish(seen: &Seen, shipped: &Shipped, generation: u64) -> bool {
    let safe = shipped.safe.map_or(0, |safe| safe.0);
    let is_all = safe >= seen.position.flushed.0;
    let mut archiving = ARCHIVING.exclusive();
    let before = archiving.tail;
    archiving.tail = Shown {
        state: match is_all {
            true => TailState::Storing,
            false => TailState::Waiting,
        },
        generation,
        epoch: shipped.epoch,
        timeline: shipped.timeline,
        stored_lsn: shipped.stored.0,
        safe_lsn: safe,
        safe_us: match is_all {
            true => seen.at_us,
            false => before.safe_us,
        },
        error: Text::EMPTY,
        error_us: 0,
    };
    before.error_us != 0
}

/// Does this server archive its WAL by this library?
fn is_archived_here() -> bool {
    server::archive_mode() != "off" && server::is_archive_library()
}
