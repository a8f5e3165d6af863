//! `backup-list`.

use walarchive_core::repository::inventory::BackupDetail;
use walarchive_core::{Lsn, Result};

use crate::repository::{self, Storage};
use crate::{listing, print};

/// `backup-list`.
#[derive(Debug, clap::Args)]
pub struct BackupList {
    /// Print a table with a box around it. With --json: on many lines, and indented.
    #[arg(long)]
    pub pretty: bool,
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
    /// Show the times, the host, the data directory, the version and the LSNs too.
    #[arg(long)]
    pub detail: bool,
    /// Print what walarchive knows beyond WAL-G: sizes, parents, what was left out, whether a backup can be restored.
    #[arg(long, conflicts_with = "pretty")]
    pub long: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// List the backups on stdout, in the shapes of WAL-G's lists.
pub async fn run(args: &BackupList) -> Result<()> {
    let backups = BackupDetail::list(&repository::store(&args.storage).await?).await?;
    if args.long {
        return print::out(&match args.json {
            true => print::json(&backups),
            false => table(&backups, args.detail),
        });
    }
    listing::tell_problems(&backups, "restored");
    if backups.is_empty() && !args.json {
        eprintln!("walarchive: there are no backups");
    }
    print::piece(&listing::backups(&backups, args.pretty, args.json, args.detail))
}

fn table(backups: &[BackupDetail], detail: bool) -> String {
    if backups.is_empty() {
        return "no backups".to_owned();
    }
    let mut header = vec!["name", "started", "took", "start LSN", "finish LSN", "timeline"];
    header.extend(["size", "stored", "permanent", "restorable", "proven"]);
    header.extend(
        detail
            .then_some(["host", "data directory", "version", "user data"])
            .into_iter()
            .flatten(),
    );
    header.push("note");
    let rows = backups.iter().map(|backup| {
        let damaged = backup.finish_lsn == 0;
        let shown = |text: String| if damaged { String::new() } else { text };
        let took = (backup.finish_time - backup.start_time).num_seconds();
        let mut row = vec![
            backup.backup_name.clone(),
            shown(print::time(backup.start_time)),
            shown(format!("{took} s")),
            shown(Lsn(backup.start_lsn).to_string()),
            shown(Lsn(backup.finish_lsn).to_string()),
            backup.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
            shown(print::bytes(backup.uncompressed_size)),
            shown(print::bytes(backup.compressed_size)),
            if backup.is_permanent { "yes" } else { "" }.to_owned(),
            if backup.restorable { "yes" } else { "NO" }.to_owned(),
            backup.proven.map(print::time).unwrap_or_default(),
        ];
        if detail {
            let user_data = backup.user_data.as_ref().map(ToString::to_string);
            row.extend([
                backup.hostname.clone(),
                backup.data_dir.clone(),
                shown(backup.pg_version.to_string()),
                user_data.unwrap_or_default(),
            ]);
        }
        let parent = backup.parent.as_ref().map(|parent| format!("delta of {parent}"));
        let left_out = match &backup.left_out[..] {
            [] => None,
            [first] => Some(format!("without {first}")),
            [first, rest @ ..] => Some(format!("without {first} and {} more", rest.len())),
        };
        let note = [parent, left_out, backup.problem.clone()].into_iter().flatten();
        row.push(note.collect::<Vec<_>>().join("; "));
        row
    });
    print::table(header, rows)
}
