//! `wal-fetch`.

use std::path::PathBuf;

use walarchive_core::archive;
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use crate::repository::data_dir::{data_dir_of, is_standby};
use crate::repository::{Storage, find};

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
    let settings = find(&args.storage, data_dir_of(&args.path).as_deref())?;
    // A standby asks again. The recovery of a primary would end with a failure.
    let store = match is_standby(&args.path) {
        true => Store::open(&settings.storage)?,
        false => Store::open_settled(&settings.storage).await?,
    };
    let fetched = archive::fetch(&store, &name, &args.path, settings.reads_first).await?;
    tracing::info!(%name, bytes = fetched.file_bytes, "fetched");
    Ok(())
}
