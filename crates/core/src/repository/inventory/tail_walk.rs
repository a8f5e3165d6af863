//! Reading the tail of a segment.

use super::TailObject;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::{self, blame};
use crate::error::{Error, Result, StorageError};
use crate::lsn::Lsn;
use crate::repository::tail::read_chunk;
use crate::wal::{SegmentSize, WalWalker, Walked};
use walarchive_storage::Store;

/// Walk through a segment by its chunks, as far as they go. `objects` are those of one cover, in order. None if one of them is gone: the
/// segment was archived whole, or they were merged.
pub(crate) async fn walk_tail(
    store: &Store,
    objects: Vec<TailObject>,
    mut walker: WalWalker,
    size: SegmentSize,
) -> Result<(WalWalker, Option<Walked>)> {
    let Some(first) = objects.first() else {
        return Ok((walker, None));
    };
    let start = first.chunk.segment.start(size);
    walker.begin(first.chunk.segment);
    let store = store.clone();
    blocking(move || {
        let mut reached = 0;
        for object in objects {
            let mut reader = encrypted::reader(&store, &object.key(), object.size);
            let feed = |bytes: &[u8]| {
                walker.feed(bytes);
                Ok(())
            };
            let Err(why) = read_chunk::<String>(object.chunk, reached, &mut reader, feed) else {
                reached = object.chunk.end;
                continue;
            };
            let problem = match blame(&mut reader, store.object_url(&object.key()), Format::Zstd, why) {
                Error::Storage(StorageError::NotFound { .. }) => return Ok((walker.anew(), None)),
                failure => failure.content_finding().ok_or(failure)?,
            };
            let walked = Walked {
                problem: Some(format!("{}: {problem}", object.key())),
                readable: Some(Lsn(start.0.saturating_add(reached))),
                begins_before: false,
                ..walker.cut()
            };
            return Ok((walker.anew(), Some(walked)));
        }
        let mut walked = match reached >= size.bytes() {
            true => walker.end(),
            false => walker.cut(),
        };
        // The record that is wrong begins behind the last one that is right.
        walked.readable = walked
            .problem
            .as_ref()
            .map(|_| walked.last_record.map_or(start, |last| last.max(start)));
        Ok((walker, Some(walked)))
    })
    .await
}
