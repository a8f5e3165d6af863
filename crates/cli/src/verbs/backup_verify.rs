//! `backup-verify`.

use std::sync::Arc;

use walarchive_core::Result;
use walarchive_core::repository::inventory::{BackupInfo, Inventory};
use walarchive_core::verify::{self, BackupReport, VerifiedBackup, VerifyStatus};

use crate::print::plain;
use crate::repository::data_dir::usual_data_dir;
use crate::repository::writer::noting;
use crate::repository::{self, Storage};
use crate::{print, progress};

/// `backup-verify`.
#[derive(Debug, clap::Args)]
pub struct BackupVerify {
    /// The name of a backup, or LATEST.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    backup: Option<String>,
    /// All backups.
    #[arg(long)]
    all: bool,
    /// Only those that were not verified yet.
    #[arg(long, requires = "all")]
    new: bool,
    /// Print a JSON array with an object for each backup.
    #[arg(long)]
    json: bool,
    /// No progress bar.
    #[arg(short, long)]
    quiet: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    storage: Storage,
}

/// Verify, print the findings, and return the worst status.
pub async fn run(args: &BackupVerify) -> Result<VerifyStatus> {
    let store = repository::store(&args.storage).await?;
    let inventory = Inventory::load(&store).await?;
    let store = noting(
        &repository::patient_store(&args.storage).await?,
        usual_data_dir().as_deref(),
    )
    .await?;
    let mut reports = Vec::new();
    for name in names(args, &inventory)? {
        if args.new
            && let Some(backup) = inventory.backup(&name)
            && VerifiedBackup::read(&store, backup).await?.is_some()
        {
            continue;
        }
        let progress = Arc::default();
        let work = Box::pin(verify::verify_backup(&store, &inventory, &name, Arc::clone(&progress)));
        reports.push(progress::show(progress, args.quiet, work).await?);
    }
    let text = match args.json {
        true => print::json(&reports),
        false if reports.is_empty() => "nothing to verify".to_owned(),
        false => reports.iter().map(table).collect::<Vec<_>>().join("\n"),
    };
    let worst = reports.iter().map(|report| report.status).max();
    print::out(&text).map(|()| worst.unwrap_or(VerifyStatus::Ok))
}

fn names(args: &BackupVerify, inventory: &Inventory) -> Result<Vec<String>> {
    let name = |backup: &BackupInfo| backup.name.clone();
    match args.backup.as_deref() {
        None => Ok(inventory.backups.iter().map(name).collect()),
        Some(wanted) => Ok(vec![inventory.named(wanted)?.to_owned()]),
    }
}

fn table(report: &BackupReport) -> String {
    let rows = report.details.iter().map(|row| {
        let (what, status) = (row.what.to_owned(), row.status.as_str().to_owned());
        vec![what, status, row.path.clone(), row.detail.clone()]
    });
    let table = print::table(vec!["what", "status", "path", "detail"], rows);
    format!("{}: {}\n{table}", plain(&report.backup_name), report.status)
}
