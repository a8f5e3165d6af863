//! Rebuild a data directory from a base backup: choose it, plan, show the plan, carry it out.
//!
//! What a repository holds is not trusted: no path of a tar leaves the target, no link of a tar is made, and no file gets
//! its final name before its content was checked. `global/pg_control` comes last, so that a directory that was not
//! restored completely cannot be started.

mod beside;
mod catchup;
mod configuration;
pub(crate) mod directory;
mod estimate;
mod further;
mod history;
mod mask;
mod measure;
mod narrow;
mod options;
mod outlook;
mod plan;
mod planner;
mod report;
mod run;
mod select;
mod settings;
mod show;
mod target;
mod unconfirmed;

#[cfg(test)]
mod tests;

pub use crate::stored::progress::ReadProgress;
pub use catchup::apply::apply_catchup;
pub use catchup::plan::{CatchupOptions, CatchupPlan, CatchupState, PlannedCatchup, plan_catchup};
pub use configuration::{ConfigurationPlan, notes_on_places};
pub use directory::links::{LinkMap, MappedLink};
pub use directory::owner::Owner;
pub use directory::tablespaces::{Tablespace, TablespaceMap};
pub use estimate::{Estimate, Rates};
pub use history::target_history;
pub use mask::Mask;
pub use options::{Look, RestoreMode, RestoreOptions};
pub use outlook::{Outlook, TargetSeen};
pub use plan::{Download, PlannedRestore, RestorePlan};
pub use planner::plan;
pub use report::PlanReport;
pub use run::apply::{Restored, apply};
pub use select::{Selection, select_backup};
pub use settings::{RecoveryMode, RecoverySettings, RestoreCommand};
pub use target::{RecoveryTarget, RestoreTarget, TargetAction, TargetTimeline};
