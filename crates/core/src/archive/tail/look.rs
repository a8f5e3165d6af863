//! What a listing shows of the tail.

use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use walarchive_storage::{Listed, Store};

use crate::error::Result;
use crate::repository::layout::{self, TailChunk};
use crate::repository::tail::Cover;
use crate::wal::Segment;

/// What the tail has from a segment on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// WAL of the segment itself.
    pub cover: Option<Cover>,
    /// The next segment of the same timeline of which there is something, and when that was stored.
    pub later: Option<(Segment, DateTime<Utc>)>,
}

impl Tail {
    /// Look for a segment, by one listing.
    pub async fn find(store: &Store, segment: Segment) -> Result<Self> {
        let in_order = store.lists_in_order();
        let (mut own, mut later) = (Vec::new(), None::<(Segment, DateTime<Utc>)>);
        let look = |listed: Listed| {
            let Some(chunk) = TailChunk::of_key(&listed.key) else {
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
        Ok(Tail {
            cover: Cover::of(own),
            later,
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
                "epoch/00000003.json",
            ] {
                let key = format!("{}/{key}", layout::TAIL_FOLDER);
                store.put(&key, "x".into()).await.expect("stored");
            }
            let find = async |segment: &str| {
                let segment = segment.parse().expect("a segment");
                let tail = Tail::find(&store, segment).await.expect("looked");
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
        }
    }
}
