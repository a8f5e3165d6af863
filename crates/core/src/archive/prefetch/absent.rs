//! What a server that recovers was told about a segment that it did not get.
//!
//! PostgreSQL takes each answer of `restore_command` but the worst for "not there", and a standby is not to end by the worst. It asks
//! for the same segment on the older timeline next, whose WAL may go on where the standby must not follow. So the next call has to
//! know what the last one said. There is a note for each timeline, in the spool.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::spool::{ABSENT, Spool};
use crate::error::{Error, Result};
use crate::wal::{Segment, WalFileName};

/// The archive is not listed again sooner for the same segment.
const LOOKED: Duration = Duration::from_secs(60);

/// Recovery asks for a segment on all timelines in a row. What was said longer ago belongs to another round.
const ROUND: Duration = Duration::from_secs(60);

/// A server that runs. In a container each start has the same process ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Of its postmaster.
    pub pid: i32,
    /// When it was started, in seconds since 1970.
    pub started: i64,
}

impl Display for Running {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid, self.started)
    }
}

impl Running {
    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.split_once('@')?;
        Some(Running {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }
}

/// Why a segment was not given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// The archive ends before it.
    End,
    /// It is missing, and this file is there.
    Hole(WalFileName),
    /// That is not known.
    Unclear,
    /// It was given out, up to the place where the newer timeline has left this one. More of it will not come.
    Part,
}

struct Note {
    segment: Segment,
    server: Running,
    looked: SystemTime,
    absence: Absence,
}

impl Spool {
    /// Note what the server is told about a segment. `looked`: when the archive was listed for it.
    pub fn note_absent(&self, segment: Segment, server: Running, looked: SystemTime, absence: Absence) -> Result<()> {
        let seconds = looked.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let absence = match absence {
            Absence::End => "end -".to_owned(),
            Absence::Hole(later) => format!("hole {later}"),
            Absence::Unclear => "unclear -".to_owned(),
            Absence::Part => "part -".to_owned(),
        };
        let path = self.directory().join(format!("{ABSENT}{:08X}", segment.timeline));
        let written = self
            .create()
            .and_then(|()| fs::write(&path, format!("{segment} {server} {seconds} {absence}\n")));
        written.map_err(|error| Error::io("write", path, error))
    }

    /// What the listing of the last minute said about a segment, and when it was.
    pub fn absent(&self, segment: Segment, server: Running) -> Option<(Absence, SystemTime)> {
        let note = self.read_note(&format!("{ABSENT}{:08X}", segment.timeline))?;
        let is_fresh = note.looked.elapsed().is_ok_and(|age| age < LOOKED);
        let is_same = note.segment == segment && note.server == server;
        let is_known = matches!(note.absence, Absence::End | Absence::Hole(_));
        (is_same && is_fresh && is_known).then_some((note.absence, note.looked))
    }

    /// Has the server been given what is before the fork of this segment, and nothing else of this timeline since?
    pub fn is_given_in_part(&self, segment: Segment, server: Running) -> bool {
        let note = self.read_note(&format!("{ABSENT}{:08X}", segment.timeline));
        note.is_some_and(|note| (note.segment, note.server, note.absence) == (segment, server, Absence::Part))
    }

    /// Was the server told that it cannot have this segment, and not given it since?
    pub(super) fn is_told_absent(&self, segment: Segment) -> bool {
        let note = self.read_note(&format!("{ABSENT}{:08X}", segment.timeline));
        note.is_some_and(|note| note.segment == segment && note.absence != Absence::Part)
    }

    /// The server has got the segment.
    pub fn forget_absent(&self, segment: Segment) {
        if self.is_told_absent(segment) {
            // If it stays, the segment is fetched once more, for nothing.
            let _ = fs::remove_file(self.directory().join(format!("{ABSENT}{:08X}", segment.timeline)));
        }
    }

    /// The same segment on a newer timeline, if the server has not got it in this round although the archive does not end there.
    pub fn wanted_before(&self, segment: Segment, server: Running) -> Option<Segment> {
        self.newer(segment, server, |absence| {
            matches!(absence, Absence::Hole(_) | Absence::Unclear)
        })
    }

    /// The newest timeline on which the server has asked for the same segment in this round, and the archive ends before it.
    pub fn ended_before(&self, segment: Segment, server: Running) -> Option<u32> {
        let newest = self.newer(segment, server, |absence| absence == Absence::End);
        newest.map(|newest| newest.timeline)
    }

    fn newer(&self, segment: Segment, server: Running, is: impl Fn(Absence) -> bool) -> Option<Segment> {
        let entries = fs::read_dir(self.directory()).ok()?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let notes = names.filter(|name| name.starts_with(ABSENT)).filter_map(|name| {
            let said = fs::metadata(self.directory().join(&name)).ok()?.modified().ok()?;
            let is_fresh = said.elapsed().is_ok_and(|age| age < ROUND);
            self.read_note(&name).filter(|_| is_fresh)
        });
        let place = |segment: Segment| (segment.log, segment.seg);
        let wanted = notes.filter(|note| {
            let is_newer = note.segment.timeline > segment.timeline && place(note.segment) == place(segment);
            is_newer && note.server == server && is(note.absence)
        });
        wanted.map(|note| note.segment).max()
    }

    fn read_note(&self, name: &str) -> Option<Note> {
        let text = fs::read_to_string(self.directory().join(name)).ok()?;
        let mut words = text.split_whitespace();
        let segment = words.next()?.parse().ok()?;
        let server = Running::parse(words.next()?)?;
        let looked = UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
        let absence = match (words.next()?, words.next()?) {
            ("end", _) => Absence::End,
            ("part", _) => Absence::Part,
            ("hole", later) => Absence::Hole(later.parse().ok()?),
            _ => Absence::Unclear,
        };
        Some(Note {
            segment,
            server,
            looked,
            absence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walarchive_storage::StorageConfig;

    #[test]
    fn a_segment_of_an_older_timeline_is_wanted_only_after_the_newer_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::new(dir.path(), &StorageConfig::new("file:///a"));
        let of = |name: &str| -> Segment { name.parse().expect("a segment") };
        let first = Running { pid: 1, started: 7 };
        let later = Running { started: 8, ..first };
        let (child, parent) = (of("000000020000000000000005"), of("000000010000000000000005"));
        assert_eq!(
            (spool.absent(child, first), spool.wanted_before(parent, first)),
            (None, None)
        );

        let now = SystemTime::now();
        let hole = Absence::Hole("000000020000000000000006".parse().expect("a name"));
        spool.note_absent(child, first, now, hole).expect("noted");
        assert_eq!(spool.absent(child, first).expect("noted").0, hole);
        assert_eq!(spool.wanted_before(parent, first), Some(child));
        assert_eq!(spool.wanted_before(child, first), None);
        assert_eq!(spool.wanted_before(of("000000010000000000000004"), first), None);
        // Another start of the server may follow another timeline.
        assert_eq!(
            (spool.absent(child, later), spool.wanted_before(parent, later)),
            (None, None)
        );
        // The prefetcher leaves the note.
        spool.retain(|_| false);
        assert_eq!(spool.wanted_before(parent, first), Some(child));

        let long_ago = now - LOOKED;
        spool.note_absent(child, first, long_ago, hole).expect("noted");
        assert_eq!(spool.absent(child, first), None, "look again");
        assert_eq!(spool.wanted_before(parent, first), Some(child), "but it was said now");

        spool.note_absent(child, first, now, Absence::Unclear).expect("noted");
        assert_eq!(
            (spool.absent(child, first), spool.wanted_before(parent, first)),
            (None, Some(child))
        );
        spool.note_absent(child, first, now, Absence::End).expect("noted");
        assert_eq!(spool.absent(child, first).expect("noted").0, Absence::End);
        assert_eq!(spool.wanted_before(parent, first), None);
        assert_eq!(
            (spool.ended_before(parent, first), spool.ended_before(child, first)),
            (Some(2), None)
        );
        // In a container the process ID is the same after each start.
        assert_eq!(spool.ended_before(parent, later), None);

        assert!(spool.is_told_absent(child) && !spool.is_told_absent(parent));
        assert!(!spool.is_given_in_part(parent, first));
        spool.note_absent(parent, first, now, Absence::Part).expect("noted");
        assert!(spool.is_given_in_part(parent, first) && !spool.is_given_in_part(parent, later));
        assert_eq!(
            (spool.absent(parent, first), spool.ended_before(parent, first)),
            (None, Some(2))
        );

        // It is no note of a segment that the server has not got.
        assert!(!spool.is_told_absent(parent));
        spool.forget_absent(parent);
        assert!(spool.is_given_in_part(parent, first));
        spool.forget_absent(child);
        assert!(!spool.is_told_absent(child) && spool.absent(child, first).is_none());
    }
}
