//! `backup-mark`.

use walarchive_core::Result;
use walarchive_core::retention::{self, Mark};

use crate::print;
use crate::print::plain;
use crate::repository::Storage;
use crate::repository::writer::writable;

/// `backup-mark`.
#[derive(Debug, clap::Args)]
pub struct BackupMark {
    /// The backup.
    name: String,
    /// Mark it as impermanent again, so that retention may delete it.
    #[arg(short, long)]
    impermanent: bool,
    #[command(flatten)]
    storage: Storage,
}

/// Mark a backup, and say which ones were changed.
pub async fn run(args: &BackupMark) -> Result<()> {
    let store = writable(&args.storage).await?;
    store.check_fence().await?;
    let (mark, state) = match args.impermanent {
        true => (Mark::Impermanent, "impermanent"),
        false => (Mark::Permanent, "permanent"),
    };
    let changed = retention::mark(&store, &args.name, mark).await?;
    for name in &changed {
        print::out(&format!("{} is now {state}", plain(name)))?;
    }
    if changed.is_empty() {
        print::out(&format!("{} was already {state}", plain(&args.name)))?;
    }
    Ok(())
}
