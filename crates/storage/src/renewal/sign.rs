//! Signing a request with the credentials that are in use now.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::client::HttpRequest;
use tokio::time::Instant;

use super::{LOOK_EVERY, Renewing};

/// How a kind of credentials is put into a request.
pub(crate) trait Apply<C>: Send + Sync {
    /// Is this a request that object_store has signed for the store? Those for tokens, for one, are not.
    fn is_signed(&self, request: &HttpRequest) -> bool;

    /// Replace the signature.
    fn apply(&self, credential: &C, request: &mut HttpRequest) -> object_store::Result<()>;
}

/// A client's needs of the credentials.
#[async_trait]
pub(crate) trait Signer: fmt::Debug + Send + Sync {
    fn is_signed(&self, request: &HttpRequest) -> bool;

    /// Returns the number of the credentials.
    async fn sign(&self, request: &mut HttpRequest) -> object_store::Result<u64>;

    /// After a denial: read them again. Are there others now?
    async fn others_than(&self, number: u64) -> bool;

    /// Sleep so long, or until the credentials' files change.
    async fn pause(&self, pause: Duration);

    /// Were the credentials' files changed a moment ago?
    fn is_fresh(&self) -> bool;

    fn note_acceptance(&self);

    /// Has the store accepted any of these credentials?
    fn were_accepted(&self) -> bool;
}

/// Credentials and how they sign.
pub(crate) struct Signing<C, A> {
    credentials: Arc<Renewing<C>>,
    apply: A,
}

impl<C, A> Signing<C, A> {
    pub(crate) fn new(credentials: &Arc<Renewing<C>>, apply: A) -> Arc<Self> {
        Arc::new(Signing {
            credentials: Arc::clone(credentials),
            apply,
        })
    }
}

impl<C, A> fmt::Debug for Signing<C, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").finish_non_exhaustive()
    }
}

#[async_trait]
impl<C: PartialEq + Send + Sync + 'static, A: Apply<C>> Signer for Signing<C, A> {
    fn is_signed(&self, request: &HttpRequest) -> bool {
        self.apply.is_signed(request)
    }

    async fn sign(&self, request: &mut HttpRequest) -> object_store::Result<u64> {
        let (credential, number) = self.credentials.current().await?;
        self.apply.apply(&credential, request)?;
        Ok(number)
    }

    async fn others_than(&self, number: u64) -> bool {
        self.credentials.others_than(number).await
    }

    async fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
            if self.credentials.has_changed() {
                return;
            }
        }
    }

    fn is_fresh(&self) -> bool {
        self.credentials.is_fresh()
    }

    fn note_acceptance(&self) {
        self.credentials.note_acceptance();
    }

    fn were_accepted(&self) -> bool {
        self.credentials.were_accepted()
    }
}
