//! A store in which nothing is changed that whoever works with it may not change now.

use std::fmt;
use std::sync::Arc;

use super::Store;
use crate::error::Result;

/// Objects that are deleted between two looks at the fence where each is a request of its own: a process may be stopped in the
/// middle, and go on much later.
const DELETES_OF_FILES: usize = 10;

/// The same where a request takes many.
const DELETES: usize = 1000;

/// What is about to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// An object is written.
    Object,
    /// Objects are deleted, which nobody can take back.
    Deletion,
}

/// Says, just before each request that changes anything, whether it may be sent.
#[async_trait::async_trait]
pub trait Fence: fmt::Debug + Send + Sync {
    /// The error tells why not.
    async fn permit(&self, write: Write) -> Result<()>;
}

impl Store {
    /// The same store, behind a fence.
    pub fn with_fence(&self, fence: Arc<dyn Fence>) -> Store {
        Store {
            fence: Some(fence),
            ..self.clone()
        }
    }

    /// The same store, behind the fence of another one, if that has one.
    pub fn with_fence_of(&self, other: &Store) -> Store {
        Store {
            fence: other.fence.clone(),
            ..self.clone()
        }
    }

    /// The same store, behind none.
    pub fn without_fence(&self) -> Store {
        Store {
            fence: None,
            ..self.clone()
        }
    }

    /// May anything be written now? For whoever wants to know before he begins.
    pub async fn check_fence(&self) -> Result<()> {
        self.permitted(Write::Object).await
    }

    pub(super) async fn permitted(&self, write: Write) -> Result<()> {
        match &self.fence {
            Some(fence) => fence.permit(write).await,
            None => Ok(()),
        }
    }

    pub(super) fn deletes_at_once(&self, wanted: usize) -> usize {
        match (&self.fence, self.may_vanish()) {
            (None, _) => wanted.max(1),
            (Some(_), true) => DELETES_OF_FILES,
            (Some(_), false) => DELETES,
        }
    }
}
