//! The base backups of a repository.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use futures::StreamExt;

use super::CONCURRENCY;
use crate::error::{Error, Result};
use crate::formats::{ExtendedMetadata, Sentinel};
use crate::lsn::Lsn;
use crate::repository::layout::Key;
use crate::repository::{description, layout};
use crate::wal::{Segment, SegmentSize};
use walarchive_storage::{Listed, Store};

/// The user data of all backups that a listing holds, in bytes.
const USER_DATA_LIMIT: usize = 32 << 20;

/// The parent of a delta backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// Name of the parent. As far as the backup's own name tells it (that is without the parent's parent) if the sentinel
    /// cannot be read.
    pub parent: String,
    /// Name of the full backup at the root.
    pub full: Option<String>,
    /// Steps from the root.
    pub count: Option<u32>,
}

/// A backup as a listing knows it.
#[derive(Debug, Clone)]
pub struct BackupInfo {
    /// `base_<segment>` or `base_<segment>_D_<segment of the parent>`.
    pub name: String,
    /// When it became visible.
    pub written: DateTime<Utc>,
    /// The timeline of the name; none if the name is none that WAL-G or this project would choose.
    pub timeline: Option<u32>,
    /// Of a delta backup.
    pub delta: Option<Delta>,
    /// The content of `metadata.json` or of the sentinel; all defaults if the backup is damaged.
    pub metadata: ExtendedMetadata,
    /// Why the backup cannot be used, as a sentence.
    pub damaged: Option<String>,
}

impl BackupInfo {
    fn new(name: &str, written: DateTime<Utc>) -> Self {
        let (start, parent) = parse_name(name);
        BackupInfo {
            name: name.to_owned(),
            written,
            timeline: start.map(|segment| segment.timeline),
            delta: parent.map(|parent| Delta {
                parent,
                full: None,
                count: None,
            }),
            metadata: ExtendedMetadata::default(),
            damaged: None,
        }
    }

    /// A backup that is known by its name alone.
    #[cfg(test)]
    pub(crate) fn example(name: &str) -> Self {
        BackupInfo::new(name, DateTime::UNIX_EPOCH)
    }

    /// Backups of WAL-G 1.x have no start time: what is known then is when the sentinel was written.
    pub fn started(&self) -> DateTime<Utc> {
        self.or_written(self.metadata.start_time)
    }

    /// As [`BackupInfo::started`]: when its last byte was copied, or the sentinel written.
    pub fn finished(&self) -> DateTime<Utc> {
        self.or_written(self.metadata.finish_time)
    }

    fn or_written(&self, time: DateTime<Utc>) -> DateTime<Utc> {
        if time == DateTime::UNIX_EPOCH {
            self.written
        } else {
            time
        }
    }
}

/// The segment in which the backup of that name starts, and the name of its parent if it is a delta backup.
pub(crate) fn parse_name(name: &str) -> (Option<Segment>, Option<String>) {
    let Some(rest) = name.strip_prefix("base_") else {
        return (None, None);
    };
    match rest.split_once("_D_") {
        Some((start, parent)) => (Segment::from_str(start).ok(), Some(format!("base_{parent}"))),
        None => (Segment::from_str(rest).ok(), None),
    }
}

/// All backups, ordered by start time. One that cannot be read does not hide the others: it is returned as damaged.
pub async fn list_backups(store: &Store) -> Result<Vec<BackupInfo>> {
    let sentinels = list_sentinels(store).await?;
    let mut described = futures::stream::iter(sentinels)
        .map(|(name, sentinel)| async move { describe(store, &name, sentinel.last_modified).await })
        .buffer_unordered(CONCURRENCY);
    let mut backups = Vec::new();
    let mut room = USER_DATA_LIMIT;
    while let Some(backup) = described.next().await {
        backups.extend(backup?.map(|backup| with_room(backup, &mut room)));
    }
    drop(described);
    backups.sort_by(|a, b| (a.started(), &a.name).cmp(&(b.started(), &b.name)));
    Ok(backups)
}

/// User data that finds no room any more is left out.
fn with_room(mut backup: BackupInfo, room: &mut usize) -> BackupInfo {
    let bytes = backup.metadata.user_data.as_ref().map_or(0, |data| data.as_str().len());
    match room.checked_sub(bytes) {
        Some(left) => *room = left,
        None => {
            tracing::warn!(
                backup = backup.name,
                bytes,
                "the listing has no room for the user data of the backup"
            );
            backup.metadata.user_data = None;
        }
    }
    backup
}

/// One backup by its name.
pub async fn find_backup(store: &Store, name: &str) -> Result<BackupInfo> {
    let sentinels = list_sentinels(store).await?;
    let found = sentinels.iter().find(|(found, _)| found == name);
    let described = match found {
        Some((name, sentinel)) => describe(store, name, sentinel.last_modified).await?,
        None => None,
    };
    if let Some(described) = described {
        return Ok(described);
    }
    // A sentinel may be written again long after its backup was taken, so the time of the object does not tell.
    let backups = list_backups(store).await?;
    Err(Error::NoBackup {
        message: format!("there is no backup named \"{name}\" in \"{}\"", store.url()),
        hint: match backups.last() {
            Some(newest) => format!("The newest of {} is \"{}\".", backups.len(), newest.name),
            None => "There are no backups at all; check the storage URL and its prefix.".to_owned(),
        },
    })
}

/// The sentinel of a backup; an error if there is no such backup.
pub async fn read_sentinel(store: &Store, name: &str) -> Result<Sentinel> {
    sentinel_bytes(store, name)
        .await?
        .ok_or_else(|| Error::NoBackup {
            message: format!("there is no backup named \"{name}\" in \"{}\"", store.url()),
            hint: "List the backups to see which there are.".to_owned(),
        })
        .and_then(|content| parse(store, &layout::sentinel(name), &content))
}

async fn sentinel_bytes(store: &Store, name: &str) -> Result<Option<bytes::Bytes>> {
    let own = layout::backup_name(name);
    if own.is_empty() || own.contains('/') || own.starts_with('.') {
        return Ok(None);
    }
    description::read(store, &layout::sentinel(name)).await
}

async fn list_sentinels(store: &Store) -> Result<Vec<(String, Listed)>> {
    let objects = store.list_shallow(&layout::BACKUPS_FOLDER).await?;
    Ok(objects
        .into_iter()
        .filter_map(|object| Some((layout::backup_of_sentinel(&object.key)?.to_owned(), object)))
        .collect())
}

/// None if the backup was deleted in the meantime. `place` is its name, or its [`layout::catchup_place`].
pub(super) async fn describe(store: &Store, place: &str, written: DateTime<Utc>) -> Result<Option<BackupInfo>> {
    let mut info = BackupInfo::new(layout::backup_name(place), written);
    match read_metadata(store, place, info.delta.is_some()).await {
        Ok(Some((metadata, delta))) => {
            info.metadata = metadata;
            info.delta = delta.or(info.delta);
        }
        Ok(None) => return Ok(None),
        Err(error @ Error::Damaged { .. }) => {
            info.damaged = Some(format!("{error}: {}", error.detail().unwrap_or_default()));
        }
        Err(error) => return Err(error),
    }
    Ok(Some(info))
}

/// `metadata.json` is much smaller than the sentinels of old; the sentinel has the last word where it is missing or bad, and
/// the only one on deltas.
async fn read_metadata(store: &Store, name: &str, is_delta: bool) -> Result<Option<(ExtendedMetadata, Option<Delta>)>> {
    let key = layout::metadata(name);
    let small = match description::read(store, &key).await {
        Ok(content) => content,
        Err(Error::Damaged { .. }) => None,
        Err(error) => return Err(error),
    };
    let small = small
        .and_then(|content| ExtendedMetadata::parse(&content).ok())
        .filter(|metadata| metadata.finish_lsn != Lsn(0));
    if let Some(metadata) = &small
        && !is_delta
    {
        return Ok(Some((metadata.clone(), None)));
    }
    let Some(content) = sentinel_bytes(store, name).await? else {
        return Ok(None);
    };
    let sentinel = parse(store, &layout::sentinel(name), &content)?;
    let delta = sentinel.delta_from.clone().map(|parent| Delta {
        parent,
        full: sentinel.delta_full_name.clone(),
        count: sentinel.delta_count,
    });
    Ok(Some((
        small.unwrap_or_else(|| ExtendedMetadata::from(&sentinel)),
        delta,
    )))
}

fn parse(store: &Store, key: &Key, content: &[u8]) -> Result<Sentinel> {
    Sentinel::parse(content)
        .map_err(|error| Error::damaged(store.object_url(key), format!("It cannot be read: {error}.")))
}

/// The size with which the names of all backups and the LSNs of their starts go together; the usual one if there are several.
pub(super) fn segment_size(backups: &[BackupInfo]) -> Option<SegmentSize> {
    let usable = backups.iter().filter(|backup| backup.damaged.is_none());
    let starts: Vec<(Segment, Lsn)> = usable
        .filter_map(|backup| Some((parse_name(&backup.name).0?, backup.metadata.start_lsn)))
        .collect();
    let fits = |size: &SegmentSize| {
        let goes = |(start, lsn): &(Segment, Lsn)| Segment::containing(start.timeline, *lsn, *size) == *start;
        !starts.is_empty() && starts.iter().all(goes)
    };
    let sizes = (20..=30).filter_map(|bits| SegmentSize::new(1 << bits).ok());
    std::iter::once(SegmentSize::DEFAULT).chain(sizes).find(fits)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const OLD: &str = "base_000000010000000000000002";
    const NEW: &str = "base_00000002000000000000000A";

    async fn repository(objects: &[(Key, &str)]) -> Store {
        let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
        for (key, content) in objects {
            store.put(key, content.to_string().into()).await.expect("written");
        }
        store
    }

    #[tokio::test]
    async fn a_damaged_backup_does_not_hide_the_others() {
        let delta = format!("{NEW}_D_000000010000000000000002");
        let store = repository(&[
            (
                layout::sentinel(NEW),
                r#"{"LSN": 7, "FinishLSN": 8, "StartTime": "2020-11-21T10:00:00Z"}"#,
            ),
            (layout::sentinel(OLD), r#"{"LSN": 1, "FinishLSN": 2}"#),
            (
                layout::metadata(OLD),
                r#"{"start_time": "2020-11-20T10:00:00Z", "finish_lsn": 2, "walarchive_next_xid": 740}"#,
            ),
            (layout::sentinel(&delta), "{"),
            (layout::backup_claim("base_unfinished"), ""),
        ])
        .await;
        let backups = list_backups(&store).await.expect("listed");
        let names: Vec<&str> = backups.iter().map(|backup| backup.name.as_str()).collect();
        assert_eq!(names[..2], [OLD, NEW], "by start time");
        assert_eq!(backups[0].metadata.next_xid, Some(740));
        assert_eq!(backups[1].metadata.finish_lsn, Lsn(8));
        assert_eq!(backups[1].timeline, Some(2));
        assert_eq!(backups[2].delta.as_ref().map(|delta| delta.parent.as_str()), Some(OLD));
        assert!(backups[2].damaged.is_some() && backups[0].damaged.is_none());
    }

    #[tokio::test]
    async fn a_missing_backup_is_said_to_be_missing() {
        let store = repository(&[(layout::sentinel(OLD), r#"{"LSN": 1, "FinishLSN": 2}"#)]).await;
        assert_eq!(
            find_backup(&store, OLD).await.expect("found").metadata.finish_lsn,
            Lsn(2)
        );
        for name in [NEW, "", "../x", "LATEST"] {
            let error = find_backup(&store, name).await.expect_err("missing");
            assert!(error.hint().is_some_and(|hint| hint.contains(OLD)), "{error:?}");
            assert!(matches!(read_sentinel(&store, name).await, Err(Error::NoBackup { .. })));
        }
    }

    #[tokio::test]
    async fn the_newest_is_the_one_that_started_last_not_the_one_that_was_written_last() {
        let store = repository(&[
            (
                layout::sentinel(NEW),
                r#"{"LSN": 7, "FinishLSN": 8, "StartTime": "2020-11-21T10:00:00Z"}"#,
            ),
            // As after a change of its marks.
            (
                layout::sentinel(OLD),
                r#"{"LSN": 1, "FinishLSN": 2, "StartTime": "2020-11-20T10:00:00Z"}"#,
            ),
        ])
        .await;
        let hint = find_backup(&store, "base_nothing").await.expect_err("missing").hint();
        assert_eq!(hint, Some(format!("The newest of 2 is \"{NEW}\".")));
    }
}
