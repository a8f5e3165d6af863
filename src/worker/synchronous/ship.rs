//! Stores the WAL as far as the server has written it, one request at a time: what is written meanwhile goes into the next one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use walarchive_core::archive::tail::{Cleaner, Shipper};

use super::shared::Shared;

/// After a failure the next attempt comes so much later, and each time twice as late.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The next request begins no sooner after the end of one than this part of its time, and takes along the next commits of all sessions
/// that it lets go. Else most of them would come a moment too late, each time, and wait for two requests.
const GATHER: u32 = 8;
const LONGEST_GATHER: Duration = Duration::from_millis(10);

/// How often it is looked whether older WAL is archived, if commits wait for that.
const PENDING: Duration = Duration::from_millis(50);

/// How often it is looked for chunks that nobody needs any more.
const CLEAN: Duration = Duration::from_secs(1);

/// Store it, for ever.
pub(super) async fn store(mut shipper: Shipper, shared: Arc<Shared>) {
    shared.may_store().await;
    let mut wanted = shared.wanted();
    let mut pause = FIRST_PAUSE;
    loop {
        let position = *wanted.borrow_and_update();
        let begun = Instant::now();
        match shipper.ship(position).await {
            Ok(shipped) => {
                pause = FIRST_PAUSE;
                shared.stored(position, shipped);
                let gathered = Instant::now() + (begun.elapsed() / GATHER).min(LONGEST_GATHER);
                match shipped.safe >= Some(position.flushed) {
                    // The tasks end together.
                    true => {
                        if wanted.changed().await.is_err() {
                            return;
                        }
                        sleep_until(gathered).await;
                    }
                    false => sleep(PENDING).await,
                }
            }
            Err(error) => {
                shared.failed(&error);
                sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Remove what nobody needs any more, for ever.
pub(super) async fn clean(cleaner: Cleaner) {
    loop {
        sleep(CLEAN).await;
        if cleaner.has_work()
            && let Err(error) = cleaner.clean().await
        {
            tracing::debug!(%error, "could not remove chunks of the tail");
        }
    }
}
