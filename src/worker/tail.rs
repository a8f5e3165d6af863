//! The uploader stores the tail: what is new of the segment that is being written, at most once in `walarchive.tail_interval`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use walarchive_core::archive::Archive;
use walarchive_core::archive::tail::{Cleaner, Position, Shipped, Shipper, segments_before};
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
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// While older segments wait, it is tried this often.
const SOON: Duration = Duration::from_secs(1);

/// The same for what could not be removed.
const CLEAN_AGAIN: Duration = Duration::from_secs(30);

/// A store that takes longer than this is shown as one that does not take it.
const SLOW: Duration = Duration::from_secs(5);

/// A failure is told again after this.
const REMIND: Duration = Duration::from_secs(60);

/// The result of a task.
enum News {
    Shipped(Seen, Result<Shipped>),
    Looked(Cleaner, Result<()>),
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
    /// Removes what is left where none is stored any more.
    leftovers: Option<Cleaner>,
    shipping: Option<(AbortHandle, Instant)>,
    /// When the log was told of a failure.
    told: Option<Instant>,
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
            leftovers: None,
            told: None,
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

    /// The store takes something: it may take the tail, too.
    pub(super) fn try_again(&mut self) {
        if self.told.is_some() {
            self.restart();
        }
    }

    /// Do what is due. Returns when to call this again; the end of a task wakes the uploader.
    pub(super) fn turn(&mut self, bridge: &'static Bridge, link: Link) -> Duration {
        self.collect();
        let now = Instant::now();
        if server::in_recovery() {
            self.rest(TailState::Recovery);
            return guc::tail_interval().unwrap_or_else(guc::lease_interval);
        }
        let Some(interval) = guc::tail_interval().filter(|_| is_archived_here()) else {
            self.rest(TailState::Off);
            if is_archived_here() {
                self.look_for_leftovers(bridge, now);
                self.clean(bridge, now);
            }
            return guc::lease_interval();
        };
        self.leftovers = None;
        match &self.shipping {
            Some((_, begun)) if now - *begun > SLOW => note_slow(),
            Some(_) => {}
            None if now >= self.due => {
                self.due = now + interval;
                self.begin(bridge, link, interval);
            }
            None => {}
        }
        self.clean(bridge, now);
        match self.shipping {
            Some(_) => interval.min(SLOW),
            None => self.due.saturating_duration_since(now),
        }
    }

    /// Chunks stay when it is turned off, and when another process has ended.
    fn look_for_leftovers(&mut self, bridge: &'static Bridge, now: Instant) {
        if self.leftovers.is_some() || self.cleaning.is_some() || now < self.clean_due {
            return;
        }
        // The archiver reports wrong settings.
        let archive = ArchiveSettings::for_writing().and_then(|settings| bridge::archive(&settings));
        let Ok(archive) = archive else { return };
        let (cleaner, sender) = (Cleaner::new(archive, self.pg_wal.clone()), self.sender.clone());
        let work = async move {
            let looked = cleaner.look().await;
            (cleaner, looked)
        };
        self.cleaning = Some(bridge.spawn(work, move |(cleaner, looked)| {
            // This fails if the loop has ended.
            let _ = sender.send(News::Looked(cleaner, looked));
        }));
    }

    fn collect(&mut self) {
        // A task sends its result before it ends. One that has ended without a result has panicked.
        let panicked = self.shipping.as_ref().is_some_and(|(task, _)| task.is_finished());
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
                News::Looked(cleaner, result) => {
                    self.cleaning = None;
                    match result {
                        Ok(()) => self.leftovers = Some(cleaner),
                        Err(error) => self.clean_again(&error),
                    }
                }
                News::Cleaned(result) => {
                    self.cleaning = None;
                    if let Err(error) = result {
                        self.clean_again(&error);
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

    fn clean_again(&mut self, error: &Error) {
        debug1!("walarchive: chunks of WAL that are not needed any more stay for now: {error}");
        self.clean_due = Instant::now() + CLEAN_AGAIN;
    }

    fn succeeded(&mut self, seen: &Seen, shipped: Shipped) {
        let Some(epoch) = &mut self.epoch else { return };
        epoch.last = Some((seen.position, shipped));
        self.pause = FIRST_PAUSE;
        publish(seen, &shipped, epoch.generation);
        if shipped.safe < Some(seen.position.flushed) {
            self.due = self.due.min(Instant::now() + SOON);
        } else if self.told.take().is_some() {
            log!("walarchive: new WAL is stored again");
        }
    }

    fn failed(&mut self, failed: &Error) {
        self.due = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let is_told = self.told.is_some_and(|told| told.elapsed() < REMIND);
        // The archiver reports who writes.
        if !is_told && !matches!(failed, Error::NotWriter { .. }) {
            self.told = Some(Instant::now());
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
        let is_known = |(known, shipped): &&(Position, Shipped)| {
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
                prepare(&position);
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
        if let Some((_, shipped)) = epoch.last.as_ref().filter(is_known) {
            publish(&seen, shipped, epoch.generation);
            return;
        }
        if link == Link::Needed {
            self.due = Instant::now() + interval.min(SOON);
            ARCHIVING.exclusive().tail.state = TailState::Waiting;
            return;
        }
        let (shipper, sender) = (Arc::clone(&epoch.shipper), self.sender.clone());
        let work = async move { shipper.lock().await.ship(position).await };
        let task = bridge.spawn(work, move |result| {
            // This fails if the loop has ended.
            let _ = sender.send(News::Shipped(seen, result));
        });
        self.shipping = Some((task, Instant::now()));
    }

    fn clean(&mut self, bridge: &'static Bridge, now: Instant) {
        let cleaner = match &self.epoch {
            Some(epoch) => Some(&epoch.cleaner),
            None => self.leftovers.as_ref(),
        };
        if self.cleaning.is_some() || now < self.clean_due {
            return;
        }
        let Some(cleaner) = cleaner.filter(|cleaner| cleaner.has_work()).cloned() else {
            return;
        };
        let sender = self.sender.clone();
        self.cleaning = Some(bridge.spawn(async move { cleaner.clean().await }, move |result| {
            // This fails if the loop has ended.
            let _ = sender.send(News::Cleaned(result));
        }));
    }

    /// Nothing is stored here, and what was shown is out of date soon.
    fn rest(&mut self, state: TailState) {
        if ARCHIVING.share().tail.state != state {
            self.leave();
            ARCHIVING.exclusive().tail = Shown { state, ..Shown::NONE };
        }
    }

    /// Leave all to others. What was under way counts as not stored.
    pub(super) fn leave(&mut self) {
        if let Some((task, _)) = self.shipping.take() {
            task.abort();
        }
        if let Some(task) = self.cleaning.take() {
            task.abort();
        }
        (self.epoch, self.leftovers, self.told) = (None, None, None);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Before an epoch begins there. The archiver does not go on with the one before, and segments that PostgreSQL has not marked as ready,
/// after a crash or on a full disk, are marked now: nothing is shipped before they are archived.
pub(super) fn prepare(position: &Position) {
    ARCHIVING.exclusive().tail.epoch = 0;
    let last = Lsn(position.flushed.0.saturating_sub(1));
    let present = Segment::containing(position.timeline, last, server::identity().segment_size);
    // If it cannot be read, the shipper tells.
    let before = segments_before(&server::data_directory().join(PG_WAL), present).unwrap_or_default();
    for segment in before {
        archiver::mark_as_ready(&segment.to_string());
    }
}

/// The store does not take it for now.
fn note_slow() {
    let mut archiving = ARCHIVING.exclusive();
    if archiving.tail.state == TailState::Storing {
        archiving.tail.state = TailState::Waiting;
    }
}

/// Show how far the tail is stored. The archiver goes on there when the server stops.
pub(super) fn publish(seen: &Seen, shipped: &Shipped, generation: u64) {
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
        // Behind a gap nobody can restore to it.
        safe_lsn: if shipped.gap.is_some() { 0 } else { safe },
        safe_us: match is_all {
            true if shipped.gap.is_none() => seen.at_us,
            _ => before.safe_us,
        },
        gap: shipped.gap.map_or(Text::EMPTY, |gap| Text::new(&gap.to_string())),
        error: Text::EMPTY,
        error_us: 0,
    };
}

/// Does this server archive its WAL by this library?
fn is_archived_here() -> bool {
    server::archive_mode() != "off" && server::is_archive_library()
}
