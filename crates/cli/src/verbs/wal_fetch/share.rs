//! Recovery must not go beyond the place where the timeline that it follows has left the one of the segment that it asks for.

use std::path::Path;
use std::time::SystemTime;

use walarchive_core::archive::prefetch::Absence;
use walarchive_core::archive::{self, Share};
use walarchive_core::lsn::Lsn;
use walarchive_core::wal::{Segment, WalFileName};
use walarchive_core::{Result, StorageError};
use walarchive_storage::Store;

use super::round::Round;
use super::{Call, WalFetch, end};
use crate::repository::data_dir::data_dir_beside;

/// Do the server's own files tell that all of the segment is before the fork? Up to PostgreSQL 12 recovery asks for each segment on
/// the newest timeline first.
pub fn is_known_whole(segment: Segment, followed: u32, path: &Path) -> bool {
    let Some((data_dir, wal_directory)) = data_dir_beside(path).zip(path.parent()) else {
        return false;
    };
    archive::known_share(segment, followed, wal_directory, &data_dir) == Some(Share::Whole)
}

/// How many bytes of the file are given out.
pub async fn most_of(args: &WalFetch, call: &Call, store: &Store) -> Result<u64> {
    let (WalFileName::Segment(segment), Some(followed)) = (call.name, call.followed) else {
        return Ok(u64::MAX);
    };
    let Some((data_dir, wal_directory)) = data_dir_beside(&args.path).zip(args.path.parent()) else {
        return Ok(u64::MAX);
    };
    let round = call.round.as_ref();
    let not_there = || {
        let object = args.name.clone();
        Err(StorageError::NotFound { object }.into())
    };
    match archive::share_of(store, segment, followed, wal_directory, &data_dir).await? {
        Share::Whole => Ok(u64::MAX),
        // The server reads its own file then.
        Share::Part(..) if round.is_some_and(|round| round.has_part(segment, wal_directory)) => not_there(),
        Share::Part(switch, bytes) => {
            tell_left(round, segment, followed, switch);
            Ok(bytes)
        }
        Share::Nothing(switch) => {
            // A standby asks again and again.
            if round.is_none_or(|round| round.known(segment).is_none()) {
                tell_left(round, segment, followed, switch);
            }
            end::tell_end(round, segment)?;
            not_there()
        }
    }
}

/// Note that the server has been given what there is of its timeline's share.
pub fn tell_part(call: &Call) -> Result<()> {
    match (&call.round, call.name) {
        (Some(round), WalFileName::Segment(segment)) => round.tell(segment, SystemTime::now(), Absence::Part),
        _ => Ok(()),
    }
}

fn tell_left(round: Option<&Round>, segment: Segment, followed: u32, switch: Lsn) {
    let old = segment.timeline;
    let text =
        format!("timeline {followed} has left timeline {old} at LSN {switch}, and WAL behind that is not restored");
    match round.is_some_and(|round| round.is_of_standby) {
        true => eprintln!("walarchive: note: {text}"),
        false => eprintln!(
            "walarchive: warning: {text}\nHINT:  To restore what timeline {old} has after that, restore again with \
             --target-timeline {old}."
        ),
    }
}
