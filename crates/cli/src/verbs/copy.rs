//! `copy`.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use walarchive_core::copy::{self, CopyOptions, CopyProgress, CopyRequest};
use walarchive_core::{Result, lease};
use walarchive_storage::Store;

use crate::print::{bytes, plain};
use crate::repository::{find_in_file, first_answer};
use crate::signals::cancelled_by_signals;
use crate::{print, progress};

/// `copy`.
#[derive(Debug, clap::Args)]
pub struct Copy {
    /// WAL-G's configuration file with the storage to copy from.
    #[arg(short, long, value_name = "FILE")]
    from: PathBuf,
    /// The one with the storage to copy to.
    #[arg(short, long, value_name = "FILE")]
    to: PathBuf,
    /// Copy this backup, or LATEST, and those that it is based on; by default all backups.
    #[arg(short, long, value_name = "NAME")]
    backup_name: Option<String>,
    /// Copy all WAL from the oldest of these backups on, so that any later moment can be restored.
    #[arg(short, long)]
    with_history: bool,
    /// Copy only the WAL that the backups need themselves. This is the default; the flag is WAL-G's.
    #[arg(long, conflicts_with = "with_history")]
    without_history: bool,
    /// Show how much would be copied, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Copy, and say how much that was.
pub async fn run(args: &Copy) -> Result<()> {
    // Files of credentials that are nowhere but here.
    let (of_from, of_to) = (find_in_file(&args.from)?, find_in_file(&args.to)?);
    let from = Store::open_settled(&of_from.storage.for_backup()).await?;
    first_answer(&from).await?;
    let request = CopyRequest {
        backup: args.backup_name.clone(),
        with_history: args.with_history,
    };
    let plan = copy::plan(&from, &request).await?;
    for note in &plan.notes {
        eprintln!("walarchive: note: {}", plain(note));
    }
    for backup in &plan.backups {
        print::out(&plain(&backup.name))?;
    }
    let (objects, total) = (plan.objects(), bytes(plan.bytes()));
    if args.dry_run {
        eprintln!("walarchive: {objects} objects with {total} would be copied, as far as they are not there");
        return Ok(());
    }
    let to = lease::follower(&Store::open_settled(&of_to.storage.for_backup()).await?);
    first_answer(&to).await?;
    let options = CopyOptions {
        only_encrypted: of_to.asks_for_encryption,
    };
    let (progress, cancel) = (CopyProgress::default(), cancelled_by_signals("the copy ends")?);
    let work = Box::pin(copy::apply(&from, &to, &plan, options, &progress, &cancel));
    let copied = progress::show_copy(&progress, plan.bytes(), work)
        .await
        .inspect_err(|_| {
            eprintln!(
                "walarchive: {} of {objects} objects are there; the same command goes on with the others",
                progress.objects.load(Ordering::Relaxed)
            );
        })?;
    eprintln!(
        "walarchive: copied {} objects with {}; {} were there",
        copied.sent,
        bytes(copied.sent_bytes),
        copied.there
    );
    Ok(())
}
