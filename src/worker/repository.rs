//! Is the repository of a running backup still the one that the server archives into? If `walarchive.storage` is changed during
//! the backup, the WAL that the backup needs goes elsewhere, and the backup could never be restored.

use walarchive_core::repository::layout;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use super::job;
use crate::guc::ArchiveSettings;
use crate::pg::process;

/// More than any claim has, in bytes.
const CLAIM_BYTES: u64 = 64 << 10;

/// The repository of a running backup.
pub(super) struct Repository {
    /// The settings that it was seen with last.
    settings: ArchiveSettings,
    store: Store,
    /// The settings were changed, and it is not known yet whether they name the same repository.
    in_doubt: bool,
}

impl Repository {
    pub(super) fn new(settings: ArchiveSettings, store: Store) -> Self {
        Repository {
            settings,
            store,
            in_doubt: false,
        }
    }

    /// Read the settings again if they have been changed, and look for this backup in the repository that they name. A transient
    /// error means that the answer is not known yet.
    pub(super) fn check(&mut self, name: &str) -> Result<()> {
        if process::reload_requested() {
            process::reload_configuration();
            self.in_doubt = true;
        }
        if !self.in_doubt {
            return Ok(());
        }
        let now = ArchiveSettings::current()?;
        let (before, after) = (&self.settings.storage, &now.storage);
        if before.url != after.url || before.options != after.options {
            self.find(name, &now)?;
        }
        self.settings = now;
        self.in_doubt = false;
        Ok(())
    }

    fn find(&self, name: &str, now: &ArchiveSettings) -> Result<()> {
        let wanted = now.storage.clone();
        let after = job::step(async move { Ok(Store::open_settled(&wanted).await?) })?;
        let before = self.store.clone();
        let claim = layout::backup_claim(name);
        let found = job::step(async move {
            let known = before.get(&claim, CLAIM_BYTES).await?;
            Ok(known.is_some() && known == after.get(&claim, CLAIM_BYTES).await?)
        });
        match found {
            Ok(true) => Ok(()),
            Err(error) if error.is_transient() || matches!(error, Error::Cancelled) => Err(error),
            Ok(false) | Err(_) => Err(Error::refused(
                format!(
                    "walarchive.storage was changed to \"{}\" while the backup was taken",
                    now.storage.url
                ),
                "The WAL that the backup needs goes to the new repository, so the backup could not be restored. Take another backup.",
            )),
        }
    }
}
