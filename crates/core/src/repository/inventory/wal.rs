//! The WAL files of a repository.

use std::io::Read;

use chrono::{DateTime, Utc};

use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::{self, blame};
use crate::error::{Error, Result};
use crate::repository::layout::{self, Key};
use crate::repository::unread;
use crate::wal::{FirstPage, LONG_HEADER_BYTES, Segment, SegmentSize, WalFileName};
use walarchive_storage::{Listed, Store};

/// More than any history file has, in bytes.
const HISTORY_LIMIT: u64 = 1 << 20;

/// One object below `wal_005`. About 50 bytes, so that the listing of a million fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalObject {
    /// The file.
    pub name: WalFileName,
    /// How it is compressed, which is the suffix of its key.
    pub format: Format,
    /// Stored bytes.
    pub size: u64,
    /// When it was stored.
    pub written: DateTime<Utc>,
}

impl WalObject {
    /// Its key.
    pub fn key(&self) -> Key {
        layout::wal(&self.name, self.format)
    }

    /// Does its size alone tell that no segment is in it? What is compressed or encrypted has no size that must be so.
    pub(super) fn is_cut_off(&self, size: SegmentSize) -> bool {
        self.size == 0 || (self.format == Format::Plain && self.size < size.bytes())
    }

    /// None for an object that is no WAL file.
    pub(super) fn of(listed: &Listed) -> Option<Self> {
        let (name, format) = layout::wal_of_object(&listed.key)?;
        Some(WalObject {
            name,
            format,
            size: listed.size,
            written: listed.last_modified,
        })
    }
}

/// Consecutive segments of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRange {
    /// The first one.
    pub first: Segment,
    /// The last one, which may be the first one.
    pub last: Segment,
    /// How many.
    pub count: u64,
}

impl SegmentRange {
    /// From number to number, both included, counted from LSN 0.
    pub fn new(timeline: u32, first: u64, last: u64, size: SegmentSize) -> Self {
        SegmentRange {
            first: Segment::from_number(timeline, first, size),
            last: Segment::from_number(timeline, last, size),
            count: last - first + 1,
        }
    }
}

/// `numbers`, which are in order, as runs without a gap: first and last of each.
pub fn runs(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if number <= *last + 1 => *last = number.max(*last),
            _ => runs.push((number, number)),
        }
    }
    runs
}

/// The stretches between the runs of `present`, which are in order, within `first..=last`.
pub fn gaps(present: &[u64], first: u64, last: u64) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut next = first;
    let from = present.partition_point(|number| *number < first);
    for number in present[from..].iter().take_while(|number| **number <= last) {
        if *number > next {
            gaps.push((next, number - 1));
        }
        next = number + 1;
    }
    if next <= last {
        gaps.push((next, last));
    }
    gaps
}

/// Ask the first page of an archived segment about the cluster that wrote it.
pub(super) async fn first_page(store: &Store, object: &WalObject) -> Result<Option<FirstPage>> {
    let key = object.key();
    let Some(reader) = encrypted::open(store, &key).await? else {
        return Ok(None);
    };
    let (format, url) = (object.format, store.object_url(&key));
    blocking(move || {
        let mut header = [0; LONG_HEADER_BYTES];
        let mut reader = reader;
        let outcome = format
            .decoder(&mut reader)
            .and_then(|mut decoded| decoded.read_exact(&mut header));
        match outcome {
            Ok(()) => Ok(Some(FirstPage::parse(&header))),
            Err(error) => Err(blame(
                &mut reader,
                url,
                format,
                format!("It cannot be decompressed: {error}."),
            )),
        }
    })
    .await
}

/// The content of a timeline's history file; none if there is none in the archive. Where it cannot be decrypted, it tells no reasons if
/// that is all that was written down.
pub async fn read_history(store: &Store, timeline: u32) -> Result<Option<String>> {
    for format in Format::in_order(Format::Zstd) {
        let key = layout::wal(&WalFileName::History(timeline), format);
        let Some(mut reader) = encrypted::open(store, &key).await? else {
            continue;
        };
        let url = store.object_url(&key);
        let read = move || {
            let mut text = String::new();
            let decoder = format.decoder(&mut reader);
            // To its end, and one byte more: what is encrypted proves right only there.
            let read = decoder.and_then(|decoder| decoder.take(HISTORY_LIMIT + 1).read_to_string(&mut text));
            match read {
                Ok(bytes) if bytes as u64 > HISTORY_LIMIT => {
                    Err(Error::damaged(url, format!("It has more than {HISTORY_LIMIT} bytes.")))
                }
                Ok(_) => Ok(Some(text)),
                Err(error) => Err(blame(&mut reader, url, format, format!("It cannot be read: {error}."))),
            }
        };
        return match blocking(read).await {
            // Whoever wrote it could not read it, either, and wrote down what the others have to know.
            Err(error) if error.asks_for_a_key() => match unread::read_timeline(store, timeline).await? {
                Some(lines) => Ok(Some(lines)),
                None => Err(error),
            },
            read => read,
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_gaps_complete_each_other() {
        let numbers = [3, 4, 4, 7, 9, 10];
        assert_eq!(runs(numbers), [(3, 4), (7, 7), (9, 10)]);
        assert_eq!(gaps(&numbers, 3, 10), [(5, 6), (8, 8)]);
        assert_eq!(gaps(&numbers, 1, 12), [(1, 2), (5, 6), (8, 8), (11, 12)]);
        assert_eq!(gaps(&numbers, 4, 6), [(5, 6)]);
        assert_eq!(gaps(&[], 4, 6), [(4, 6)]);
        assert_eq!(gaps(&numbers, 7, 7), []);
    }
}
