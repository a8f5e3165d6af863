//! `wal-fetch`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use walarchive_core::archive;
use walarchive_core::recovery_state::is_in_recovery;
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Result, StorageError};
use walarchive_storage::Store;

use crate::repository::data_dir::{data_dir_beside, data_dir_of, has_history_itself, is_standby};
use crate::repository::writer::writer;
use crate::repository::{Storage, find};

/// How long a store may not move while a standby waits for it: PostgreSQL asks again some seconds later, and tries to stream
/// meanwhile.
const PATIENCE_OF_STANDBY: Duration = Duration::from_secs(10);

/// `wal-fetch`.
#[derive(Debug, clap::Args)]
pub struct WalFetch {
    /// The name of the WAL file (%f).
    pub name: String,
    /// Where to put it (%p).
    pub path: PathBuf,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// Fetch one WAL file.
pub async fn run(args: &WalFetch) -> Result<()> {
    let name: WalFileName = args.name.parse().map_err(|_| {
        Error::config(
            format!("\"{}\" is not the name of a WAL file", args.name.escape_debug()),
            "Give the name that the server passes as %f, as in restore_command = 'walarchive wal-fetch %f \"%p\"'.",
        )
    })?;
    let mut settings = find(&args.storage, data_dir_of(&args.path).as_deref())?;
    // A standby asks again. The recovery of a primary would end with a failure.
    let may_fail = is_standby(&args.path) || has_history_itself(&args.name, &args.path);
    // PostgreSQL asks for it when a standby of the first timeline is promoted. No server has ever written one.
    if may_fail && name == WalFileName::History(1) {
        return Err(StorageError::NotFound {
            object: args.name.clone(),
        }
        .into());
    }
    let store = match may_fail {
        true => {
            // A promotion waits for some of these calls, one after the other.
            let storage = &mut settings.storage;
            storage.request_timeout = storage.request_timeout.min(PATIENCE_OF_STANDBY);
            storage.patience = Duration::ZERO;
            Store::open(storage)?
        }
        false => Store::open_settled(&settings.storage).await?,
    };
    note_recovery(&store, &args.path).await;
    let fetched = archive::fetch(&store, &name, &args.path, settings.reads_first).await?;
    tracing::info!(%name, bytes = fetched.file_bytes, "fetched");
    Ok(())
}

/// Note that the server is a standby: without the module nobody else does, and its promotion could not be told from a copy that
/// was started. A failure here does not end the fetch.
async fn note_recovery(store: &Store, path: &Path) {
    let Some(data_dir) = data_dir_beside(path).filter(|data_dir| is_in_recovery(data_dir)) else {
        return;
    };
    if let Err(error) = writer(store, &data_dir, 0).note_recovery().await {
        tracing::warn!(%error, "could not note in the data directory that the server is a standby");
    }
}
