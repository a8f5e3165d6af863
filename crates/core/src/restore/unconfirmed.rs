//! Tablespaces that would go to where only the repository says that they were.

use super::directory::tablespaces::Tablespace;
use super::options::RestoreMode;
use super::plan::RestorePlan;
use crate::error::{Error, Result};

impl RestorePlan {
    /// The tablespaces whose places only the repository names. [`crate::restore::run::apply`] refuses as long as there are some.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &Tablespace> {
        // Who only reads writes to none of them.
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

    /// An error if one is not confirmed.
    pub fn check_locations(&self) -> Result<()> {
        let Some((tablespace, location)) = self
            .unconfirmed()
            .find_map(|tablespace| Some((tablespace, tablespace.location.as_ref()?)))
        else {
            return Ok(());
        };
        Err(Error::config(
            format!(
                "tablespace {} would go to \"{}\", and only the repository says so",
                tablespace.oid,
                location.display()
            ),
            format!(
                "Say where it goes with --tablespace-map {}=DIRECTORY. Root takes a place from the repository only with --owner, \
                 if that user owns the directory or the one in which it is made; nobody takes a directory of the system.",
                tablespace.oid
            ),
        ))
    }
}
