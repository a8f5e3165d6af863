//! The flags that name a recovery target, for a restore and for a drill of it.

use clap::ArgGroup;
use walarchive_core::restore::{RestoreTarget, TargetTimeline};

use crate::parse::by;

/// Where recovery is to end, and on which timeline.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("target"))]
pub struct Target {
    /// Recover to a time with its offset from UTC, for example "2026-11-20 10:00:00+00".
    #[arg(long, value_name = "TIME", group = "target", value_parser = by(RestoreTarget::time))]
    target_time: Option<RestoreTarget>,
    /// Recover to a position in the WAL, for example 16/B374D848.
    #[arg(long, value_name = "LSN", group = "target", value_parser = by(|text| text.parse().map(RestoreTarget::Lsn)))]
    target_lsn: Option<RestoreTarget>,
    /// Recover to a restore point of pg_create_restore_point().
    #[arg(long, value_name = "NAME", group = "target", value_parser = by(RestoreTarget::name))]
    target_name: Option<RestoreTarget>,
    /// Recover to a transaction ID.
    #[arg(long, value_name = "XID", group = "target")]
    target_xid: Option<u64>,
    /// Stop as soon as the backup is consistent.
    #[arg(long, group = "target")]
    target_immediate: bool,
    /// Recover along a timeline: latest, current or its number.
    #[arg(long, value_name = "TIMELINE", default_value = "latest", value_parser = by(|text| text.parse::<TargetTimeline>()))]
    target_timeline: TargetTimeline,
}

impl Target {
    /// The point; the end of the archive if no flag names one.
    pub fn point(&self) -> RestoreTarget {
        let given = [&self.target_time, &self.target_lsn, &self.target_name];
        let target = given.into_iter().flatten().next().cloned();
        let target = target.or_else(|| self.target_xid.map(RestoreTarget::Xid));
        let immediate = self.target_immediate.then_some(RestoreTarget::Immediate);
        target.or(immediate).unwrap_or_default()
    }

    /// The timeline that recovery follows.
    pub fn timeline(&self) -> TargetTimeline {
        self.target_timeline
    }
}
