//! The index of what a server has archived, from its own pg_wal: nothing is downloaded.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use super::block::{Block, Noted, Place, Written};
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::repository::cluster::ClusterIdentity;
use crate::wal::{Segment, SegmentSize, WalWalker, Walked};
use walarchive_storage::Store;

/// So many segments are read in one go; the rest comes with the next one.
const MOST: usize = 512;

/// So many segments at once are worth a request for each block.
const MANY: usize = 64;

/// The part of the time that nothing is read.
const RESTING: u32 = 2;

/// What is in an index that is not written waits so long: each time a request, for what the WAL tells as well. But nobody finds a
/// restore point without reading WAL, so these do not wait.
const WAITING: Duration = Duration::from_secs(3600);

/// What is known of a server's archived segments.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// Up to these, by timeline, all was read that was there to be read.
    done: BTreeMap<u32, Segment>,
    /// The block that is being filled.
    open: Option<Open>,
}

#[derive(Debug, Clone)]
struct Open {
    place: Place,
    block: Block,
    /// Since when something in it is not written.
    unwritten: Option<Instant>,
    /// Up to there all was read that is written.
    written: Option<Segment>,
}

impl Open {
    async fn write(&mut self, store: &Store) -> Result<Written> {
        let written = self.block.write(store, self.place).await?;
        if written != Written::No {
            self.unwritten = None;
        }
        Ok(written)
    }

    /// Is it time to write it?
    fn is_due(&self) -> bool {
        self.unwritten.is_some_and(|since| since.elapsed() >= WAITING)
    }
}

impl Local {
    /// This server may not write now, and may become the writer: what was read and is not written is read again.
    fn without(mut self, open: &Open) -> Self {
        let timeline = open.place.timeline;
        match open.written {
            Some(written) => _ = self.done.insert(timeline, written),
            None => _ = self.done.remove(&timeline),
        }
        Local { open: None, ..self }
    }

    /// The segments that the server has archived since, and still has, in order.
    pub fn news(&self, pg_wal: &Path) -> Result<Vec<Segment>> {
        let status = pg_wal.join("archive_status");
        let failed = |error| Error::io("read", &status, error);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&status).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".done"));
            let Some(segment) = name.and_then(|name| name.parse::<Segment>().ok()) else {
                continue;
            };
            if self.done.get(&segment.timeline).is_none_or(|done| segment > *done) {
                found.push(segment);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Read these segments of `pg_wal`, slowly, and note what is in them.
pub async fn index(
    store: &Store,
    pg_wal: &Path,
    identity: &ClusterIdentity,
    mut local: Local,
    news: Vec<Segment>,
) -> Result<Local> {
    let size = identity.segment_size;
    let is_much = news.len() >= MANY;
    let mut blocks: BTreeMap<Place, Vec<Segment>> = BTreeMap::new();
    for segment in news.into_iter().take(MOST) {
        blocks.entry(Place::of(segment, size)).or_default().push(segment);
    }
    for (place, segments) in blocks {
        let mut open = match local.open.take() {
            Some(open) if open.place == place => open,
            before => {
                if let Some(mut before) = before.filter(|before| before.unwritten.is_some())
                    && before.write(store).await? == Written::No
                {
                    return Ok(local.without(&before));
                }
                let block = Block::read(store, place).await?;
                Open {
                    place,
                    block,
                    unwritten: None,
                    written: local.done.get(&place.timeline).copied(),
                }
            }
        };
        let wanted: Vec<Segment> = segments
            .iter()
            .filter(|segment| !open.block.segments.contains_key(&segment.number(size)))
            .copied()
            .collect();
        let (directory, walker) = (
            pg_wal.to_owned(),
            WalWalker::new(size, Some(identity.system_identifier)),
        );
        let read = blocking(move || Ok(read(&directory, walker, &wanted, size))).await?;
        if !read.is_empty() {
            open.unwritten.get_or_insert_with(Instant::now);
        }
        let has_point = read.iter().any(|(_, noted)| !noted.restore_points.is_empty());
        open.block.segments.extend(read);
        let is_due = has_point || is_much || open.is_due() || open.block.is_full();
        if open.unwritten.is_some() && is_due && open.write(store).await? == Written::No {
            return Ok(local.without(&open));
        }
        if let Some(last) = segments.last() {
            local.done.insert(last.timeline, *last);
        }
        if open.unwritten.is_none() {
            open.written = local.done.get(&place.timeline).copied();
        }
        local.open = Some(open);
    }
    Ok(local)
}

/// A segment that is gone meanwhile, or not in order, is left out: the archive has it, and tells.
fn read(directory: &Path, mut walker: WalWalker, segments: &[Segment], size: SegmentSize) -> Vec<(u64, Noted)> {
    let mut found = Vec::new();
    let mut buffer = vec![0; 256 << 10];
    let mut last = None;
    for segment in segments.iter().copied() {
        let begun = Instant::now();
        let number = segment.number(size);
        if number > 0 && last != Some(number - 1) {
            let before = Segment::from_number(segment.timeline, number - 1, size);
            let _ = feed(directory, &mut walker, before, &mut buffer);
        }
        last = Some(number);
        if let Ok(walked) = feed(directory, &mut walker, segment, &mut buffer)
            && walked.problem.is_none()
        {
            found.push((number, Noted::from(&walked)));
        }
        // Nobody waits for this, and others have work to do.
        std::thread::sleep(begun.elapsed() * RESTING);
    }
    found
}

fn feed(directory: &Path, walker: &mut WalWalker, segment: Segment, buffer: &mut [u8]) -> std::io::Result<Walked> {
    let mut file = File::open(directory.join(segment.to_string()))?;
    walker.begin(segment);
    loop {
        match file.read(buffer)? {
            0 => break,
            bytes => walker.feed(&buffer[..bytes]),
        }
    }
    Ok(walker.end())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use chrono::{DateTime, Utc};
    use walarchive_testkit::meddler::{Act, Meddler, Op};

    use super::*;
    use crate::wal::generator::{self, Generator};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_few_segments_without_a_restore_point_cost_no_request() {
        let meddler = Meddler::new(Arc::default());
        let requests: [Arc<AtomicUsize>; 2] = Default::default();
        let (gets, puts) = (requests[0].clone(), requests[1].clone());
        meddler.rule(move |op, _| {
            match op {
                Op::Get => _ = gets.fetch_add(1, Ordering::Relaxed),
                Op::Put => _ = puts.fetch_add(1, Ordering::Relaxed),
                Op::Delete | Op::List => {}
            }
            Act::Pass
        });
        let store = Store::of(Arc::new(meddler), "memory:");
        let pg_wal = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(pg_wal.path().join("archive_status")).expect("created");
        let identity = ClusterIdentity {
            system_identifier: generator::SYSTEM_IDENTIFIER,
            major_version: 15,
            segment_size: generator::size(),
        };
        let time: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
        let mut wal = Generator::new(1, 60);
        for number in 0..8 {
            wal.commit(time);
            if number == 2 {
                wal.restore_point("here");
            }
            wal.switch();
        }
        let mut local = Local::default();
        let mut counts = Vec::new();
        for (segment, bytes) in wal.segments() {
            std::fs::write(pg_wal.path().join(segment.to_string()), bytes).expect("written");
            let done = format!("archive_status/{segment}.done");
            std::fs::write(pg_wal.path().join(done), "").expect("written");
            requests.iter().for_each(|count| count.store(0, Ordering::Relaxed));
            let news = local.news(pg_wal.path()).expect("read");
            assert_eq!(news, [segment]);
            local = index(&store, pg_wal.path(), &identity, local, news)
                .await
                .expect("read");
            let [gets, puts] = [0, 1].map(|kind: usize| requests[kind].load(Ordering::Relaxed));
            counts.push((gets, puts));
        }
        // The restore point is written, and a block when the next one begins.
        assert_eq!(counts, [(1, 0), (0, 0), (0, 1), (0, 0), (1, 1), (0, 0), (0, 0), (0, 0)]);
        let place = Place { timeline: 1, number: 0 };
        let noted = Block::read(&store, place).await.expect("read");
        assert_eq!(noted.segments.into_keys().collect::<Vec<u64>>(), [60, 61, 62, 63]);
        // What is not written is read again by the next server.
        assert_eq!(Local::default().news(pg_wal.path()).expect("read").len(), 8);
    }
}
