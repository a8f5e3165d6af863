//! `catchup-fetch`, on the standby.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use indicatif::HumanBytes;
use walarchive_core::printable::counted;
use walarchive_core::repository::encryption;
use walarchive_core::repository::inventory::find_catchup;
use walarchive_core::restore::{
    CatchupOptions, CatchupPlan, CatchupState, ReadProgress, RestoreOptions, TablespaceMap, apply_catchup, plan_catchup,
};
use walarchive_core::{Error, Result, printable};

use crate::parse::by;
use crate::repository::{self, Storage};
use crate::signals::cancelled_by_signals;
use crate::{print, progress};

/// `catchup-fetch`.
#[derive(Debug, clap::Args)]
pub struct CatchupFetch {
    /// The data directory of the standby, which must be stopped.
    pub directory: PathBuf,
    /// The name that catchup-push has printed, or LATEST for the newest one.
    pub backup: String,
    /// Of WAL-G: it has two ways to unpack, and there is one here.
    #[arg(long)]
    use_new_unwrap: bool,
    /// Put a tablespace that the standby does not have yet into NEW; OLD is its directory or OID. May be repeated.
    #[arg(long, value_name = "OLD=NEW", value_parser = by(|text| {
        TablespaceMap::default().add(text).map(|()| text.to_owned())
    }))]
    tablespace_map: Vec<String>,
    /// Put new tablespaces into DIR/<oid>, except those that --tablespace-map puts elsewhere.
    #[arg(long, value_name = "DIR")]
    tablespace_map_all: Option<PathBuf>,
    /// Put new tablespaces where they are on the primary, except those that --tablespace-map puts elsewhere.
    #[arg(long, conflicts_with = "tablespace_map_all")]
    tablespace_map_original: bool,
    /// How many tars to unpack at once; by default one per processor, at most 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: Option<u16>,
    /// Do not compare the free space with the sizes in the backup beforehand.
    #[arg(long)]
    no_space_check: bool,
    /// Print the plan, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// No progress bar and no summary.
    #[arg(short, long)]
    pub quiet: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

impl CatchupFetch {
    fn options(&self) -> Result<CatchupOptions> {
        let mut tablespace_map = TablespaceMap::default();
        self.tablespace_map
            .iter()
            .try_for_each(|text| tablespace_map.add(text))?;
        if let Some(directory) = &self.tablespace_map_all {
            tablespace_map.put_all(directory)?;
        }
        if self.tablespace_map_original {
            tablespace_map.accept_originals();
        }
        let usual = RestoreOptions::default().concurrency;
        Ok(CatchupOptions {
            tablespace_map,
            concurrency: self.concurrency.map_or(usual, usize::from),
            check_space: !self.no_space_check,
        })
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("walarchive: {}", printable::lines(text));
        }
    }
}

/// Bring the standby up.
pub async fn run(args: &CatchupFetch) -> Result<()> {
    let store = repository::patient_store(&args.storage).await?;
    repository::first_answer(&store).await?;
    encryption::refuse_without_key(&store).await?;
    let backup = find_catchup(&store, &args.backup).await?;
    if let Some(problem) = backup.damaged {
        return Err(Error::refused(
            format!("backup \"{}\" cannot be used: {problem}", print::plain(&backup.name)),
            "Take another one on the primary with catchup-push.",
        ));
    }
    let planned = Box::pin(plan_catchup(&store, &backup.name, &args.directory, args.options()?)).await?;
    if args.dry_run {
        return print::out(&printable::lines(&shown(&planned.plan)));
    }
    planned
        .plan
        .notes
        .iter()
        .for_each(|note| args.say(&format!("note: {note}")));
    let (target, finish) = (planned.plan.target.clone(), planned.plan.finish);
    let state = planned.plan.state;
    let progress = Arc::<ReadProgress>::default();
    let cancel = cancelled_by_signals("catchup-fetch ends, and the directory stays incomplete")?;
    let work = Box::pin(apply_catchup(planned, Arc::clone(&progress), cancel));
    let done = progress::show(Arc::clone(&progress), args.quiet, work)
        .await
        .inspect_err(|_| {
            if progress.is_writing.load(Ordering::Relaxed) {
                eprintln!(
                    "walarchive: directory \"{}\" is brought up only in part, and no server can start on it\n\
                     HINT:  Run the same command again, up to its end.",
                    target.display()
                );
            }
        })?;
    match state {
        CatchupState::Complete => args.say(COMPLETE),
        CatchupState::New | CatchupState::Interrupted => args.say(&format!(
            "brought up \"{}\" with backup \"{}\": {}, {} from {}",
            target.display(),
            backup.name,
            counted(done.files, "file"),
            HumanBytes(done.bytes),
            HumanBytes(done.stored_bytes)
        )),
    }
    args.say(&format!(
        "start the server; it follows the primary, and is consistent when it has come to LSN {finish}"
    ));
    Ok(())
}

const COMPLETE: &str = "the directory is complete: an interrupted run has left only its marker, which is removed";

/// The plan, as lines.
fn shown(plan: &CatchupPlan) -> String {
    let mut lines = vec![
        format!("backup: {}", plan.backup),
        format!("directory: {}", plan.target.display()),
        format!("changes from LSN: {}", plan.since),
        format!("consistent at LSN: {}", plan.finish),
        format!("files of which pages come: {}", plan.in_part),
        format!("files that come whole: {}", plan.whole),
        format!("files to remove: {}", plan.removed),
        format!("to download: {}", HumanBytes(plan.stored_bytes)),
    ];
    let new = plan.new_tablespaces.iter();
    lines.extend(new.map(|(oid, location)| format!("new tablespace: {oid} in {}", location.display())));
    match plan.state {
        CatchupState::New => {}
        CatchupState::Interrupted => lines.push("continues an interrupted run".to_owned()),
        CatchupState::Complete => lines.push(COMPLETE.to_owned()),
    }
    lines.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}
