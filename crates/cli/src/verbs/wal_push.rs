//! `wal-push`.

use std::path::PathBuf;

use walarchive_core::archive::{self, Archive, Memory};
use walarchive_core::control_file::ControlFile;
use walarchive_core::lease;
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use crate::repository::{Storage, data_dir, find, refuse_plain_text, writer};

/// `wal-push`.
#[derive(Debug, clap::Args)]
pub struct WalPush {
    /// The WAL file (%p).
    pub path: PathBuf,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// Push one WAL file.
pub async fn run(args: &WalPush) -> Result<()> {
    let (directory, name) = match (args.path.parent(), args.path.file_name().and_then(|name| name.to_str())) {
        (Some(directory), Some(name)) => (directory, name.parse::<WalFileName>()?),
        _ => {
            return Err(Error::config(
                format!("\"{}\" is not the path of a WAL file", args.path.display()),
                "Give the path that the server passes as %p.",
            ));
        }
    };
    let settings = find(&args.storage, data_dir::data_dir_of(&args.path).as_deref())?;
    refuse_plain_text(&settings)?;
    let data_dir = data_dir::data_dir_beside(&args.path);
    let memory = data_dir
        .as_deref()
        .map(|data_dir| Memory::new(data_dir, &settings.storage, settings.compression));
    if memory.as_ref().is_some_and(|memory| memory.take(&name)) {
        tracing::info!(%name, "an earlier call has pushed it");
        return Ok(());
    }
    let store = Store::open(&settings.storage)?;
    let identity = archive::identity_of(&args.path)?;
    let writer = data_dir.map(|data_dir| {
        let control = ControlFile::read(&data_dir).map_or(0, |control| control.timeline);
        writer::writer(&store, &data_dir, control.max(timeline_of(&name)))
    });
    let archive = match writer {
        Some(writer) => Archive::new(store, identity, settings.compression).with_writer(writer),
        // An administrator pushes a file from elsewhere, for the server that holds the lease.
        None => Archive::new(lease::follower(&store), identity, settings.compression),
    };
    let pushed = match &memory {
        Some(memory) => {
            let most = settings.upload_concurrency;
            archive.push_with_others(directory, &name, memory, most).await?
        }
        None => archive.push(directory, &name).await?,
    };
    tracing::info!(%name, already_there = pushed.already_there, bytes = pushed.stored_bytes, "pushed");
    Ok(())
}

fn timeline_of(name: &WalFileName) -> u32 {
    match name {
        WalFileName::History(timeline) => *timeline,
        WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
            segment.timeline
        }
    }
}
