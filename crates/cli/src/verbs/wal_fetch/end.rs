//! A segment is not in the archive. Recovery may end there only if the archive does.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use chrono::Utc;
use walarchive_core::archive::prefetch::Absence;
use walarchive_core::archive::{Fetched, Hole, find_hole};
use walarchive_core::data_dir::major_version;
use walarchive_core::recovery_state::is_in_recovery;
use walarchive_core::wal::{Segment, WalFileName};
use walarchive_core::{Error, Result, StorageError};
use walarchive_storage::Store;

use super::round::Round;
use super::wait;
use crate::repository::data_dir::data_dir_beside;

/// A server archives several segments at a time, so a later one may be there a moment earlier.
const YOUNG: Duration = Duration::from_secs(60);

/// Between two looks at such a hole.
const PAUSE: Duration = Duration::from_millis(500);

/// The first major version whose recovery asks for the next segment while records of the one before wait to be replayed.
const READS_AHEAD_SINCE: u32 = 15;

/// Looking for a hole takes no longer. The promotion of a standby waits for it.
const LOOK: Duration = Duration::from_secs(300);
const LOOK_OF_STANDBY: Duration = Duration::from_secs(30);

/// The archive does not have the segment. An error that says so if it ends there, else one that names the hole. One that may
/// be filled in this moment is waited for with `fetch`; a standby that needs it next waits with `fetch_usual`, which looks for it
/// in the usual format only.
pub async fn of_archive(
    store: &Store,
    segment: Segment,
    path: &Path,
    round: Option<&Round>,
    object: String,
    fetch: impl AsyncFn() -> Result<Fetched>,
    fetch_usual: impl AsyncFn() -> Result<Option<Fetched>>,
) -> Result<Fetched> {
    let not_there = || Error::Storage(StorageError::NotFound { object: object.clone() });
    let Some(data_dir) = data_dir_beside(path).filter(|data_dir| is_in_recovery(data_dir)) else {
        return Err(not_there());
    };
    if let Some(standby) = round.filter(|round| round.is_of_standby) {
        // While others read ahead, PostgreSQL up to 14 asks for a segment only when it has replayed the one before.
        let reads_ahead = major_version(&data_dir).is_none_or(|major| major >= READS_AHEAD_SINCE);
        let may_wait = !standby.has_worker() && (!reads_ahead || standby.asks_again(segment));
        if let Some(refused) = tell(standby, store, segment, path, &data_dir).await? {
            return Err(refused);
        }
        let fetched = match may_wait {
            true => wait::for_segment(segment, path, &data_dir, fetch_usual).await?,
            false => None,
        };
        return fetched.ok_or_else(not_there);
    }
    let begun = Instant::now();
    loop {
        let Some(hole) = look(store, segment, path, &data_dir, LOOK).await? else {
            tell_end(round, segment)?;
            return Err(not_there());
        };
        if begun.elapsed() >= YOUNG || !is_young(&hole) {
            return Err(refused(segment, &hole.later));
        }
        tokio::time::sleep(PAUSE).await;
        match fetch().await {
            Err(Error::Storage(StorageError::NotFound { .. })) => {}
            result => return result,
        }
    }
}

/// A standby asks every few seconds. None: it is not there. So it is said of a young hole, too: the standby asks again.
async fn tell(standby: &Round, store: &Store, segment: Segment, path: &Path, data_dir: &Path) -> Result<Option<Error>> {
    let (absence, looked) = match standby.known(segment) {
        Some(known) => known,
        None => {
            let looked = SystemTime::now();
            let absence = match look(store, segment, path, data_dir, LOOK_OF_STANDBY).await? {
                None => Absence::End,
                Some(hole) if is_young(&hole) => Absence::Unclear,
                Some(hole) => Absence::Hole(hole.later),
            };
            (absence, looked)
        }
    };
    standby.tell(segment, looked, absence)?;
    Ok(match absence {
        Absence::Hole(later) => Some(refused(segment, &later)),
        Absence::End | Absence::Unclear | Absence::Part => None,
    })
}

/// The archive ends there: an older timeline's segment must not be taken for this one.
pub fn tell_end(round: Option<&Round>, segment: Segment) -> Result<()> {
    round.map_or(Ok(()), |round| round.tell(segment, SystemTime::now(), Absence::End))
}

async fn look(store: &Store, segment: Segment, path: &Path, data_dir: &Path, limit: Duration) -> Result<Option<Hole>> {
    let looking = find_hole(store, segment, path, data_dir);
    match tokio::time::timeout(limit, looking).await {
        Ok(found) => found,
        Err(_) => Err(Error::timeout("list", "the WAL in the archive", limit)),
    }
}

fn is_young(hole: &Hole) -> bool {
    // The store's clock may be ahead of ours.
    (Utc::now() - hole.stored).to_std().map_or(true, |age| age < YOUNG)
}

fn refused(segment: Segment, later: &WalFileName) -> Error {
    Error::refused(
        format!("\"{segment}\" is missing in the archive, which has \"{later}\" after it"),
        "Archive the missing WAL, for example from pg_wal of the server that wrote it. To end recovery before the gap, add \
         --allow-gap to wal-fetch in restore_command.",
    )
}
