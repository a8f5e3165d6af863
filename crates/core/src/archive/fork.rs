//! A segment of a timeline that recovery's own one has left.
//!
//! The archive may have WAL of the older timeline from behind the fork: a dead primary's complete last segment, or all that a server
//! has written which did not hear of the promotion. Recovery takes it for the newer timeline's if that has archived nothing, and the
//! server it ends as is neither the one nor the other.

use std::path::Path;

use super::hole::{history_file, own_history};
use crate::control_file::ControlFile;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::wal::{Segment, SegmentSize, TimelineHistory};
use walarchive_storage::Store;

/// How much of a segment belongs to the newer timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    Whole,
    /// What is before that LSN, so many bytes.
    Part(Lsn, u64),
    /// Nothing: it was left at that LSN.
    Nothing(Lsn),
}

/// How much of `segment` belongs to `timeline`, which the server of `data_dir` follows? Its history is in the server's WAL directory,
/// or else in the archive. One that is in neither says nothing.
pub async fn share_of(
    store: &Store,
    segment: Segment,
    timeline: u32,
    wal_directory: &Path,
    data_dir: &Path,
) -> Result<Share> {
    let size = ControlFile::read(data_dir)?.segment_size;
    let history = own_history(store, timeline, wal_directory).await?;
    Ok(history.map_or(Share::Whole, |history| share(segment, &history, size)))
}

/// The same without the archive. None if the server's WAL directory does not tell.
pub fn known_share(segment: Segment, timeline: u32, wal_directory: &Path, data_dir: &Path) -> Option<Share> {
    let size = ControlFile::read(data_dir).ok()?.segment_size;
    let history = history_file(timeline, wal_directory)?;
    Some(share(segment, &history, size))
}

fn share(segment: Segment, history: &TimelineHistory, size: SegmentSize) -> Share {
    let mut ancestors = history.ancestors.iter();
    let Some((_, switch)) = ancestors.find(|(ancestor, _)| *ancestor == segment.timeline) else {
        return Share::Whole;
    };
    match switch.0.checked_sub(segment.start(size).0) {
        None | Some(0) => Share::Nothing(*switch),
        Some(bytes) if bytes < size.bytes() => Share::Part(*switch, bytes),
        Some(_) => Share::Whole,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control_file::tests::sample;

    const MB: u64 = 1 << 20;

    #[tokio::test]
    async fn what_is_behind_the_fork_does_not_belong_to_the_newer_timeline() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("global")).expect("created");
        std::fs::write(dir.path().join("global/pg_control"), sample(MB as u32, 288)).expect("written");
        std::fs::write(dir.path().join("00000002.history"), "1\t0/500100\tx\n").expect("written");
        std::fs::write(dir.path().join("00000003.history"), "1\t0/500100\tx\n2\t0/700000\tx\n").expect("written");
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        let share = async |segment: &str, timeline| {
            let segment = segment.parse().expect("a segment");
            let share = share_of(&store, segment, timeline, dir.path(), dir.path()).await;
            share.expect("known")
        };
        let fork = Lsn(0x500100);
        assert_eq!(share("000000010000000000000004", 2).await, Share::Whole);
        assert_eq!(share("000000010000000000000005", 2).await, Share::Part(fork, 0x100));
        assert_eq!(share("000000010000000000000005", 3).await, Share::Part(fork, 0x100));
        assert_eq!(share("000000010000000000000006", 2).await, Share::Nothing(fork));
        assert_eq!(share("000000020000000000000006", 3).await, Share::Whole);
        assert_eq!(
            share("000000020000000000000007", 3).await,
            Share::Nothing(Lsn(0x700000))
        );
        // A timeline whose history is nowhere.
        assert_eq!(share("000000010000000000000007", 4).await, Share::Whole);
    }
}
