//! `restore-test`: a restore that nobody needs, to know that one would succeed.

use std::path::Path;

use chrono::Utc;
use tokio_util::sync::CancellationToken;
use walarchive_core::repository::drills::{Drill, DrillStatus};
use walarchive_core::schedule::Schedule;
use walarchive_core::{Error, Result};

use crate::repository::data_dir::usual_data_dir;
use crate::signals::{cancelled_by_signals, unless};
use crate::{exit, print, repository};

mod args;
mod checks;
mod dead;
mod limits;
mod programs;
mod report;
mod scratch;
mod script;
mod server;
mod work;

pub use args::RestoreTest;

use limits::Limits;
use report::say;

/// Drill once, or by a schedule. Returns the result of the last one.
pub async fn run(args: &RestoreTest) -> Result<DrillStatus> {
    if nix::unistd::geteuid().is_root() {
        return Err(Error::refused(
            "restore-test cannot be run as root",
            "PostgreSQL refuses to run as root. Run it as the user of the server, for example by runuser -u postgres.",
        ));
    }
    if let Some(file) = &args.run {
        // It is looked at again when it is run.
        script::open(file)?;
    }
    if args.remove_dead {
        remove_dead(args, &args.directory()).await?;
        return Ok(DrillStatus::Skipped);
    }
    let cancel = cancelled_by_signals("the restore drill ends, and removes what it has made")?;
    if args.with_stdin {
        let ended = cancel.clone();
        std::thread::spawn(move || {
            // Nothing comes; the end of it is what counts.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            ended.cancel();
        });
    }
    match &args.schedule {
        None => once(args, &cancel).await,
        Some(schedule) => by_schedule(args, schedule, &cancel).await,
    }
}

async fn remove_dead(args: &RestoreTest, parent: &Path) -> Result<()> {
    let left = scratch::remove_dead(parent).await?;
    for removed in left.removed {
        let text = format!("removed \"{}\" of a drill that was killed", removed.display());
        say(args, &text);
    }
    for kept in left.kept {
        let data = kept.join("data");
        let text = format!(
            "note: a server that was kept still runs and takes room; if nobody needs it: pg_ctl stop -D \"{}\"",
            data.display()
        );
        say(args, &text);
    }
    Ok(())
}

async fn by_schedule(args: &RestoreTest, schedule: &Schedule, cancel: &CancellationToken) -> Result<DrillStatus> {
    let mut last = DrillStatus::Ok;
    loop {
        let next = schedule.after(Utc::now());
        say(args, &format!("the next restore drill begins at {}", print::time(next)));
        if wait_until(next, cancel).await.is_err() {
            return Ok(last);
        }
        last = match once(args, cancel).await {
            Err(Error::Cancelled) => return Ok(last),
            // The next one may succeed: the store, for example, may be there again.
            Err(error) => {
                exit::print(&error);
                DrillStatus::Failed
            }
            Ok(status) => status,
        };
    }
}

/// By the clock, which may be set meanwhile.
async fn wait_until(time: chrono::DateTime<Utc>, cancel: &CancellationToken) -> Result<()> {
    const LOOK: std::time::Duration = std::time::Duration::from_secs(30);
    while let Ok(left) = (time - Utc::now()).to_std() {
        let pause = async {
            tokio::time::sleep(left.min(LOOK)).await;
            Ok(())
        };
        unless(cancel, pause).await?;
    }
    Ok(())
}

async fn once(args: &RestoreTest, cancel: &CancellationToken) -> Result<DrillStatus> {
    let parent = args.directory();
    remove_dead(args, &parent).await?;
    let settings = repository::find(&args.storage, usual_data_dir().as_deref())?;
    let limits = Limits::watch(cancel, args.deadline(), &parent);
    let drilled = Box::pin(work::drill(args, &settings.storage, &parent, &limits)).await;
    limits.ends.cancel();
    let (drill, said) = drilled?;
    if !args.no_record {
        record(&drill, &settings.storage).await;
    }
    match args.json {
        true => print::out(&print::json(&drill))?,
        false => print::out(&report::text(&drill))?,
    }
    if let Some(said) = said {
        eprintln!("{said}");
    }
    Ok(drill.status)
}

/// Write the result into the repository. A host that may only read says so, and the result counts all the same.
async fn record(drill: &Drill, storage: &walarchive_storage::StorageConfig) {
    let written = async {
        let store = walarchive_storage::Store::open_settled(storage).await?;
        match work::is_deleted(&store, &drill.backup).await {
            true => {
                eprintln!("walarchive: note: the backup was deleted meanwhile, and nothing is written of it");
                Ok(())
            }
            false => drill.write(&store).await,
        }
    };
    if let Err(error) = written.await {
        eprintln!(
            "walarchive: warning: the result was not written into the repository: {error}\n\
             HINT:  Let this host write below walarchive_005/drills, or add --no-record."
        );
    }
}
