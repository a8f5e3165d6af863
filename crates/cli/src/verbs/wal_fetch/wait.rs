//! A standby wants the segment that comes next, and the archive does not have it yet.
//!
//! PostgreSQL would do nothing for `wal_retrieve_retry_interval`, and fall behind meanwhile. Where no worker of the server looks for
//! the segment, this call waits in its place, and looks for it more often than that. It waits only where the server would: not if
//! the server can stream, not if it has WAL of the segment in its own `pg_wal`, and not while it has something to replay. It ends
//! when the server is told to promote, which it cannot before.

use std::os::unix::process::parent_id;
use std::path::Path;
use std::time::{Duration, Instant};

use walarchive_core::Result;
use walarchive_core::archive::{Fetched, is_next};
use walarchive_core::control_file::ControlFile;
use walarchive_core::recovery_state::ArchiveFollower;
use walarchive_core::wal::Segment;

use crate::repository::data_dir::running_postmaster;

/// No call waits longer, however seldom the server would ask again: it reads its configuration between two calls.
const LONGEST: Duration = Duration::from_secs(5);

/// The share of the interval that is left to the server, for what it does while it waits.
const LEFT: u32 = 10;

/// Between two looks into the archive: the first, and the longest. Each one is twice as long as the one before, so an archive to which
/// nothing comes is asked about as often as by a server that asks every 5 seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at the server.
const LOOK: Duration = Duration::from_millis(50);

/// Wait for the segment, and fetch it with `fetch` as soon as it is there; none if it did not come.
pub async fn for_segment(
    segment: Segment,
    path: &Path,
    data_dir: &Path,
    fetch: impl AsyncFn() -> Result<Option<Fetched>>,
) -> Result<Option<Fetched>> {
    let begun = Instant::now();
    let Some(waiting) = Waiting::of(segment, path, data_dir) else {
        return Ok(None);
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let left = waiting.limit.saturating_sub(begun.elapsed());
        if left.is_zero() || !waiting.sleep(pause.min(left)).await {
            return Ok(None);
        }
        if let Some(fetched) = fetch().await? {
            return Ok(Some(fetched));
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The server that waits.
struct Waiting<'a> {
    server: ArchiveFollower,
    data_dir: &'a Path,
    postmaster: i32,
    /// The process that called this one.
    caller: u32,
    limit: Duration,
}

impl<'a> Waiting<'a> {
    fn of(segment: Segment, path: &Path, data_dir: &'a Path) -> Option<Self> {
        let server = ArchiveFollower::of(data_dir)?;
        let postmaster = running_postmaster(data_dir)?;
        let control = ControlFile::read(data_dir).ok()?;
        if !is_next(segment, path.parent()?, &control) {
            return None;
        }
        let interval = server.retry_interval;
        Some(Waiting {
            limit: (interval - interval / LEFT).min(LONGEST),
            server,
            data_dir,
            postmaster,
            caller: parent_id(),
        })
    }

    /// False if the server does not want to wait any more.
    async fn sleep(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            if self.is_over() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    fn is_over(&self) -> bool {
        // A shutdown ends this process by a signal to the startup process and its children. If that one was killed, none comes.
        parent_id() != self.caller
            || self.server.is_told_to_promote()
            || running_postmaster(self.data_dir) != Some(self.postmaster)
    }
}
