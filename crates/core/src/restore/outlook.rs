//! Find the end of recovery, before anything is written.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::settings::{RecoveryMode, RecoverySettings};
use super::target::{RestoreTarget, TargetTimeline};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::inventory::{Contents, Hole, Inventory, Reach, look_ahead, parse_name, wal_from};
use crate::stored::chain::Link;
use crate::wal::{Parameters, TimelineHistory};
use walarchive_storage::Store;

/// A segment that was stored so short a time ago may have been quicker than the one before it: several are uploaded at a time.
const YOUNG: chrono::TimeDelta = chrono::TimeDelta::seconds(60);

/// After this a young hole is looked at again.
const PAUSE: Duration = Duration::from_secs(3);

/// The end of a backup's recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The end of the WAL that it can read.
    pub end: Lsn,
    /// On this timeline.
    pub timeline: u32,
    /// When the last transaction in it ended, where that is known.
    pub last_time: Option<DateTime<Utc>>,
    /// The target is not in that WAL; as far as that is known.
    pub falls_short: bool,
    /// The greatest parameters that the server has in it, where they change.
    pub(crate) parameters: Option<Parameters>,
    /// OID and directory of the tablespaces that are created in it.
    pub(crate) tablespaces: Vec<(u32, String)>,
}

/// Is the target within reach?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetSeen {
    Yes,
    No,
    /// It was not looked for.
    Unknown,
}

/// Look at the WAL from a backup on. Refuses a target beyond a gap, unless `allow_gap`. None if nothing is known of it.
pub(super) async fn look(
    store: &Store,
    link: &Link,
    recovery: &RecoverySettings,
    allow_gap: bool,
    notes: &mut Vec<String>,
) -> Result<Option<Outlook>> {
    let Some(first) = parse_name(&link.backup).0 else {
        return Ok(None);
    };
    let mut looked = None;
    for is_last in [false, true] {
        let Some(inventory) = wal_from(store, first).await? else {
            break;
        };
        let history = history(&inventory, first.timeline, recovery.target.timeline);
        let reach = Reach::of(&inventory, first.timeline, link.sentinel.start_lsn, &history);
        let is_young = |hole: &Hole| Utc::now().signed_duration_since(hole.after_written) < YOUNG;
        let is_final = is_last || !reach.hole.as_ref().is_some_and(is_young);
        looked = Some((inventory, reach));
        if is_final {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let Some((inventory, reach)) = looked.filter(|(_, reach)| !reach.read.is_empty() || reach.hole.is_some()) else {
        notes.push(
            "The archive has no WAL from the start of the backup on, and without it the backup cannot become consistent.".to_owned(),
        );
        return Ok(None);
    };
    let transaction = match recovery.target.target {
        // The upper half, if there is one, is the epoch.
        RestoreTarget::Xid(xid) => Some(xid as u32),
        _ => None,
    };
    let contents = look_ahead(store, &inventory, &reach, link.sentinel.system_identifier, transaction).await?;
    let found = find(recovery, &reach, &contents, link.sentinel.finish_lsn);
    if let Some(hole) = &reach.hole {
        if found == TargetSeen::No && recovery.mode == RecoveryMode::Recovery && !allow_gap {
            return Err(refused(recovery, &reach, hole, contents.last_time));
        }
        notes.push(format!(
            "{} Recovery ends at LSN {} at the latest.",
            missing(hole),
            reach.end
        ));
    } else if found == TargetSeen::No {
        notes.push(beyond(recovery, &reach, &contents));
    }
    if let Some((segment, problem)) = &contents.damaged {
        notes.push(format!(
            "WAL segment {segment} is damaged, and recovery ends there: {problem}"
        ));
    } else if !contents.is_all {
        notes.push(format!(
            "Recovery would replay {} WAL segments. These are too many to read beforehand, so it is not known whether they \
             have restore points or transactions, create tablespaces, or raise max_connections and the like.",
            reach.segments()
        ));
    }
    if let Some(parameters) = &contents.parameters {
        notes.push(format!(
            "In the WAL to be replayed the server gets {parameters}. The restore raises lower settings in \
             postgresql.auto.conf, because recovery would stop otherwise."
        ));
    }
    Ok(Some(Outlook {
        end: reach.end,
        timeline: reach.timeline,
        last_time: contents.last_time,
        falls_short: found == TargetSeen::No,
        parameters: contents.parameters,
        tablespaces: contents.tablespaces,
    }))
}

/// Of the timeline that recovery goes to.
fn history(inventory: &Inventory, timeline: u32, target: TargetTimeline) -> TimelineHistory {
    match target {
        TargetTimeline::Latest => inventory.latest_history(timeline),
        TargetTimeline::Current => inventory.history(timeline),
        TargetTimeline::Number(number) => inventory.history(number),
    }
}

fn find(recovery: &RecoverySettings, reach: &Reach, contents: &Contents, finish: Lsn) -> TargetSeen {
    let is = |found: bool| if found { TargetSeen::Yes } else { TargetSeen::No };
    let is_within = |found: bool| match (found, contents.is_all) {
        (true, _) => TargetSeen::Yes,
        (false, true) => TargetSeen::No,
        (false, false) => TargetSeen::Unknown,
    };
    if reach.end < finish {
        return TargetSeen::No;
    }
    match &recovery.target.target {
        RestoreTarget::Latest => is(reach.hole.is_none()),
        RestoreTarget::Immediate => TargetSeen::Yes,
        RestoreTarget::Lsn(lsn) => is(*lsn < reach.end),
        // Recovery knows that it is there when it sees something later.
        RestoreTarget::Time(time) => match contents.last_time {
            Some(last) if recovery.target.inclusive => is(last > *time),
            Some(last) => is(last >= *time),
            None => TargetSeen::Unknown,
        },
        RestoreTarget::Name(name) => is_within(contents.restore_points.contains(name)),
        RestoreTarget::Xid(_) => is_within(contents.may_end_transaction),
    }
}

/// The missing part, as a sentence.
fn missing(hole: &Hole) -> String {
    let (first, last) = (hole.missing.first, hole.missing.last);
    let what = match hole.missing.count {
        1 => format!("WAL segment {first} is"),
        count => format!("{count} WAL segments, {first} to {last}, are"),
    };
    format!(
        "{what} not in the archive, which continues to LSN {} on timeline {}.",
        hole.beyond, hole.timeline
    )
}

/// The end of the WAL, in a sentence.
fn end(reach: &Reach, last_time: Option<DateTime<Utc>>) -> String {
    let time = last_time.map(|time| {
        format!(
            ", after a last transaction at {}",
            time.format("%Y-%m-%d %H:%M:%S%.f+00")
        )
    });
    format!(
        "LSN {} on timeline {}{}",
        reach.end,
        reach.timeline,
        time.unwrap_or_default()
    )
}

fn refused(recovery: &RecoverySettings, reach: &Reach, hole: &Hole, last_time: Option<DateTime<Utc>>) -> Error {
    Error::refused(
        format!(
            "recovery to {} would end too early, at {}",
            recovery.target.target,
            end(reach, last_time)
        ),
        format!(
            "{} Look for them where the WAL was written, restore a backup that was taken after them, or choose an earlier \
             target. With --allow-gap the backup is restored, and recovery ends there.",
            missing(hole)
        ),
    )
}

fn beyond(recovery: &RecoverySettings, reach: &Reach, contents: &Contents) -> String {
    let what = match recovery.mode {
        RecoveryMode::Recovery => "Recovery will end there with an error, unless it is archived by then.",
        RecoveryMode::Standby => "The standby will wait for more.",
    };
    format!(
        "{} is not in the archive: its WAL ends at {}. {what}",
        capitalised(&recovery.target.target.to_string()),
        end(reach, contents.last_time)
    )
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
