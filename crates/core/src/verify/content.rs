//! Is every WAL object what its name says, to the last record?

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::Utc;
use futures::StreamExt;
use rand::RngExt;
use serde::Serialize;

use super::VerifyStatus;
use super::record::Verified;
use crate::encrypted::{self, blame, refuse_unread};
use crate::error::{Error, Result, StorageError};
use crate::repository::encryption;
use crate::repository::inventory::{Inventory, SegmentRange, WalObject, walk_tail};
use crate::stored::progress::{Counted, ReadProgress};
use crate::wal::{Segment, SegmentSize, WalFileName, WalWalker, Walked};
use walarchive_storage::{RangeReader, Store};

/// Bytes that are decompressed at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Segments that are walked through one after the other, so that records that span two of them are checked; the one before
/// is read again for the record that goes on into the first of them.
const CHUNK: usize = 32;

/// Chunks at a time, each with some 40 MB in memory.
const CONCURRENCY: usize = 4;

/// Which segments to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// So many, spread over all.
    Sample(usize),
    /// Those that were not verified since they were stored.
    New,
    /// All.
    All,
}

/// The findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// FAILURE if something is damaged; WARNING if there is no WAL at all.
    pub status: VerifyStatus,
    /// In order of timeline and WAL.
    pub details: Vec<ContentRow>,
    /// Segments that were read.
    pub verified_count: u64,
    /// Segments that were not, since they were verified before.
    pub known_count: u64,
}

/// Consecutive segments that are in order, or one file that is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContentRow {
    /// Timeline.
    pub timeline_id: u32,
    /// The first segment; none for a history file.
    pub start_segment: Option<String>,
    /// The last one.
    pub end_segment: Option<String>,
    /// How many.
    pub segments_count: u64,
    /// OK or FAILURE.
    pub status: VerifyStatus,
    /// The faults, as sentences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Consecutive objects of one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chunk {
    before: Option<WalObject>,
    objects: Vec<WalObject>,
}

/// The verdict on one object: in order, damaged, or gone since it was listed.
struct Outcome {
    object: WalObject,
    walked: Option<Walked>,
}

/// Download, decompress and walk through the selected segments, and the tail unless it is a sample; what was found to be in order is remembered in the
/// repository. An error that the store could not be asked ends it; what was verified until then is remembered, too.
pub async fn verify_content(
    store: &Store,
    inventory: &Inventory,
    selection: Selection,
    progress: Arc<ReadProgress>,
) -> Result<Content> {
    refuse_unread(store).await?;
    encryption::refuse_without_right_key(store).await?;
    let verified = Verified::read(store).await?;
    let selected = select(inventory, &verified, selection);
    let known_count = match selection {
        Selection::New => segments(inventory).count() - selected.len(),
        _ => 0,
    };
    let bytes = selected.iter().map(|object| object.size).sum();
    progress.bytes_total.store(bytes, Ordering::Relaxed);
    let chunks = chunks(inventory, &selected, selection);
    let mut work = futures::stream::iter(chunks)
        .map(|chunk| check_chunk(store, inventory, chunk, &progress))
        .buffer_unordered(CONCURRENCY);
    let (mut outcomes, mut failure) = (Vec::new(), None);
    while let Some((checked, failed)) = work.next().await {
        outcomes.extend(checked);
        if let Some(error) = failed {
            failure = Some(error);
            break;
        }
    }
    drop(work);
    remember(store, inventory, &verified, &outcomes).await;
    if let Some(error) = failure {
        return Err(error);
    }
    let tail = match selection {
        Selection::New | Selection::All => check_tail(store, inventory).await?,
        Selection::Sample(_) => Vec::new(),
    };
    Ok(report(inventory, outcomes, tail, known_count as u64))
}

/// Read what the tail has of segments that are not archived whole. It is not remembered: more of it comes.
async fn check_tail(store: &Store, inventory: &Inventory) -> Result<Vec<ContentRow>> {
    let size = inventory.segment_size;
    let mut rows = Vec::new();
    for (segment, cover) in inventory.covers() {
        let walker = WalWalker::new(size, inventory.system_identifier);
        let (_, walked) = walk_tail(store, inventory.tail.objects(cover), walker, size).await?;
        let range = SegmentRange::new(segment.timeline, segment.number(size), segment.number(size), size);
        rows.extend(walked.map(|walked| row(&range, walked.problem.as_deref())));
    }
    Ok(rows)
}

fn segments(inventory: &Inventory) -> impl Iterator<Item = &WalObject> {
    let is_segment = |object: &&WalObject| matches!(object.name, WalFileName::Segment(_));
    inventory.wal.iter().filter(is_segment)
}

fn select(inventory: &Inventory, verified: &Verified, selection: Selection) -> Vec<WalObject> {
    let all = segments(inventory).copied();
    match selection {
        Selection::All => all.collect(),
        Selection::New => all.filter(|object| verified.time_of(object).is_none()).collect(),
        Selection::Sample(count) => {
            let all: Vec<WalObject> = all.collect();
            let count = count.min(all.len());
            // One of each of as many parts as are wanted.
            let bound = |part: usize| part * all.len() / count;
            (0..count)
                .map(|part| all[rand::rng().random_range(bound(part)..bound(part + 1))])
                .collect()
        }
    }
}

fn chunks(inventory: &Inventory, selected: &[WalObject], selection: Selection) -> Vec<Chunk> {
    let size = inventory.segment_size;
    let mut chunks: Vec<Chunk> = Vec::new();
    for object in selected {
        match chunks.last_mut() {
            Some(chunk) if chunk.objects.len() < CHUNK && follows(chunk.objects.last(), object, size) => {
                chunk.objects.push(*object);
            }
            _ => chunks.push(Chunk {
                // Of a sample, each one costs as much again.
                before: match selection {
                    Selection::Sample(_) => None,
                    _ => before(inventory, object),
                },
                objects: vec![*object],
            }),
        }
    }
    chunks
}

/// The same segment may be there in two formats.
fn follows(last: Option<&WalObject>, object: &WalObject, size: SegmentSize) -> bool {
    let segments = last.and_then(|last| last.name.segment()).zip(object.name.segment());
    segments.is_some_and(|(last, segment)| last == segment || last.next(size) == segment)
}

/// The segment before it, on its timeline or on its parent there.
fn before(inventory: &Inventory, object: &WalObject) -> Option<WalObject> {
    let size = inventory.segment_size;
    let segment = object.name.segment()?;
    let number = segment.number(size).checked_sub(1)?;
    let parent = inventory.history(segment.timeline).parent();
    let timelines = [Some(segment.timeline), parent.map(|(timeline, _)| timeline)];
    timelines
        .into_iter()
        .flatten()
        .find_map(|timeline| inventory.object_of(Segment::from_number(timeline, number, size)))
        .copied()
}

/// The findings, and the error that ended the work, if one did.
async fn check_chunk(
    store: &Store,
    inventory: &Inventory,
    chunk: Chunk,
    progress: &Arc<ReadProgress>,
) -> (Vec<Outcome>, Option<Error>) {
    let mut walker = WalWalker::new(inventory.segment_size, inventory.system_identifier);
    if let Some(before) = chunk.before {
        let nowhere = Arc::default();
        let (back, outcome) = check_object(store, walker, before, inventory.segment_size, &nowhere).await;
        walker = back;
        // If it is damaged, that is not the question here.
        if let Err(error) = outcome {
            return (Vec::new(), Some(error));
        }
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    for object in chunk.objects {
        let (back, outcome) = check_object(store, walker, object, inventory.segment_size, progress).await;
        walker = back;
        match outcome {
            Ok(walked) => outcomes.push(Outcome { object, walked }),
            Err(error) => return (outcomes, Some(error)),
        }
    }
    (outcomes, None)
}

/// None if the object is gone: somebody prunes the repository.
pub(super) async fn check_object(
    store: &Store,
    mut walker: WalWalker,
    object: WalObject,
    size: SegmentSize,
    progress: &Arc<ReadProgress>,
) -> (WalWalker, Result<Option<Walked>>) {
    let Some(segment) = object.name.segment() else {
        return (walker, Ok(None));
    };
    let reader = encrypted::reader(store, &object.key(), object.size);
    let progress = Arc::clone(progress);
    let work = move || {
        walker.begin(segment);
        let result = walk(&mut walker, reader, &object, size, &progress);
        progress.files_done.fetch_add(1, Ordering::Relaxed);
        (walker, result)
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn walk(
    walker: &mut WalWalker,
    mut reader: RangeReader,
    object: &WalObject,
    size: SegmentSize,
    progress: &ReadProgress,
) -> Result<Option<Walked>> {
    let mut source = Counted::new(&mut reader, progress);
    let read = object.format.decoder(&mut source).and_then(|mut decoder| {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut fed = 0;
        loop {
            match decoder.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => {
                    walker.feed(&buffer[..bytes]);
                    fed += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if fed > size.bytes() {
                return Err(io::Error::other("it has more bytes than a WAL segment"));
            }
        }
    });
    let mut walked = walker.end();
    let mut blame = |why: String| match blame(&mut reader, object.key(), object.format, why) {
        Error::Storage(StorageError::NotFound { .. }) => Ok(None),
        failure => failure.content_finding().map(Some).ok_or(failure),
    };
    let damaged = match (read, &walked.problem) {
        (Ok(()), None) => None,
        // An object that is not compressed has no decoder that would object to encryption.
        (Ok(()), Some(problem)) => blame(problem.clone())?.filter(|reason| reason != problem),
        (Err(error), _) => match blame(format!("It cannot be decompressed: {error}."))? {
            None => return Ok(None),
            damaged => damaged,
        },
    };
    if damaged.is_some() {
        walked.problem = damaged;
        walked.begins_before = false;
        // The next segment must not be taken to follow.
        *walker = walker.anew();
    }
    Ok(Some(walked))
}

/// A user who may only read is told the findings all the same.
async fn remember(store: &Store, inventory: &Inventory, verified: &Verified, outcomes: &[Outcome]) {
    let (mut good, mut bad) = (BTreeSet::new(), BTreeSet::new());
    for outcome in outcomes {
        let (Some(segment), Some(walked)) = (outcome.object.name.segment(), &outcome.walked) else {
            continue;
        };
        match walked.problem {
            None => _ = good.insert(segment),
            Some(_) => {
                bad.insert(segment);
                if walked.begins_before
                    && let Some(before) = before(inventory, &outcome.object)
                {
                    bad.extend(before.name.segment());
                }
            }
        }
    }
    let after = verified.after(inventory, &good, &bad, Utc::now());
    if after != *verified
        && let Err(error) = after.write(store).await
    {
        tracing::warn!("could not remember what was verified: {error}");
    }
}

fn report(inventory: &Inventory, mut outcomes: Vec<Outcome>, tail: Vec<ContentRow>, known_count: u64) -> Content {
    outcomes.sort_by_key(|outcome| outcome.object.name.segment());
    let mut details: Vec<ContentRow> = inventory
        .damaged_histories
        .iter()
        .map(|(timeline, reason)| ContentRow {
            timeline_id: *timeline,
            start_segment: None,
            end_segment: None,
            segments_count: 0,
            status: VerifyStatus::Failure,
            detail: Some(format!("{} cannot be used: {reason}", WalFileName::History(*timeline))),
        })
        .collect();
    let mut verified_count = 0;
    let mut last: Option<SegmentRange> = None;
    for outcome in &outcomes {
        let (Some(segment), Some(walked)) = (outcome.object.name.segment(), &outcome.walked) else {
            continue;
        };
        verified_count += 1;
        let size = inventory.segment_size;
        let range = match last {
            Some(range) if walked.problem.is_none() && range.last.next(size) == segment => {
                details.pop();
                SegmentRange {
                    last: segment,
                    count: range.count + 1,
                    ..range
                }
            }
            _ => SegmentRange {
                first: segment,
                last: segment,
                count: 1,
            },
        };
        details.push(row(&range, walked.problem.as_deref()));
        last = Some(range).filter(|_| walked.problem.is_none());
    }
    details.extend(tail);
    details.sort_by_key(|row| row.timeline_id);
    let status = details.iter().map(|row| row.status).max();
    let nothing = match known_count {
        0 => VerifyStatus::Warning,
        _ => VerifyStatus::Ok,
    };
    Content {
        status: status.unwrap_or(nothing),
        details,
        verified_count,
        known_count,
    }
}

fn row(range: &SegmentRange, problem: Option<&str>) -> ContentRow {
    ContentRow {
        timeline_id: range.first.timeline,
        start_segment: Some(range.first.to_string()),
        end_segment: Some(range.last.to_string()),
        segments_count: range.count,
        status: match problem {
            None => VerifyStatus::Ok,
            Some(_) => VerifyStatus::Failure,
        },
        detail: problem.map(str::to_owned),
    }
}
