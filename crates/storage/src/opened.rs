//! The result of opening a backend.

use std::sync::Arc;

use object_store::ObjectStore;
use url::Url;

use crate::error::Result;
use crate::odd::Odd;
use crate::pending::{BelowPrefix, PendingUploads};
use crate::url::prefix;

/// Tells where the credentials in use are from.
pub(crate) type Origin = Arc<dyn Fn() -> String + Send + Sync>;

/// An opened backend.
pub(crate) struct Opened {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) pending: Option<BelowPrefix>,
    /// Names that were passed over.
    pub(crate) odd: Arc<Odd>,
    pub(crate) origin: Option<Origin>,
}

impl Opened {
    /// With the uploads of the whole bucket, as seen from the prefix that the URL names.
    pub(crate) fn with_pending(self, uploads: impl PendingUploads + 'static, url: &Url) -> Result<Self> {
        let pending = Some(BelowPrefix::new(uploads, prefix(url)?));
        Ok(Opened { pending, ..self })
    }

    /// Let denials tell this of the credentials.
    pub(crate) fn with_origin(self, origin: impl Fn() -> String + Send + Sync + 'static) -> Self {
        let origin: Option<Origin> = Some(Arc::new(origin));
        Opened { origin, ..self }
    }
}
