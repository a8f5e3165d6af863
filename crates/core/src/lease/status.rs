//! The data directory's knowledge of the lease, without asking the store.

use std::path::Path;

use super::decide::Situation;
use super::instance::Instance;
use crate::error::Result;

/// For a status view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// "held", "waiting", "lost", "standby", or "none" when this server has not written yet.
    pub state: &'static str,
    /// The epoch that was seen last.
    pub epoch: Option<u64>,
    /// Who held it: host and data directory.
    pub holder: Option<String>,
    /// On which timeline.
    pub timeline: Option<u32>,
}

/// Of a server and a repository.
pub fn status(data_dir: &Path, url: &str, situation: Situation) -> Result<LeaseStatus> {
    let instance = Instance::read(data_dir)?;
    let known = instance
        .and_then(|mut instance| instance.repositories.remove(url))
        .unwrap_or_default();
    let held = known.held.as_ref().filter(|held| held.renewed.is_some());
    let state = match situation.in_recovery {
        true => "standby",
        false if known.lost.is_some() => "lost",
        false if held.is_some() => "held",
        false if known.watch.is_some() || known.seen.is_some() => "waiting",
        false => "none",
    };
    Ok(LeaseStatus {
        state,
        epoch: known.seen.as_ref().map(|seen| seen.epoch),
        holder: known.seen.as_ref().map(|seen| seen.holder.clone()),
        timeline: known.seen.as_ref().map(|seen| seen.timeline),
    })
}
