//! `walarchive.retention`, applied after a backup. A failure here does not change the outcome of the backup.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use walarchive_core::repository::cluster;
use walarchive_core::retention;
use walarchive_core::{Error, Result, repository};
use walarchive_storage::Store;

use super::job::{self, REFRESH};
use crate::bridge::{self, Flow};
use crate::error::{self, Severity};
use crate::guc::{self, ArchiveSettings};
use crate::pg::{process, server};
use crate::shmem::{LastRetention, Outcome, Phase, SCHEDULING, Text, now_us};

/// The longest time that a deletion takes. No other backup can be taken in this time. The next deletion goes on with it.
const LONGEST: Duration = Duration::from_secs(3600);

/// A deletion that is told to end has this long to do so. Its current request has a deadline of its own.
const ENDING: Duration = Duration::from_secs(10);

/// Delete what the policy does not keep. A failure is a WARNING, and the next backup tries again.
pub(super) fn apply(newest: &str) {
    // Copying may have taken hours, and the policy may have been corrected since.
    if process::reload_requested() {
        process::reload_configuration();
    }
    let Some(policy) = guc::retention() else { return };
    job::set_phase(Phase::Retention);
    let applied = job::attempt(|| {
        let settings = ArchiveSettings::for_writing()?;
        enforce(&settings, &policy, newest)
    });
    bridge::drain();
    let (outcome, summary, error) = match &applied {
        Ok(deleted) => {
            error::log_line(Severity::Log, &format!("retention \"{policy}\": {deleted}"));
            (Outcome::Succeeded, Text::new(deleted), Text::EMPTY)
        }
        Err(failure) => {
            error::warn(&format!("could not apply retention \"{policy}\""), failure);
            let outcome = match failure.canceled {
                true => Outcome::Canceled,
                false => Outcome::Failed,
            };
            (outcome, Text::EMPTY, failure.message)
        }
    };
    SCHEDULING.exclusive().retention = LastRetention {
        outcome,
        summary,
        error,
        ended_us: now_us(),
    };
}

/// Apply the policy, and say what was deleted. `newest` is the backup that has just been taken.
fn enforce(settings: &ArchiveSettings, policy: &str, newest: &str) -> Result<String> {
    let archive = bridge::archive(settings)?;
    let wanted = settings.storage.for_backup();
    let store = job::step(async move { Ok(Store::open_settled(&wanted).await?) })?;
    let store = bridge::writable(&archive, store);
    let (policy, protected) = (policy.to_owned(), vec![newest.to_owned()]);
    let (cancel, identity) = (CancellationToken::new(), server::identity());
    let work = {
        let cancel = cancel.clone();
        async move {
            // The storage may have been changed since the backup was taken.
            if !cluster::is_owned(&store, &identity).await? {
                return Err(repository::none_in(&store));
            }
            let enforced = retention::enforce(&store, &policy.parse()?, &protected, &cancel).await?;
            Ok(enforced.to_string())
        }
    };
    // The work is told to end first, so that it deletes in order to its end. To abort it is safe at any point, too.
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    let enforced = bridge::run(work, Some(REFRESH), || {
        if job::is_cancelled() || begun.elapsed() > LONGEST {
            cancel.cancel();
            match told.get_or_insert_with(Instant::now).elapsed() > ENDING {
                true => return Flow::Stop,
                false => return Flow::Wait,
            }
        }
        process::check_for_interrupts();
        Flow::Wait
    });
    enforced.unwrap_or(Err(Error::Cancelled))
}
