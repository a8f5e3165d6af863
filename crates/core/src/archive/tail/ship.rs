//! What was flushed since the last time goes into the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use walarchive_storage::Store;

use super::chunk;
use super::clean::{Cleaner, Waste};
use super::epoch;
use super::gap;
use super::pending::{Pending, is_archived};
use super::plan::Plan;
use super::position::Position;
use crate::archive::Archive;
use crate::blocking::blocking;
use crate::codec::Compression;
use crate::encrypted::Wrapping;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout::TailChunk;
use crate::wal::{Segment, SegmentSize, WalFileName};

/// How far the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipped {
    /// The number of this run of the server.
    pub epoch: u64,
    /// The timeline.
    pub timeline: u32,
    /// The end of what was shipped.
    pub stored: Lsn,
    /// Everything up to here is in the store: it never goes back. None: it is not known yet, as WAL of before waits to be archived.
    pub safe: Option<Lsn>,
    /// The archive lacks this segment, which comes before all that is stored, so that no backup of before can be restored to it. It is
    /// over when the archive has a segment that comes later.
    pub gap: Option<Segment>,
    /// Bytes of the objects that were written.
    pub bytes: u64,
}

/// Stores the tail of one server, which is not in recovery, as one epoch. Another timeline is another epoch.
#[derive(Debug)]
pub struct Shipper {
    archive: Arc<Archive>,
    pg_wal: PathBuf,
    resumed: Option<Shipped>,
    course: Option<Course>,
    waste: Arc<Mutex<Waste>>,
}

/// A segment and its chunks.
#[derive(Debug)]
struct Part {
    segment: Segment,
    plan: Plan,
}

impl Part {
    fn new(segment: Segment) -> Self {
        Part {
            segment,
            plan: Plan::default(),
        }
    }
}

/// An epoch that was begun.
#[derive(Debug)]
struct Course {
    epoch: u64,
    timeline: u32,
    present: Part,
    /// The segment before, as long as the end of it is to be stored.
    leaving: Option<Part>,
    /// The end of what was shipped.
    stored: Lsn,
    pending: Pending,
    /// Chunks of older epochs of the first segment, which nobody needs when that has chunks of this one.
    older: Vec<TailChunk>,
    safe: Option<Lsn>,
    gap: Option<Segment>,
    /// How often the repository had begun anew.
    anew: u32,
}

impl Shipper {
    /// Nothing is asked of the store yet.
    pub fn new(archive: Arc<Archive>, pg_wal: PathBuf) -> Self {
        Shipper {
            archive,
            pg_wal,
            resumed: None,
            course: None,
            waste: Arc::default(),
        }
    }

    /// One that goes on where another process of the same run of the server, which has ended, has left off.
    pub fn resume(archive: Arc<Archive>, pg_wal: PathBuf, shipped: Shipped) -> Self {
        Shipper {
            resumed: Some(shipped),
            ..Shipper::new(archive, pg_wal)
        }
    }

    /// What removes the chunks that nobody needs any more.
    pub fn cleaner(&self) -> Cleaner {
        Cleaner {
            archive: Arc::clone(&self.archive),
            pg_wal: self.pg_wal.clone(),
            waste: Arc::clone(&self.waste),
        }
    }

    /// Store what is not stored yet up to that position. If nothing is new, nothing is written; nor while WAL of before waits to be
    /// archived, as nobody could recover to what is behind that. If this fails, or is dropped, what is under way counts as not stored,
    /// and the next call tries it again.
    pub async fn ship(&mut self, position: Position) -> Result<Shipped> {
        if self.archive.writer().is_some_and(|writer| writer.in_recovery()) {
            return Err(Error::defect("a server in recovery has no tail"));
        }
        self.archive.enter().await?;
        let anew = self.archive.begun_anew();
        let size = self.archive.identity().segment_size;
        // The last byte decides: at the beginning of a segment there may be no file of it yet.
        let target = Segment::containing(position.timeline, Lsn(position.flushed.0.saturating_sub(1)), size);
        let mut course = match self.course.take() {
            Some(course) if course.timeline == position.timeline && course.anew == anew => course,
            _ => Box::pin(self.begin(target, position, anew)).await?,
        };
        if position.flushed > course.stored && target != course.present.segment {
            // It looks at files.
            tokio::task::block_in_place(|| course.go_to(target, &self.pg_wal, size, &self.waste));
        }
        let course = self.course.insert(course);
        let way = Way {
            archive: &self.archive,
            store: self.archive.writable(),
            wrapping: self.archive.wrapping().await?.clone().compressing(zstd(&self.archive)),
            pg_wal: &self.pg_wal,
            epoch: course.epoch,
            waste: &self.waste,
        };
        let mut bytes = 0;
        let waiting = match course.pending.is_over() {
            true => None,
            false => tokio::task::block_in_place(|| course.pending.first(&self.pg_wal)),
        };
        let safe = match waiting {
            None => {
                bytes = course.ship(&way, position.flushed, size).await?;
                Some(course.stored)
            }
            Some(WalFileName::Segment(first)) if first.timeline == course.timeline => Some(first.start(size)),
            Some(_) => None,
        };
        course.safe = course.safe.max(safe);
        Ok(Shipped {
            epoch: course.epoch,
            timeline: course.timeline,
            stored: course.stored,
            safe: course.safe,
            gap: course.gap,
            bytes,
        })
    }

    async fn begin(&mut self, target: Segment, position: Position, anew: u32) -> Result<Course> {
        let size = self.archive.identity().segment_size;
        let resumed = self.resumed.filter(|shipped| shipped.timeline == target.timeline);
        let first = match resumed {
            Some(shipped) => Segment::containing(shipped.timeline, shipped.stored, size),
            None => target,
        };
        let directory = self.pg_wal.clone();
        let pending = blocking(move || Pending::look(&directory, first)).await?;
        if let Some(shipped) = resumed {
            let covered = shipped.stored.0.saturating_sub(first.start(size).0);
            return Ok(Course {
                epoch: shipped.epoch,
                timeline: shipped.timeline,
                present: Part {
                    segment: first,
                    plan: Plan::resumed(covered),
                },
                leaving: None,
                stored: shipped.stored,
                pending,
                older: Vec::new(),
                safe: shipped.safe,
                gap: shipped.gap,
                anew,
            });
        }
        let store = self.archive.writable();
        let epoch = epoch::take(&store, self.archive.identity(), position).await?;
        let gap = match pending.is_over() {
            true => gap::before(&self.archive, &self.pg_wal, target, &epoch.chunks).await?,
            false => None,
        };
        if let Some(before) = gap {
            tracing::warn!(
                "the archive lacks \"{before}\", so that no backup can be restored to the WAL that is stored now; take a base backup"
            );
        }
        let chunks = epoch.chunks.into_iter().map(|(chunk, _)| chunk);
        let (older, others): (Vec<_>, Vec<_>) = chunks.partition(|chunk| chunk.segment == target);
        let mut waste = self.waste.lock();
        waste.objects.extend(epoch.older);
        waste.segments.extend(others.into_iter().map(|chunk| chunk.segment));
        Ok(Course {
            epoch: epoch.number,
            timeline: target.timeline,
            present: Part::new(target),
            leaving: None,
            stored: target.start(size),
            pending,
            older,
            safe: None,
            gap,
            anew,
        })
    }
}

impl Course {
    /// The server is in another segment now. The one before is brought to its end; what lies between is archived whole before a chunk
    /// of it would be there.
    fn go_to(&mut self, target: Segment, pg_wal: &Path, size: SegmentSize, waste: &Mutex<Waste>) {
        let (from, to) = (self.present.segment.number(size), target.number(size));
        if from == to {
            return;
        }
        let before = std::mem::replace(&mut self.present, Part::new(target));
        if let Some(part) = self.leaving.take() {
            self.pending.left(pg_wal, part.segment);
            waste.lock().segments.insert(part.segment);
        }
        if from + 1 == to {
            self.leaving = Some(before);
            return;
        }
        waste.lock().segments.insert(before.segment);
        for number in from..to {
            let skipped = Segment::from_number(self.timeline, number, size);
            self.pending.left(pg_wal, skipped);
        }
    }

    /// Store everything up to there, in its order: without the end of a segment nobody recovers to the next one. Returns the bytes of
    /// the objects.
    async fn ship(&mut self, way: &Way<'_>, flushed: Lsn, size: SegmentSize) -> Result<u64> {
        let mut bytes = 0;
        if let Some(part) = &mut self.leaving {
            bytes += way.store_unless_archived(part, size.bytes()).await?;
            way.waste.lock().segments.insert(part.segment);
            self.leaving = None;
        }
        // The file of the present segment has no mark.
        let next = |gap: Segment| Segment::from_number(self.timeline, gap.number(size) + 1, size);
        if self.gap.is_some_and(|gap| way.is_archived(next(gap))) {
            self.gap = None;
        }
        let start = self.present.segment.start(size);
        let wanted = flushed.0.saturating_sub(start.0).min(size.bytes());
        bytes += way.store_unless_archived(&mut self.present, wanted).await?;
        self.stored = self.stored.max(flushed);
        if self.present.plan.covered() > 0 {
            let older = self.older.drain(..).map(|chunk| chunk.key());
            way.waste.lock().objects.extend(older);
        }
        Ok(bytes)
    }
}

/// Where chunks come from, and where they go.
struct Way<'a> {
    archive: &'a Archive,
    store: Store,
    wrapping: Wrapping,
    pg_wal: &'a Path,
    epoch: u64,
    waste: &'a Mutex<Waste>,
}

impl Way<'_> {
    fn is_archived(&self, segment: Segment) -> bool {
        tokio::task::block_in_place(|| is_archived(self.pg_wal, segment))
    }

    /// Store a segment up to `to`. Returns the bytes of the objects. One that is archived whole needs none.
    async fn store_unless_archived(&self, part: &mut Part, to: u64) -> Result<u64> {
        let is_whole = to == self.archive.identity().segment_size.bytes();
        if is_whole && self.is_archived(part.segment) {
            return Ok(0);
        }
        match self.store(part, to).await {
            // Its file may be gone then.
            Err(_) if is_whole && self.is_archived(part.segment) => Ok(0),
            stored => stored,
        }
    }

    async fn store(&self, part: &mut Part, to: u64) -> Result<u64> {
        let (identity, segment): (ClusterIdentity, _) = (*self.archive.identity(), part.segment);
        let mut bytes = 0;
        while let Some(span) = part.plan.next(to, identity.segment_size.bytes()) {
            let chunk = TailChunk {
                segment,
                epoch: self.epoch,
                start: span.start,
                end: span.end,
            };
            let key = chunk.key();
            let make = {
                let (path, wrapping) = (self.pg_wal.join(segment.to_string()), self.wrapping.clone());
                let key = key.clone();
                move || chunk::make(&path, segment, span, &identity, &wrapping, &key)
            };
            let (body, frame) = blocking(make).await?;
            self.archive.keep_frame(segment, frame);
            bytes += body.len() as u64;
            part.plan.sent(span);
            // A name that no other process uses.
            let put = self.store.put(&key, body);
            match self.archive.writer() {
                Some(writer) => writer.looking_beside(put).await?,
                None => put.await?,
            }
            let replaced = part.plan.stored(span).into_iter().map(|old| TailChunk {
                start: old.start,
                end: old.end,
                ..chunk
            });
            let replaced = replaced.map(|chunk| chunk.key());
            self.waste.lock().objects.extend(replaced);
        }
        Ok(bytes)
    }
}

/// Chunks are in this format, whatever the others are.
fn zstd(archive: &Archive) -> Compression {
    match archive.compression() {
        level @ Compression::Zstd(_) => level,
        _ => Compression::default(),
    }
}
