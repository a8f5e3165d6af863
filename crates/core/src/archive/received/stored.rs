//! Where the archive ends, from what is in the repository.

use std::collections::BTreeSet;

use walarchive_storage::Store;

use super::branch::Branch;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::repository::layout;
use crate::wal::{Segment, WalFileName};

/// The newest segments that are looked at: more than are ever stored at a time, in whatever order that ends.
const NEWEST: usize = 256;

/// The end of a server's WAL in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The first segment that is missing begins here.
    pub end: Lsn,
}

/// Up to where the repository has the WAL of a server without a gap. None: it has none of it. A gap that lies further back than the
/// newest segments is an old loss.
pub async fn stored_up_to(store: &Store, branch: &Branch) -> Result<Option<Stored>> {
    let size = branch.segment_size();
    let mut newest: BTreeSet<u64> = BTreeSet::new();
    let look = |object: walarchive_storage::Listed| {
        if let Some((WalFileName::Segment(segment), _)) = layout::wal_of_object(&object.key)
            && branch.reads(segment)
        {
            newest.insert(segment.number(size));
            if newest.len() > NEWEST {
                newest.pop_first();
            }
        }
    };
    store.each(&layout::WAL_FOLDER, look).await?;
    Ok(first_missing(&newest).map(|number| Stored {
        end: Segment::from_number(1, number, size).start(size),
    }))
}

/// The number after the first run of numbers without a gap.
fn first_missing(numbers: &BTreeSet<u64>) -> Option<u64> {
    let first = *numbers.first()?;
    let mut expected = first;
    for number in numbers {
        if *number != expected {
            break;
        }
        expected += 1;
    }
    Some(expected)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::wal::{SegmentSize, TimelineHistory};

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
            let found = stored_up_to(&store, &branch).await.expect("looked");
            found.map(|stored| stored.end.0 >> 20)
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
    }
}
