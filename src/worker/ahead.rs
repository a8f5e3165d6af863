//! The files that the archiver will ask for next. `archive_status` is scanned as seldom as possible.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use walarchive_core::Result;
use walarchive_core::archive::ready_files;
use walarchive_core::wal::WalFileName;

use crate::pg::server;

/// Names that are kept from one scan: a queue of 100 000 files is scanned 25 times, not 100 000 times.
const BATCH: usize = 4096;

/// The directory is read again after this, at the earliest, while uploads are under way.
const SCAN_AGAIN: Duration = Duration::from_millis(500);

/// When the store fails, looking ahead pauses for this long at first, and for twice as long each time. If only one file fails, this
/// file rests for the longest of these times.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The files ahead of the archiver, in its order.
pub(super) struct Ahead {
    archive_status: PathBuf,
    names: VecDeque<WalFileName>,
    rescan: bool,
    /// When the directory was read last, and how long it is not read again.
    scanned: Option<Instant>,
    scan_again: Duration,
    paused_until: Option<Instant>,
    pause: Duration,
    /// When the store failed last.
    failed: Option<Instant>,
    /// When an upload succeeded last.
    succeeded: Option<Instant>,
    /// Files that fail while others do not, and until when they rest.
    resting: HashMap<WalFileName, Instant>,
}

/// The meaning of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// The store fails: all files wait for a while.
    Store,
    /// The failure of the store is known already.
    Known,
    /// Other files succeed: only this one waits.
    File,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self::in_directory(server::data_directory().join("pg_wal/archive_status"))
    }

    fn in_directory(archive_status: PathBuf) -> Self {
        Ahead {
            archive_status,
            names: VecDeque::new(),
            rescan: true,
            scanned: None,
            scan_again: SCAN_AGAIN,
            paused_until: None,
            pause: FIRST_PAUSE,
            failed: None,
            succeeded: None,
            resting: HashMap::new(),
        }
    }

    /// The archiver has asked for a file, so there may be more. The directory is read again when the known files are used up.
    pub(super) fn expect_more(&mut self) {
        self.rescan = true;
    }

    /// Another upload may run beside the others. On a slow link it takes long until the archiver asks for a new file, so the
    /// directory is read again, but not all the time.
    pub(super) fn has_room(&mut self) {
        if self.names.is_empty() && self.scanned.is_none_or(|at| at.elapsed() >= self.scan_again) {
            self.rescan = true;
        }
    }

    /// The next file, after a scan if one is due.
    pub(super) fn next(&mut self) -> Result<Option<WalFileName>> {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        self.paused_until = None;
        let (now, resting) = (Instant::now(), self.resting.len());
        self.resting.retain(|_, until| *until > now);
        // A file that has rested is found again.
        self.rescan |= self.resting.len() < resting;
        if self.names.is_empty() && self.rescan {
            self.rescan = false;
            let begun = Instant::now();
            self.names = ready_files(&self.archive_status, BATCH)?.into();
            self.scanned = Some(Instant::now());
            // Scans take a twentieth of the time at most.
            self.scan_again = SCAN_AGAIN.max(begun.elapsed() * 20);
            // A full batch: there is more behind it.
            self.rescan = self.names.len() == BATCH;
        }
        while let Some(name) = self.names.pop_front() {
            if !self.resting.contains_key(&name) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// There is no room for this file now.
    pub(super) fn put_back(&mut self, name: WalFileName) {
        self.names.push_front(name);
    }

    /// Is the file still waiting to be archived?
    pub(super) fn is_ready(&self, file: &str) -> bool {
        self.archive_status.join(format!("{file}.ready")).exists()
    }

    /// An upload that started at `begun` failed. Files that the archiver asks for are tried all the same.
    pub(super) fn failed(&mut self, name: Option<WalFileName>, begun: Instant) -> Failed {
        self.names.clear();
        self.rescan = true;
        if self.succeeded.is_some_and(|at| at > begun) {
            if let Some(name) = name {
                self.resting.insert(name, Instant::now() + LONGEST_PAUSE);
            }
            return Failed::File;
        }
        if self.failed.is_some_and(|at| at > begun) {
            return Failed::Known;
        }
        let now = Instant::now();
        self.failed = Some(now);
        self.paused_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Failed::Store
    }

    /// An upload succeeded: the store works again.
    pub(super) fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
        self.paused_until = None;
        self.succeeded = Some(Instant::now());
    }

    /// Forget all: the settings have changed.
    pub(super) fn restart(&mut self) {
        self.names.clear();
        self.rescan = true;
        self.paused_until = None;
        self.pause = FIRST_PAUSE;
        self.resting.clear();
    }

    /// When to try again, if a pause is on.
    pub(super) fn resumes_in(&self) -> Option<Duration> {
        let rested = self.resting.values().min().copied();
        let until = self.paused_until.or(rested);
        until.map(|until| until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_of_the_store_is_one_pause() {
        let dir = tempfile::tempdir().expect("a directory");
        let ready = |name: &str| std::fs::write(dir.path().join(format!("{name}.ready")), "").expect("written");
        let name = |timeline: usize| {
            format!("{timeline:08X}.history")
                .parse::<WalFileName>()
                .expect("a name")
        };
        (2..5).for_each(|timeline| ready(&name(timeline).to_string()));
        let mut ahead = Ahead::in_directory(dir.path().to_owned());
        let begun = Instant::now();
        assert_eq!(ahead.failed(Some(name(2)), begun), Failed::Store);
        for timeline in 3..5 {
            assert_eq!(ahead.failed(Some(name(timeline)), begun), Failed::Known);
        }
        assert!(ahead.resumes_in().expect("a pause") <= FIRST_PAUSE);
        assert_eq!(ahead.next().expect("asked"), None, "it pauses");
        assert_eq!(ahead.failed(None, Instant::now()), Failed::Store);
        assert!(
            ahead.resumes_in().expect("a pause") > FIRST_PAUSE,
            "the next one is longer"
        );

        // While others succeed there is no pause, and who fails rests.
        let begun = Instant::now();
        ahead.succeeded();
        assert_eq!(ahead.failed(Some(name(3)), begun), Failed::File);
        let found: Vec<_> = std::iter::from_fn(|| ahead.next().expect("asked")).collect();
        assert_eq!(found, [name(2), name(4)]);
        assert!(ahead.resumes_in().expect("a rest") > FIRST_PAUSE);
    }

    #[test]
    fn one_scan_serves_a_whole_batch() {
        let dir = tempfile::tempdir().expect("a directory");
        let ready = |timeline: usize| dir.path().join(format!("{timeline:08X}.history.ready"));
        let count = BATCH * 2 + 10;
        for timeline in 2..2 + count {
            std::fs::write(ready(timeline), "").expect("written");
        }
        let mut ahead = Ahead::in_directory(dir.path().to_owned());
        let mut taken = 0;
        // Without the files, each scan after the first would find nothing.
        while let Some(name) = ahead.next().expect("scanned") {
            assert_eq!(name.to_string(), format!("{:08X}.history", 2 + taken));
            if taken % BATCH == 0 {
                (2 + taken..2 + taken + BATCH.min(count - taken)).for_each(|timeline| {
                    std::fs::remove_file(ready(timeline)).expect("removed");
                });
            }
            taken += 1;
        }
        assert_eq!(taken, count);
        std::fs::write(ready(2), "").expect("written");
        assert_eq!(ahead.next().expect("asked"), None, "nobody said that there is more");
        ahead.expect_more();
        assert!(ahead.next().expect("asked").is_some());
    }
}
