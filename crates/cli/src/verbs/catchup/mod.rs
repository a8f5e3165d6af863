//! `catchup-push`, `catchup-list`, `catchup-fetch`: bring a standby up that has fallen behind, with the pages that it lacks.

mod fetch;
mod list;
mod push;

pub use fetch::{CatchupFetch, run as fetch};
pub use list::{CatchupList, run as list};
pub use push::{CatchupPush, run as push};
