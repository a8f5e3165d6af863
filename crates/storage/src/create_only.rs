//! Writes that must not replace anything, on stores that keep that promise and on those that do not.
//!
//! S3, GCS, Azure and Swift can be told to write an object only if there is none (`If-None-Match: *`). Some servers that
//! speak their protocols answer such a request with "created" and overwrite, others refuse it. A store that keeps the
//! promise protects against a second writer at any moment; with the others an object is looked for first, which leaves the
//! moment between the look and the write.

use std::sync::atomic::{AtomicU8, Ordering};

/// The result of [`create`](crate::Store::create).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is there now, and was not before.
    Yes,
    /// An object of that name was there already, and was left as it is.
    Exists,
}

/// Does the store keep the promise of a create-only write?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOnly {
    /// It refuses to write over an object.
    Honoured,
    /// It answers "created" and overwrites.
    Ignored,
    /// It does not take such a request.
    Unsupported,
}

/// The knowledge of the store so far; one for all clones of a store.
#[derive(Debug, Default)]
pub(crate) struct Learned(AtomicU8);

impl Learned {
    pub(crate) fn get(&self) -> Option<CreateOnly> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(CreateOnly::Honoured),
            2 => Some(CreateOnly::Ignored),
            3 => Some(CreateOnly::Unsupported),
            _ => None,
        }
    }

    pub(crate) fn set(&self, found: CreateOnly) {
        let number = match found {
            CreateOnly::Honoured => 1,
            CreateOnly::Ignored => 2,
            CreateOnly::Unsupported => 3,
        };
        self.0.store(number, Ordering::Relaxed);
    }
}
