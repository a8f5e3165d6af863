//! `restore-points`.

use chrono::{DateTime, Utc};
use walarchive_core::Result;
use walarchive_core::points::{Found, Missing, Point, gather};
use walarchive_core::repository::inventory::Inventory;
use walarchive_core::restore::RestoreTarget;

use crate::parse::by;
use crate::print;
use crate::repository::data_dir::usual_data_dir;
use crate::repository::writer::noting;
use crate::repository::{self, Storage};

/// `restore-points`.
#[derive(Debug, clap::Args)]
pub struct RestorePoints {
    /// Only those from this time on, for example "2026-11-20 10:00:00+00".
    #[arg(long, value_name = "TIME", value_parser = by(RestoreTarget::time))]
    from: Option<RestoreTarget>,
    /// Only those up to this time.
    #[arg(long, value_name = "TIME", value_parser = by(RestoreTarget::time))]
    to: Option<RestoreTarget>,
    /// Do not read WAL that is not in the index.
    #[arg(long)]
    index_only: bool,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    storage: Storage,
}

/// Print the points to which the cluster can be restored.
pub async fn run(args: &RestorePoints) -> Result<()> {
    let store = repository::patient_store(&args.storage).await?;
    let notes = noting(&store, usual_data_dir().as_deref()).await?;
    let inventory = Inventory::load(&store).await?;
    let missing = match args.index_only {
        true => Missing::Skip,
        false => Missing::Read,
    };
    let (from, to) = (time(args.from.as_ref()), time(args.to.as_ref()));
    let found = Box::pin(gather(&store, &notes, &inventory, from, to, missing)).await?;
    if found.skipped > 0 {
        eprintln!(
            "walarchive: note: {} WAL segments are not in the index; without --index-only they are read",
            found.skipped
        );
    }
    print::out(&match args.json {
        true => print::json(&found.points),
        false => text(&found),
    })
}

fn time(target: Option<&RestoreTarget>) -> Option<DateTime<Utc>> {
    match target {
        Some(RestoreTarget::Time(time)) => Some(time.to_utc()),
        _ => None,
    }
}

fn text(found: &Found) -> String {
    if found.points.is_empty() {
        return "no restore points and no commits".to_owned();
    }
    let header = vec!["time", "LSN", "timeline", "what", "name", "restorable"];
    let rows = found.points.iter().map(|point: &Point| {
        let time = point
            .time
            .map(|time| time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string());
        vec![
            time.unwrap_or_default(),
            point.lsn.to_string(),
            point.timeline.to_string(),
            point.kind.as_str().replace('_', " "),
            point.name.clone().unwrap_or_default(),
            if point.restorable { "yes" } else { "NO" }.to_owned(),
        ]
    });
    print::table(header, rows)
}
