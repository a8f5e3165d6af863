//! `wal-restore`.

use std::path::PathBuf;

use walarchive_core::archive::{Rewindable, fetch_for_rewind};
use walarchive_core::data_dir::POSTMASTER_PID;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use crate::print;
use crate::repository::{Storage, find};

/// `wal-restore`.
#[derive(Debug, clap::Args)]
pub struct WalRestore {
    /// The data directory that pg_rewind will rewind.
    #[arg(value_name = "TARGET_PGDATA")]
    target: PathBuf,
    /// The data directory that it will follow.
    #[arg(value_name = "SOURCE_PGDATA")]
    source: PathBuf,
    #[command(flatten)]
    storage: Storage,
}

/// Fetch the WAL that `pg_rewind` needs.
pub async fn run(args: &WalRestore) -> Result<()> {
    let settings = find(&args.storage, Some(&args.target))?;
    let running = args.target.join(POSTMASTER_PID);
    if running.exists() {
        return Err(Error::refused(
            format!(
                "a server runs on \"{}\", or did not end in order",
                args.target.display()
            ),
            "Stop the server first. If it does not run, start it once and stop it, as pg_rewind needs it.",
        ));
    }
    let store = Store::open_settled(&settings.storage).await?;
    let Rewindable { fork, fetched } =
        fetch_for_rewind(&store, &args.target, &args.source, settings.reads_first).await?;
    let Some((timeline, at)) = fork else {
        return print::out("the histories of the two servers do not part: pg_rewind has nothing to do");
    };
    for segment in &fetched {
        print::out(&format!("fetched {segment}"))?;
    }
    print::out(&format!(
        "the histories part at {at} on timeline {timeline}; segments fetched: {}",
        fetched.len()
    ))
}
