//! Does the repository follow the server's timeline?

use serde::Serialize;

use super::{Live, VerifyStatus};
use crate::lease::{Holder, other_branches};
use crate::repository::inventory::Inventory;
use crate::wal::WalFileName;

/// The answer, in WAL-G's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineCheck {
    /// OK if the server is on the repository's highest timeline; WARNING if no server is known, or nothing was archived on
    /// its timeline yet, or another branch goes on beside it; FAILURE if the repository has a higher one: another server archives here, or this one follows an
    /// abandoned timeline.
    pub status: VerifyStatus,
    /// The two timelines.
    pub details: TimelineDetails,
    /// The branches that somebody else has written beside the server's, as sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<String>,
}

/// The two timelines that were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TimelineDetails {
    /// The server's.
    pub current_timeline_id: Option<u32>,
    /// The highest that has WAL, in segments or in the tail, or a history file.
    pub highest_storage_timeline_id: Option<u32>,
}

/// Compare them.
pub fn timeline(inventory: &Inventory, live: &Live, writers: &[Holder]) -> TimelineCheck {
    let highest = inventory
        .wal
        .iter()
        .map(|object| match object.name {
            WalFileName::History(timeline) => timeline,
            WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
                segment.timeline
            }
        })
        .chain(inventory.covers().map(|(segment, _)| segment.timeline))
        .max();
    let current = live.position.map(|position| position.timeline);
    let branches: Vec<String> = current.map_or_else(Vec::new, |own| {
        let branches = other_branches(inventory, own, writers);
        branches.iter().map(|branch| branch.describe(own)).collect()
    });
    let status = match (current, highest) {
        (Some(current), Some(highest)) if current < highest => VerifyStatus::Failure,
        (Some(current), Some(highest)) if current == highest && branches.is_empty() => VerifyStatus::Ok,
        _ => VerifyStatus::Warning,
    };
    TimelineCheck {
        status,
        details: TimelineDetails {
            current_timeline_id: current,
            highest_storage_timeline_id: highest,
        },
        branches,
    }
}
