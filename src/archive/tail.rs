//! The last WAL of a server that stops: the shutdown checkpoint is written after the uploader has ended.

use std::time::Duration;

use walarchive_core::archive::tail::{Position, Shipped, Shipper};
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::{Error, Lsn, Result};

use crate::bridge::{self, Flow};
use crate::error::{self, Severity};
use crate::guc::{self, ArchiveSettings};
use crate::pg::server;
use crate::shmem::{ARCHIVING, Failure, Stage, Tail};

/// How soon it is seen that the time is up.
const LOOK: Duration = Duration::from_millis(200);

/// Store the tail up to its end, if the server stops, and stores its tail. This waits no longer than for a file.
pub(super) fn store_last() {
    let (is_stopping, tail, stage) = {
        let archiving = ARCHIVING.share();
        (
            archiving.stopping_for().is_some(),
            archiving.tail,
            archiving.backfill.stage,
        )
    };
    let is_stored = tail.epoch != 0 || guc::tail_interval().is_some();
    // What was before a promotion comes first.
    if !is_stopping || !is_stored || server::in_recovery() || matches!(stage, Stage::Looking | Stage::Archiving) {
        return;
    }
    match store(&tail) {
        Ok(shipped) if shipped.safe.is_some() => {
            let line = format!("WAL is stored up to {}, where the server stops", shipped.stored);
            error::log_line(Severity::Log, &line);
        }
        // The archiver has told which file waits.
        Ok(_) => {}
        Err(error) => error::warn(
            "could not store the last WAL of the server, which stays in pg_wal",
            &Failure::from(&error),
        ),
    }
}

fn store(tail: &Tail) -> Result<Shipped> {
    let settings = ArchiveSettings::for_writing()?;
    let (archive, pg_wal) = (bridge::archive(&settings)?, server::data_directory().join(PG_WAL));
    let (timeline, flushed) = server::wal_position();
    let shipped = Shipped {
        epoch: tail.epoch,
        timeline: tail.timeline,
        stored: Lsn(tail.stored_lsn),
        safe: Some(Lsn(tail.safe_lsn)).filter(|safe| safe.0 != 0),
        gap: None,
        bytes: 0,
    };
    let goes_on = tail.epoch != 0 && tail.generation == settings.generation();
    let mut shipper = match goes_on {
        true => Shipper::resume(archive, pg_wal, shipped),
        false => Shipper::new(archive, pg_wal),
    };
    let position = Position {
        timeline,
        flushed: Lsn(flushed),
    };
    let work = async move {
        let shipped = shipper.ship(position).await?;
        let safe = shipped.safe.filter(|safe| *safe >= position.flushed);
        Ok(Shipped { safe, ..shipped })
    };
    let limit = guc::shutdown_timeout();
    bridge::run(work, Some(LOOK), || {
        match ARCHIVING.share().stopping_for().is_some_and(|waited| waited > limit) {
            true => Flow::Stop,
            false => Flow::Wait,
        }
    })
    .unwrap_or_else(|| Err(Error::timeout("write", settings.storage.url.clone(), limit)))
}
