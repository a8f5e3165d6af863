//! Where things lie: the [`layout`] of the keys, the [`cluster`] that owns them, and the [`inventory`] of the objects.

pub mod cluster;
pub(crate) mod description;
pub mod drills;
pub mod inventory;
pub mod layout;
pub(crate) mod plain_text;
mod presence;

pub use presence::{is_there, none_in};
