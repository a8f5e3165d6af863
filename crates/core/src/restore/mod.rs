//! Rebuild a data directory from a base backup: choose it, plan, show the plan, carry it out.
//!
//! What a repository holds is not trusted: no path of a tar leaves the target, no link of a tar is made, and no file gets
//! its final name before its content was checked. `global/pg_control` comes last, so that a directory that was not
//! restored completely cannot be started.

mod apply;
mod assemble;
mod bare;
mod beside;
pub(crate) mod chain;
mod complete;
mod condition;
pub(crate) mod configuration;
pub(crate) mod contents;
mod context;
mod databases;
pub(crate) mod essential;
mod existing;
mod extract;
pub(crate) mod fetch;
mod history;
pub(crate) mod level;
mod links;
mod locations;
pub(crate) mod member;
pub(crate) mod members;
pub(crate) mod names;
mod narrow;
mod options;
mod outlook;
mod output;
mod owner;
mod place;
pub(crate) mod plan;
mod prepare;
mod readback;
mod recovery;
mod root;
mod select;
mod show;
mod space;
mod stubs;
pub(crate) mod survey;
pub(crate) mod table;
mod tablespaces;
mod target;
mod tree;
mod vacant;
mod wal_directory;
mod walk;

#[cfg(test)]
mod tests;

pub use apply::{Progress, Restored, apply};
pub use configuration::{ConfigurationPlan, notes_on_places};
pub use history::target_history;
pub use links::{LinkMap, MappedLink};
pub use options::{RestoreMode, RestoreOptions};
pub use outlook::Outlook;
pub use owner::Owner;
pub use plan::{RestorePlan, Tar, plan};
pub use recovery::{RecoveryMode, RecoverySettings, RestoreCommand};
pub use select::{Selection, select_backup};
pub use tablespaces::{Tablespace, TablespaceMap};
pub use target::{RecoveryTarget, RestoreTarget, TargetAction, TargetTimeline};
