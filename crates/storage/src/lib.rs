//! One door to every store: S3 and what speaks its protocol, Google Cloud Storage, Azure, Swift, SFTP, directories.
//!
//! A [`Store`] reads, writes, lists and deletes objects below the prefix of its URL. No operation waits for long if nothing
//! moves, failures that may pass lead to another try, memory is bounded, and an [`Error`] tells what to do. The meaning of the
//! objects is not known here.

#![forbid(unsafe_code)]

mod backends;
mod certificate;
mod config;
mod create_only;
pub mod crypt;
mod error;
mod errors;
mod fence;
mod http;
mod key;
mod link;
mod odd;
mod opened;
mod pending;
mod place;
mod renewal;
mod secret_file;
mod store;
mod transfer;
mod url;

pub use certificate::{NamedCertificates, Names};
pub use config::{StorageConfig, StorageOptions};
pub use create_only::{CreateOnly, Created};
pub use error::{Error, Refusal, Result, Turn};
pub use fence::{Fence, Write};
pub use pending::{Pending, PendingUpload, PendingUploads};
pub use place::Place;
pub use store::{Listed, Store};
pub use transfer::motion::{Brake, Motion};
pub use transfer::parts::PART_BYTES;
pub use transfer::reader::{HEAD_BYTES, RangeReader};
pub use transfer::upload::{Upload, UploadTask, Uploaded};

#[cfg(test)]
mod tests;
