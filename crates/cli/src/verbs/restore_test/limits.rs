//! What ends a drill before it is done: a signal, its deadline, and a file system that becomes full.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio_util::sync::CancellationToken;

/// How often the room is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// So much stays free for others, or a twentieth of the file system if that is less.
const FLOOR: u64 = 1 << 30;

/// Why the drill had to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The time is over.
    Late,
    /// So few bytes are free.
    NoRoom(u64),
}

/// The limits of one drill.
#[derive(Debug)]
pub struct Limits {
    /// Cancelled when the drill is to end.
    pub ends: CancellationToken,
    why: Arc<OnceLock<Limit>>,
}

impl Limits {
    /// Watch over a drill below `parent`, which somebody may cancel, too.
    pub fn watch(cancel: &CancellationToken, deadline: Duration, parent: &Path) -> Self {
        let limits = Limits {
            ends: cancel.child_token(),
            why: Arc::default(),
        };
        let (ends, why, parent) = (limits.ends.clone(), Arc::clone(&limits.why), parent.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = ends.cancelled() => {}
                limit = met(deadline, parent) => {
                    why.get_or_init(|| limit);
                    ends.cancel();
                }
            }
        });
        limits
    }

    /// The limit that was met, if one was.
    pub fn met(&self) -> Option<Limit> {
        self.why.get().copied()
    }
}

async fn met(deadline: Duration, parent: PathBuf) -> Limit {
    let full = async {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(free) = too_little(&parent) {
                return Limit::NoRoom(free);
            }
        }
    };
    tokio::select! {
        limit = full => limit,
        () = tokio::time::sleep(deadline) => Limit::Late,
    }
}

/// The free bytes of the file system, if these are too few. What cannot be asked is no reason to end.
fn too_little(directory: &Path) -> Option<u64> {
    let stat = statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    let (free, all) = (bytes(stat.blocks_available()), bytes(stat.blocks()));
    (free < FLOOR.min(all / 20)).then_some(free)
}
