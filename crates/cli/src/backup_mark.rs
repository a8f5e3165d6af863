//! `backup-mark`.

use walarchive_core::Result;
use walarchive_core::retention;
use walarchive_core::storage::Store;

use crate::args::Storage;
use crate::{settings, wal};

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
    let data_dir = wal::usual_data_dirs().find(|directory| wal::is_data_dir(directory));
    let settings = settings::find(&args.storage, data_dir.as_deref())?;
    let store = Store::open(&settings.storage)?;
    let changed = retention::mark(&store, &args.name, !args.impermanent).await?;
    let state = if args.impermanent { "impermanent" } else { "permanent" };
    for name in &changed {
        // What a repository says is printed, not obeyed.
        println!("{} is {state} now", name.replace(char::is_control, "?"));
    }
    if changed.is_empty() {
        println!("{} was {state} already", args.name.replace(char::is_control, "?"));
    }
    Ok(())
}
