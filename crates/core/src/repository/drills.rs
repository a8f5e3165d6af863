//! What restore drills have shown: an object for each, below a folder for each backup. Its name tells when the drill ended and how,
//! so that a listing is enough to say which backups are proven.
//!
//! These are notes that change nothing else, each under a name of its own. So every host writes them, not only the one that has the
//! lease: a drill is best done on another one.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, Utc};
use serde::{Deserialize, Serialize};

use super::layout::{self, Key};
use crate::encrypted::metadata;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use walarchive_storage::Store;

/// So many are kept of each backup.
const KEPT: usize = 10;

/// More than any has, in bytes.
const LIMIT: u64 = 1 << 20;

/// So many are read to find one of this machine.
const LOOKED_AT: usize = 5;

const TIME: &str = "%Y%m%dT%H%M%S%6fZ";

/// How a drill, or a check of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrillStatus {
    /// All is well.
    Ok,
    /// Something is not.
    Failed,
    /// It was not looked at.
    Skipped,
}

impl DrillStatus {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            DrillStatus::Ok => "ok",
            DrillStatus::Failed => "failed",
            DrillStatus::Skipped => "skipped",
        }
    }
}

/// One step of a drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillCheck {
    /// Its name.
    pub check: String,
    /// How it ended.
    pub status: DrillStatus,
    /// What was found.
    pub detail: String,
    /// How long it took.
    pub seconds: f64,
}

/// One drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// The backup.
    pub backup: String,
    /// The machine on which it was restored.
    pub host: String,
    /// When the drill began.
    pub start_time: DateTime<Utc>,
    /// When it ended.
    pub stop_time: DateTime<Utc>,
    /// The result of all checks.
    pub status: DrillStatus,
    /// The recovery target.
    pub target: String,
    /// Stored bytes of the backup.
    pub stored_bytes: u64,
    /// From the first byte to a directory on which a server can start.
    pub restore_seconds: Option<f64>,
    /// WAL segments on the way to the target.
    pub segments: u64,
    /// From the server's start to the end of recovery.
    pub replay_seconds: Option<f64>,
    /// The end of the WAL that was replayed.
    pub lsn: Option<Lsn>,
    /// The timeline that began there.
    pub timeline: Option<u32>,
    /// When the last transaction that was replayed ended.
    pub last_transaction_time: Option<DateTime<Utc>>,
    /// The steps, in order.
    pub checks: Vec<DrillCheck>,
}

/// What the name of such an object tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillNote {
    /// The backup.
    pub backup: String,
    /// When the drill ended.
    pub stop_time: DateTime<Utc>,
    /// How.
    pub status: DrillStatus,
    key: Key,
}

impl DrillNote {
    fn of(key: Key) -> Option<Self> {
        let (backup, name) = layout::drill_of_object(&key)?;
        let (time, status) = name.split_once('-')?;
        let status = match status {
            "ok" => DrillStatus::Ok,
            "failed" => DrillStatus::Failed,
            _ => return None,
        };
        Some(DrillNote {
            backup: backup.to_owned(),
            stop_time: NaiveDateTime::parse_from_str(time, TIME).ok()?.and_utc(),
            status,
            key,
        })
    }
}

impl Drill {
    /// Write it down, and remove what is too much of the same backup.
    pub async fn write(&self, store: &Store) -> Result<()> {
        let name = format!("{}-{}", self.stop_time.format(TIME), self.status.as_str());
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::defect(format!("could not write a drill down: {error}")))?;
        metadata::put(store, &layout::drill(&self.backup, &name), Bytes::from(text)).await?;
        let mut notes = list_below(store, &layout::drills_of(&self.backup)).await?;
        notes.sort_by_key(|note| std::cmp::Reverse(note.stop_time));
        // The last one that went well stays, however many failed since.
        let proven = notes.iter().position(|note| note.status == DrillStatus::Ok);
        for (index, note) in notes.iter().enumerate().skip(KEPT) {
            if Some(index) != proven {
                store.delete_own(&note.key).await?;
            }
        }
        Ok(())
    }

    /// The names of the steps that were skipped, as the end of a sentence; empty if there are none.
    pub fn left_out(&self) -> String {
        let skipped = self.checks.iter().filter(|check| check.status == DrillStatus::Skipped);
        let names: Vec<&str> = skipped.map(|check| check.check.as_str()).collect();
        match names.is_empty() {
            true => String::new(),
            false => format!("; skipped: {}", names.join(", ")),
        }
    }

    /// Stored bytes of the backup that were restored per second.
    pub fn rate_of_restore(&self) -> Option<f64> {
        let seconds = self.restore_seconds.filter(|seconds| *seconds > 0.0)?;
        Some(self.stored_bytes as f64 / seconds).filter(|rate| *rate > 0.0)
    }

    /// Segments that were replayed per second. The start of a server takes some time, too, so few segments tell nothing.
    pub fn rate_of_replay(&self) -> Option<f64> {
        const FEW: u64 = 16;
        let seconds = self.replay_seconds.filter(|seconds| *seconds > 0.0)?;
        (self.segments >= FEW).then(|| self.segments as f64 / seconds)
    }

    /// The newest one of the repository that went well, of this machine if one of the last is.
    pub async fn newest(store: &Store, host: &str) -> Result<Option<Self>> {
        let mut notes = list(store).await?;
        notes.retain(|note| note.status == DrillStatus::Ok);
        notes.sort_by_key(|note| std::cmp::Reverse(note.stop_time));
        let mut first = None;
        for note in notes.iter().take(LOOKED_AT) {
            let content = match metadata::read(store, &note.key, LIMIT).await {
                // Also one for which the key is missing: this is an estimate, and no more.
                Err(error) if error.is_content() => continue,
                content => content?,
            };
            let found = content.and_then(|content| serde_json::from_slice::<Drill>(&content).ok());
            match found {
                Some(drill) if drill.host == host => return Ok(Some(drill)),
                found => first = first.or(found),
            }
        }
        Ok(first)
    }
}

/// All of the repository.
pub async fn list(store: &Store) -> Result<Vec<DrillNote>> {
    list_below(store, &layout::DRILLS_FOLDER).await
}

async fn list_below(store: &Store, folder: &Key) -> Result<Vec<DrillNote>> {
    let listed = store.list(folder).await?;
    Ok(listed.iter().map(Key::listed).filter_map(DrillNote::of).collect())
}

/// By backup, when its last drill ended that went well.
pub async fn proven(store: &Store) -> Result<BTreeMap<String, DateTime<Utc>>> {
    let mut proven: BTreeMap<String, DateTime<Utc>> = BTreeMap::new();
    for note in list(store).await? {
        if note.status == DrillStatus::Ok {
            let time = proven.entry(note.backup).or_insert(note.stop_time);
            *time = (*time).max(note.stop_time);
        }
    }
    Ok(proven)
}

/// The backup is deleted: forget what was shown of it.
pub(crate) async fn forget(store: &Store, backup: &str) -> Result<()> {
    for object in store.list(&layout::drills_of(backup)).await? {
        store.delete(&object.key).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn drill(backup: &str, second: i64, status: DrillStatus) -> Drill {
        let time = DateTime::from_timestamp(1_790_000_000 + second, 5000).expect("a time");
        Drill {
            backup: backup.to_owned(),
            host: format!("host{}", second % 2),
            start_time: time,
            stop_time: time,
            status,
            target: "the end of the archive".to_owned(),
            stored_bytes: 1,
            restore_seconds: Some(1.0),
            segments: 1,
            replay_seconds: None,
            lsn: Some(Lsn(7)),
            timeline: Some(2),
            last_transaction_time: None,
            checks: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_listing_tells_what_is_proven() {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        assert!(proven(&store).await.expect("listed").is_empty());
        assert_eq!(Drill::newest(&store, "host0").await.expect("read"), None);
        let good = drill("base_1", 0, DrillStatus::Ok);
        good.write(&store).await.expect("written");
        for second in 1..20 {
            let failed = drill("base_1", second, DrillStatus::Failed);
            failed.write(&store).await.expect("written");
        }
        drill("base_2", 3, DrillStatus::Ok)
            .write(&store)
            .await
            .expect("written");
        let found = proven(&store).await.expect("listed");
        assert_eq!(found.get("base_1"), Some(&good.stop_time));
        assert_eq!(
            (found.len(), list(&store).await.expect("listed").len()),
            (2, KEPT + 1 + 1)
        );
        let newest = |host| Drill::newest(&store, host);
        assert_eq!(newest("host0").await.expect("read"), Some(good));
        let other = newest("none").await.expect("read").expect("one");
        assert_eq!(other.backup, "base_2");
        forget(&store, "base_1").await.expect("forgotten");
        let found = proven(&store).await.expect("listed");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["base_2"]);
    }

    #[test]
    fn other_objects_are_not_taken_for_one() {
        for key in [
            "walarchive_005/drills/base_1/x-ok.json",
            "walarchive_005/drills/base_1/20260921T000000000005Z-good.json",
            "walarchive_005/drills/20260921T000000000005Z-ok.json",
            "walarchive_005/drills/a/b/20260921T000000000005Z-ok.json",
        ] {
            assert!(
                layout::drill_of_object(key).is_none_or(|(_, name)| {
                    let key = layout::drill("base_1", name);
                    DrillNote::of(key).is_none()
                }),
                "{key}"
            );
        }
    }
}
