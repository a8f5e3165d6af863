//! Who the programs beside a server write for.

use std::path::Path;
use std::sync::Arc;

use walarchive_core::control_file::ControlFile;
use walarchive_core::lease::{self, INTERVAL, INTERVAL_OF_BINARY, Situation, Writer};
use walarchive_core::{Result, cluster};
use walarchive_storage::Store;

use super::data_dir::usual_data_dir;
use super::flags::Storage;
use super::settings::{find, refuse_plain_text};

/// The server of a data directory, as the lease knows it. `timeline` is at least the one that it is on.
pub fn writer(store: &Store, data_dir: &Path, timeline: u32) -> Arc<Writer> {
    Writer::new(store.clone(), data_dir, situation(data_dir, timeline))
}

/// What a data directory tells of its server.
pub fn situation(data_dir: &Path, timeline: u32) -> Situation {
    let exists = |name: &str| data_dir.join(name).exists();
    let preloads = walarchive_core::server_config::ServerConfig::read(data_dir).is_ok_and(|config| config.preloads);
    Situation {
        in_recovery: exists("standby.signal") || exists("recovery.signal"),
        is_standby: exists("standby.signal"),
        timeline,
        // Where no worker of the server's renews, nobody does between two calls.
        interval: if preloads { INTERVAL } else { INTERVAL_OF_BINARY },
    }
}

/// The store for a verb that changes a repository. With the data directory of a server of this cluster at hand it writes as that
/// server, if it may; from elsewhere, as an administrator does, for whoever holds the lease.
pub async fn writable(flags: &Storage) -> Result<Store> {
    refuse_plain_text()?;
    let data_dir = usual_data_dir();
    let store = Store::open(&find(flags, data_dir.as_deref())?.storage)?;
    let owner = cluster::owner(&store).await?;
    let ours = data_dir.and_then(|data_dir| {
        let control = ControlFile::read(&data_dir).ok()?;
        let ours = owner.is_some_and(|owner| owner.system_identifier == control.system_identifier);
        ours.then_some((data_dir, control.timeline))
    });
    Ok(match ours {
        Some((data_dir, timeline)) => writer(&store, &data_dir, timeline).fenced(&store),
        None => lease::follower(&store),
    })
}
