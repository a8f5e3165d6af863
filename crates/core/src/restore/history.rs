//! Timeline history files: which backups are on the way to a timeline.

use super::TargetTimeline;
use crate::codec::Format;
use crate::error::{Error, Result};
use crate::repository::inventory::{BackupInfo, read_history};
use crate::repository::layout;
use crate::wal::{TimelineHistory, WalFileName};
use walarchive_storage::Store;

/// The history of the timeline that recovery will follow, found as the server finds it: from the newest timeline of any
/// backup upwards until a history file is missing. None for `current`, which every backup can follow.
pub async fn target_history(
    store: &Store,
    target: TargetTimeline,
    backups: &[BackupInfo],
) -> Result<Option<TimelineHistory>> {
    let known = backups.iter().filter_map(|backup| backup.timeline).max().unwrap_or(1);
    let (timeline, text) = match target {
        TargetTimeline::Current => return Ok(None),
        TargetTimeline::Number(number) => (number, read_history(store, number).await?),
        TargetTimeline::Latest => {
            let mut newest = (known, None);
            for timeline in known.saturating_add(1)..=u32::MAX {
                match read_history(store, timeline).await? {
                    Some(text) => newest = (timeline, Some(text)),
                    None => break,
                }
            }
            if newest.1.is_none() {
                newest.1 = read_history(store, known).await?;
            }
            newest
        }
    };
    match text {
        Some(text) => TimelineHistory::parse(timeline, &text).map(Some).ok_or_else(|| {
            Error::damaged(
                store.object_url(&layout::wal(&WalFileName::History(timeline), Format::Plain)),
                "It does not read like a timeline history file.",
            )
        }),
        // The first timeline has no history file.
        None if timeline == 1 || target == TargetTimeline::Latest => Ok(Some(TimelineHistory {
            timeline,
            ancestors: Vec::new(),
        })),
        None => Err(Error::refused(
            format!("timeline {timeline} has no history file in the archive"),
            "Use a timeline that the archive knows, or \"latest\".",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;

    #[tokio::test]
    async fn the_latest_timeline_is_found_in_the_archive() {
        let store = Store::of(std::sync::Arc::new(object_store::memory::InMemory::new()), "memory:");
        let find = |target| target_history(&store, target, &[]);
        assert_eq!(
            find(TargetTimeline::Latest)
                .await
                .expect("found")
                .expect("one")
                .timeline,
            1
        );
        assert!(find(TargetTimeline::Number(2)).await.is_err());
        for timeline in [2, 3] {
            let key = layout::wal(&WalFileName::History(timeline), Format::Plain);
            store.put(&key, "1\t0/3000000\tx\n".into()).await.expect("written");
        }
        let history = find(TargetTimeline::Latest).await.expect("found").expect("one");
        assert_eq!((history.timeline, history.ancestors), (3, vec![(1, Lsn(0x3000000))]));
        assert_eq!(
            find(TargetTimeline::Number(2))
                .await
                .expect("found")
                .expect("one")
                .timeline,
            2
        );
    }
}
