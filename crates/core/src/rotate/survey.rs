//! Which objects are under which key.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::Utc;
use futures::StreamExt;
use walarchive_storage::crypt::{HEAD_OF_KEY, SEALED_MARK, Under};
use walarchive_storage::{Listed, Store};

use super::progress::RotateProgress;
use crate::blocking::blocking;
use crate::encrypted::is_plain;
use crate::error::{Result, StorageError};
use crate::repository::encryption::{self, AGREED_FOR, State};
use crate::repository::layout;
use crate::repository::layout::Key;

/// So long a writer needs for the objects that he has begun.
const LAST_OBJECT: Duration = Duration::from_secs(5);

/// Objects that are asked for at a time.
const AT_A_TIME: usize = 16;

/// Objects under one key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Group {
    /// How many they are.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// What is under which key.
#[derive(Debug, Default)]
pub struct Survey {
    /// By key.
    pub groups: BTreeMap<Under, Group>,
    /// Those that can be encrypted again: key and stored bytes.
    pub stale: Vec<(Key, u64)>,
    /// Stored bytes of those.
    pub stale_bytes: u64,
    /// There are tars of a backup that is not listed: it may be one that is being taken.
    pub has_unfinished: bool,
}

impl Survey {
    /// Is there something that stays as it is: under a key that is not given, or in plain text?
    pub fn leaves(&self) -> Group {
        let left = |under: &Under| match under {
            Under::Writing(..) | Under::Reading(..) | Under::Plain(true) => false,
            Under::Unknown(_) | Under::Plain(false) => true,
        };
        let mut sum = Group::default();
        for (_, group) in self.groups.iter().filter(|(under, _)| left(under)) {
            sum.objects += group.objects;
            sum.bytes += group.bytes;
        }
        sum
    }
}

/// Wait until no writer goes on that may not have seen the mark of the repository.
pub async fn wait_for_writers(store: &Store) -> Result<()> {
    // Nobody could write otherwise than the mark says.
    if let State::Encrypted(mark) = encryption::state(store).await?
        && mark.former_keys.is_empty()
        && !mark.plain_before
    {
        return Ok(());
    }
    let own = store.list_shallow(&layout::OWN_FOLDER).await?;
    let mark = own.iter().find(|object| object.key == *layout::CLUSTER);
    // The clock of the store may be another one.
    let age = mark.and_then(|mark| (Utc::now() - mark.last_modified).to_std().ok());
    tokio::time::sleep((AGREED_FOR + LAST_OBJECT).saturating_sub(age.unwrap_or_default())).await;
    Ok(())
}

/// Is everything under the key that encrypts new objects, [after all writers know it](wait_for_writers)? Then `cluster.json` names no
/// other key any more.
pub async fn is_complete(store: &Store, progress: &RotateProgress) -> Result<bool> {
    let survey = survey(store, progress).await?;
    let is_complete = survey.groups.keys().all(|under| matches!(under, Under::Writing(..)));
    Ok(is_complete && !survey.has_unfinished && encryption::forget_former_keys(store).await?)
}

/// Look at the beginning of each object that is encrypted where anything is, and of encrypted metadata. Keys have the ids that they have in `cluster.json`.
pub async fn survey(store: &Store, progress: &RotateProgress) -> Result<Survey> {
    let salt = match encryption::state(store).await? {
        State::Encrypted(mark) => mark.key.salt(),
        State::Unclaimed | State::Plain { .. } => rand::random::<u128>().to_be_bytes().to_vec(),
    };
    let salt = salt.as_slice();
    progress.done.store(0, Ordering::Relaxed);
    let mut objects = store.list(&layout::WAL_FOLDER).await?;
    objects.extend(store.list(&layout::BACKUPS_FOLDER).await?);
    objects.extend(store.list(&layout::CATCHUP_FOLDER).await?);
    objects.extend(store.list(&layout::OWN_FOLDER).await?);
    let has_unfinished = has_unfinished(&objects);
    objects.retain(|object| layout::is_encrypted_where_anything_is(&object.key) || layout::is_metadata(&object.key));
    objects.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    progress.total.store(objects.len() as u64, Ordering::Relaxed);
    let mut survey = Survey {
        has_unfinished,
        ..Survey::default()
    };
    let mut looks = futures::stream::iter(objects)
        .map(|object| look(store, salt, object))
        .buffered(AT_A_TIME);
    while let Some(looked) = looks.next().await {
        progress.done.fetch_add(1, Ordering::Relaxed);
        let Some((object, under)) = looked? else { continue };
        let is_stale = match &under {
            Under::Reading(..) => true,
            Under::Plain(accepted) => *accepted,
            Under::Writing(..) | Under::Unknown(_) => false,
        };
        if is_stale {
            survey.stale_bytes += object.size;
            survey.stale.push((Key::listed(&object), object.size));
        }
        let group = survey.groups.entry(under).or_default();
        group.objects += 1;
        group.bytes += object.size;
    }
    Ok(survey)
}

fn has_unfinished(objects: &[Listed]) -> bool {
    const TARS: &str = "/tar_partitions/";
    let sentinels: HashSet<&str> = objects
        .iter()
        .filter_map(|object| layout::backup_of_sentinel(&object.key).or(layout::catchup_of_sentinel(&object.key)))
        .collect();
    let mut tars = objects.iter().filter_map(|object| object.key.split_once(TARS));
    tars.any(|(folder, _)| !sentinels.contains(folder.rsplit('/').next().unwrap_or(folder)))
}

/// None: it was deleted meanwhile, or is metadata in plain text, as it may be.
async fn look(store: &Store, salt: &[u8], object: Listed) -> Result<Option<(Listed, Under)>> {
    let most = HEAD_OF_KEY + SEALED_MARK.len() as u64;
    let mut head = match object.size {
        0 => Vec::new(),
        size => match store.get_range(&object.key, 0..size.min(most)).await {
            Ok(head) => head.to_vec(),
            Err(StorageError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        },
    };
    let is_metadata = layout::is_metadata(&object.key);
    if is_metadata {
        let Some(sealed) = head.strip_prefix(SEALED_MARK) else {
            return Ok(None);
        };
        head = sealed.to_vec();
    }
    let (keyring, salt, key) = (store.keyring().clone(), salt.to_vec(), object.key.clone());
    let under = blocking(move || {
        let looks = |head: &[u8]| !is_metadata && is_plain(&key, head);
        Ok(keyring.under(&head, &salt, looks)?)
    });
    Ok(Some((object, under.await?)))
}
