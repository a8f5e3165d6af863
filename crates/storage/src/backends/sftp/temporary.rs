//! The names of files that are being written.

use std::sync::Arc;
use std::time::Duration;

use super::pool::Pool;

const SUFFIX: &str = ".walarchive-tmp";

/// A temporary file that was not written to for so long belongs to nobody any more.
pub(super) const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The longest name that file systems allow, in bytes.
const LONGEST_NAME: usize = 255;

/// Is this the name of a file that is being written?
pub(super) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(SUFFIX)
}

/// A temporary file, removed when this is dropped before it was published.
pub(super) struct Temporary {
    pool: Arc<Pool>,
    path: String,
    published: bool,
}

impl Temporary {
    /// A name beside the target's that nobody has.
    pub(super) fn beside(pool: &Arc<Pool>, target: &str) -> Self {
        let (directory, name) = target.rsplit_once('/').unwrap_or((".", target));
        let tail = format!(".{}-{:016x}{SUFFIX}", std::process::id(), rand::random::<u64>());
        let name = &name[..name.floor_char_boundary(LONGEST_NAME - 1 - tail.len())];
        Temporary {
            pool: pool.clone(),
            path: format!("{directory}/.{name}{tail}"),
            published: false,
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// It has its final name now, or was removed.
    pub(super) fn is_gone(&mut self) {
        self.published = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            self.pool.remove_some_time(std::mem::take(&mut self.path));
        }
    }
}
