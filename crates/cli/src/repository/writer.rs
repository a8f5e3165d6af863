//! The server for which a verb writes.

use std::path::Path;
use std::sync::Arc;

use walarchive_core::Result;
use walarchive_core::control_file::ControlFile;
use walarchive_core::lease::{self, INTERVAL, INTERVAL_OF_BINARY, Situation, Writer};
use walarchive_core::recovery_state::{is_in_recovery, is_standby};
use walarchive_core::repository::cluster;
use walarchive_core::repository::cluster::ClusterIdentity;
use walarchive_core::server_config::ServerConfig;
use walarchive_storage::{StorageConfig, Store};

use super::data_dir::usual_data_dir;
use super::flags::Storage;
use super::settings::{find, refuse_plain_text};

/// The server of a data directory, as the lease knows it. `timeline` is at least the one that it is on.
pub fn writer(store: &Store, data_dir: &Path, timeline: u32) -> Arc<Writer> {
    Writer::new(store.clone(), data_dir, situation(store, data_dir, timeline))
}

/// The state of a server, as its data directory shows it.
pub fn situation(store: &Store, data_dir: &Path, timeline: u32) -> Situation {
    let config = ServerConfig::read(data_dir).unwrap_or_default();
    // Without the server's uploader nobody renews the lease between two calls.
    let interval = match config.preloads {
        true => {
            let set = config.lease_interval.unwrap_or(INTERVAL);
            // The server may not have read its files again yet. Until then it keeps the interval that it has promised.
            lease::promised(data_dir, store.url()).map_or(set, |promised| promised.max(set))
        }
        false => INTERVAL_OF_BINARY,
    };
    Situation {
        in_recovery: is_in_recovery(data_dir),
        is_standby: is_standby(data_dir),
        timeline,
        interval,
    }
}

/// The store for a verb that changes a repository. If the data directory of a server of this cluster is here, the verb writes as
/// that server, if that may write. Elsewhere it writes for the server that holds the lease.
pub async fn writable(flags: &Storage) -> Result<Store> {
    refuse_plain_text(&find(flags, usual_data_dir().as_deref())?)?;
    let data_dir = usual_data_dir();
    let storage = find(flags, data_dir.as_deref())?.storage;
    writable_at(storage, data_dir.as_deref()).await
}

/// The same for what is to be stored in plain text, whatever the settings ask for.
pub async fn writable_in_plain_text(flags: &Storage) -> Result<Store> {
    let data_dir = usual_data_dir();
    let mut storage = find(flags, data_dir.as_deref())?.storage;
    storage.encryption.writes = None;
    storage.encryption.metadata = false;
    writable_at(storage, data_dir.as_deref()).await
}

async fn writable_at(settings: StorageConfig, data_dir: Option<&Path>) -> Result<Store> {
    let store = Store::open_settled(&settings).await?;
    let owner = cluster::owner(&store).await?;
    // A store that answers has the patience of a backup, also when it is asked who may write: an outage must not end long work.
    let patient = Store::open_settled(&settings.for_backup()).await?;
    Ok(match server_beside(&patient, data_dir, owner.as_ref()) {
        Some(writer) => writer.fenced(&store),
        None => store.with_fence_of(&lease::follower(&patient)),
    })
}

/// All of the repository was deleted, and so was its lease. If the data directory of a server is here, that server is to know.
pub async fn forget(flags: &Storage) -> Result<()> {
    let data_dir = usual_data_dir();
    let store = Store::open_settled(&find(flags, data_dir.as_deref())?.storage).await?;
    match data_dir.filter(|data_dir| ControlFile::read(data_dir).is_ok()) {
        Some(data_dir) => writer(&store, &data_dir, 0).forget().await,
        None => Ok(()),
    }
}

/// The store for a verb that reads, and notes its findings. Beside a server that does not write it notes nothing.
pub async fn noting(store: &Store, data_dir: Option<&Path>) -> Result<Store> {
    let owner = cluster::owner(store).await?;
    Ok(match server_beside(store, data_dir, owner.as_ref()) {
        Some(writer) => writer.fenced_notes(store),
        None => lease::follower(store),
    })
}

/// The server of a data directory, if the repository belongs to its cluster.
fn server_beside(store: &Store, data_dir: Option<&Path>, owner: Option<&ClusterIdentity>) -> Option<Arc<Writer>> {
    let data_dir = data_dir?;
    let control = ControlFile::read(data_dir).ok()?;
    let ours = owner.is_some_and(|owner| owner.system_identifier == control.system_identifier);
    ours.then(|| writer(store, data_dir, control.timeline))
}
