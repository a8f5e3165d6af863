//! `backup-mark`.

use walarchive_core::Result;
use walarchive_core::retention;

use crate::print;
use crate::print::plain;
use crate::repository::Storage;
use crate::repository::writer::writable;

/// `backup-mark`.
#[derive(Debug, clap::Args)]
pub struct BackupMark {
    /// The backup.
    name: String,
    /// Take the mark off: retention may delete the backup again.
    #[arg(short, long)]
    impermanent: bool,
    #[command(flatten)]
    storage: Storage,
}

/// Mark a backup, and say which ones were changed.
pub async fn run(args: &BackupMark) -> Result<()> {
    let store = writable(&args.storage).await?;
    store.check_fence().await?;
    let changed = retention::mark(&store, &args.name, !args.impermanent).await?;
    let state = if args.impermanent { "impermanent" } else { "permanent" };
    for name in &changed {
        print::out(&format!("{} is {state} now", plain(name)))?;
    }
    if changed.is_empty() {
        print::out(&format!("{} was {state} already", plain(&args.name)))?;
    }
    Ok(())
}
