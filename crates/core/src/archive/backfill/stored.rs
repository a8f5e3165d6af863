//! What is in the archive.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use walarchive_storage::{Listed, Store};

use super::local::Line;
use crate::codec::Format;
use crate::error::Result;
use crate::repository::inventory::key_before;
use crate::repository::{self, layout};
use crate::wal::WalFileName;

/// May a listing end when it has come beyond the last segment?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    /// If the store usually lists in order. What it does not show may be there all the same.
    Short,
    /// No: all that there is after the first one is looked at.
    Whole,
}

/// The numbers of the segments of the history that are in the archive, from `first` on and before `end`, and how they are
/// compressed.
pub(super) async fn numbers(
    store: &Store,
    line: &Line,
    first: u64,
    end: u64,
    listing: Listing,
) -> Result<BTreeMap<u64, Format>> {
    let mut found = BTreeMap::new();
    each(store, line, first, end, listing, |number, format| {
        found.insert(number, format);
    })
    .await?;
    Ok(found)
}

/// The newest segment of the history in the archive before that number, however old it is. None is an answer to believe: a
/// repository was seen before and afterwards, and all was listed. A directory that is not mounted is empty, too.
pub(super) async fn newest_before(store: &Store, line: &Line, end: u64) -> Result<Option<u64>> {
    let mut newest = None;
    each(store, line, 0, end, Listing::Short, |number, _| {
        newest = newest.max(Some(number));
    })
    .await?;
    if newest.is_none() {
        seen(store).await?;
        each(store, line, 0, end, Listing::Whole, |number, _| {
            newest = newest.max(Some(number));
        })
        .await?;
        seen(store).await?;
    }
    Ok(newest)
}

/// Is there a repository at all?
pub(super) async fn seen(store: &Store) -> Result<()> {
    match repository::is_there(store).await? {
        true => Ok(()),
        false => Err(repository::none_in(store)),
    }
}

/// Nothing of a listing is kept but what `look` keeps.
async fn each(
    store: &Store,
    line: &Line,
    first: u64,
    end: u64,
    listing: Listing,
    mut look: impl FnMut(u64, Format),
) -> Result<()> {
    if first >= end {
        return Ok(());
    }
    let last = line.numbered(end - 1);
    let may_end = listing == Listing::Short && store.lists_in_order();
    let visit = |object: Listed| {
        let Some((WalFileName::Segment(segment), format)) = layout::wal_of_object(&object.key) else {
            return ControlFlow::Continue(());
        };
        if segment > last && may_end {
            return ControlFlow::Break(());
        }
        let number = segment.number(line.size());
        if (first..end).contains(&number) && line.branch.reads(segment) {
            look(number, format);
        }
        ControlFlow::Continue(())
    };
    let after = key_before(line.numbered(first));
    Ok(store.each_after(&layout::WAL_FOLDER, &after, visit).await?)
}

/// Is the file in the archive, however it is compressed?
pub(super) async fn has(store: &Store, name: &WalFileName) -> Result<bool> {
    for format in Format::ALL {
        if store.size(&layout::wal(name, format)).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
