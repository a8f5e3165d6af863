//! Does the archive have what comes before the first segment of an epoch? A file may be archived, and in another repository.

use std::path::Path;

use chrono::{DateTime, Utc};

use super::clean::is_stored;
use crate::archive::Archive;
use crate::blocking::blocking;
use crate::error::Result;
use crate::repository::layout::{self, TailChunk};
use crate::repository::tail::Cover;
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};

/// The segment before this one, if the store has it neither whole nor in these chunks, and has backups that would need it.
pub(super) async fn before(
    archive: &Archive,
    pg_wal: &Path,
    present: Segment,
    chunks: &[(TailChunk, DateTime<Utc>)],
) -> Result<Option<Segment>> {
    let size = archive.identity().segment_size;
    let directory = pg_wal.to_owned();
    let Some(before) = blocking(move || Ok(segment_before(&directory, present, size))).await? else {
        return Ok(None);
    };
    let of_before = chunks.iter().filter(|(chunk, _)| chunk.segment == before).copied();
    let is_complete = Cover::of(of_before).is_some_and(|cover| cover.end() == size.bytes());
    let is_there = is_complete || is_stored(archive, before).await? || !has_backups(archive).await?;
    Ok((!is_there).then_some(before))
}

/// The archive of a new cluster begins somewhere.
async fn has_backups(archive: &Archive) -> Result<bool> {
    let objects = archive.store().list_shallow(&layout::BACKUPS_FOLDER).await?;
    let is_sentinel = |object: &walarchive_storage::Listed| layout::backup_of_sentinel(&object.key).is_some();
    Ok(objects.iter().any(is_sentinel))
}

/// The one before it in the server's history. None: there never was one.
fn segment_before(pg_wal: &Path, present: Segment, size: SegmentSize) -> Option<Segment> {
    // PostgreSQL begins with the second one.
    let number = present.number(size).checked_sub(1).filter(|number| *number > 0)?;
    let history = pg_wal.join(WalFileName::History(present.timeline).to_string());
    let history = std::fs::read_to_string(history).ok();
    let history = history.and_then(|text| TimelineHistory::parse(present.timeline, &text));
    let start = present.start(size);
    let ancestors = history.map(|history| history.ancestors).unwrap_or_default();
    let left_later = ancestors.into_iter().find(|(_, switch)| *switch >= start);
    let timeline = left_later.map_or(present.timeline, |(timeline, _)| timeline);
    Some(Segment::from_number(timeline, number, size))
}
