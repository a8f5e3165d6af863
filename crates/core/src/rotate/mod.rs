//! Encrypting again what is not under the key that encrypts new objects.
//!
//! ```text
//! heads of all objects -> Survey, which can be shown -> apply
//! ```
//!
//! An object is replaced by one with the same content, in one step, after all of the old one has proved right. So a rotation that is
//! interrupted leaves each object whole, under one key or the other, and the next one goes on with those that are left.

mod apply;
mod progress;
mod survey;

pub use apply::{Rotated, apply};
pub use progress::RotateProgress;
pub use survey::{Group, Survey, is_complete, survey, wait_for_writers};

#[cfg(test)]
mod tests;
