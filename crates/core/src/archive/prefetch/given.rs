//! How much of a segment that is not archived whole a server has got.
//!
//! A standby asks for it again every few seconds. Without the note its tail would be fetched each time, also when nothing has come.

use std::fs;

use super::absent::Running;
use super::spool::{GIVEN, Spool};
use crate::error::{Error, Result};
use crate::repository::tail::Cover;
use crate::wal::Segment;

impl Spool {
    /// Note that the server has what these chunks have.
    pub fn note_given(&self, segment: Segment, server: Running, cover: &Cover) -> Result<()> {
        let path = self.directory().join(format!("{GIVEN}{:08X}", segment.timeline));
        let text = text(segment, server, cover);
        let written = self.create().and_then(|()| fs::write(&path, text));
        written.map_err(|error| Error::io("write", path, error))
    }

    /// Has the server all that these chunks have?
    pub fn is_given(&self, segment: Segment, server: Running, cover: &Cover) -> bool {
        self.given(segment)
            .is_some_and(|given| given == text(segment, server, cover))
    }

    /// Has this run of the server got anything of the tail of this segment?
    pub fn is_given_any(&self, segment: Segment, server: Running) -> bool {
        self.given(segment)
            .is_some_and(|given| given.starts_with(&begin(segment, server)))
    }

    fn given(&self, segment: Segment) -> Option<String> {
        fs::read_to_string(self.directory().join(format!("{GIVEN}{:08X}", segment.timeline))).ok()
    }
}

fn begin(segment: Segment, server: Running) -> String {
    format!("{segment} {server} ")
}

fn text(segment: Segment, server: Running, cover: &Cover) -> String {
    format!("{}{} {}\n", begin(segment, server), cover.epoch(), cover.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::layout::TailChunk;
    use walarchive_storage::StorageConfig;

    #[test]
    fn a_server_is_given_more_and_another_run_of_it_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::new(dir.path(), &StorageConfig::new("file:///a"));
        let segment: Segment = "000000020000000000000005".parse().expect("a segment");
        let cover = |epoch, end| {
            let chunk = TailChunk {
                segment,
                epoch,
                start: 0,
                end,
            };
            Cover::of([(chunk, chrono::DateTime::UNIX_EPOCH)]).expect("covers something")
        };
        let server = Running { pid: 1, started: 7 };
        let other = Running { started: 8, ..server };
        assert!(!spool.is_given_any(segment, server));
        spool.note_given(segment, server, &cover(3, 100)).expect("noted");
        // The prefetcher leaves the note.
        spool.retain(|_| false);
        assert!(spool.is_given(segment, server, &cover(3, 100)) && spool.is_given_any(segment, server));
        assert!(!spool.is_given(segment, server, &cover(3, 101)) && !spool.is_given(segment, server, &cover(4, 100)));
        assert!(!spool.is_given(segment, other, &cover(3, 100)) && !spool.is_given_any(segment, other));
        let next = "000000020000000000000006".parse().expect("a segment");
        assert!(!spool.is_given_any(next, server));
    }
}
