//! A segment is not in the archive. Recovery may end there only if the archive does.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use chrono::Utc;
use walarchive_core::archive::prefetch::Absence;
use walarchive_core::archive::tail::Tail;
use walarchive_core::archive::{Answer, Behind, Gap, Hole, find_hole};
use walarchive_core::data_dir::major_version;
use walarchive_core::wal::{Segment, WalFileName};
use walarchive_core::{Error, Result, StorageError};

use super::round::Round;
use super::wanted::{Attempt, Wanted};
use super::{tail, wait};

/// A server archives several segments at a time, so a later one may be there a moment earlier.
const YOUNG: Duration = Duration::from_secs(60);

/// Between two looks at such a hole.
const PAUSE: Duration = Duration::from_millis(500);

/// The first major version whose recovery asks for the next segment while records of the one before wait to be replayed.
const READS_AHEAD_SINCE: u32 = 15;

/// The archive does not have the segment, and the tail, if it has anything, only its beginning. That is given out if the archive ends
/// there, and is an error that says so if there is nothing. A hole is another error, which names it. One that may be filled in this
/// moment is waited for; so does a standby that needs the segment next. `behind`: what was looked for already.
pub async fn of_archive(
    wanted: &Wanted<'_>,
    object: String,
    mut tail: Tail,
    mut behind: Option<Behind>,
) -> Result<Attempt> {
    let segment = wanted.segment;
    let not_there = || Error::Storage(StorageError::NotFound { object: object.clone() });
    let Some(data_dir) = wanted.recovering() else {
        return tail::give_part(wanted, &tail).await?.ok_or_else(not_there);
    };
    if let Some(standby) = wanted.round().filter(|round| round.is_of_standby) {
        return of_standby(wanted, standby, &data_dir, (&tail, behind))
            .await?
            .ok_or_else(not_there);
    }
    let begun = Instant::now();
    loop {
        let hole = match look(wanted, &data_dir, (&tail, behind)).await? {
            Gap::Closed => return Ok(Attempt::Moved),
            Gap::Hole(hole) => hole,
            Gap::End => {
                tell_end(wanted.round(), segment)?;
                return tail::give_part(wanted, &tail).await?.ok_or_else(not_there);
            }
        };
        if begun.elapsed() >= YOUNG || !is_young(&hole) {
            return Err(refused(segment, &hole.later));
        }
        tokio::time::sleep(PAUSE).await;
        (tail, behind) = match wanted.ask().await? {
            Answer::Fetched(fetched) => return Ok(Attempt::Whole(fetched)),
            Answer::Absent { tail, behind, .. } => (tail, behind),
        };
        if wanted.is_complete(&tail) {
            return Ok(Attempt::Moved);
        }
    }
}

/// A standby asks every few seconds. None: it is not there.
async fn of_standby(
    wanted: &Wanted<'_>,
    standby: &Round,
    data_dir: &Path,
    (tail, behind): (&Tail, Option<Behind>),
) -> Result<Option<Attempt>> {
    let segment = wanted.segment;
    // While others read ahead, PostgreSQL up to 14 asks for a segment only when it has replayed the one before.
    let reads_ahead = major_version(data_dir).is_none_or(|major| major >= READS_AHEAD_SINCE);
    let may_wait = !standby.has_worker() && (!reads_ahead || standby.asks_again(segment));
    match tell(standby, wanted, data_dir, (tail, behind)).await? {
        None => return Ok(Some(Attempt::Moved)),
        Some(Absence::Hole(later)) => return Err(refused(segment, &later)),
        Some(Absence::End) => {
            if let Some(given) = tail::give_part(wanted, tail).await? {
                return Ok(Some(given));
            }
        }
        Some(Absence::Unclear | Absence::Part) => {}
    }
    let fetched = match may_wait {
        true => wait::for_segment(segment, &wanted.args.path, data_dir, async || wanted.ask_usual().await).await?,
        false => None,
    };
    Ok(fetched.map(Attempt::Whole))
}

/// Note what a standby is told. A young hole is unclear: it asks again. None: the segment is there by now.
async fn tell(
    standby: &Round,
    wanted: &Wanted<'_>,
    data_dir: &Path,
    (tail, behind): (&Tail, Option<Behind>),
) -> Result<Option<Absence>> {
    let known = standby.known(wanted.segment);
    let is_old = |(absence, _): &(Absence, SystemTime)| *absence == Absence::End && tail.later.is_some();
    let (absence, looked) = match known.filter(|known| !is_old(known)) {
        Some(known) => known,
        None => {
            let looked = SystemTime::now();
            let absence = match look(wanted, data_dir, (tail, behind)).await? {
                Gap::Closed => return Ok(None),
                Gap::End => Absence::End,
                Gap::Hole(hole) if is_young(&hole) => Absence::Unclear,
                Gap::Hole(hole) => Absence::Hole(hole.later),
            };
            (absence, looked)
        }
    };
    standby.tell(wanted.segment, looked, absence)?;
    Ok(Some(absence))
}

/// The archive ends there: an older timeline's segment must not be taken for this one.
pub fn tell_end(round: Option<&Round>, segment: Segment) -> Result<()> {
    round.map_or(Ok(()), |round| round.tell(segment, SystemTime::now(), Absence::End))
}

async fn look(wanted: &Wanted<'_>, data_dir: &Path, (tail, behind): (&Tail, Option<Behind>)) -> Result<Gap> {
    let limit = wanted.longest_look();
    let place = (wanted.args.path.as_path(), data_dir);
    let looking = find_hole(wanted.store, wanted.segment, tail.later, behind, place);
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
    if *later == WalFileName::Segment(segment) {
        return Error::refused(
            format!("\"{segment}\" is not archived, and its tail lacks a part, with more after it"),
            "To end recovery before what is missing, add --allow-gap to wal-fetch in restore_command.",
        );
    }
    Error::refused(
        format!("\"{segment}\" is missing in the archive, which has \"{later}\" after it"),
        "Archive the missing WAL, for example from pg_wal of the server that wrote it. To end recovery before the gap, add \
         --allow-gap to wal-fetch in restore_command.",
    )
}
