//! The WAL that `pg_rewind` reads in the data directory that it rewinds: from the last checkpoint before the two histories part, to
//! the end. A server removes WAL that is archived, so some of it may be in the archive only.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, chown, geteuid};

use super::fetch;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::control_file::ControlFile;
use crate::data_dir::wal_directory;
use crate::error::{Error, Result, StorageError};
use crate::lsn::Lsn;
use crate::repository::inventory::read_history;
use crate::wal::{Segment, SegmentSize, TimelineHistory, WalFileName, WalWalker};
use walarchive_storage::Store;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewindable {
    /// The timeline that both have last in common, and where they part; none if one of them has only gone on from the other's.
    pub fork: Option<(u32, Lsn)>,
    /// The segments that were fetched, in the order in which they were.
    pub fetched: Vec<Segment>,
}

/// The timelines of a server, oldest first, and where each was left; the last one has no end.
type Line = Vec<(u32, Lsn)>;

/// Fetch into the `pg_wal` of the `target` what is missing there of the WAL that `pg_rewind` needs to make it follow the `source`.
/// Neither server may run. Files that are there are left as they are.
pub async fn fetch_for_rewind(store: &Store, target: &Path, source: &Path, first: Format) -> Result<Rewindable> {
    let (control, of_source) = (ControlFile::read(target)?, ControlFile::read(source)?);
    if control.system_identifier != of_source.system_identifier {
        return Err(Error::refused(
            format!(
                "\"{}\" belongs to system identifier {}, and \"{}\" to {}",
                target.display(),
                control.system_identifier,
                source.display(),
                of_source.system_identifier
            ),
            "Give the data directories of two servers of the same cluster.",
        ));
    }
    let line = line(store, target, control.timeline).await?;
    let fork = fork(&line, &self::line(store, source, of_source.timeline).await?);
    let Some((timeline, at)) =
        fork.filter(|(timeline, _)| *timeline != control.timeline || of_source.timeline != *timeline)
    else {
        return Ok(Rewindable {
            fork: None,
            fetched: Vec::new(),
        });
    };
    let mut wal = Wal {
        store,
        directory: wal_directory(target),
        first,
        size: control.segment_size,
        line,
        fetched: Vec::new(),
    };
    let number = |lsn: Lsn| lsn.0 / wal.size.bytes();
    let (parted, last) = (number(at), number(control.checkpoint).max(number(at)));
    // The segment in which they part may be written by the source only.
    let end = if at > control.checkpoint { parted } else { last };
    for number in parted..=end {
        match wal.have(number).await {
            Err(Error::Storage(StorageError::NotFound { .. })) if number == parted && at > control.checkpoint => {}
            outcome => outcome.map(|_| ())?,
        }
    }
    for number in (0..=parted).rev() {
        let path = match wal.have(number).await {
            Err(Error::Storage(StorageError::NotFound { .. })) if number == parted && at > control.checkpoint => {
                continue;
            }
            outcome => outcome?,
        };
        if wal
            .has_checkpoint_before(number, path, at, control.system_identifier)
            .await?
        {
            break;
        }
    }
    Ok(Rewindable {
        fork: Some((timeline, at)),
        fetched: wal.fetched,
    })
}

/// As the data directory has it, or else the archive.
async fn line(store: &Store, data_dir: &Path, timeline: u32) -> Result<Line> {
    let mut line = Vec::new();
    if timeline > 1 {
        let path = wal_directory(data_dir).join(WalFileName::History(timeline).to_string());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => read_history(store, timeline).await?,
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let history = text
            .and_then(|text| TimelineHistory::parse(timeline, &text))
            .ok_or_else(|| {
                Error::refused(
                    format!(
                        "the history of timeline {timeline} is neither in \"{}\" nor in the archive",
                        data_dir.display()
                    ),
                    "Copy the history file of that timeline into pg_wal.",
                )
            })?;
        line = history.ancestors;
    }
    line.push((timeline, Lsn(u64::MAX)));
    Ok(line)
}

/// The last timeline that both have in common, and the point at which the first of them leaves it.
fn fork(one: &Line, other: &Line) -> Option<(u32, Lsn)> {
    let mut fork = None;
    for (one, other) in one.iter().zip(other) {
        if one.0 != other.0 {
            break;
        }
        fork = Some((one.0, one.1.min(other.1)));
        if one.1 != other.1 {
            break;
        }
    }
    fork
}

/// The WAL of the target.
struct Wal<'a> {
    store: &'a Store,
    directory: PathBuf,
    first: Format,
    size: SegmentSize,
    line: Line,
    fetched: Vec<Segment>,
}

impl Wal<'_> {
    /// The segment of that number: a segment that is not complete when its timeline is left is copied into the next one.
    fn segment(&self, number: u64) -> Segment {
        let end = Lsn((number + 1).saturating_mul(self.size.bytes()));
        let covers = self.line.iter().find(|(_, left)| *left >= end);
        let timeline = covers.or(self.line.last()).map_or(1, |(timeline, _)| *timeline);
        Segment::from_number(timeline, number, self.size)
    }

    /// The path of that segment, which is fetched if it is not there.
    async fn have(&mut self, number: u64) -> Result<PathBuf> {
        let segment = self.segment(number);
        let name = WalFileName::Segment(segment);
        let path = self.directory.join(name.to_string());
        if !path.exists() {
            fetch(self.store, &name, &path, self.first).await?;
            own_as(&path, &self.directory)?;
            self.fetched.push(segment);
        }
        Ok(path)
    }

    /// Does a checkpoint begin in the segment, before that place?
    async fn has_checkpoint_before(&self, number: u64, path: PathBuf, at: Lsn, system_identifier: u64) -> Result<bool> {
        let (segment, size) = (self.segment(number), self.size);
        blocking(move || {
            let mut walker = WalWalker::new(size, Some(system_identifier));
            walker.begin(segment);
            let failed = |error| Error::io("read", &path, error);
            let mut file = File::open(&path).map_err(failed)?;
            let mut chunk = vec![0; CHUNK];
            loop {
                match file.read(&mut chunk).map_err(failed)? {
                    0 => break,
                    bytes => walker.feed(&chunk[..bytes]),
                }
            }
            // What is wrong behind the checkpoint is no matter here: the end of the WAL is in the middle of a segment.
            let first = walker.end().first_checkpoint;
            Ok(first.is_some_and(|first| first < at))
        })
        .await
    }
}

/// What root fetched belongs to whom the directory belongs.
fn own_as(path: &Path, directory: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let failed = |error| Error::io("change the owner of", path, error);
    let owner = std::fs::metadata(directory).map_err(failed)?;
    chown(path, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))
        .map_err(|error| failed(io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_part_where_the_first_leaves_the_last_that_they_share() {
        let line =
            |entries: &[(u32, u64)]| -> Line { entries.iter().map(|(timeline, end)| (*timeline, Lsn(*end))).collect() };
        let never = u64::MAX;
        // Promoted: the other one went on.
        assert_eq!(
            fork(&line(&[(1, never)]), &line(&[(1, 50), (2, never)])),
            Some((1, Lsn(50)))
        );
        // Both were promoted, at different places.
        assert_eq!(
            fork(&line(&[(1, 40), (3, never)]), &line(&[(1, 50), (2, never)])),
            Some((1, Lsn(40)))
        );
        assert_eq!(
            fork(
                &line(&[(1, 40), (2, 60), (3, never)]),
                &line(&[(1, 40), (2, 70), (4, never)])
            ),
            Some((2, Lsn(60)))
        );
        assert_eq!(fork(&line(&[(1, never)]), &line(&[(1, never)])), Some((1, Lsn(never))));
        assert_eq!(fork(&line(&[(1, never)]), &line(&[(2, never)])), None);
    }
}
