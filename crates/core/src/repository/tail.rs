//! The tail: WAL of the segment that is still being written, stored in chunks as it is written.
//!
//! A chunk is a part of a segment, named by [`TailChunk`]. Each run of a server stores a segment anew from its beginning, as an epoch
//! of its own: after a crash PostgreSQL may write the bytes of its last record again. So chunks of one epoch never contradict each
//! other, and a reader takes those of one epoch only.

use std::io::{self, Read};

use chrono::{DateTime, Utc};
use walarchive_storage::Store;

use crate::codec::Format;
use crate::error::Result;
use crate::files::read_full;
use crate::repository::layout::{self, TailChunk};
use crate::wal::Segment;

/// WAL of a segment that can be had from its beginning on: the chunks of one epoch, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    /// Each begins where the one before ends, or earlier.
    pub chunks: Vec<TailChunk>,
    /// When the last of them was stored.
    pub stored: DateTime<Utc>,
}

impl Cover {
    /// What these chunks of one segment cover: those of the newest epoch that has its beginning. Chunks of an epoch may overlap.
    pub fn of(chunks: impl IntoIterator<Item = (TailChunk, DateTime<Utc>)>) -> Option<Self> {
        let mut chunks: Vec<_> = chunks.into_iter().collect();
        let begins = chunks.iter().filter(|(chunk, _)| chunk.start == 0);
        let epoch = begins.map(|(chunk, _)| chunk.epoch).max()?;
        chunks.retain(|(chunk, _)| chunk.epoch == epoch);
        // Of those that begin at the same place, the one that reaches furthest is first.
        chunks.sort_unstable_by_key(|(chunk, _)| (chunk.start, std::cmp::Reverse(chunk.end)));
        let (mut taken, mut reached): (Vec<(TailChunk, DateTime<Utc>)>, u64) = (Vec::new(), 0);
        let mut rest = chunks.into_iter().peekable();
        loop {
            let mut best: Option<(TailChunk, DateTime<Utc>)> = None;
            while let Some(next) = rest.next_if(|(chunk, _)| chunk.start <= reached) {
                if best.is_none_or(|(best, _)| next.0.end > best.end) {
                    best = Some(next);
                }
            }
            let Some(best) = best.filter(|(best, _)| best.end > reached) else {
                break;
            };
            reached = best.0.end;
            taken.push(best);
        }
        Some(Cover {
            stored: taken.iter().map(|(_, stored)| *stored).max()?,
            chunks: taken.into_iter().map(|(chunk, _)| chunk).collect(),
        })
    }

    /// The same, as the store lists them.
    pub async fn find(store: &Store, segment: Segment) -> Result<Option<Self>> {
        let mut chunks = Vec::new();
        let look = |listed: walarchive_storage::Listed| {
            if let Some(chunk) = TailChunk::of_key(&listed.key) {
                chunks.push((chunk, listed.last_modified));
            }
        };
        store.each(&layout::tail_of(segment), look).await?;
        Ok(Cover::of(chunks))
    }

    /// The segment.
    pub fn segment(&self) -> Option<Segment> {
        self.chunks.first().map(|chunk| chunk.segment)
    }

    /// The run of the server that stored them.
    pub fn epoch(&self) -> u64 {
        self.chunks.first().map_or(0, |chunk| chunk.epoch)
    }

    /// So many bytes of the segment they have, from its beginning on.
    pub fn end(&self) -> u64 {
        self.chunks.last().map_or(0, |chunk| chunk.end)
    }
}

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Give out what a chunk has behind so many bytes of its segment, piece by piece. `object` is what the store has, decrypted. Returns the
/// reason why that is not what its name says; or what `take` has returned. A failure of the store is such a reason, too.
pub(crate) fn read_chunk<E: From<String>>(
    chunk: TailChunk,
    reached: u64,
    object: impl Read + Send,
    mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let undecodable = |error: io::Error| E::from(format!("It cannot be decompressed: {error}."));
    let mut decoded = Format::Zstd.decoder(object).map_err(undecodable)?;
    let bytes = chunk.end - chunk.start;
    let mut known = reached.saturating_sub(chunk.start);
    let (mut came, mut buffer) = (0, vec![0; BUFFER_BYTES]);
    loop {
        let read = read_full(&mut decoded, &mut buffer).map_err(undecodable)?;
        came += read as u64;
        if came > bytes || (read == 0 && came < bytes) {
            let has = if came > bytes { "more" } else { "fewer" };
            return Err(E::from(format!(
                "It has {has} than the {bytes} bytes that its name says."
            )));
        }
        if read == 0 {
            return Ok(());
        }
        let skipped = usize::try_from(known).unwrap_or(usize::MAX).min(read);
        known -= skipped as u64;
        take(&buffer[skipped..read])?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::WalFileName;

    fn chunk(epoch: u64, start: u64, end: u64) -> (TailChunk, DateTime<Utc>) {
        let Ok(WalFileName::Segment(segment)) = "000000010000000000000007".parse() else {
            panic!("a segment");
        };
        let chunk = TailChunk {
            segment,
            epoch,
            start,
            end,
        };
        (chunk, DateTime::from_timestamp(end as i64, 0).expect("a time"))
    }

    fn ranges(cover: &Cover) -> Vec<(u64, u64)> {
        cover.chunks.iter().map(|chunk| (chunk.start, chunk.end)).collect()
    }

    #[test]
    fn the_newest_epoch_that_has_the_beginning_is_taken_as_far_as_it_is_contiguous() {
        let cover = Cover::of([
            chunk(1, 0, 100),
            chunk(2, 0, 10),
            chunk(2, 10, 20),
            chunk(2, 21, 90),
            chunk(3, 5, 99),
        ])
        .expect("covers something");
        assert_eq!((cover.epoch(), cover.end()), (2, 20));
        assert_eq!(ranges(&cover), [(0, 10), (10, 20)]);
        assert_eq!(cover.stored.timestamp(), 20);
    }

    #[test]
    fn a_merged_chunk_and_those_that_it_replaces_are_read_once() {
        let cover = Cover::of([
            chunk(1, 0, 10),
            chunk(1, 10, 20),
            chunk(1, 0, 30),
            chunk(1, 20, 30),
            chunk(1, 25, 40),
        ])
        .expect("covers something");
        assert_eq!(ranges(&cover), [(0, 30), (25, 40)]);
    }

    #[test]
    fn without_a_beginning_there_is_nothing() {
        assert_eq!(Cover::of([chunk(1, 10, 20)]), None);
        assert_eq!(Cover::of([]), None);
    }

    proptest! {
        #[test]
        fn what_is_covered_is_what_is_contiguous(ranges in proptest::collection::vec((0u64..40, 1u64..20), 1..20)) {
            let chunks: Vec<_> = ranges.iter().map(|(start, bytes)| chunk(1, *start, start + bytes)).collect();
            let end = Cover::of(chunks.iter().copied()).map_or(0, |cover| cover.end());
            let has = |byte: u64| chunks.iter().any(|(chunk, _)| (chunk.start..chunk.end).contains(&byte));
            let begins = chunks.iter().any(|(chunk, _)| chunk.start == 0);
            let expected = if begins { (0..).take_while(|byte| has(*byte)).count() as u64 } else { 0 };
            prop_assert_eq!(end, expected);
        }
    }
}
