//! `encryption-disable` and `encryption-rotate`.

mod disable;
mod rotate;

pub use disable::{EncryptionDisable, disable};
pub use rotate::{EncryptionRotate, rotate};
