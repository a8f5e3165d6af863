//! `take-over`.

use std::path::PathBuf;

use walarchive_core::archive::Archive;
use walarchive_core::control_file::{self, ControlFile};
use walarchive_core::lease::{self, Lease};
use walarchive_core::repository::cluster;
use walarchive_core::repository::cluster::ClusterIdentity;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use crate::print;
use crate::print::plain;
use crate::repository::data_dir::usual_data_dir;
use crate::repository::writer::{situation, writer};
use crate::repository::{Storage, find, refuse_plain_text};

/// `take-over`.
#[derive(Debug, clap::Args)]
pub struct TakeOver {
    /// The data directory of the server that is to write; by default the working directory or PGDATA.
    #[arg(long, value_name = "DIRECTORY")]
    pgdata: Option<PathBuf>,
    #[command(flatten)]
    storage: Storage,
}

/// Take the lease for the server of the data directory, whether it runs or not.
pub async fn run(args: &TakeOver) -> Result<()> {
    let data_dir = args.pgdata.clone().or_else(usual_data_dir).ok_or_else(|| {
        Error::config(
            "the data directory of the server that is to write is not known",
            "Give it with --pgdata, on the machine of that server.",
        )
    })?;
    let settings = find(&args.storage, Some(&data_dir))?;
    refuse_plain_text(&settings)?;
    let store = Store::open_settled(&settings.storage).await?;
    let control = ControlFile::read(&data_dir)?;
    let identity = ClusterIdentity {
        system_identifier: control.system_identifier,
        major_version: control_file::read_major_version(&data_dir)?,
        segment_size: control.segment_size,
    };
    cluster::is_owned(&store, &identity).await?;
    // Its timeline is not known before its recovery has ended. Its server takes the lease then.
    if situation(&store, &data_dir, control.timeline).in_recovery {
        lease::request_take_over(&data_dir).await?;
        return print::out("the server will take the lease over when its recovery has ended");
    }
    let writer = writer(&store, &data_dir, control.timeline);
    let before = writer.take_over().await?;
    Archive::new(store.clone(), identity, settings.compression)
        .with_writer(writer)
        .claim()
        .await?;
    // The lease is taken, also if it cannot be read now.
    let now = Lease::read(&store).await.unwrap_or_default();
    match before {
        Some(lease) if now.is_some_and(|now| now.holder.instance == lease.holder.instance) => {
            print::out("this server already holds the lease")
        }
        Some(lease) => print::out(&format!(
            "took the lease over from server {}, which will not write any more",
            plain(&lease.name())
        )),
        None => print::out("took the lease, which nobody held"),
    }
}
