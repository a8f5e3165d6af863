//! Where the archive ends, from what is in the repository.

use std::collections::BTreeSet;

use walarchive_storage::Store;

use super::branch::Branch;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::repository::layout;
use crate::wal::{Segment, SegmentSize, WalFileName};

/// The newest segments that are looked at: more than are ever stored at a time, in whatever order that ends.
const NEWEST: usize = 256;

/// The newest segments of a server's WAL in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    numbers: BTreeSet<u64>,
    size: SegmentSize,
}

impl Stored {
    /// Look for those that recovery to the server's timeline reads.
    pub async fn look(store: &Store, branch: &Branch) -> Result<Self> {
        let size = branch.segment_size();
        let mut numbers: BTreeSet<u64> = BTreeSet::new();
        let look = |object: walarchive_storage::Listed| {
            if let Some((WalFileName::Segment(segment), _)) = layout::wal_of_object(&object.key)
                && branch.reads(segment)
            {
                numbers.insert(segment.number(size));
                if numbers.len() > NEWEST {
                    numbers.pop_first();
                }
            }
        };
        store.each(&layout::WAL_FOLDER, look).await?;
        Ok(Stored { numbers, size })
    }

    /// Up to where the WAL is there without a gap. None: there is none of it. A gap that lies further back than the newest
    /// segments is an old loss.
    pub fn end(&self) -> Option<Lsn> {
        let first = *self.numbers.first()?;
        Some(self.missing_from(self.start(first)))
    }

    /// The start of the first segment that is missing from that position on, which is the start of a segment.
    pub fn missing_from(&self, start: Lsn) -> Lsn {
        let mut missing = start.0 / self.size.bytes();
        for number in self.numbers.range(missing..) {
            if *number != missing {
                break;
            }
            missing += 1;
        }
        self.start(missing)
    }

    fn start(&self, number: u64) -> Lsn {
        Segment::from_number(1, number, self.size).start(self.size)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::wal::TimelineHistory;

    #[tokio::test]
    async fn the_archive_ends_at_the_first_gap_of_the_servers_own_history() {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        let size = SegmentSize::new(1 << 20).expect("a size");
        let history = TimelineHistory {
            timeline: 2,
            ancestors: vec![(1, Lsn(5 << 20))],
        };
        let branch = Branch::new(2, Some(history), size);
        let end = async || {
            let found = Stored::look(&store, &branch).await.expect("looked");
            found.end().map(|end| end.0 >> 20)
        };
        let put = async |name: &str| {
            store
                .put(&format!("wal_005/{name}"), Bytes::from_static(b"x"))
                .await
                .expect("written");
        };
        put("00000002.history.zst").await;
        assert_eq!(end().await, None);
        put("000000010000000000000003.zst").await;
        put("000000010000000000000004.lz4").await;
        assert_eq!(end().await, Some(5));
        // Of the timeline that was left, and of another branch.
        put("000000010000000000000005.zst").await;
        put("000000030000000000000005.zst").await;
        assert_eq!(end().await, Some(5));
        put("000000020000000000000006.zst").await;
        assert_eq!(end().await, Some(5), "5 is missing");
        put("000000020000000000000005.zst").await;
        assert_eq!(end().await, Some(7));
        put("000000020000000000000009.zst").await;
        put("00000002000000000000000A.zst").await;
        let stored = Stored::look(&store, &branch).await.expect("looked");
        let missing = [3, 7, 8, 9, 10, 11, 20].map(|from| stored.missing_from(Lsn(from << 20)).0 >> 20);
        assert_eq!(missing, [7, 7, 8, 11, 11, 11, 20]);
    }
}
