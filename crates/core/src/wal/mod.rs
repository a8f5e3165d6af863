//! WAL files: their names and the header of their first page.

mod name;
mod page;

pub use name::{Segment, SegmentSize, WalFileName};
pub use page::{FirstPage, LONG_HEADER_BYTES};
