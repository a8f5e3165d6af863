//! Knowledge of the server whose WAL it is: its position, and the segments that are on their way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::blocking::blocking;
use crate::codec::Format;
use crate::control_file::ControlFile;
use crate::data_dir::wal_directory;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::recovery_state::is_in_recovery;
use crate::repository::inventory::SegmentRange;
use crate::repository::layout;
use crate::server_config::ServerConfig;
use crate::wal::{Segment, TimelineHistory, WalFileName};
use walarchive_storage::{Listed, Store};

/// The position of a server. Every segment before that of the LSN is complete, and marked to be archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Its timeline.
    pub timeline: u32,
    /// How far WAL is flushed to disk, or on a standby how far it is replayed.
    pub lsn: Lsn,
}

/// The archiver of the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Archiving {
    /// The server whose position we know.
    Here,
    /// Its primary; what waits there is not known.
    Elsewhere,
    /// Nobody: what is not in the repository will not come.
    #[default]
    Nowhere,
}

/// Knowledge of the server. All of it is unknown by default, as for a repository whose server is gone.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Its position; to be asked before the repository is listed.
    pub position: Option<Position>,
    /// Who archives.
    pub archiving: Archiving,
    /// Its data directory.
    pub data_dir: Option<PathBuf>,
    /// The history of its timeline, if `pg_wal` has it: it may not be archived yet.
    pub history: Option<TimelineHistory>,
    /// The segments that are being uploaded; to be asked after the repository was listed.
    pub uploading: BTreeSet<Segment>,
    /// The segments that wait to be archived.
    pub waiting: BTreeSet<Segment>,
    /// The segments that came into the repository after it was listed.
    pub found: BTreeSet<Segment>,
}

impl Live {
    /// A server's, from its own facts; reads the history file of its timeline.
    pub fn of_server(position: Position, archiving: Archiving, data_dir: &Path) -> Self {
        Live {
            position: Some(position),
            archiving,
            history: read_history(data_dir, position.timeline),
            data_dir: Some(data_dir.to_owned()),
            ..Live::default()
        }
    }

    /// That of a data directory, whose server may run or not: as far as its last checkpoint and `archive_status` tell.
    pub fn of_data_dir(data_dir: &Path) -> Result<(Self, ControlFile)> {
        let control = ControlFile::read(data_dir)?;
        let marked = PgWal::read(data_dir)?;
        let complete: Vec<Segment> = marked.ready.union(&marked.done).copied().collect();
        let position = position(&control, &complete);
        let archiving = match ServerConfig::read(data_dir)?.archive_mode.as_deref() {
            Some("always") => Archiving::Here,
            _ if is_in_recovery(data_dir) => Archiving::Elsewhere,
            Some("on" | "true" | "yes" | "1") => Archiving::Here,
            // It may be set on the command line.
            _ if !marked.ready.is_empty() => Archiving::Here,
            _ => Archiving::Nowhere,
        };
        Ok((Live::of_server(position, archiving, data_dir), control))
    }

    /// Find out what waits in `pg_wal`: what is marked as ready, and what is there and not marked as done, since the server
    /// marks it at the next checkpoint if it could not do so at once.
    pub(super) async fn look_for_waiting(&mut self) -> Result<()> {
        let Some(data_dir) = self.data_dir.clone().filter(|_| self.archiving == Archiving::Here) else {
            return Ok(());
        };
        let pg_wal = blocking(move || PgWal::read(&data_dir)).await?;
        self.waiting = pg_wal.files.difference(&pg_wal.done).copied().collect();
        self.waiting.extend(pg_wal.ready);
        Ok(())
    }

    /// Ask the store again for segments that were lost a moment ago: one that ceased to wait in between is there now.
    pub(super) async fn look_again(&mut self, store: &Store, lost: &[SegmentRange]) -> Result<()> {
        let look = |object: Listed| {
            let (_, key) = Format::of_key(&object.key);
            let segment = key.rsplit('/').next().and_then(|name| name.parse::<Segment>().ok());
            self.found.extend(segment.filter(|segment| contains(lost, *segment)));
        };
        Ok(store.each(&layout::WAL_FOLDER, look).await?)
    }
}

/// After the last checkpoint, and after every complete segment of the highest timeline.
fn position(control: &ControlFile, complete: &[Segment]) -> Position {
    let highest = complete.iter().map(|segment| segment.timeline).max();
    let timeline = control.timeline.max(highest.unwrap_or(0));
    let ends = complete
        .iter()
        .filter(|segment| segment.timeline == timeline)
        .map(|segment| segment.start(control.segment_size).0)
        .map(|start| Lsn(start.saturating_add(control.segment_size.bytes())));
    Position {
        timeline,
        lsn: ends.fold(control.checkpoint, Lsn::max),
    }
}

fn read_history(data_dir: &Path, timeline: u32) -> Option<TimelineHistory> {
    let path = wal_directory(data_dir).join(WalFileName::History(timeline).to_string());
    TimelineHistory::parse(timeline, &std::fs::read_to_string(path).ok()?)
}

/// The segments in `pg_wal`, and what `archive_status` says of them.
#[derive(Debug, Default)]
struct PgWal {
    files: BTreeSet<Segment>,
    ready: BTreeSet<Segment>,
    done: BTreeSet<Segment>,
}

impl PgWal {
    /// In this order: a file that is archived in between is seen as done, and so is neither missed nor taken to wait.
    fn read(data_dir: &Path) -> Result<Self> {
        let mut found = PgWal::default();
        let pg_wal = wal_directory(data_dir);
        each_name(&pg_wal, |name| found.files.extend(name.parse::<Segment>()))?;
        each_name(&pg_wal.join("archive_status"), |name| {
            if let Some((Ok(segment), status)) = name.split_once('.').map(|(name, status)| (name.parse(), status)) {
                match status {
                    "ready" => _ = found.ready.insert(segment),
                    "done" => _ = found.done.insert(segment),
                    _ => {}
                }
            }
        })?;
        Ok(found)
    }
}

fn each_name(directory: &Path, mut each: impl FnMut(&str)) -> Result<()> {
    let failed = |error| Error::io("read", directory, error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        if let Some(name) = entry.map_err(failed)?.file_name().to_str() {
            each(name);
        }
    }
    Ok(())
}

/// Is the segment in one of the ranges?
pub(super) fn contains(ranges: &[SegmentRange], segment: Segment) -> bool {
    let within = |range: &SegmentRange| {
        range.first.timeline == segment.timeline && (range.first..=range.last).contains(&segment)
    };
    ranges.iter().any(within)
}
