//! Where recovery will begin. It asks for history files first, so what it needs after them can be fetched meanwhile.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::absent::Running;
use super::spool::Spool;
use crate::control_file::ControlFile;
use crate::wal::Segment;

const LABEL: &str = "backup_label";

/// More than any backup label has, in bytes.
const LABEL_LIMIT: u64 = 64 << 10;

/// A standby asks for history files again and again. A server that was started longer ago has asked for its first segment.
const BEGINNING: Duration = Duration::from_secs(20);

impl Spool {
    /// A server that was started just now asks for a history file. Unless it has asked for a segment already, whoever fetches ahead is
    /// to begin with the first one. True: it is noted. A guess that is wrong costs some downloads.
    pub fn note_begin(&self, data_dir: &Path, server: Running) -> bool {
        let started = UNIX_EPOCH + Duration::from_secs(u64::try_from(server.started).unwrap_or(0));
        let is_beginning = SystemTime::now()
            .duration_since(started)
            .is_ok_and(|ago| ago < BEGINNING);
        if !is_beginning || self.asked().is_some_and(|asked| asked.at >= started) {
            return false;
        }
        let before = ControlFile::read(data_dir).ok().and_then(|control| {
            let size = control.segment_size;
            let first = labelled(data_dir).unwrap_or(Segment::containing(control.timeline, control.redo, size));
            let number = first.number(size).checked_sub(1)?;
            Some(Segment::from_number(first.timeline, number, size))
        });
        before.is_some_and(|before| self.note(before).is_ok())
    }
}

/// The segment in which the backup starts that this directory is restored from.
fn labelled(data_dir: &Path) -> Option<Segment> {
    let mut text = String::new();
    let file = File::open(data_dir.join(LABEL)).ok()?;
    file.take(LABEL_LIMIT).read_to_string(&mut text).ok()?;
    let line = text.lines().find(|line| line.starts_with("START WAL LOCATION:"))?;
    let (_, file) = line.split_once("(file ")?;
    file.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::control_file::tests::sample;
    use walarchive_storage::StorageConfig;

    const MB: u32 = 1 << 20;

    #[test]
    fn what_a_backup_needs_first_is_noted_before_recovery_asks() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["global", "pg_wal"] {
            fs::create_dir(dir.path().join(name)).expect("created");
        }
        fs::write(dir.path().join("global/pg_control"), sample(MB, 288)).expect("written");
        let spool = Spool::new(&dir.path().join("pg_wal"), &StorageConfig::new("file:///a"));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let server = Running {
            pid: 1,
            started: i64::try_from(now).expect("in time"),
        };
        let long_ago = Running {
            started: server.started - 3600,
            ..server
        };
        // The sample has no checkpoint that another segment comes before.
        assert!(!spool.note_begin(dir.path(), server) && spool.asked().is_none());
        let label = "START WAL LOCATION: 0/700028 (file 000000010000000000000007)\nCHECKPOINT LOCATION: 0/700060\n";
        fs::write(dir.path().join(LABEL), label).expect("written");
        assert!(!spool.note_begin(dir.path(), long_ago) && spool.asked().is_none());
        assert!(spool.note_begin(dir.path(), server));
        let noted = || spool.asked().expect("noted").segment.to_string();
        assert_eq!(noted(), "000000010000000000000006");
        // It is noted once, and what recovery asks for counts.
        let next = "000000010000000000000009".parse().expect("a segment");
        spool.note(next).expect("noted");
        assert!(!spool.note_begin(dir.path(), server));
        assert_eq!(noted(), next.to_string());
        // A note of an earlier run says nothing.
        let asked = File::options().write(true).open(spool.directory().join("asked"));
        let earlier = SystemTime::now() - Duration::from_secs(100);
        asked.and_then(|file| file.set_modified(earlier)).expect("set");
        assert!(spool.note_begin(dir.path(), server));
    }
}
