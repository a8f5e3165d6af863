//! Timeline history files: which backups lie on the way to a timeline.

use std::io::Read;

use crate::codec::Format;
use crate::error::{Error, Result};
use crate::inventory::BackupInfo;
use crate::layout;
use crate::lsn::Lsn;
use crate::restore::TargetTimeline;
use crate::storage::Store;
use crate::wal::WalFileName;

/// More than any history file has, in bytes.
const LIMIT: u64 = 16 << 20;

/// A timeline and its ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline itself.
    pub timeline: u32,
    /// Each ancestor, and where it was left.
    pub ancestors: Vec<(u32, Lsn)>,
}

impl TimelineHistory {
    /// The content of a `.history` file: lines of parent, switch point and reason.
    fn parse(timeline: u32, text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim);
        let ancestors = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
            })
            .collect::<Option<Vec<_>>>()?;
        Some(TimelineHistory { timeline, ancestors })
    }

    /// Can a backup that ends at `finish` on `timeline` be recovered to this timeline?
    pub fn leads_from(&self, timeline: u32, finish: Lsn) -> bool {
        timeline == self.timeline
            || self
                .ancestors
                .iter()
                .any(|(ancestor, switch)| *ancestor == timeline && finish <= *switch)
    }
}

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
        None => Err(Error::config(
            format!("timeline {timeline} has no history file in the archive"),
            "Use a timeline that the archive knows, or \"latest\".",
        )),
    }
}

async fn read_history(store: &Store, timeline: u32) -> Result<Option<String>> {
    for format in Format::in_order(Format::Zstd) {
        let key = layout::wal(&WalFileName::History(timeline), format);
        let Some(content) = store.get(&key, LIMIT).await? else {
            continue;
        };
        let mut text = String::new();
        return format
            .decoder(&content[..])
            .and_then(|decoder| decoder.take(LIMIT).read_to_string(&mut text))
            .map(|_| Some(text))
            .map_err(|error| Error::damaged(store.object_url(&key), format!("It cannot be read: {error}.")));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_after_the_fork_does_not_lead_there() {
        let history =
            TimelineHistory::parse(3, "1\t0/3000000\tno recovery target\n\n2\t0/5000000\tx\n").expect("parsed");
        assert!(history.leads_from(1, Lsn(0x3000000)) && !history.leads_from(1, Lsn(0x3000001)));
        assert!(history.leads_from(2, Lsn(0x4000000)) && history.leads_from(3, Lsn(u64::MAX)));
        assert!(!history.leads_from(4, Lsn(0)));
        assert_eq!(TimelineHistory::parse(2, "hello"), None);
    }

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
