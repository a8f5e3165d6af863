//! The segment that recovery got last. At its end it asks for that once more.
//!
//! PostgreSQL keeps the file in `pg_wal` under the segment's name. What is archived does not change, so the file is given out again, as a
//! second name of itself; PostgreSQL removes the first one before it takes the second. This is done once: if recovery asks because what
//! it got is damaged, it gets the segment from the archive the next time.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::absent::Running;
use super::spool::{SERVED, Spool};
use crate::archive::fetch;
use crate::wal::{LONG_HEADER_BYTES, Segment, WalFileName};

/// What was given out longer ago may be on the disk only, and that may have changed it.
const FRESH: Duration = Duration::from_secs(60);

impl Spool {
    /// Note that the server has got the segment, whole and from the archive, as `target`. Without the note it is fetched again.
    pub fn note_served(&self, segment: Segment, server: Running, target: &Path) {
        let Ok(meta) = fs::metadata(target) else { return };
        let text = self.text(segment, server, &meta);
        let written = self
            .create()
            .and_then(|()| fs::write(self.directory().join(SERVED), text));
        if let Err(error) = written {
            tracing::debug!(%error, "what was given out could not be noted");
        }
    }

    /// Give the segment out again, if it is the one that the server has got last, and nobody has written to it since. False: it is to be
    /// fetched.
    pub fn take_again(&self, segment: Segment, server: Running, target: &Path, system_identifier: u64) -> bool {
        let note = self.directory().join(SERVED);
        let Ok(text) = fs::read_to_string(&note) else {
            return false;
        };
        let is_fresh = fs::metadata(&note)
            .and_then(|meta| meta.modified())
            .is_ok_and(|noted| noted.elapsed().is_ok_and(|age| age < FRESH));
        if !is_fresh || !text.starts_with(&segment.to_string()) {
            return false;
        }
        // Once only, whatever comes of it.
        if fs::remove_file(&note).is_err() {
            return false;
        }
        let own = target.with_file_name(segment.to_string());
        let is_same = |meta: &Metadata| meta.is_file() && self.text(segment, server, meta) == text;
        fs::symlink_metadata(&own).is_ok_and(|meta| is_same(&meta))
            && is_of(&own, segment, system_identifier)
            // It fails if there is anything.
            && fs::hard_link(&own, target).is_ok()
    }

    fn text(&self, segment: Segment, server: Running, meta: &Metadata) -> String {
        let (file, changed) = ((meta.dev(), meta.ino(), meta.len()), (meta.mtime(), meta.mtime_nsec()));
        format!("{segment} {:08x} {server} {file:?} {changed:?}\n", self.repository())
    }
}

/// Does the file say that it is this segment?
fn is_of(path: &Path, segment: Segment, system_identifier: u64) -> bool {
    let mut header = Vec::with_capacity(LONG_HEADER_BYTES);
    let read = File::open(path).and_then(|file| {
        (&file).take(LONG_HEADER_BYTES as u64).read_to_end(&mut header)?;
        Ok(file.metadata()?.len())
    });
    let name = WalFileName::Segment(segment);
    read.is_ok_and(|bytes| fetch::check(&name, bytes, &header, Some(system_identifier)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::generator::segments;
    use walarchive_storage::StorageConfig;

    #[test]
    fn what_the_server_got_last_is_given_out_once_more_and_only_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::new(dir.path(), &StorageConfig::new("file:///a"));
        let other_spool = Spool::new(dir.path(), &StorageConfig::new("file:///b"));
        let (segment, content) = segments(1, 4, 1).swap_remove(0);
        let system = crate::wal::generator::SYSTEM_IDENTIFIER;
        let server = Running { pid: 1, started: 7 };
        let (target, own) = (dir.path().join("RECOVERYXLOG"), dir.path().join(segment.to_string()));
        // As PostgreSQL does: it takes what it got under its name.
        let serve = || {
            let _ = fs::remove_file(&target);
            fs::write(&target, &content).expect("written");
            spool.note_served(segment, server, &target);
            let _ = fs::remove_file(&own);
            fs::rename(&target, &own).expect("renamed");
        };
        let again = |spool: &Spool, server, segment| spool.take_again(segment, server, &target, system);
        serve();
        assert!(again(&spool, server, segment));
        assert_eq!(fs::read(&target).expect("there"), content);
        fs::remove_file(&own).expect("removed");
        fs::rename(&target, &own).expect("renamed");
        assert!(!again(&spool, server, segment), "once only");

        serve();
        let later = Running { started: 8, ..server };
        assert!(!again(&spool, later, segment), "another run of the server");
        serve();
        assert!(!again(&other_spool, server, segment), "another repository");
        serve();
        let next = "000000010000000000000005".parse().expect("a segment");
        assert!(!again(&spool, server, next), "another segment");
        serve();
        assert!(!spool.take_again(segment, server, &target, 1), "another cluster");
        serve();
        let file = File::options().write(true).open(&own).expect("opened");
        std::io::Write::write_all(&mut &file, &content[..1]).expect("written");
        assert!(!again(&spool, server, segment), "written to");
        serve();
        fs::remove_file(&own).expect("removed");
        fs::write(&own, &content).expect("written");
        assert!(!again(&spool, server, segment), "another file");
        serve();
        let note = File::options().write(true).open(spool.directory().join(SERVED));
        let long_ago = std::time::SystemTime::now() - FRESH * 2;
        note.and_then(|note| note.set_modified(long_ago)).expect("set");
        assert!(!again(&spool, server, segment), "too long ago");
        serve();
        // Whoever wants the file itself gets it from the archive.
        assert!(!spool.take_again(segment, server, &own, system));
        assert!(!target.exists());
    }
}
