//! The WAL that recovery has before it, from a backup to the end of the archive, as a listing shows it, and the events in it.

use std::io::{self, Read};
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use super::near::before;
use super::{CONCURRENCY, Inventory, Reach, Tail, TailObject, WalObject, wal, walk_tail};
use crate::blocking::blocking;
use crate::encrypted::{self, blame};
use crate::error::{Error, Result, StorageError};
use crate::lsn::Lsn;
use crate::repository::{cluster, layout};
use crate::wal::{
    Ending, Event, Parameters, RestorePoint, Segment, SegmentSize, Sought, WalFileName, WalWalker, Walked,
};
use walarchive_storage::Store;

/// The WAL that is read at most to see what is in it, in bytes. Recovery reads it again, so more would double its time.
pub const MOST_READ: u64 = 1 << 30;

/// Segments that are read of more WAL than that, from its end backwards, until there is a transaction in one.
const LAST: usize = 4;

/// So many of them are kept: WAL of a hostile repository must not fill the memory.
const RESTORE_POINTS: usize = 100_000;
const TABLESPACES: usize = 1000;
const WITHIN_RECORD: usize = 100_000;

/// Runs of segments that are read at a time.
const PIECE: usize = 4;

/// The events in the WAL that recovery would replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// All of it was read, and can be; else only what comes last, for its time.
    pub is_all: bool,
    /// When the last transaction in it ended.
    pub last_time: Option<DateTime<Utc>>,
    /// Its restore points.
    pub restore_points: Vec<RestorePoint>,
    /// Tablespaces that are created in it.
    pub tablespaces: Vec<CreatedTablespace>,
    /// The greatest values of the server's parameters, if they change in it.
    pub parameters: Option<Parameters>,
    /// The transaction that was asked for ends in it; or may, since it may have been prepared.
    pub may_end_transaction: bool,
    /// The end of the segment in which it ends.
    pub transaction_before: Option<Lsn>,
    /// The first end of a transaction before which recovery to the time that was asked for stops.
    pub stop: Option<Ending>,
    /// The first segment that is not in order, and what is wrong: recovery ends there.
    pub damaged: Option<(Segment, String)>,
    /// A segment that was gone when it was to be read.
    pub unread: Option<Segment>,
    /// Where the last complete record begins.
    pub last_record: Option<Lsn>,
    /// The numbers of segments in which no record ends, in order.
    pub within_record: Vec<u64>,
}

/// A tablespace that is created in the WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTablespace {
    /// Its OID.
    pub oid: u32,
    /// Its directory; empty for one inside the data directory.
    pub location: String,
    /// Where the record ends that creates it.
    pub segment: Segment,
}

/// The WAL from a segment on, whatever timeline it is of, and the history files; without backups. None if there is none, so that
/// nobody can tell the size of segments either.
pub async fn wal_from(store: &Store, first: Segment) -> Result<Option<Inventory>> {
    let tail = Tail::load(store).await?;
    let mut objects: Vec<WalObject> = Vec::new();
    let look = |listed| {
        let found = WalObject::of(&listed);
        objects.extend(found.filter(|object| object.name.segment().is_none_or(|segment| segment >= first)));
        ControlFlow::Continue(())
    };
    store.each_after(&layout::WAL_FOLDER, &before(first), look).await?;
    let size = match cluster::owner(store).await? {
        Some(owner) => Some(owner.segment_size),
        None => segment_size(store, &objects).await?,
    };
    let Some(size) = size else { return Ok(None) };
    let mut inventory = Inventory::new(size, Vec::new(), objects, Default::default());
    inventory.tail = tail;
    inventory.read_histories(store).await?;
    Ok(Some(inventory))
}

/// As the WAL tells it.
async fn segment_size(store: &Store, objects: &[WalObject]) -> Result<Option<SegmentSize>> {
    /// With so many damaged ones nothing can be said.
    const TRIES: usize = 8;
    let segments = objects
        .iter()
        .filter(|object| matches!(object.name, WalFileName::Segment(_)));
    for object in segments.take(TRIES) {
        let page = match wal::first_page(store, object).await {
            Err(error) if error.is_content() => None,
            page => page?,
        };
        let size = page.and_then(|page| SegmentSize::new(page.segment_bytes.into()).ok());
        if size.is_some() {
            return Ok(size);
        }
    }
    Ok(None)
}

/// Read what is within reach, if it has no more than `most` bytes, and look for something in it.
pub async fn look_ahead(
    store: &Store,
    inventory: &Inventory,
    reach: &Reach,
    system_identifier: Option<u64>,
    sought: Sought,
    most: u64,
) -> Result<Contents> {
    let size = inventory.segment_size;
    let walker = || {
        WalWalker::new(size, system_identifier)
            .look_for(sought)
            .until(reach.end)
    };
    let most = (most / size.bytes()).max(LAST as u64);
    if reach.segments() > most {
        return last_time(store, inventory, reach, walker()).await;
    }
    let segments = reach.read.iter().flat_map(|range| {
        let numbers = range.first.number(size)..=range.last.number(size);
        numbers.map(|number| Segment::from_number(range.first.timeline, number, size))
    });
    let objects: Vec<Source> = segments
        .filter_map(|segment| Source::of(inventory, reach, segment))
        .collect();
    // A record that goes on from one piece into the next would not be seen whole: each piece begins with the last of the one
    // before.
    let starts = (0..objects.len()).step_by(PIECE);
    let pieces: Vec<Vec<Source>> = starts
        .map(|start| objects[start.saturating_sub(1)..objects.len().min(start + PIECE)].to_vec())
        .collect();
    let contents = Contents {
        is_all: true,
        ..Contents::default()
    };
    futures::stream::iter(pieces)
        .map(|piece| walk_piece(store, piece, walker(), size))
        .buffered(CONCURRENCY.div_ceil(2))
        .try_fold(contents, |mut contents, walked| {
            for (segment, walked) in walked {
                match walked {
                    Some(walked) => contents.add(segment, size, walked),
                    None => _ = contents.unread.get_or_insert(segment),
                }
            }
            std::future::ready(Ok(contents))
        })
        .await
}

/// Of much WAL, only when it ends.
async fn last_time(store: &Store, inventory: &Inventory, reach: &Reach, walker: WalWalker) -> Result<Contents> {
    let size = inventory.segment_size;
    let mut contents = Contents::default();
    let last = reach.read.iter().rev().flat_map(|range| {
        let numbers = range.first.number(size)..=range.last.number(size);
        numbers
            .rev()
            .map(|number| Segment::from_number(range.first.timeline, number, size))
    });
    for segment in last.take(LAST) {
        let Some(source) = Source::of(inventory, reach, segment) else {
            break;
        };
        let (_, walked) = source.walk(store, walker.anew(), size).await?;
        contents.last_time = walked.and_then(|walked| walked.last_time);
        if contents.last_time.is_some() {
            break;
        }
    }
    Ok(contents)
}

impl Contents {
    /// Add a segment, unless it comes after a damaged one, which recovery cannot pass.
    fn add(&mut self, segment: Segment, size: SegmentSize, walked: Walked) {
        if self.damaged.is_some() {
            return;
        }
        self.last_time = walked.last_time.or(self.last_time);
        self.stop = self.stop.or(walked.stop);
        self.last_record = walked.last_record.or(self.last_record);
        if walked.last_record.is_none() && self.within_record.len() < WITHIN_RECORD {
            self.within_record.push(segment.number(size));
        }
        if walked.ends_transaction {
            let end = segment.start(size).0.saturating_add(size.bytes());
            self.transaction_before.get_or_insert(Lsn(end));
        }
        self.may_end_transaction |= walked.ends_transaction || walked.ends_prepared;
        for event in walked.events {
            match event {
                Event::RestorePoint(point) if self.restore_points.len() < RESTORE_POINTS => {
                    self.restore_points.push(point);
                }
                Event::Tablespace { oid, location } => {
                    let is_first_place =
                        || !location.is_empty() && self.tablespaces.iter().all(|known| known.location.is_empty());
                    if self.tablespaces.len() < TABLESPACES || is_first_place() {
                        self.tablespaces.push(CreatedTablespace { oid, location, segment });
                    }
                }
                Event::RestorePoint(_) => {}
                Event::Parameters(found) => {
                    self.parameters = Some(self.parameters.map_or(found, |known| known.max(found)));
                }
            }
        }
        self.damaged = walked.problem.map(|problem| (segment, problem));
    }
}

/// Where recovery reads a segment.
#[derive(Clone)]
enum Source {
    Object(WalObject),
    Tail(Segment, Vec<TailObject>),
}

impl Source {
    fn of(inventory: &Inventory, reach: &Reach, segment: Segment) -> Option<Self> {
        let of_tail = |cover| Source::Tail(segment, inventory.tail.objects(cover));
        let end = reach.tail.as_ref().filter(|cover| cover.segment() == Some(segment));
        let object = || inventory.object_of(segment).copied().map(Source::Object);
        let complete = || inventory.cover(segment).filter(|cover| inventory.is_complete(cover));
        // What was archived as partial is read up to a fork only, at the end.
        let partial = || inventory.object_read(segment).copied().map(Source::Object);
        end.map(of_tail)
            .or_else(object)
            .or_else(|| complete().map(of_tail))
            .or_else(partial)
    }

    fn segment(&self) -> Option<Segment> {
        match self {
            Source::Object(object) => object.name.segment(),
            Source::Tail(segment, _) => Some(*segment),
        }
    }

    /// None if it is gone.
    async fn walk(self, store: &Store, walker: WalWalker, size: SegmentSize) -> Result<(WalWalker, Option<Walked>)> {
        match self {
            Source::Object(object) => walk(store, object, walker, size).await,
            Source::Tail(_, objects) => walk_tail(store, objects, walker, size).await,
        }
    }
}

/// The segments of one piece in order; that of the piece before is left out again. None for those that are gone.
async fn walk_piece(
    store: &Store,
    piece: Vec<Source>,
    mut walker: WalWalker,
    size: SegmentSize,
) -> Result<Vec<(Segment, Option<Walked>)>> {
    let mut found = Vec::with_capacity(piece.len());
    let is_before = piece.len() > PIECE;
    for (at, source) in piece.into_iter().enumerate() {
        let segment = source.segment().filter(|_| at > 0 || !is_before);
        let walked;
        (walker, walked) = source.walk(store, walker, size).await?;
        found.extend(segment.map(|segment| (segment, walked)));
    }
    Ok(found)
}

/// None if the object is gone: somebody prunes the repository.
pub(crate) async fn walk(
    store: &Store,
    object: WalObject,
    mut walker: WalWalker,
    size: SegmentSize,
) -> Result<(WalWalker, Option<Walked>)> {
    let Some(segment) = object.name.segment() else {
        return Ok((walker, None));
    };
    let mut reader = encrypted::reader(store, &object.key(), object.size);
    let work = move || {
        walker.begin(segment);
        let read = object.format.decoder(&mut reader).and_then(|decoder| {
            // One byte more than a segment has is enough to see that it has too many.
            let mut source = decoder.take(size.bytes() + 1);
            let mut buffer = vec![0; 128 << 10];
            loop {
                match source.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(bytes) => walker.feed(&buffer[..bytes]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        });
        let mut walked = walker.end();
        let Err(error) = read else {
            return Ok((walker, Some(walked)));
        };
        let why = format!("It cannot be decompressed: {error}.");
        let problem = match blame(&mut reader, object.key(), object.format, why) {
            Error::Storage(StorageError::NotFound { .. }) => return Ok((walker.anew(), None)),
            failure => failure.content_finding().ok_or(failure)?,
        };
        walked.problem = Some(problem);
        Ok((walker.anew(), Some(walked)))
    };
    blocking(work).await
}
