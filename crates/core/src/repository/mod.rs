//! Where things lie: the [`layout`] of the keys, the [`cluster`] that owns them, and the [`inventory`] of the objects.

pub mod cluster;
mod cluster_file;
pub(crate) mod description;
pub mod drills;
pub mod encryption;
pub mod inventory;
pub mod layout;
pub(crate) mod plain_text;
mod presence;
pub mod tail;
pub(crate) mod unread;

pub use presence::{is_there, none_in};
