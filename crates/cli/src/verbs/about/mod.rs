//! Verbs about this program itself.

mod completion;
mod flags;

pub use completion::{Completion, complete};
pub use flags::flags;

use walarchive_core::{Error, Result};

/// `daemon`.
#[derive(Debug, clap::Args)]
pub struct Daemon {
    /// The socket of WAL-G's daemon.
    socket: Option<std::path::PathBuf>,
}

/// WAL-G's daemon saves the start of a process for each segment.
pub fn daemon(_: &Daemon) -> Result<()> {
    Err(Error::refused(
        "there is no daemon in walarchive, and none is needed",
        "Set archive_library = 'walarchive' in the server (15 or later), which then archives by itself. Otherwise set \
         archive_command = 'walarchive wal-push %p' in place of the daemon's client.",
    ))
}
