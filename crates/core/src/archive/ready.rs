//! The files that wait in `pg_wal/archive_status`.

use std::collections::BinaryHeap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::wal::WalFileName;

/// The files that are ready to be archived, in the archiver's order: timeline history files first, then by name. Of more
/// than `limit` the first ones are returned, so that memory stays bounded however long the queue is. Names that are none
/// of a WAL file are left to the archiver, which will say so.
pub fn ready_files(archive_status: &Path, limit: usize) -> Result<Vec<WalFileName>> {
    let failed = |error| Error::io("read", archive_status, error);
    let mut first = BinaryHeap::with_capacity(limit.min(1024) + 1);
    for entry in std::fs::read_dir(archive_status).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let ready = name
            .to_str()
            .and_then(|name| name.strip_suffix(".ready"))
            .and_then(|name| name.parse().ok());
        let Some(ready): Option<WalFileName> = ready else {
            continue;
        };
        if first.len() < limit {
            first.push(ready);
        } else if first.peek().is_some_and(|last| ready < *last) {
            first.pop();
            first.push(ready);
        }
    }
    Ok(first.into_sorted_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_in_the_archivers_order() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in [
            "000000010000000000000003.ready",
            "000000010000000000000001.ready",
            "000000010000000000000002.done",
            "000000010000000000000004.ready",
            "00000002.history.ready",
            "strange.ready",
        ] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        let names = |limit| -> Vec<String> {
            ready_files(dir.path(), limit)
                .expect("scanned")
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(names(2), ["00000002.history", "000000010000000000000001"]);
        assert_eq!(names(10).len(), 4);
        assert!(ready_files(&dir.path().join("missing"), 1).is_err());
    }
}
