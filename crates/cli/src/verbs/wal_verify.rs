//! `wal-verify`.

use std::path::PathBuf;
use std::sync::Arc;

use walarchive_core::repository::inventory::Inventory;
use walarchive_core::verify::{
    self, Archiving, Checks, Live, Looks, Names, Position, Selection, VerifyStatus, WalReport,
};
use walarchive_core::{Error, Lsn, Result};
use walarchive_storage::Store;

use crate::repository::data_dir::usual_data_dir;
use crate::repository::writer::noting;
use crate::repository::{self, Storage};
use crate::{listing, print, progress};

/// `wal-verify`.
#[derive(Debug, clap::Args)]
pub struct WalVerify {
    /// The checks: integrity, timeline, content.
    #[arg(value_name = "CHECK", default_values = ["integrity", "timeline"], value_parser = ["integrity", "timeline", "content"])]
    checks: Vec<String>,
    /// content: read segments that were not verified since they were stored (the default).
    #[arg(long, conflicts_with_all = ["all", "sample"])]
    new: bool,
    /// content: read all segments.
    #[arg(long, conflicts_with = "sample")]
    all: bool,
    /// content: read N segments, spread over all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// Print JSON, in the shape of WAL-G's.
    #[arg(long)]
    json: bool,
    /// Print one table of all that was found.
    #[arg(long, conflicts_with = "json")]
    long: bool,
    /// Verify the WAL from the start of a backup on, in place of the oldest one that is not permanent.
    #[arg(long, value_name = "NAME")]
    backup_name: Option<String>,
    /// Verify the WAL up to a position, in place of that of the server. The segment of this position does not count.
    #[arg(long, value_name = "LSN", requires = "timeline", conflicts_with = "pgdata")]
    lsn: Option<Lsn>,
    /// The timeline of --lsn.
    #[arg(long, value_name = "NUMBER", requires = "lsn", value_parser = clap::value_parser!(u32).range(1..))]
    timeline: Option<u32>,
    /// The data directory whose server writes the WAL; by default the working directory or PGDATA, if it is one and its cluster is
    /// the repository's.
    #[arg(long, value_name = "DIRECTORY")]
    pgdata: Option<PathBuf>,
    /// No progress bar.
    #[arg(short, long)]
    quiet: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    storage: Storage,
}

impl WalVerify {
    fn checks(&self) -> Result<Checks> {
        let mut checks = Checks::parse(self.checks.iter().map(String::as_str))?;
        let selection = match (self.all, self.sample) {
            (true, _) => Some(Selection::All),
            (false, Some(count)) => Some(Selection::Sample(count as usize)),
            (false, None) => self.new.then_some(Selection::New),
        };
        match selection {
            Some(_) if checks.content.is_none() => Err(Error::config(
                "--new, --all and --sample say which content to read, but content is not to be verified",
                "Add the word content.",
            )),
            selection => {
                checks.content = selection.or(checks.content);
                Ok(checks)
            }
        }
    }
}

/// Verify, and print what was found.
pub async fn run(args: &WalVerify) -> Result<VerifyStatus> {
    let checks = args.checks()?;
    let data_dir = args.pgdata.clone().or_else(usual_data_dir);
    let settings = repository::find(&args.storage, data_dir.as_deref())?;
    let store = Store::open_settled(&settings.storage).await?;
    let mut looks = Looks::default();
    while checks.names() && looks.go_on() {
        let (inventory, names) = look(args, &store, data_dir.as_ref()).await?;
        looks.add(inventory, names);
    }
    let (inventory, names) = looks.last();
    let mut content = None;
    if let Some(selection) = checks.content {
        let inventory = match inventory {
            Some(inventory) => inventory,
            None => Inventory::load(&store).await?,
        };
        let progress = Arc::default();
        let store = Store::open_settled(&settings.storage.for_backup()).await?;
        let store = noting(&store, data_dir.as_deref()).await?;
        let work = Box::pin(verify::verify_content(
            &store,
            &inventory,
            selection,
            Arc::clone(&progress),
        ));
        content = Some(progress::show(progress, args.quiet, work).await?);
    }
    let report = WalReport::new(&checks, names, content);
    let text = match args.json {
        true => format!("{}\n", listing::compact(&report)),
        false if args.long => format!("{}\n", table(&report)),
        false => listing::verified(&report),
    };
    print::piece(&text).map(|()| report.status())
}

/// The server's position first, then the repository.
async fn look(args: &WalVerify, store: &Store, data_dir: Option<&PathBuf>) -> Result<(Inventory, Names)> {
    if let (Some(lsn), Some(timeline)) = (args.lsn, args.timeline) {
        let live = Live {
            // As WAL-G counts: a position at the very start of a segment is the end of the one before, which does not count.
            position: Some(Position {
                timeline,
                lsn: Lsn(lsn.0.saturating_sub(1)),
            }),
            // The archiver is not known.
            archiving: Archiving::Elsewhere,
            ..Live::default()
        };
        let inventory = Inventory::load(store).await?;
        let names = verify::verify_names(store, &inventory, live, args.backup_name.as_deref()).await?;
        return Ok((inventory, names));
    }
    let found = data_dir.map(|directory| Live::of_data_dir(directory));
    let found = match args.pgdata {
        Some(_) => found.transpose()?,
        // One that happens to lie around need not be a whole one.
        None => found.and_then(Result::ok),
    };
    let inventory = Inventory::load(store).await?;
    let mut live = Live::default();
    if let Some((of_data_dir, control)) = found {
        let own = control.system_identifier;
        match verify::other_owner(store, &inventory, own, control.segment_size)? {
            Some(owner) => {
                if let Some(pgdata) = &args.pgdata {
                    return Err(Error::ForeignRepository {
                        repository: store.url().to_owned(),
                        reason: format!(
                            "Its system identifier is {owner}, that of \"{}\" is {own}.",
                            pgdata.display()
                        ),
                    });
                }
            }
            None => live = of_data_dir,
        }
    }
    let names = verify::verify_names(store, &inventory, live, args.backup_name.as_deref()).await?;
    Ok((inventory, names))
}

fn table(report: &WalReport) -> String {
    let header = [
        "check", "status", "timeline", "start", "end", "segments", "found", "detail",
    ];
    let rows = report.rows().into_iter().map(|row| {
        vec![
            row.check.to_owned(),
            row.status.to_owned(),
            row.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
            row.start_segment.unwrap_or_default(),
            row.end_segment.unwrap_or_default(),
            row.segments_count.map(|count| count.to_string()).unwrap_or_default(),
            row.segment_status.unwrap_or_default().to_owned(),
            row.detail.unwrap_or_default(),
        ]
    });
    format!("{}\nworst: {}", print::table(header.to_vec(), rows), report.status())
}
