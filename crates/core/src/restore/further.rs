//! Settings of a restored server that have nothing to do with where recovery goes.

use super::plan::RestorePlan;
use super::run::recovery::IGNORE_INVALID_PAGES;
use crate::data_dir::has_recovery_conf;

/// For a copy that must not archive where the original does.
const ARCHIVE_OFF: &str = "archive_mode = 'off'";

/// The first version that has it.
const IGNORE_INVALID_PAGES_SINCE: u32 = 13;

impl RestorePlan {
    /// Do only some of the files come?
    pub fn is_masked(&self) -> bool {
        self.mask.is_some()
    }

    /// Does `postgresql.auto.conf` tell recovery to go on at pages that are not valid, as those of databases that were left out?
    /// It must not do so for good: what else is wrong with a page would go unnoticed in the next recovery.
    pub fn ignores_invalid_pages(&self) -> bool {
        !self.databases.is_all() && !(1..IGNORE_INVALID_PAGES_SINCE).contains(&self.major)
    }

    /// Is recovery told by `recovery.conf`, as up to PostgreSQL 11?
    pub fn has_recovery_conf(&self) -> bool {
        has_recovery_conf(self.major)
    }

    /// Settings that have nothing to do with where to recovery goes.
    pub(super) fn further_settings(&self) -> Vec<&'static str> {
        let archive_off = self.archive_off.then_some(ARCHIVE_OFF);
        let ignore_invalid_pages = self.ignores_invalid_pages().then_some(IGNORE_INVALID_PAGES);
        archive_off.into_iter().chain(ignore_invalid_pages).collect()
    }
}
