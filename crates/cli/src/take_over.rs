//! `take-over`, and who the programs beside a server write for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use walarchive_core::archive::Archive;
use walarchive_core::control_file::{self, ControlFile};
use walarchive_core::lease::{self, INTERVAL, INTERVAL_OF_BINARY, Situation, Writer};
use walarchive_core::storage::Store;
use walarchive_core::{Error, Result, cluster};

use crate::args::Storage;
use crate::print::plain;
use crate::{print, settings, wal};

/// `take-over`.
#[derive(Debug, clap::Args)]
pub struct TakeOver {
    /// The data directory of the server that shall write; else the working directory or PGDATA.
    #[arg(long, value_name = "DIRECTORY")]
    pgdata: Option<PathBuf>,
    #[command(flatten)]
    storage: Storage,
}

/// Take the lease for the server of the data directory, whether it runs or not.
pub async fn run(args: &TakeOver) -> Result<()> {
    settings::refuse_plain_text()?;
    let usual = || wal::usual_data_dirs().find(|directory| wal::is_data_dir(directory));
    let data_dir = args.pgdata.clone().or_else(usual).ok_or_else(|| {
        Error::config(
            "the data directory of the server that shall write is not known",
            "Give it with --pgdata, on the machine of that server.",
        )
    })?;
    let settings = settings::find(&args.storage, Some(&data_dir))?;
    let store = Store::open_settled(&settings.storage).await?;
    let control = ControlFile::read(&data_dir)?;
    let identity = cluster::ClusterIdentity {
        system_identifier: control.system_identifier,
        major_version: control_file::read_major_version(&data_dir)?,
        segment_size: control.segment_size,
    };
    cluster::is_owned(&store, &identity).await?;
    // Before its recovery has ended its timeline is not known: its server takes the lease then.
    if situation(&data_dir, control.timeline).in_recovery {
        lease::request_take_over(&data_dir).await?;
        return print::out("the server will take the lease over once its recovery has ended");
    }
    let writer = writer(&store, &data_dir, control.timeline);
    let before = writer.take_over().await?;
    Archive::new(store, identity, settings.compression)
        .with_writer(writer)
        .claim()
        .await?;
    match before {
        Some(lease) => print::out(&format!(
            "took the lease over from the server {}; it will write no more",
            plain(&lease.name())
        )),
        None => print::out("took the lease; nobody had it"),
    }
}

/// The server of a data directory, as the lease knows it. `timeline` is at least the one that it is on.
pub fn writer(store: &Store, data_dir: &Path, timeline: u32) -> Arc<Writer> {
    Writer::new(store.clone(), data_dir, situation(data_dir, timeline))
}

fn situation(data_dir: &Path, timeline: u32) -> Situation {
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
    settings::refuse_plain_text()?;
    let data_dir = wal::usual_data_dirs().find(|directory| wal::is_data_dir(directory));
    let store = Store::open_settled(&settings::find(flags, data_dir.as_deref())?.storage).await?;
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
