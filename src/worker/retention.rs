//! `walarchive.retention`, applied after a backup. The backup is complete whatever becomes of this.

use std::panic::AssertUnwindSafe;

use pgrx::prelude::*;
use tokio_util::sync::CancellationToken;
use walarchive_core::cluster;
use walarchive_core::retention;
use walarchive_core::storage::Store;
use walarchive_core::{Error, Result};

use super::backup::{self, REFRESH};
use crate::bridge::{self, Flow};
use crate::error;
use crate::guc::{self, ArchiveSettings};
use crate::pg::{process, server};
use crate::shmem::{Failure, LastRetention, Phase, SCHEDULING, Text, now_us};

/// Delete what the policy does not keep. A failure is a WARNING: the next backup will try again.
pub(super) fn apply(newest: &str) {
    // Copying may have taken hours, and somebody may have found the policy to be wrong meanwhile.
    if process::reload_requested() {
        process::reload_configuration();
    }
    let Some(policy) = guc::retention() else { return };
    backup::set_phase(Phase::Retention);
    let applied = PgTryBuilder::new(AssertUnwindSafe(|| {
        ArchiveSettings::current()
            .and_then(|settings| enforce(&settings, &policy, newest))
            .map_err(|error| Box::new(Failure::from(&error)))
    }))
    .catch_others(|caught| Err(Box::new(Failure::from(&caught))))
    .catch_rust_panic(|caught| Err(Box::new(Failure::from(&caught))))
    .execute();
    bridge::drain();
    let summary = match &applied {
        Ok(deleted) => {
            log!("walarchive: retention \"{policy}\": {deleted}");
            Text::new(deleted)
        }
        Err(failure) => {
            process::abort_transaction();
            error::warn(&format!("could not apply retention \"{policy}\""), failure);
            failure.message
        }
    };
    SCHEDULING.exclusive().retention = LastRetention {
        summary,
        ended_us: now_us(),
    };
}

/// Carry the policy out, and say what was deleted. `newest` is the backup that has just been taken.
fn enforce(settings: &ArchiveSettings, policy: &str, newest: &str) -> Result<String> {
    let archive = bridge::archive(settings)?;
    let store = bridge::writable(&archive, Store::open(&settings.storage.for_backup())?);
    let (policy, protected) = (policy.to_owned(), vec![newest.to_owned()]);
    let (cancel, identity) = (CancellationToken::new(), server::identity());
    let work = {
        let cancel = cancel.clone();
        async move {
            // The storage may have been changed since the backup was taken.
            if !cluster::is_owned(&store, &identity).await? {
                return Err(store.no_repository());
            }
            let enforced = retention::enforce(&store, &policy.parse()?, &protected, &cancel).await?;
            Ok(enforced.to_string())
        }
    };
    // Not aborted but told to end: what is being deleted is deleted in order.
    let enforced = bridge::run(work, Some(REFRESH), || {
        if backup::is_cancelled() {
            cancel.cancel();
        } else {
            process::check_for_interrupts();
        }
        Flow::Wait
    });
    enforced.unwrap_or(Err(Error::Cancelled))
}
