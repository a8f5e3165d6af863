//! The objects of the lease.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::INTERVAL;
use crate::error::{Error, Result, StorageError};
use crate::repository::layout::{self, Key};
use walarchive_storage::Store;

/// The version of the objects.
pub(super) const VERSION: u32 = 1;

/// More than any of the objects has, in bytes.
const LIMIT: u64 = 64 << 10;

/// Who took the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Of the format.
    pub version: u32,
    /// The higher one holds.
    pub epoch: u64,
    /// The identity of the data directory.
    pub instance: String,
    /// Its host.
    pub hostname: String,
    /// Its path.
    pub data_directory: String,
    /// On which timeline its server was.
    pub timeline: u32,
    /// When, by the clock of that host.
    pub since: DateTime<Utc>,
    /// By what right, in words.
    pub how: String,
    /// Drawn for this object.
    pub token: String,
}

/// That the holder lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Of the format.
    pub version: u32,
    /// Of the holder.
    pub epoch: u64,
    /// The identity of the data directory.
    pub instance: String,
    /// Drawn for this object.
    pub token: String,
    /// One more each time.
    pub counter: u64,
    /// The next time comes after this, in milliseconds.
    pub interval_ms: u64,
    /// On which timeline its server is.
    pub timeline: u32,
    /// When, by the clock of that host. For people only.
    pub time: DateTime<Utc>,
}

/// The lease as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who took it.
    pub holder: Holder,
    /// Its last sign of life; none if it has given none yet.
    pub alive: Option<Alive>,
}

/// The objects in the folder of the lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The highest epoch that has any object; 0 if there is none.
    pub highest: u64,
    /// That of the highest epoch.
    pub lease: Option<Lease>,
}

impl Lease {
    /// The one that holds, if there is any.
    pub async fn read(store: &Store) -> Result<Option<Lease>> {
        View::read(store).await.map(|view| view.lease)
    }

    /// Which state of the counter this is.
    pub(super) fn mark(&self) -> String {
        match &self.alive {
            Some(alive) => format!("{}#{}", alive.token, alive.counter),
            None => self.holder.token.clone(),
        }
    }

    /// The token that the store has: that of the last sign of life.
    pub(super) fn token(&self) -> &str {
        self.alive.as_ref().map_or(&self.holder.token, |alive| &alive.token)
    }

    /// The identity of whoever holds it. On a store that overwrites where it should not, a server that came late may have left its
    /// name in the place of the holder's; only the holder gives signs of life.
    pub(super) fn instance(&self) -> &str {
        self.alive
            .as_ref()
            .map_or(&self.holder.instance, |alive| &alive.instance)
    }

    /// The holder's timeline.
    pub fn timeline(&self) -> u32 {
        let alive = self.alive.as_ref().map_or(0, |alive| alive.timeline);
        self.holder.timeline.max(alive)
    }

    /// How often the holder renews it.
    pub fn interval(&self) -> Duration {
        let alive = self.alive.as_ref();
        alive.map_or(INTERVAL, |alive| Duration::from_millis(alive.interval_ms))
    }

    /// The holder, for messages: host and data directory.
    pub fn name(&self) -> String {
        self.holder.name()
    }
}

impl Holder {
    /// For messages: host and data directory.
    pub fn name(&self) -> String {
        format!("{}:{}", self.hostname, self.data_directory)
    }

    /// Whether its object could not be read, so that nothing but the epoch is known.
    pub fn is_unreadable(&self) -> bool {
        self.instance.is_empty()
    }

    /// All that there were, by epoch.
    pub async fn all(store: &Store) -> Result<Vec<Holder>> {
        let mut epochs: Vec<u64> = Vec::new();
        for object in store.list(&layout::LEASE_FOLDER).await? {
            epochs.extend(
                layout::epoch_of_lease(&object.key)
                    .filter(|(_, alive)| !alive)
                    .map(|(epoch, _)| epoch),
            );
        }
        epochs.sort_unstable();
        let mut holders = Vec::new();
        for epoch in epochs {
            holders.extend(read::<Holder>(store, &layout::lease_holder(epoch)).await?);
        }
        Ok(holders)
    }
}

impl View {
    /// By a listing, whatever there is.
    pub(super) async fn read(store: &Store) -> Result<View> {
        let objects = store.list(&layout::LEASE_FOLDER).await?;
        let found = || objects.iter().filter_map(|object| layout::epoch_of_lease(&object.key));
        let Some(highest) = found().map(|(epoch, _)| epoch).max() else {
            return Ok(View::default());
        };
        // A renewal that came after everything was deleted has left nobody's lease.
        let lease = match found().any(|(epoch, alive)| epoch == highest && !alive) {
            true => {
                let (holder, alive) = (layout::lease_holder(highest), layout::lease_alive(highest));
                let (holder, alive) = tokio::try_join!(read(store, &holder), read(store, &alive))?;
                Some(Lease {
                    holder: holder.unwrap_or_else(|| unreadable(highest)),
                    alive,
                })
            }
            false => None,
        };
        Ok(View { highest, lease })
    }

    /// By three requests at once, for the holder of an epoch: nobody skips the epoch after it. On a long way a listing, and
    /// what it shows, would take three times as long.
    pub(super) async fn of(store: &Store, epoch: u64) -> Result<View> {
        let (holder, alive) = (layout::lease_holder(epoch), layout::lease_alive(epoch));
        let next = async { Ok(store.size(&layout::lease_holder(epoch + 1)).await?) };
        match tokio::try_join!(read(store, &holder), read(store, &alive), next)? {
            (Some(holder), Some(alive), None) => Ok(View {
                highest: epoch,
                lease: Some(Lease {
                    holder,
                    alive: Some(alive),
                }),
            }),
            // Somebody has taken it, or has deleted everything, perhaps.
            _ => View::read(store).await,
        }
    }
}

/// Nobody can have this identity.
fn unreadable(epoch: u64) -> Holder {
    Holder {
        version: VERSION,
        epoch,
        instance: String::new(),
        hostname: "unknown".to_owned(),
        data_directory: "unknown".to_owned(),
        timeline: 0,
        since: DateTime::UNIX_EPOCH,
        how: "its object cannot be read".to_owned(),
        token: String::new(),
    }
}

/// None if it is not there, or is none.
pub(super) async fn read<T: DeserializeOwned>(store: &Store, key: &Key) -> Result<Option<T>> {
    match store.get(key, LIMIT).await {
        Ok(content) => Ok(content.and_then(|content| serde_json::from_slice(&content).ok())),
        Err(StorageError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(value)
        .map_err(|error| Error::damaged(&layout::LEASE_FOLDER, format!("It cannot be written: {error}.")))?;
    Ok(Bytes::from(text))
}
