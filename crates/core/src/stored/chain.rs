//! A delta backup and those that it is based on.

use crate::error::{Error, Result};
use crate::formats::Sentinel;
use crate::repository::inventory::parse_name;
use crate::repository::{inventory, layout};
use crate::version;
use crate::wal::TimelineHistory;
use walarchive_storage::Store;

/// A backup of a chain.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) backup: String,
    pub(crate) sentinel: Sentinel,
}

/// More than anybody takes: each step costs memory and downloads.
const LONGEST: usize = 1000;

/// The backup and its ancestors, up to the full one, which is last. A chain that is not whole is refused.
pub(crate) async fn links(store: &Store, backup: &str) -> Result<Vec<Link>> {
    let mut links = vec![Link {
        backup: backup.to_owned(),
        sentinel: inventory::read_sentinel(store, backup).await?,
    }];
    loop {
        let child = &links[links.len() - 1];
        let damaged = |reason: String| Error::damaged(store.object_url(&layout::sentinel(&child.backup)), reason);
        let Some(parent) = child.sentinel.delta_from.clone() else {
            if child.sentinel.delta_lsn.is_some() || child.backup.contains("_D_") {
                return Err(damaged(
                    "It belongs to a delta backup, but does not name the parent.".to_owned(),
                ));
            }
            return Ok(links);
        };
        if links.iter().any(|link| link.backup == parent) {
            return Err(damaged(format!(
                "Its parent \"{parent}\" is based on it: the chain never comes to a full backup."
            )));
        }
        if links.len() == LONGEST {
            return Err(damaged(format!("It is more than {LONGEST} steps from a full backup.")));
        }
        let sentinel = match inventory::read_sentinel(store, &parent).await {
            Err(Error::NoBackup { .. }) => return Err(missing(store, backup, &child.backup, &parent)),
            read => read?,
        };
        if let Some(reason) = unfit(&child.sentinel, &parent, &sentinel) {
            return Err(damaged(reason));
        }
        links.push(Link {
            backup: parent,
            sentinel,
        });
    }
}

fn missing(store: &Store, backup: &str, child: &str, parent: &str) -> Error {
    let of = match backup == child {
        true => format!("delta backup \"{backup}\" is based on \"{parent}\""),
        false => format!("delta backup \"{backup}\" is based on \"{child}\", and this on \"{parent}\""),
    };
    Error::NoBackup {
        message: format!("{of}, which is not in \"{}\"", store.url()),
        hint: "A delta backup cannot be restored without all that it is based on: restore another backup.".to_owned(),
    }
}

/// Why the child cannot be based on this parent, as a sentence.
fn unfit(child: &Sentinel, name: &str, parent: &Sentinel) -> Option<String> {
    let known = |identifier: Option<u64>| identifier.filter(|identifier| *identifier != 0);
    if let (Some(own), Some(other)) = (known(child.system_identifier), known(parent.system_identifier))
        && own != other
    {
        return Some(format!(
            "It is of cluster {own}, but its parent \"{name}\" is of {other}."
        ));
    }
    let major = |sentinel: &Sentinel| Some(sentinel.pg_version / 10_000).filter(|major| *major != 0);
    if let (Some(own), Some(other)) = (major(child), major(parent))
        && own != other
    {
        return Some(format!(
            "It is of PostgreSQL {}, but its parent \"{name}\" is of {}.",
            version::name(own),
            version::name(other)
        ));
    }
    if parent.finish_lsn > child.start_lsn {
        return Some(format!(
            "It starts at {}, but its parent \"{name}\" ends only at {}.",
            child.start_lsn, parent.finish_lsn
        ));
    }
    // Another backup may have taken the parent's name since.
    child.delta_lsn.filter(|lsn| *lsn != parent.start_lsn).map(|lsn| {
        format!(
            "Its parent starts at {lsn}, but \"{name}\" starts at {}.",
            parent.start_lsn
        )
    })
}

/// Refuse a chain with a parent that its child's timeline had left before the parent's end: pages of both have the same LSNs and
/// other content. `notes` gets what cannot be told.
pub(crate) async fn check_timelines(store: &Store, links: &[Link], notes: &mut Vec<String>) -> Result<()> {
    let timeline = |link: &Link| parse_name(&link.backup).0.map(|segment| segment.timeline);
    for pair in links.windows(2) {
        let (child, parent) = (&pair[0], &pair[1]);
        let (Some(here), Some(there)) = (timeline(child), timeline(parent)) else {
            continue;
        };
        if here == there {
            continue;
        }
        let Some(history) = history(store, here).await? else {
            notes.push(format!(
                "The archive has no history of timeline {here}, so it is not known whether delta backup \"{}\" fits its parent \"{}\" of \
                 timeline {there}.",
                child.backup, parent.backup
            ));
            continue;
        };
        let finish = parent.sentinel.finish_lsn;
        if !history.leads_from(there, finish) {
            return Err(Error::damaged(
                store.object_url(&layout::sentinel(&child.backup)),
                format!(
                    "It is of timeline {here}, which does not lead from the end of its parent \"{}\", {finish} on timeline {there}.",
                    parent.backup
                ),
            ));
        }
    }
    Ok(())
}

/// None if it is not there or cannot be read.
async fn history(store: &Store, timeline: u32) -> Result<Option<TimelineHistory>> {
    // The first one has no history file.
    let first = TimelineHistory {
        timeline,
        ancestors: Vec::new(),
    };
    match inventory::read_history(store, timeline).await {
        Ok(None) => Ok((timeline == 1).then_some(first)),
        Ok(Some(text)) => Ok(TimelineHistory::parse(timeline, &text)),
        Err(error) if error.is_content() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Chains need to know of each file how it is stored.
pub(crate) fn without_metadata(backup: &str, child: &str) -> Error {
    Error::refused(
        format!("delta backup \"{child}\" cannot be restored, as \"{backup}\" was taken without files metadata"),
        "Restore a full backup; the WAL since then brings the same data back.",
    )
}
