//! Tablespaces that would go to where only the repository says that they were.

use super::directory::tablespaces::Tablespace;
use super::options::RestoreMode;
use super::plan::RestorePlan;
use crate::error::{Error, Result};

/// So many are named in an error.
const NAMED: usize = 8;

impl RestorePlan {
    /// The tablespaces whose places only the repository names. [`super::run::apply::apply`] refuses as long as there are some.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &Tablespace> {
        // Reading alone writes to none of them.
        let writes = self.mode != RestoreMode::VerifyOnly;
        self.tablespaces
            .iter()
            .filter(move |tablespace| writes && !tablespace.confirmed)
    }

    /// Somebody who was asked wants them there.
    pub fn confirm_locations(&mut self) {
        let unconfirmed = self.tablespaces.iter_mut();
        unconfirmed.for_each(|tablespace| tablespace.confirmed = true);
    }

    /// An error if some are not confirmed.
    pub fn check_locations(&self) -> Result<()> {
        let places: Vec<_> = self
            .unconfirmed()
            .filter_map(|tablespace| Some((tablespace.oid.as_str(), tablespace.location.as_ref()?)))
            .collect();
        let Some((oid, _)) = places.first() else {
            return Ok(());
        };
        let would: Vec<String> = places
            .iter()
            .take(NAMED)
            .map(|(oid, location)| format!("tablespace {oid} would go to {location:?}"))
            .collect();
        let more = match places.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", {more} more elsewhere"),
        };
        let hint = match self.accepts_originals {
            false => format!(
                "Say where it goes: --tablespace-map {oid}=DIR, or --tablespace-map-all DIR for all of them. \
                 --tablespace-map-original puts them where the repository says that they were."
            ),
            true => format!(
                "Say where it goes with --tablespace-map {oid}=DIR. --tablespace-map-original takes no directory of the system, and \
                 for root only those that the user of --owner owns or could make."
            ),
        };
        let would = would.join(", ");
        Err(Error::refused(
            format!("{would}{more}, which only the repository names"),
            hint,
        ))
    }
}
