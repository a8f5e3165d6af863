//! The end of a backup: its WAL is waited for, the sentinel is written; or else all that was stored is removed.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walarchive_core::backup::{PreparedBackup, discard};
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use crate::exit;
use crate::print::plain;
use crate::signals::unless;

/// The archived WAL is looked for first after this, and then less and less often.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const SELDOM_LOOK: Duration = Duration::from_secs(2);

/// The first note that the backup waits for WAL comes after this. The time between notes doubles.
const FIRST_NOTE: Duration = Duration::from_secs(5);

/// The longest time that a failed backup spends on removing its objects.
const CLEANUP: Duration = Duration::from_secs(60);

/// Attempts to write the sentinel, each with a deadline of its own.
const COMMIT_ATTEMPTS: u32 = 3;

/// Wait until every segment from the start of the backup to its end is in the archive. `hint` tells who archives them.
pub async fn wait_for_wal(
    prepared: &PreparedBackup,
    store: &Store,
    cancel: &CancellationToken,
    patience: Duration,
    hint: &str,
) -> Result<()> {
    let began = Instant::now();
    let (mut pause, mut next_note) = (FIRST_LOOK, FIRST_NOTE);
    loop {
        let missing = match unless(cancel, prepared.missing_segments(store)).await {
            Ok(missing) => missing.first().map(ToString::to_string),
            Err(error) if error.is_transient() => {
                if began.elapsed() >= patience {
                    return Err(error);
                }
                eprintln!("walarchive: warning: could not look for the WAL of the backup, will try again");
                exit::print(&error);
                sleep(cancel, SELDOM_LOOK).await?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(segment) = missing else { return Ok(()) };
        let waited = began.elapsed();
        if waited >= patience {
            return Err(Error::refused(
                format!(
                    "WAL segment \"{segment}\" of the backup was not archived within {} s",
                    patience.as_secs()
                ),
                hint,
            ));
        }
        if waited >= next_note {
            next_note *= 2;
            eprintln!(
                "walarchive: note: all files are copied; still waiting after {} s for WAL segment \"{segment}\" to be archived\n\
                 HINT:  {hint}",
                waited.as_secs()
            );
        }
        sleep(cancel, pause.min(patience.saturating_sub(waited))).await?;
        pause = (pause * 2).min(SELDOM_LOOK);
    }
}

async fn sleep(cancel: &CancellationToken, pause: Duration) -> Result<()> {
    unless(cancel, async {
        tokio::time::sleep(pause).await;
        Ok(())
    })
    .await
}

/// How writing the sentinel ended.
pub enum Outcome {
    /// The backup is complete.
    Complete(String),
    /// It is not, and what was stored is to be removed.
    Failed(Error),
    /// Nobody knows, so nothing is to be removed.
    Unknown(Error),
}

/// Write the sentinel. From here on a cancellation comes too late.
pub async fn commit(prepared: &PreparedBackup) -> Outcome {
    let mut attempt = 1;
    loop {
        match prepared.commit().await {
            Ok(name) => return Outcome::Complete(name),
            Err(error) if error.is_transient() && attempt < COMMIT_ATTEMPTS => {
                eprintln!("walarchive: warning: could not write the sentinel, will try again");
                exit::print(&error);
                attempt += 1;
            }
            Err(error) if error.is_transient() && prepared.is_written() => {
                eprintln!("walarchive: warning: the backup is complete, but could not be checked again");
                exit::print(&error);
                return Outcome::Complete(prepared.name().to_owned());
            }
            Err(error) if error.is_transient() => {
                eprintln!(
                    "walarchive: warning: backup \"{}\" is uploaded, but it is not known whether its sentinel was written",
                    plain(prepared.name())
                );
                return Outcome::Unknown(error);
            }
            Err(error) => return Outcome::Failed(error),
        }
    }
}

/// Remove the objects of a backup that failed. A warning names what remains.
pub async fn clean_up(store: &Store, name: &str) {
    let left = match tokio::time::timeout(CLEANUP, discard(store, name)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_elapsed) => Error::timeout("remove", name, CLEANUP),
    };
    eprintln!(
        "walarchive: warning: leftovers of backup \"{}\" remain in the repository",
        plain(name)
    );
    exit::print(&left);
}
