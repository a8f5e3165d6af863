//! What is in `pg_wal`.

use std::path::{Path, PathBuf};

use crate::archive::received::Branch;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::cluster::ClusterIdentity;
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName};

/// More than any history file has, in bytes.
const LARGEST_HISTORY: u64 = 1 << 20;

/// The WAL of a server: its directory, and the timelines that led to where the server is.
#[derive(Debug, Clone)]
pub struct Line {
    pub(super) pg_wal: PathBuf,
    pub(super) branch: Branch,
    /// The history file of the timeline was read. The first timeline has none.
    knows_ancestors: bool,
    /// The cluster.
    pub(super) identity: ClusterIdentity,
}

impl Line {
    /// Of a server that is on this timeline. Without a history file, which a standby does not always have, its ancestors are not
    /// known.
    pub fn read(pg_wal: &Path, timeline: u32, identity: &ClusterIdentity) -> Result<Self> {
        let path = pg_wal.join(WalFileName::History(timeline).to_string());
        let text = match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > LARGEST_HISTORY => None,
            Ok(_) => Some(std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let history = text.and_then(|text| TimelineHistory::parse(timeline, &text));
        Ok(Line {
            pg_wal: pg_wal.to_owned(),
            knows_ancestors: timeline <= 1 || history.is_some(),
            branch: Branch::new(timeline, history, identity.segment_size),
            identity: *identity,
        })
    }

    /// Where the server's timeline left its parent; none for the first timeline.
    pub fn switch(&self) -> Option<(u32, Lsn)> {
        self.branch.parent()
    }

    /// An error if it is not known which timelines led here. Then there is no telling what was written before a promotion.
    pub fn check_ancestors(&self) -> Result<()> {
        if self.knows_ancestors {
            return Ok(());
        }
        let timeline = self.branch.timeline();
        let history = WalFileName::History(timeline);
        Err(Error::server(
            format!("\"{history}\" is missing in pg_wal, or cannot be read, and the server is on timeline {timeline}"),
            format!(
                "Copy {history} into pg_wal from the archive or from another server. Or set walarchive.keep_unarchived = off, if \
                 nothing of before the promotion is to be archived."
            ),
        ))
    }

    /// Where the oldest segment of this history in `pg_wal` begins, of those before that position.
    pub fn oldest(&self, position: Lsn) -> Result<Option<Lsn>> {
        let size = self.size().bytes();
        let numbers = self.before(position.0 / size)?;
        Ok(numbers.first().map(|number| Lsn(number * size)))
    }

    /// Is any WAL of before that in `pg_wal`?
    pub fn has_any_before_switch(&self) -> Result<bool> {
        let end = self.switch().map_or(0, |(_, switch)| switch.0 / self.size().bytes());
        Ok(end > 0 && !self.before(end)?.is_empty() || self.cut_off().is_some())
    }

    /// The segment of this history with that position.
    pub fn segment(&self, lsn: Lsn) -> Segment {
        self.branch.segment_at(self.branch.segment_start(lsn))
    }

    pub(super) fn size(&self) -> SegmentSize {
        self.branch.segment_size()
    }

    /// The segment of this history with that number.
    pub(super) fn numbered(&self, number: u64) -> Segment {
        self.branch.segment_at(Lsn(number.saturating_mul(self.size().bytes())))
    }

    /// The numbers of the segments of this history that are in `pg_wal`, before that number, in order. What lies behind the
    /// server's position may be an old file that is to be written again.
    pub(super) fn before(&self, end: u64) -> Result<Vec<u64>> {
        let failed = |error| Error::io("read", &self.pg_wal, error);
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.pg_wal).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(Ok(segment)) = name.to_str().map(str::parse::<Segment>) else {
                continue;
            };
            let number = segment.number(self.size());
            if number < end && self.branch.reads(segment) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The history files of the ancestors that are in `pg_wal`. PostgreSQL takes those that it was sent for archived, too.
    pub(super) fn histories(&self) -> Vec<WalFileName> {
        let ancestors = self.branch.with_history();
        let of_others = ancestors.filter(|timeline| *timeline != self.branch.timeline());
        of_others
            .map(WalFileName::History)
            .filter(|name| self.pg_wal.join(name.to_string()).is_file())
            .collect()
    }

    /// The last segment of the parent timeline, if it is there under its own name and ends in the middle. PostgreSQL gives it the
    /// suffix `.partial` at a promotion, and archives it, but not if it took the segment for a complete one before.
    pub(super) fn cut_off(&self) -> Option<Segment> {
        let (parent, switch) = self.switch()?;
        if switch.0.is_multiple_of(self.size().bytes()) {
            return None;
        }
        let segment = Segment::containing(parent, switch, self.size());
        let is_there = |name: WalFileName| self.pg_wal.join(name.to_string()).is_file();
        (is_there(WalFileName::Segment(segment)) && !is_there(WalFileName::Partial(segment))).then_some(segment)
    }
}
