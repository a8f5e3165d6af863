//! What a server that cannot read what it encrypts writes down about it, beside the objects: a keyed digest of each WAL file, and
//! where each timeline comes from. Each is written before its object.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use walarchive_storage::{Listed, Store};

use crate::error::{Error, Result};
use crate::formats::manifest::hex;
use crate::lsn::Lsn;
use crate::repository::layout::{self, Key};
use crate::wal::{TimelineHistory, WalFileName};

/// More than any of these notes has, in bytes.
const LIMIT: u64 = 1 << 20;

/// A digest without an object is that of a file that is being archived, unless it is older.
const LEFT: TimeDelta = TimeDelta::days(1);

/// A WAL file as it was before it was encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest {
    /// HMAC-SHA256 in hexadecimal digits.
    pub(crate) digest: String,
    /// Bytes of the file.
    pub(crate) bytes: u64,
}

impl Digest {
    /// As it is written down.
    pub(crate) fn new(sum: &[u8; 32], bytes: u64) -> Self {
        Digest {
            digest: hex(sum),
            bytes,
        }
    }
}

/// Write down the digest of a WAL file whose object will have this SHA-256.
pub(crate) async fn write_digest(store: &Store, name: &WalFileName, object: &[u8; 32], digest: &Digest) -> Result<()> {
    Ok(store.put(&layout::digest(name, object), json(digest)?).await?)
}

/// The digest of the WAL file whose object has this SHA-256; none if nothing is written down about it, or nothing that can be read.
pub(crate) async fn read_digest(store: &Store, name: &WalFileName, object: &[u8; 32]) -> Result<Option<Digest>> {
    let content = store.get(&layout::digest(name, object), LIMIT).await?;
    Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
}

/// Remove what was written down about WAL files that are deleted; and, if there is much of it without an object, that too.
pub(crate) async fn forget(store: &Store, deleted: &[WalFileName]) -> Result<()> {
    let timelines: Vec<Key> = deleted
        .iter()
        .filter_map(|name| match name {
            WalFileName::History(timeline) => Some(layout::timeline(*timeline)),
            _ => None,
        })
        .collect();
    if !timelines.is_empty() {
        store.delete_many(&timelines, |_| {}).await?;
    }
    let notes = store.list(&layout::DIGESTS_FOLDER).await?;
    if notes.is_empty() {
        return Ok(());
    }
    let deleted: HashSet<&WalFileName> = deleted.iter().collect();
    let (mut gone, mut old) = (Vec::new(), BTreeMap::<String, Vec<Key>>::new());
    let young: DateTime<Utc> = Utc::now() - LEFT;
    for note in &notes {
        match layout::wal_of_digest(&note.key) {
            Some(name) if deleted.contains(&name) => gone.push(Key::listed(note)),
            Some(name) if note.last_modified < young => {
                old.entry(name.to_string()).or_default().push(Key::listed(note));
            }
            _ => {}
        }
    }
    if !old.is_empty() {
        let mut there = BTreeSet::new();
        let look = |object: Listed| {
            let name = layout::wal_of_object(&object.key).map(|(name, _)| name.to_string());
            there.extend(name.filter(|name| old.contains_key(name)));
        };
        store.each(&layout::WAL_FOLDER, look).await?;
        old.retain(|name, _| !there.contains(name));
        gone.extend(old.into_values().flatten());
    }
    Ok(store.delete_many(&gone, |_| {}).await?)
}

/// All that was written down about these WAL files.
pub(crate) async fn notes_on(store: &Store, names: &[WalFileName]) -> Result<Vec<Listed>> {
    let (digests, timelines) = tokio::try_join!(
        store.list(&layout::DIGESTS_FOLDER),
        store.list(&layout::TIMELINES_FOLDER)
    )?;
    let names: HashSet<&WalFileName> = names.iter().collect();
    let is_asked_for = |note: &Listed| {
        let name = layout::wal_of_digest(&note.key);
        let name = name.or_else(|| Some(WalFileName::History(layout::timeline_of_note(&note.key)?)));
        name.is_some_and(|name| names.contains(&name))
    };
    Ok(digests.into_iter().chain(timelines).filter(is_asked_for).collect())
}

#[derive(Debug, Serialize, Deserialize)]
struct Timeline {
    parents: Vec<Parent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Parent {
    timeline: u32,
    /// An LSN.
    switch: String,
}

/// Write down where a timeline comes from.
pub(crate) async fn write_timeline(store: &Store, history: &TimelineHistory) -> Result<()> {
    let parent = |(timeline, switch): &(u32, Lsn)| Parent {
        timeline: *timeline,
        switch: switch.to_string(),
    };
    let note = Timeline {
        parents: history.ancestors.iter().map(parent).collect(),
    };
    Ok(store.put(&layout::timeline(history.timeline), json(&note)?).await?)
}

/// Where a timeline comes from, as lines of a history file that tell no reasons; none if nothing is written down about it, or
/// nothing that makes sense.
pub(crate) async fn read_timeline(store: &Store, timeline: u32) -> Result<Option<String>> {
    let Some(content) = store.get(&layout::timeline(timeline), LIMIT).await? else {
        return Ok(None);
    };
    let Ok(note) = serde_json::from_slice::<Timeline>(&content) else {
        return Ok(None);
    };
    let lines = note.parents.iter();
    let lines: String = lines
        .map(|parent| format!("{}\t{}\n", parent.timeline, parent.switch))
        .collect();
    Ok(TimelineHistory::parse(timeline, &lines).map(|_| lines))
}

fn json(note: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(note).map_err(|error| Error::defect(format!("cannot write JSON: {error}")))?;
    Ok(Bytes::from(text))
}
