//! The record of verifications, kept in the repository so that a nightly run costs only what is new.
//!
//! All times of objects are the store's own, so no clock needs to be right. Of two verifications that end at the same time
//! one record wins: what the other had verified is verified again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::VerifyStatus;
use crate::encrypted::metadata;
use crate::error::{Error, Result};
use crate::repository::inventory::{BackupInfo, Inventory, WalObject};
use crate::repository::layout::{self, Key};
use crate::wal::{Segment, WalFileName};
use walarchive_storage::Store;

/// More than any record has, in bytes.
const LIMIT: u64 = 16 << 20;

/// So many ranges are kept apart by the time of their verification.
const RANGES: usize = 1000;

/// The segments whose content was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    #[serde(default)]
    ranges: Vec<Range>,
}

/// Consecutive segments of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Range {
    #[serde(with = "name")]
    first: Segment,
    #[serde(with = "name")]
    last: Segment,
    /// When.
    verified: DateTime<Utc>,
    /// When the newest of their objects was stored: a newer one is another object.
    newest: DateTime<Utc>,
}

mod name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::wal::Segment;

    pub(super) fn serialize<S: Serializer>(segment: &Segment, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(segment)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Segment, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Verified {
    /// The repository's record. A record that cannot be read is none.
    pub async fn read(store: &Store) -> Result<Self> {
        Ok(read(store, &layout::verified_wal()).await?.unwrap_or_default())
    }

    /// Remember it.
    pub async fn write(&self, store: &Store) -> Result<()> {
        write(store, &layout::verified_wal(), self).await
    }

    /// When the object, as it is now, was verified.
    pub fn time_of(&self, object: &WalObject) -> Option<DateTime<Utc>> {
        let WalFileName::Segment(segment) = object.name else {
            return None;
        };
        let after = self.ranges.partition_point(|range| range.first <= segment);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (segment <= range.last && object.written <= range.newest).then_some(range.verified)
    }

    /// The record after another verification: what was found to be in order is added, what was not is taken out, and so is
    /// what is not in the repository any more.
    pub fn after(
        &self,
        inventory: &Inventory,
        good: &BTreeSet<Segment>,
        bad: &BTreeSet<Segment>,
        now: DateTime<Utc>,
    ) -> Self {
        // Of a segment that is there in two formats, both must have been verified.
        let mut segments: BTreeMap<Segment, (Option<DateTime<Utc>>, DateTime<Utc>)> = BTreeMap::new();
        for object in &inventory.wal {
            let WalFileName::Segment(segment) = object.name else {
                continue;
            };
            let time = match (bad.contains(&segment), good.contains(&segment)) {
                (true, _) => None,
                (false, true) => Some(now),
                (false, false) => self.time_of(object),
            };
            segments
                .entry(segment)
                .and_modify(|(all, newest)| {
                    *all = all.zip(time).map(|(all, time)| all.min(time));
                    *newest = (*newest).max(object.written);
                })
                .or_insert((time, object.written));
        }
        let mut ranges: Vec<Range> = Vec::new();
        for (segment, (time, written)) in segments {
            let Some(verified) = time else { continue };
            match ranges.last_mut() {
                Some(last) if last.verified == verified && last.last.next(inventory.segment_size) == segment => {
                    last.last = segment;
                    last.newest = last.newest.max(written);
                }
                _ => ranges.push(Range {
                    first: segment,
                    last: segment,
                    verified,
                    newest: written,
                }),
            }
        }
        Verified {
            ranges: compact(ranges, inventory),
        }
    }
}

/// Join neighbours, whose time is then the earlier one; what still is too much is forgotten, from the oldest on.
fn compact(ranges: Vec<Range>, inventory: &Inventory) -> Vec<Range> {
    if ranges.len() <= RANGES {
        return ranges;
    }
    let mut joined: Vec<Range> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.last.next(inventory.segment_size) == range.first => {
                last.last = range.last;
                last.verified = last.verified.min(range.verified);
                last.newest = last.newest.max(range.newest);
            }
            _ => joined.push(range),
        }
    }
    let surplus = joined.len().saturating_sub(RANGES);
    joined.split_off(surplus)
}

/// That a base backup was verified, and found to be in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedBackup {
    /// Its name.
    pub name: String,
    /// When.
    pub time: DateTime<Utc>,
    /// The result: never a failure.
    pub status: VerifyStatus,
    /// When its sentinel was written, by the store's clock: another time, another backup.
    pub sentinel_written: DateTime<Utc>,
}

impl VerifiedBackup {
    /// The repository's record of the backup as it is now.
    pub async fn read(store: &Store, backup: &BackupInfo) -> Result<Option<Self>> {
        let found: Option<Self> = read(store, &layout::verified_backup(&backup.name)).await?;
        Ok(found.filter(|found| found.name == backup.name && found.sentinel_written == backup.written))
    }

    /// Remember the result of a verification; a failure makes what was remembered before forgotten.
    pub async fn write(store: &Store, backup: &BackupInfo, status: VerifyStatus, now: DateTime<Utc>) -> Result<()> {
        let key = layout::verified_backup(&backup.name);
        if status == VerifyStatus::Failure {
            return noted(store.delete(&key).await.map_err(Error::from));
        }
        let record = VerifiedBackup {
            name: backup.name.clone(),
            time: now,
            status,
            sentinel_written: backup.written,
        };
        write(store, &key, &record).await
    }
}

async fn read<T: for<'de> Deserialize<'de>>(store: &Store, key: &Key) -> Result<Option<T>> {
    let content = match metadata::read(store, key, LIMIT).await {
        Ok(content) => content,
        Err(Error::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
}

async fn write<T: Serialize>(store: &Store, key: &Key, record: &T) -> Result<()> {
    let text = serde_json::to_vec(record)
        .map_err(|error| Error::defect(format!("could not write down what was verified: {error}")))?;
    noted(metadata::put(store, key, Bytes::from(text)).await)
}

/// Beside a server that does not write nothing is noted, and that is no failure of the verification.
fn noted(written: Result<()>) -> Result<()> {
    match written {
        Err(refused @ Error::NotWriter { .. }) => {
            tracing::debug!(error = %refused, "what was verified is not noted");
            Ok(())
        }
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Format;
    use crate::wal::SegmentSize;

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("a time")
    }

    fn object(number: u64, written: i64) -> WalObject {
        WalObject {
            name: WalFileName::Segment(segment(number)),
            format: Format::Zstd,
            size: 1,
            written: time(written),
        }
    }

    fn segment(number: u64) -> Segment {
        Segment::from_number(1, number, SegmentSize::DEFAULT)
    }

    fn inventory(objects: Vec<WalObject>) -> Inventory {
        Inventory::new(SegmentSize::DEFAULT, Vec::new(), objects, BTreeMap::new())
    }

    fn set(numbers: &[u64]) -> BTreeSet<Segment> {
        numbers.iter().copied().map(segment).collect()
    }

    #[tokio::test]
    async fn only_what_was_verified_is_claimed() {
        let all = inventory((1..=6).map(|number| object(number, 10 * number as i64)).collect());
        let none = BTreeSet::new();
        let first = Verified::default().after(&all, &set(&[1, 2, 3]), &none, time(100));
        let second = first.after(&all, &set(&[4, 5]), &set(&[2]), time(200));
        let claimed = |verified: &Verified, objects: &Inventory| -> Vec<Option<i64>> {
            let time_of = |object| verified.time_of(object).map(|time| time.timestamp());
            objects.wal.iter().map(time_of).collect()
        };
        let expected = [Some(100), None, Some(100), Some(200), Some(200), None];
        assert_eq!(claimed(&second, &all), expected);
        // Written again after the verification, by the store's clock, and not between.
        let mut rewritten = all.clone();
        rewritten.wal[0].written = time(61);
        rewritten.wal[3].written = time(61);
        let mut expected = expected;
        (expected[0], expected[3]) = (None, None);
        assert_eq!(claimed(&second, &rewritten), expected);
        // That is not forgotten by the next one.
        let third = second.after(&rewritten, &set(&[6]), &none, time(300));
        expected[5] = Some(300);
        assert_eq!(claimed(&third, &rewritten), expected);
        let fewer = inventory(vec![object(5, 50)]);
        assert_eq!(third.after(&fewer, &none, &none, time(400)).ranges.len(), 1);

        let store = Store::of(std::sync::Arc::new(object_store::memory::InMemory::new()), "memory:");
        assert_eq!(Verified::read(&store).await.expect("read"), Verified::default());
        third.write(&store).await.expect("written");
        assert_eq!(Verified::read(&store).await.expect("read"), third);
        store
            .put(&layout::verified_wal(), Bytes::from_static(b"{"))
            .await
            .expect("written");
        assert_eq!(Verified::read(&store).await.expect("read"), Verified::default());
    }

    #[test]
    fn a_record_stays_small() {
        let all = inventory((0..10_000).map(|number| object(number, 1)).collect());
        let mut verified = Verified::default();
        for number in 0..1200 {
            let again = time(number as i64 + 10);
            verified = verified.after(&all, &set(&[2 * number]), &BTreeSet::new(), again);
        }
        assert_eq!(verified.ranges.len(), RANGES);
        let rest: BTreeSet<Segment> = (0..2000).map(segment).collect();
        verified = verified.after(&all, &rest, &BTreeSet::new(), time(9999));
        assert!(verified.ranges.len() <= 202, "{}", verified.ranges.len());
    }

    #[tokio::test]
    async fn a_backup_that_failed_is_not_remembered() {
        let store = Store::of(std::sync::Arc::new(object_store::memory::InMemory::new()), "memory:");
        let mut backup = BackupInfo::example("base_000000010000000000000002");
        VerifiedBackup::write(&store, &backup, VerifyStatus::Ok, time(1))
            .await
            .expect("written");
        let read = VerifiedBackup::read(&store, &backup).await.expect("read");
        assert_eq!(read.map(|record| record.time), Some(time(1)));
        let original = backup.written;
        backup.written = time(5);
        assert_eq!(VerifiedBackup::read(&store, &backup).await.expect("read"), None);
        backup.written = original;
        VerifiedBackup::write(&store, &backup, VerifyStatus::Failure, time(2))
            .await
            .expect("removed");
        assert_eq!(VerifiedBackup::read(&store, &backup).await.expect("read"), None);
    }
}
