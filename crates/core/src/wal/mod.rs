//! WAL files: their names and the header of their first page.

mod history;
mod name;
mod page;

pub use history::TimelineHistory;
pub use name::{Segment, SegmentSize, WalFileName};
pub use page::{FirstPage, LONG_HEADER_BYTES};
