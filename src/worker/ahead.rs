//! What will be asked for next: the files that wait in `archive_status`, scanned as seldom as possible.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use walarchive_core::Result;
use walarchive_core::archive::ready_files;
use walarchive_core::wal::WalFileName;

use crate::pg::server;

/// Names that are kept from one scan: a queue of 100 000 files is scanned 25 times, not 100 000 times.
const BATCH: usize = 4096;

/// After a failure, looking ahead pauses for this long at first, and for twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The files ahead of the archiver, in its order.
pub(super) struct Ahead {
    archive_status: PathBuf,
    names: VecDeque<WalFileName>,
    rescan: bool,
    paused_until: Option<Instant>,
    pause: Duration,
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
            paused_until: None,
            pause: FIRST_PAUSE,
        }
    }

    /// The archiver has asked for something: there may be more. The directory is read again once what is known of it is
    /// used up.
    pub(super) fn expect_more(&mut self) {
        self.rescan = true;
    }

    /// The next file, after a scan if one is due.
    pub(super) fn next(&mut self) -> Result<Option<WalFileName>> {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        self.paused_until = None;
        if self.names.is_empty() && self.rescan {
            self.rescan = false;
            self.names = ready_files(&self.archive_status, BATCH)?.into();
            // A full batch: there is more behind it.
            self.rescan = self.names.len() == BATCH;
        }
        Ok(self.names.pop_front())
    }

    /// There is no room for this file now.
    pub(super) fn put_back(&mut self, name: WalFileName) {
        self.names.push_front(name);
    }

    /// Is the file still waiting to be archived?
    pub(super) fn is_ready(&self, file: &str) -> bool {
        self.archive_status.join(format!("{file}.ready")).exists()
    }

    /// An upload failed: stop looking ahead for a while. What the archiver asks for is tried all the same.
    pub(super) fn failed(&mut self) {
        self.names.clear();
        self.rescan = true;
        self.paused_until = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// An upload succeeded.
    pub(super) fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// Forget all: the settings have changed.
    pub(super) fn restart(&mut self) {
        self.names.clear();
        self.rescan = true;
        self.paused_until = None;
        self.pause = FIRST_PAUSE;
    }

    /// When to try again, if a pause is on.
    pub(super) fn resumes_in(&self) -> Option<Duration> {
        self.paused_until
            .map(|until| until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
