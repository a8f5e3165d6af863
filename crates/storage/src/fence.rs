//! A store that refuses the changes that its user may not make now.

use std::fmt;

use crate::error::Refusal;

/// The kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// An object is written.
    Object,
    /// Objects will be written in a moment: what was found a while ago is to be found again now, so that they need not wait for
    /// it.
    Soon,
    /// The writing of an object that was permitted takes long. To ask much of a link that is slow would make it slower.
    Ongoing,
    /// Objects are deleted, which nobody can take back.
    Deletion,
}

/// Says, just before each request that changes anything, whether it may be sent.
#[async_trait::async_trait]
pub trait Fence: fmt::Debug + Send + Sync {
    /// The refusal tells why not.
    async fn permit(&self, write: Write) -> Result<(), Refusal>;
}
