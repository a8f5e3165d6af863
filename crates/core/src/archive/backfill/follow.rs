//! Looking again and again, for little: a standby asks for the segment that the archive gets next, and lists seldom.

use std::time::{Duration, Instant};

use walarchive_storage::Store;

use super::local::Line;
use super::look::first_unarchived;
use super::stored;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::repository::layout;
use crate::wal::WalFileName;

/// So many segments are asked for one by one at most. What more there is a listing tells at once.
const ONE_BY_ONE: usize = 4;

/// So often the archive is listed all the same.
const LISTED: Duration = Duration::from_secs(300);

/// And once when the same segment is missing in so many looks: the primary may have changed how it compresses.
const LOOKS: u32 = 2;

/// What the last look has told.
#[derive(Debug, Clone, Default)]
pub struct Followed(Option<Known>);

#[derive(Debug, Clone, Copy)]
struct Known {
    timeline: u32,
    /// All before this segment is archived.
    next: u64,
    /// How the newest one is compressed.
    format: Format,
    listed: Instant,
    /// The segment that was missing, and in how many looks.
    missing: Option<(u64, u32)>,
}

/// The start of the oldest segment in `pg_wal` that the archive lacks, as [`first_unarchived`] finds it, after a look that has told
/// `followed`.
pub async fn follow(store: &Store, line: &Line, from: Lsn, end: Lsn, followed: Followed) -> Result<(Lsn, Followed)> {
    let mut missing = None;
    if let Some(mut known) = followed.0
        && known.timeline == line.branch.timeline()
        && known.listed.elapsed() < LISTED
    {
        if let Some(found) = one_by_one(store, line, from, end, &mut known).await? {
            return Ok((found, Followed(Some(known))));
        }
        missing = known.missing;
    }
    let listed = Instant::now();
    let (found, format) = first_unarchived(store, line, from, end).await?;
    let known = format.map(|format| Known {
        timeline: line.branch.timeline(),
        next: found.0 / line.size().bytes(),
        format,
        listed,
        missing,
    });
    Ok((found, Followed(known)))
}

/// None if a listing tells more.
async fn one_by_one(store: &Store, line: &Line, from: Lsn, end: Lsn, known: &mut Known) -> Result<Option<Lsn>> {
    let size = line.size().bytes();
    let (from, end) = (from.0 / size, end.0 / size);
    let local = {
        let line = line.clone();
        blocking(move || line.before(end)).await?
    };
    let mut left = ONE_BY_ONE;
    let first = known.next.max(from);
    for number in local.into_iter().filter(|number| *number >= first) {
        let Some(fewer) = left.checked_sub(1) else {
            return Ok(None);
        };
        left = fewer;
        let name = WalFileName::Segment(line.numbered(number));
        if store.size(&layout::wal(&name, known.format)).await?.is_none() {
            // A directory that is not mounted has none either.
            if store.may_vanish() {
                stored::seen(store).await?;
            }
            let before = known.missing.filter(|(missing, _)| *missing == number);
            let looks = before.map_or(1, |(_, looks)| looks.saturating_add(1));
            known.missing = Some((number, looks));
            return Ok((looks != LOOKS).then_some(Lsn(number.saturating_mul(size))));
        }
        known.next = number + 1;
    }
    Ok(Some(Lsn(end.saturating_mul(size))))
}
