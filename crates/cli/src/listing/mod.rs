//! Lists in the shapes that WAL-G prints: programs that read its output read this as well.

mod backups;
mod boxed;
mod json;
mod tabbed;
mod timelines;
mod verified;

pub use backups::{backups, tell_problems};
pub use json::compact;
pub use tabbed::tabbed;
pub use timelines::{timelines, timelines_json};
pub use verified::verified;
