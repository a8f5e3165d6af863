//! WAL files: their names, their pages and their records.

mod events;
mod headers;
mod history;
mod name;
mod page;
mod pages;
mod record;
mod walker;

pub use events::{Ending, Event, Outcome, Parameters, RestorePoint};
pub(crate) use headers::PageHeaders;
pub use history::TimelineHistory;
pub use name::{Segment, SegmentSize, WalFileName};
pub use page::{FirstPage, LONG_HEADER_BYTES};
pub use pages::PAGE_BYTES;
pub(crate) use pages::{PageHeader, SHORT_HEADER_BYTES};
pub use walker::{Sought, TimeTarget, WalWalker, Walked};

#[cfg(test)]
pub(crate) mod generator;
