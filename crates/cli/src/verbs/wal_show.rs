//! `wal-show` and `recovery-windows`.

use walarchive_core::repository::inventory::{Inventory, MissingSegments, RecoveryWindow, TimelineInfo};
use walarchive_core::verify::timed_windows;
use walarchive_core::{Lsn, Result};

use crate::repository::{self, Storage};
use crate::{listing, print};

/// `wal-show`.
#[derive(Debug, clap::Args)]
pub struct WalShow {
    /// Print JSON, with the backups of each timeline.
    #[arg(long)]
    pub detailed_json: bool,
    /// Do not look at the backups.
    #[arg(long)]
    pub without_backups: bool,
    /// Print what walarchive knows beyond WAL-G: which segments are missing, up to where the tail goes, and timelines
    /// without WAL.
    #[arg(long, conflicts_with_all = ["detailed_json", "without_backups"])]
    pub long: bool,
    /// Print that as a JSON array.
    #[arg(long, conflicts_with_all = ["detailed_json", "without_backups"])]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// `recovery-windows`.
#[derive(Debug, clap::Args)]
pub struct RecoveryWindows {
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// Show every timeline on stdout.
pub async fn run(args: &WalShow) -> Result<()> {
    let inventory = Inventory::load(&repository::store(&args.storage).await?).await?;
    let timelines = TimelineInfo::all(&inventory);
    if args.json || args.long {
        return print::out(&match args.json {
            true => print::json(&timelines),
            false if timelines.is_empty() => "no WAL and no backups".to_owned(),
            false => timelines_table(&timelines),
        });
    }
    for timeline in &timelines {
        if let Some(damage) = &timeline.damaged_history {
            eprintln!(
                "walarchive: warning: history file of timeline {}: {}",
                timeline.id,
                print::plain(damage)
            );
        }
    }
    let (size, with_backups) = (inventory.segment_size, !args.without_backups);
    print::piece(&match args.detailed_json {
        true => listing::timelines_json(&timelines, size, with_backups),
        false => listing::timelines(&timelines, size, with_backups),
    })
}

/// Show the times to which the cluster can be restored.
pub async fn windows(args: &RecoveryWindows) -> Result<()> {
    let store = repository::store(&args.storage).await?;
    let windows = timed_windows(&store, &Inventory::load(&store).await?).await?;
    print::out(&match args.json {
        true => print::json(&windows),
        false if windows.is_empty() => "nothing can be restored".to_owned(),
        false => windows_table(&windows),
    })
}

fn timelines_table(timelines: &[TimelineInfo]) -> String {
    let header = [
        "timeline",
        "parent",
        "switch point",
        "first segment",
        "last segment",
        "range",
        "segments",
        "missing",
        "backups",
        "status",
        "tail to",
        "tail stored",
    ];
    let rows = timelines.iter().map(|timeline| {
        let forked = timeline.parent_id != 0;
        let missing: Vec<String> = timeline
            .missing_segments
            .iter()
            .map(MissingSegments::to_string)
            .collect();
        vec![
            timeline.id.to_string(),
            if forked {
                timeline.parent_id.to_string()
            } else {
                String::new()
            },
            if forked {
                Lsn(timeline.switch_point_lsn).to_string()
            } else {
                String::new()
            },
            timeline.start_segment.clone(),
            timeline.end_segment.clone(),
            timeline.segment_range_size.to_string(),
            timeline.segments_count.to_string(),
            missing.join(", "),
            timeline.backups.len().to_string(),
            timeline.status.as_str().to_owned(),
            timeline.tail.map(|tail| tail.end_lsn.to_string()).unwrap_or_default(),
            timeline.tail.map(|tail| print::time(tail.stored)).unwrap_or_default(),
        ]
    });
    print::table(header.to_vec(), rows)
}

fn windows_table(windows: &[RecoveryWindow]) -> String {
    let header = [
        "timeline",
        "from",
        "to",
        "from LSN",
        "to LSN",
        "first backup",
        "backups",
        "then missing",
    ];
    let rows = windows.iter().map(|window| {
        vec![
            window.timeline.to_string(),
            print::time(window.start_time),
            print::time(window.end_time),
            window.start_lsn.to_string(),
            window.end_lsn.to_string(),
            window.backup_name.clone(),
            window.backups.to_string(),
            window
                .missing
                .as_ref()
                .map(MissingSegments::to_string)
                .unwrap_or_default(),
        ]
    });
    print::table(header.to_vec(), rows)
}
