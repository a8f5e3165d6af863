//! Credentials and certificates that change while the work runs, and denials that pass.
//!
//! Files are looked at once a second while requests are made ([`Watch`]), and read again when they have changed and after every
//! denial. The last good credentials serve as long as the new files cannot be used. Every request is signed again for each
//! attempt (by the client of `connector`), since object_store signs once and then repeats the signed request.

mod connector;
mod follow;
mod settle;
mod sign;
mod verdict;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use object_store::CredentialProvider;
use parking_lot::Mutex;

use crate::error::{Error, Result};

pub(super) use connector::{Renewed, Trust};
pub(super) use follow::{Followed, LOOK_EVERY};
pub(super) use sign::{Apply, Signer, Signing};
pub(super) use verdict::Skew;
pub(super) use watch::Watch;

/// A program that writes a file of credentials is done within this time.
const FRESH: Duration = Duration::from_secs(3);

/// Credentials as they were read once.
pub(super) struct Made<C> {
    /// Gives them, or tokens for them.
    pub(super) provider: Arc<dyn CredentialProvider<Credential = C>>,
    /// The files that they are from.
    pub(super) watch: Watch,
    /// Their source, for messages: "the file "/x"".
    pub(super) origin: String,
    /// A file has them. One that is being written may have none for a moment.
    pub(super) in_file: bool,
}

/// Credentials that follow their files.
pub(super) struct Renewing<C> {
    made: Followed<Made<C>>,
    state: Mutex<State<C>>,
    accepted: AtomicBool,
}

struct State<C> {
    /// The last credentials, and the reading of the files that they are from.
    last: Option<(Arc<C>, Arc<Made<C>>)>,
    /// Of the last; grows when others come.
    number: u64,
}

impl<C> fmt::Debug for Renewing<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewing").finish_non_exhaustive()
    }
}

impl<C: PartialEq + Send + Sync + 'static> Renewing<C> {
    pub(super) fn new(make: impl Fn() -> Result<Made<C>> + Send + Sync + 'static) -> Result<Arc<Self>> {
        let made = Followed::new("credentials", move |old: Option<&Made<C>>| {
            let made = make()?;
            if old.is_some_and(|old| old.in_file) && !made.in_file {
                return Err(Error::config(
                    "the file no longer has any credentials",
                    "Put them back into the file.",
                ));
            }
            let watch = made.watch.clone();
            Ok((made, watch))
        })?;
        Ok(Arc::new(Renewing {
            made,
            state: Mutex::new(State { last: None, number: 0 }),
            accepted: AtomicBool::new(false),
        }))
    }

    /// The source of the credentials in use.
    pub(super) fn origin(&self) -> String {
        self.made.in_use().origin.clone()
    }

    /// The credentials in use and their number. A token may have to be asked for.
    async fn current(&self) -> object_store::Result<(Arc<C>, u64)> {
        let made = self.made.get();
        let result = made.provider.get_credential().await;
        let mut state = self.state.lock();
        match (result, &state.last) {
            (Ok(credential), last) => {
                if last.as_ref().is_none_or(|(last, _)| *last != credential) {
                    state.number += 1;
                }
                state.last = Some((Arc::clone(&credential), made));
                Ok((credential, state.number))
            }
            // A token's file that is half written can be read, but gives no token.
            (Err(error), Some((last, from))) if !Arc::ptr_eq(from, &made) => {
                tracing::warn!(%error, "could not read credentials from {} again; the old ones remain in use", made.origin);
                Ok((Arc::clone(last), state.number))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// After a denial of credentials with this number: are there others?
    async fn others_than(&self, number: u64) -> bool {
        self.made.again();
        self.current().await.is_ok_and(|(_, now)| now != number)
    }

    /// Would a look find something new?
    fn has_changed(&self) -> bool {
        self.made.has_changed()
    }

    /// Was one of the files changed a moment ago, so that we may have read half of it?
    fn is_fresh(&self) -> bool {
        self.made.in_use().watch.has_just_changed(FRESH)
    }

    fn note_acceptance(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// Has the store accepted any of these credentials?
    fn were_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl<C: PartialEq + Send + Sync + 'static> CredentialProvider for Renewing<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        self.current().await.map(|(credential, _)| credential)
    }
}

#[cfg(test)]
mod tests;
