//! `catchup-list`.

use walarchive_core::Result;
use walarchive_core::repository::inventory::BackupDetail;

use crate::repository::{self, Storage};
use crate::{listing, print};

/// `catchup-list`.
#[derive(Debug, clap::Args)]
pub struct CatchupList {
    /// Print a table with a box around it. With --json: on many lines, and indented.
    #[arg(long)]
    pub pretty: bool,
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
    /// Show the times, the host, the data directory, the version and the LSNs too.
    #[arg(long)]
    pub detail: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// List the backups of `catchup-push` on stdout, in the shapes of WAL-G's lists.
pub async fn run(args: &CatchupList) -> Result<()> {
    let backups = BackupDetail::list_catchups(&repository::store(&args.storage).await?).await?;
    listing::tell_problems(&backups, "used");
    if backups.is_empty() && !args.json {
        eprintln!("walarchive: there are no backups of catchup-push");
    }
    print::piece(&listing::backups(&backups, args.pretty, args.json, args.detail))
}
