//! What a listing shows of the tail.

use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use walarchive_storage::{Listed, Store};

use crate::error::Result;
use crate::repository::layout::{self, TailChunk};
use crate::repository::tail::Cover;
use crate::wal::{Segment, SegmentSize};

/// The largest WAL segment, in bytes.
const LARGEST: u64 = 1 << 30;

/// What the tail has from a segment on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// WAL of the segment itself.
    pub cover: Option<Cover>,
    /// What the tail has behind that and does not lead on to, and when it was stored: something of the segment itself, if a chunk before
    /// it is missing; else of the next segment of the same timeline.
    pub later: Option<(Segment, DateTime<Utc>)>,
    /// Does somebody store a tail here, or did? Each run of a server that does leaves an object, and the last of these stays.
    pub is_in_use: bool,
}

impl Tail {
    /// Look for a segment of this size.
    pub async fn find(store: &Store, segment: Segment, size: Option<SegmentSize>) -> Result<Self> {
        let tail = Self::listed(store, segment, size).await?;
        match tail.is_broken(segment) {
            // A listing is no snapshot: a chunk may come in the place of others meanwhile.
            true => Self::listed(store, segment, size).await,
            false => Ok(tail),
        }
    }

    /// Is something of the segment there, and what is before that is not?
    pub fn is_broken(&self, segment: Segment) -> bool {
        self.later.is_some_and(|(later, _)| later == segment)
    }

    async fn listed(store: &Store, segment: Segment, size: Option<SegmentSize>) -> Result<Self> {
        let (in_order, most) = (store.lists_in_order(), size.map_or(LARGEST, SegmentSize::bytes));
        let (mut own, mut later) = (Vec::new(), None::<(Segment, DateTime<Utc>)>);
        let mut is_in_use = false;
        let look = |listed: Listed| {
            is_in_use = true;
            // A name that says more than a segment has is none.
            let Some(chunk) = TailChunk::of_key(&listed.key).filter(|chunk| chunk.end <= most) else {
                return ControlFlow::Continue(());
            };
            if chunk.segment == segment {
                own.push((chunk, listed.last_modified));
                return ControlFlow::Continue(());
            }
            let is_later = chunk.segment.timeline == segment.timeline && chunk.segment > segment;
            let found = (chunk.segment, listed.last_modified);
            if is_later && later.is_none_or(|later| found < later) {
                later = Some(found);
            }
            match in_order && chunk.segment > segment {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        store
            .each_after(&layout::TAIL_FOLDER, &layout::tail_of(segment), look)
            .await?;
        let cover = Cover::of(own.iter().copied());
        let is_behind = |chunk: &TailChunk| match &cover {
            // A newer epoch that has no beginning yet has not caught up.
            Some(cover) => chunk.epoch == cover.epoch() && chunk.end > cover.end(),
            None => true,
        };
        let behind = own.iter().filter(|(chunk, _)| is_behind(chunk));
        let behind = behind.map(|(_, stored)| (segment, *stored)).min();
        Ok(Tail {
            cover,
            later: behind.or(later),
            is_in_use,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn the_segment_and_the_next_one_of_its_timeline_are_found() {
        // One that is listed as a whole, and one whose listing ends early.
        let dir = tempfile::tempdir().expect("a directory");
        let config = walarchive_storage::StorageConfig::new(format!("file://{}", dir.path().display()));
        let stores = [
            Store::of(Arc::new(InMemory::new()), "memory:"),
            Store::open(&config).expect("opened"),
        ];
        assert_eq!(stores.each_ref().map(Store::lists_in_order), [true, false]);
        for store in stores {
            for key in [
                "000000010000000000000006/00000009-00000000-00000100.zst",
                "000000010000000000000007/00000001-00000000-00000100.zst",
                "000000010000000000000007/00000002-00000000-00000080.zst",
                "000000010000000000000009/00000002-00000000-00000080.zst",
                "000000010000000000000009/00000002-00000080-00000100.zst",
                "00000001000000000000000A/00000002-00000000-00000080.zst",
                "000000020000000000000008/00000003-00000000-00000080.zst",
                // Its end is no place in the segment.
                "000000020000000000000008/00000009-00000000-00100001.zst",
                // A chunk is missing in the middle; the first one; and a newer epoch has not caught up.
                "000000030000000000000001/00000003-00000000-00000080.zst",
                "000000030000000000000001/00000003-00000081-00000100.zst",
                "000000030000000000000002/00000003-00000081-00000100.zst",
                "000000030000000000000003/00000003-00000000-00000080.zst",
                "000000030000000000000003/00000004-00000010-00000100.zst",
                "epoch/00000003.json",
            ] {
                let key = format!("{}/{key}", layout::TAIL_FOLDER);
                store.put(&key, "x".into()).await.expect("stored");
            }
            let find = async |segment: &str| {
                let segment = segment.parse().expect("a segment");
                let size = SegmentSize::new(1 << 20).ok();
                let tail = Tail::find(&store, segment, size).await.expect("looked");
                (
                    tail.cover.map(|cover| (cover.epoch(), cover.end())),
                    tail.later.map(|(later, _)| later.to_string()),
                )
            };
            let nine = Some("000000010000000000000009".to_owned());
            assert_eq!(find("000000010000000000000007").await, (Some((2, 0x80)), nine.clone()));
            assert_eq!(find("000000010000000000000008").await, (None, nine));
            assert_eq!(find("00000001000000000000000A").await, (Some((2, 0x80)), None));
            assert_eq!(find("00000001000000000000000B").await, (None, None));
            assert_eq!(find("000000020000000000000008").await, (Some((3, 0x80)), None));
            let [first, second, third] = [1, 2, 3].map(|number| format!("0000000300000000{number:08}"));
            assert_eq!(find(&first).await, (Some((3, 0x80)), Some(first)));
            assert_eq!(find(&second).await, (None, Some(second)));
            assert_eq!(find(&third).await, (Some((3, 0x80)), None));
        }
    }
}
