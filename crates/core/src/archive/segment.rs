//! Ask for a segment that recovery wants. The answer that it is not there is believed by recovery, so all that belongs to this answer is
//! asked for after recovery has asked, and at the same time as far as it can be: recovery waits for each round of requests.

use std::path::Path;
use std::time::Duration;

use futures::future::{Either, select};
use futures::try_join;
use walarchive_storage::Store;

use super::fetch::{Fetched, Found, bring, find_elsewhere, find_in};
use super::hole::Behind;
use super::identity;
use super::tail::Tail;
use crate::codec::Format;
use crate::error::{Error, Result};
use crate::repository::layout;
use crate::wal::{Segment, SegmentSize, WalFileName};

/// What the archive says when it is asked for a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was there.
    Fetched(Fetched),
    /// It is not archived whole.
    Absent {
        /// The URL of its object.
        object: String,
        /// What the tail has.
        tail: Tail,
        /// What comes after the segment. None if that was not asked, or if the segment may have come in the place of its tail
        /// meanwhile: then it is to be looked for once more.
        behind: Option<Behind>,
    },
}

/// How a segment is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking {
    /// The format in which an object is looked for first.
    pub first: Format,
    /// No more bytes of the segment are given out.
    pub most: u64,
    /// Is it to be told what comes after the segment, if it is not there? So long that listing may take.
    pub behind: Option<Duration>,
    /// Was the segment not there a moment ago? Then all is asked for at once. If it has come since, that costs some requests more.
    pub expects_absence: bool,
}

/// Fetch a segment to `target`, which appears there whole or not at all. If it is not there, it is said what else is.
pub async fn fetch_segment(store: &Store, segment: Segment, target: &Path, asking: Asking) -> Result<Answer> {
    let size = identity::segment_size_near(target);
    let name = WalFileName::Segment(segment);
    let looked = match asking.expects_absence && asking.behind.is_some() {
        true => Box::pin(at_once(store, segment, size, asking)).await?,
        false => None,
    };
    let (found, tail, behind) = match looked {
        Some(looked) => looked,
        None => Box::pin(in_turn(store, segment, size, asking)).await?,
    };
    match found {
        Some(found) => bring(store, &name, target, found, asking.most)
            .await
            .map(Answer::Fetched),
        None => Ok(Answer::Absent {
            object: store.object_url(&layout::wal(&name, asking.first)),
            // While a tail is stored, the segment may be archived after it was asked for, and its tail be gone before that was
            // listed. A look at the archive after that one tells.
            behind: behind.filter(|_| !tail.is_in_use),
            tail,
        }),
    }
}

type Looked = (Option<Found>, Tail, Option<Behind>);

/// One request if the segment is there, else one round of them after it.
async fn in_turn(store: &Store, segment: Segment, size: Option<SegmentSize>, asking: Asking) -> Result<Looked> {
    match find_in(store, &WalFileName::Segment(segment), asking.first).await? {
        Some(found) => Ok((Some(found), Tail::default(), None)),
        None => Box::pin(otherwise(store, segment, size, asking)).await,
    }
}

/// All in one round. None: the listing has the segment.
async fn at_once(store: &Store, segment: Segment, size: Option<SegmentSize>, asking: Asking) -> Result<Option<Looked>> {
    let name = WalFileName::Segment(segment);
    let own = Box::pin(find_in(store, &name, asking.first));
    let others = Box::pin(otherwise(store, segment, size, asking));
    let (found, others) = unless_there(own, others).await?;
    let (elsewhere, tail, behind) = others.unwrap_or_default();
    match found.or(elsewhere) {
        None if behind.as_ref().is_some_and(Behind::has_segment) => Ok(None),
        found => Ok(Some((found, tail, behind))),
    }
}

/// What there is if the segment is not there in the first format.
async fn otherwise(store: &Store, segment: Segment, size: Option<SegmentSize>, asking: Asking) -> Result<Looked> {
    let name = WalFileName::Segment(segment);
    let behind = async {
        match asking.behind {
            // Whoever needs it looks again, and tells the error.
            Some(limit) => Ok(look_behind(store, segment, limit).await.ok()),
            None => Ok(None),
        }
    };
    let others = Box::pin(async { try_join!(Tail::find(store, segment, size), behind) });
    let elsewhere = Box::pin(find_elsewhere(store, &name, asking.first));
    let (found, others) = unless_there(elsewhere, others).await?;
    let (tail, behind) = others.unwrap_or_default();
    Ok((found, tail, behind))
}

/// Both at the same time. If what is looked for is there, the others do not matter, and are not waited for.
async fn unless_there<T, U>(
    wanted: impl Future<Output = Result<Option<T>>> + Unpin,
    others: impl Future<Output = Result<U>> + Unpin,
) -> Result<(Option<T>, Option<U>)> {
    let (found, others) = match select(wanted, others).await {
        Either::Left((found, others)) => (found?, Either::Left(others)),
        Either::Right((others, wanted)) => (wanted.await?, Either::Right(others)),
    };
    match (found, others) {
        (Some(found), _) => Ok((Some(found), None)),
        (None, Either::Left(others)) => others.await.map(|others| (None, Some(others))),
        (None, Either::Right(others)) => others.map(|others| (None, Some(others))),
    }
}

async fn look_behind(store: &Store, segment: Segment, limit: Duration) -> Result<Behind> {
    match tokio::time::timeout(limit, Behind::look(store, segment)).await {
        Ok(behind) => behind,
        Err(_) => Err(Error::timeout("list", "the WAL in the archive", limit)),
    }
}

#[cfg(test)]
mod tests;
