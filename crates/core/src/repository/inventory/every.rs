//! All WAL files of a repository. A listing comes in pages, each of which is asked for with the end of the one before, so a hundred
//! thousand files are a hundred answers in a row. But segments have consecutive names: where the pages of a run of them begin is known
//! beforehand, and they are asked for at the same time.
//!
//! What is asked for is never less than everything: the ranges follow each other without a gap, whatever is in them.

use std::ops::ControlFlow;

use futures::{StreamExt, TryStreamExt};
use walarchive_storage::{Listed, Store};

use super::WalObject;
use crate::error::Result;
use crate::repository::layout;
use crate::wal::{Segment, SegmentSize, WalFileName};

/// Objects on a page, as most stores have it.
const PAGE: u64 = 1000;

/// Segments of a range: all of its objects are on one page, with a few of other kinds, and one behind them that tells that it is over.
const RANGE: u64 = 990;

/// Ranges that are asked for at the same time: few at first, as a run may be at its end.
const FIRST_WIDTH: u64 = 2;
const MOST_WIDTH: u64 = 16;

/// All WAL files of a cluster with segments of this size. With a wrong size it takes longer.
pub(super) async fn list(store: &Store, size: SegmentSize) -> Result<Vec<WalObject>> {
    if store.lists_from_anywhere()
        && let Some(found) = in_ranges(store, size).await?
    {
        return Ok(found);
    }
    let mut found = Vec::new();
    store
        .each(&layout::WAL_FOLDER, |object| found.extend(WalObject::of(&object)))
        .await?;
    Ok(found)
}

/// What was listed of one range.
#[derive(Default)]
struct Part {
    objects: Vec<WalObject>,
    /// The greatest key.
    last: Option<String>,
    /// The keys came in their order.
    is_in_order: bool,
    /// There is nothing behind that.
    is_end: bool,
}

/// None: the store does not list in the order of the keys.
async fn in_ranges(store: &Store, size: SegmentSize) -> Result<Option<Vec<WalObject>>> {
    let mut found = Vec::new();
    let mut after = layout::WAL_FOLDER.to_string();
    loop {
        let page = part(store, &after, None).await?;
        if !page.is_in_order {
            return Ok(None);
        }
        let run = run_of(&page.objects, size);
        found.extend(page.objects);
        let Some(last) = page.last.filter(|_| !page.is_end) else {
            return Ok(Some(found));
        };
        after = last;
        let Some(mut reached) = run else { continue };
        let mut width = FIRST_WIDTH;
        loop {
            let ends: Vec<Segment> = (1..=width)
                .map_while(|step| later(reached, step * RANGE, size))
                .collect();
            let Some(last) = ends.last().copied() else { break };
            let bounds: Vec<String> = ends.iter().map(|end| behind(*end)).collect();
            let begins = [after.clone()].into_iter().chain(bounds.iter().cloned());
            let parts: Vec<Part> = futures::stream::iter(begins.zip(bounds.clone()))
                .map(|(begin, end)| async move { part(store, &begin, Some(&end)).await })
                .buffered(MOST_WIDTH as usize)
                .try_collect()
                .await?;
            if parts.iter().any(|part| !part.is_in_order) {
                return Ok(None);
            }
            let goes_on = parts.iter().all(|part| !part.objects.is_empty());
            found.extend(parts.into_iter().flat_map(|part| part.objects));
            (reached, after) = (last, behind(last));
            if !goes_on {
                break;
            }
            width = (width * 2).min(MOST_WIDTH);
        }
    }
}

/// What comes after a key: up to `end`, or a page of it.
async fn part(store: &Store, after: &str, end: Option<&str>) -> Result<Part> {
    let mut part = Part {
        is_in_order: true,
        is_end: true,
        ..Part::default()
    };
    let mut count = 0;
    let look = |listed: Listed| {
        let key = listed.key.as_str();
        part.is_in_order &= key > after && part.last.as_deref().is_none_or(|last| key > last);
        if !part.is_in_order || end.is_some_and(|end| key > end) {
            part.is_end = false;
            return ControlFlow::Break(());
        }
        part.objects.extend(WalObject::of(&listed));
        part.last = Some(listed.key);
        count += 1;
        // The next one would be asked for with this one's key.
        match end.is_none() && count == PAGE {
            true => {
                part.is_end = false;
                ControlFlow::Break(())
            }
            false => ControlFlow::Continue(()),
        }
    };
    store.each_after(&layout::WAL_FOLDER, after, look).await?;
    Ok(part)
}

/// The last segment of a page, if it is full of consecutive ones.
fn run_of(objects: &[WalObject], size: SegmentSize) -> Option<Segment> {
    let mut segments = objects.iter().filter_map(|object| match object.name {
        WalFileName::Segment(segment) => Some(segment),
        _ => None,
    });
    let first = segments.next()?;
    let (mut last, mut count) = (first, 1);
    for segment in segments {
        (last, count) = (segment, count + 1);
    }
    let is_near = last
        .number(size)
        .checked_sub(first.number(size))
        .is_some_and(|distance| distance < 2 * PAGE);
    let is_run = first.timeline == last.timeline && is_near;
    (is_run && count >= PAGE / 2).then_some(last)
}

/// None: the names end before that.
fn later(segment: Segment, count: u64, size: SegmentSize) -> Option<Segment> {
    let most = u64::MAX / size.bytes();
    let number = segment
        .number(size)
        .checked_add(count)
        .filter(|number| *number < most)?;
    Some(Segment::from_number(segment.timeline, number, size))
}

/// A key behind all objects of a segment, and before those of the next: "Z" comes after the dot that may follow a name.
fn behind(segment: Segment) -> String {
    format!("{}/{segment}Z", layout::WAL_FOLDER)
}

#[cfg(test)]
mod tests;
