//! The uploader's loop: take what the archiver asks for, look ahead, upload many files at once, report the results.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use walarchive_core::archive::{Pace, Pushed};
use walarchive_core::backup::Rate;
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Result};
use walarchive_storage::{Brake, Motion};

use super::ahead::{Ahead, Failed};
use super::backfill::{Backfill, Link};
use super::held::Held;
use super::keys::Keys;
use super::lag::Lag;
use super::lease::Keeper;
use super::points::Indexer;
use super::synchronous::Synchronous;
use super::tail::Tail;
use crate::bridge::{self, Bridge};
use crate::error;
use crate::guc::{self, ArchiveSettings};
use crate::pg::{process, server};
use crate::shmem::{ARCHIVING, Ahead as Room, Failure, Text};

/// The uploader does not look around more often than that.
const SOON: Duration = Duration::from_millis(10);

/// How often it looks around with nothing to do.
const IDLE: Duration = Duration::from_secs(10);

/// The same in recovery, if WAL is to be stored as soon as that has ended.
const RECOVERY: Duration = Duration::from_millis(200);

/// The same while files are being uploaded: seldom at first, and often while a standby's files or slow ones are.
const SELDOM: Duration = Duration::from_millis(300);
const OFTEN: Duration = Duration::from_millis(100);

/// A file whose upload takes longer than this waits for the link.
const BEHIND: Duration = Duration::from_secs(2);

/// An upload that has ended.
struct Finished {
    name: WalFileName,
    generation: u64,
    result: Result<Pushed>,
}

/// An upload that runs.
struct Running {
    task: AbortHandle,
    begun: Instant,
    motion: Arc<Motion>,
    brake: Brake,
}

impl Running {
    fn is_sending(&self) -> bool {
        !self.motion.has_sent_all()
    }

    /// Since when it waits for the link. Before, a file waits for a processor, unless it goes in parts.
    fn sending_since(&self, in_parts: bool) -> Option<Instant> {
        match in_parts {
            true => Some(self.begun),
            false => self.motion.sending_since(),
        }
    }
}

pub(super) struct Uploader {
    bridge: &'static Bridge,
    directory: PathBuf,
    ahead: Ahead,
    keys: Keys,
    lease: Keeper,
    backfill: Backfill,
    indexer: Indexer,
    synchronous: Synchronous,
    tail: Tail,
    running: HashMap<WalFileName, Running>,
    pace: Pace,
    held: Held,
    lag: Lag,
    /// The last upload took long, or the oldest that runs does.
    slow: bool,
    /// The bytes of all uploads.
    motion: Arc<Motion>,
    rate: Rate,
    sender: Sender<Finished>,
    finished: Receiver<Finished>,
}

impl Uploader {
    pub(super) fn new() -> Self {
        let (sender, finished) = channel();
        bridge::compress_apart(guc::compression_threads());
        Uploader {
            bridge: Bridge::get(),
            directory: server::data_directory().join(PG_WAL),
            ahead: Ahead::new(),
            keys: Keys::new(),
            lease: Keeper::new(),
            backfill: Backfill::new(),
            indexer: Indexer::new(),
            synchronous: Synchronous::new(),
            tail: Tail::new(),
            running: HashMap::new(),
            pace: Pace::default(),
            held: Held::new(server::identity().segment_size.bytes()),
            lag: Lag::default(),
            slow: false,
            motion: Arc::default(),
            rate: Rate::default(),
            sender,
            finished,
        }
    }

    /// Work until the server tells this process to end.
    pub(super) fn run(&mut self) {
        while !process::shutdown_requested() {
            if process::reload_requested() {
                process::reload_configuration();
                bridge::compress_apart(guc::compression_threads());
                self.ahead.restart();
                self.keys.restart();
                self.lease.restart();
                self.backfill.restart();
                self.synchronous.restart();
                self.tail.restart();
            }
            let keys_in = self.keys.turn(self.bridge);
            if !self.running.is_empty() {
                bridge::note_situation();
            }
            self.collect();
            self.take_requests();
            if let Err(error) = self.look_ahead() {
                error::warn("could not look ahead for WAL files", &Failure::from(&error));
                self.ahead.failed(None, Instant::now());
            }
            self.give_way();
            self.hurry();
            self.show();
            let is_starting = server::in_recovery() && (guc::synchronous() || guc::tail_interval().is_some());
            let longest = match self.running.is_empty() {
                // Nothing tells that recovery has ended, and then commits wait.
                true if is_starting => RECOVERY,
                true => IDLE,
                // They may wait for the end of a promotion, or have left the link to the next ones.
                false if server::in_recovery() || self.oldest() > SELDOM => OFTEN,
                false => SELDOM,
            };
            let wake_in = self.ahead.resumes_in().unwrap_or(longest).clamp(SOON, longest);
            let link = match self.is_behind() {
                true => Link::Needed,
                false => Link::Free,
            };
            let backfill_in = self.backfill.turn(self.bridge, link).max(SOON);
            self.indexer.turn(self.bridge);
            let tail_link = match link {
                Link::Free if self.backfill.is_over() => Link::Free,
                _ => Link::Needed,
            };
            let tail_in = match self.synchronous.is_wanted() {
                // It stores the tail itself.
                true => {
                    self.tail.leave();
                    self.synchronous.turn(self.bridge, self.backfill.is_over())
                }
                false => {
                    self.synchronous.rest();
                    self.tail.turn(self.bridge, tail_link).max(SOON)
                }
            };
            let (lease_in, gained) = self.lease.turn(self.bridge);
            if gained {
                self.begin_again();
                continue;
            }
            let wake_in = wake_in.min(lease_in).min(backfill_in).min(tail_in).min(keys_in);
            self.bridge.wait(Some(wake_in));
        }
        self.synchronous.end(self.bridge);
        // The archiver uploads these files again. An object that was written in spite of this has the same content.
        for running in self.running.values() {
            running.task.abort();
        }
    }

    /// This server may write from now on. PostgreSQL's archiver pauses for up to a minute after it was refused, and looking ahead
    /// pauses, too.
    fn begin_again(&mut self) {
        self.ahead.restart();
        self.backfill.restart();
        self.tail.restart();
        let archiver = {
            let mut archiving = ARCHIVING.exclusive();
            archiving.lease_gains += 1;
            archiving.archiver
        };
        archiver.set();
    }

    /// How long the oldest upload has been on its way.
    fn oldest(&self) -> Duration {
        let first = self.running.values().map(|running| running.begun).min();
        first.map_or(Duration::ZERO, |begun| begun.elapsed())
    }

    /// The uploads that take a share of the link. Others wait for their answers, which takes long if the store is far away.
    fn sending(&self) -> usize {
        self.running.values().filter(|running| running.is_sending()).count()
    }

    /// If the link is slow, a backup leaves it to WAL, and later files leave it to the files that the archiver asks for first.
    fn give_way(&mut self) {
        let in_parts = self.held.in_parts();
        let sending = self
            .running
            .values()
            .filter_map(|running| running.sending_since(in_parts));
        if sending.min().is_some_and(|since| since.elapsed() >= BEHIND) {
            self.slow = true;
            self.pace.late(self.running.len());
        }
        let limit = self.pace.limit(guc::upload_concurrency());
        let (mut sending, sent): (Vec<_>, Vec<_>) = self.running.iter().partition(|(_, running)| running.is_sending());
        // If some of it has to be sent again, it is late already.
        sent.iter().for_each(|(_, running)| running.brake.hold(false));
        sending.sort_unstable_by_key(|(name, _)| **name);
        for (place, (_, running)) in sending.into_iter().enumerate() {
            running.brake.hold(place >= limit);
        }
    }

    /// If WAL is written faster than it is archived, those who compress it need not stand back any more.
    fn hurry(&mut self) {
        let size = server::identity().segment_size;
        let segments = self.running.keys().filter_map(|name| match name {
            WalFileName::Segment(segment) => Some(segment.start(size)),
            _ => None,
        });
        let (_, written) = server::wal_position();
        let behind = segments.min().map(|archived| written.saturating_sub(archived.0));
        bridge::hurry(self.lag.turn(Instant::now(), behind.unwrap_or(0), size.bytes()));
    }

    /// Does WAL wait for the link?
    fn is_behind(&self) -> bool {
        self.slow && !self.running.is_empty()
    }

    /// Publish that the uploader lives, and its figures.
    fn show(&mut self) {
        let now = Instant::now();
        let rate = self.rate.update(now, self.motion.bytes());
        let mut archiving = ARCHIVING.exclusive();
        archiving.beat();
        if let Some(rate) = rate {
            archiving.bytes_per_second = rate;
        }
        // This does not change from one segment to the next: a backup would take the link each time until that segment is late, too.
        archiving.behind = self.is_behind();
        for (name, running) in &self.running {
            archiving
                .queue
                .note_sent(&Text::new(&name.to_string()), running.motion.bytes());
        }
    }

    /// Tell the queue and the archiver how uploads ended.
    fn collect(&mut self) {
        // A task sends its result before it ends. One that has ended without a result has panicked.
        let over: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| running.task.is_finished())
            .map(|(name, _)| *name)
            .collect();
        let mut finished: Vec<Finished> = self.finished.try_iter().collect();
        for name in over {
            if !finished.iter().any(|finished| finished.name == name) {
                finished.push(Finished {
                    name,
                    generation: 0,
                    result: Err(crashed(&name)),
                });
            }
        }
        let mut archiver = None;
        for Finished {
            name,
            generation,
            result,
        } in finished
        {
            let running = self.running.remove(&name);
            let begun = running.as_ref().map_or_else(Instant::now, |running| running.begun);
            let in_parts = self.held.in_parts();
            let sending = running.and_then(|running| running.sending_since(in_parts));
            let file = Text::new(&name.to_string());
            let failure = result.as_ref().err().map(Failure::from);
            let told = {
                let mut archiving = ARCHIVING.exclusive();
                archiver = Some(archiving.archiver);
                match (&result, &failure) {
                    (Ok(pushed), _) => {
                        archiving
                            .queue
                            .finish(&file, generation, pushed.fingerprint.to_numbers());
                        archiving.counters.bytes_in += pushed.file_bytes;
                        archiving.counters.bytes_out += if pushed.already_there { 0 } else { pushed.stored_bytes };
                        true
                    }
                    (Err(_), Some(failure)) => {
                        archiving.note_failure(failure);
                        archiving.queue.fail(&file, *failure)
                    }
                    (Err(_), None) => true,
                }
            };
            match (&result, failure) {
                (Ok(pushed), _) => {
                    self.ahead.succeeded();
                    self.tail.try_again();
                    let bytes = if pushed.already_there { 0 } else { pushed.stored_bytes };
                    let now = Instant::now();
                    let took = now - sending.unwrap_or(now);
                    self.slow = took >= BEHIND;
                    self.pace.succeeded(now, bytes, took, guc::upload_concurrency());
                    self.held.learn(pushed.stored_bytes);
                }
                (Err(_), None) => {}
                (Err(_), Some(failure)) => {
                    if self.ahead.failed(Some(name), begun) == Failed::Store {
                        self.pace.failed();
                    }
                    if !told {
                        error::warn(&format!("could not upload \"{name}\" ahead of the archiver"), &failure);
                    }
                }
            }
        }
        if let Some(archiver) = archiver {
            archiver.set();
        }
    }

    /// The files that the archiver waits for come first.
    fn take_requests(&mut self) {
        loop {
            let request = ARCHIVING.exclusive().queue.take_request();
            let Some(file) = request else { return };
            self.ahead.expect_more();
            match (file.as_str().parse::<WalFileName>(), ArchiveSettings::for_writing()) {
                (Ok(name), Ok(settings)) => self.upload(name, &settings),
                (Err(error), _) | (_, Err(error)) => {
                    let failure = Failure::from(&error);
                    let archiver = {
                        let mut archiving = ARCHIVING.exclusive();
                        archiving.note_failure(&failure);
                        archiving.queue.fail(&file, failure);
                        archiving.archiver
                    };
                    archiver.set();
                }
            }
        }
    }

    fn look_ahead(&mut self) -> Result<()> {
        // Without an archiver that calls this library, these files are not to be archived here.
        if server::archive_mode() == "off" || !server::is_archive_library() {
            return Ok(());
        }
        // Nor while the server recovers: it is not known yet whether it may write.
        if server::in_recovery() && server::archive_mode() != "always" {
            return Ok(());
        }
        // The archiver reports wrong settings.
        let Ok(settings) = ArchiveSettings::for_writing() else {
            return Ok(());
        };
        if !self.running.is_empty() {
            self.ahead.has_room();
        }
        let most = match server::in_crash_recovery() {
            // Nobody can use the server before it has replayed its WAL.
            true => 1,
            false => guc::upload_concurrency(),
        };
        while self.sending() < self.pace.limit(most) && self.running.len() < most && self.has_room(most) {
            let Some(name) = self.ahead.next()? else {
                self.pace.idle();
                break;
            };
            let file = Text::new(&name.to_string());
            let room = ARCHIVING.exclusive().queue.look_ahead(&file);
            match room {
                Room::Taken if self.ahead.is_ready(file.as_str()) => self.upload(name, &settings),
                // The archiver was faster: it has had the file uploaded since the directory was read, or did it itself.
                Room::Taken => ARCHIVING.exclusive().queue.give_back(&file),
                Room::Known => {}
                Room::Full => {
                    self.ahead.put_back(name);
                    self.forget_stale();
                    break;
                }
            }
        }
        Ok(())
    }

    /// Is there memory for another upload?
    fn has_room(&self, most: usize) -> bool {
        let to_send = self.running.values().map(|running| running.motion.to_send());
        self.held.has_room(most, to_send)
    }

    /// A file that left `archive_status` in another way, for example by another archive library, would keep its slot forever.
    fn forget_stale(&mut self) {
        let uploaded: Vec<_> = ARCHIVING.share().queue.uploaded().collect();
        for file in uploaded.iter().filter(|file| !self.ahead.is_ready(file.as_str())) {
            ARCHIVING.exclusive().queue.forget(file);
        }
    }

    fn upload(&mut self, name: WalFileName, settings: &ArchiveSettings) {
        let (generation, sender, directory) = (settings.generation(), self.sender.clone(), self.directory.clone());
        let archive = bridge::archive(settings);
        let motion = self.motion.part();
        let (noting, brake) = (Arc::clone(&motion), Brake::default());
        let held = brake.clone();
        // The upload goes on when the archiver's call ends, and a later call finds it done.
        let work = async move { archive?.push_noting(&directory, &name, noting, held).await };
        let task = self.bridge.spawn(work, move |result| {
            // This fails if the loop has ended.
            let _ = sender.send(Finished {
                name,
                generation,
                result,
            });
        });
        let begun = Instant::now();
        let running = Running {
            task,
            begun,
            motion,
            brake,
        };
        self.running.insert(name, running);
    }
}

fn crashed(name: &WalFileName) -> Error {
    Error::defect(format!("the upload of \"{name}\" ended without a result"))
}
