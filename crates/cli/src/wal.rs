//! `wal-fetch` and `wal-push`.

use std::path::{Path, PathBuf};

use walarchive_core::archive::{self, Archive};
use walarchive_core::control_file::ControlFile;
use walarchive_core::lease;
use walarchive_core::server_config::data_directories;
use walarchive_core::storage::Store;
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Result};

use crate::args::{WalFetch, WalPush};
use crate::{settings, take_over};

/// Fetch one WAL file.
pub async fn fetch(args: &WalFetch) -> Result<()> {
    let name: WalFileName = args.name.parse().map_err(|_| {
        Error::config(
            format!("\"{}\" is not the name of a WAL file", args.name.escape_debug()),
            "Give the name that the server puts in place of %f, as in restore_command = 'walarchive wal-fetch %f \"%p\"'.",
        )
    })?;
    let settings = settings::find(&args.storage, data_dir_of(&args.path).as_deref())?;
    // A standby asks again; the recovery of a primary would end here.
    let store = match is_standby(&args.path) {
        true => Store::open(&settings.storage)?,
        false => Store::open_settled(&settings.storage).await?,
    };
    let fetched = archive::fetch(&store, &name, &args.path, settings.reads_first).await?;
    tracing::info!(%name, bytes = fetched.file_bytes, "fetched");
    Ok(())
}

/// Push one WAL file.
pub async fn push(args: &WalPush) -> Result<()> {
    let (directory, name) = match (args.path.parent(), args.path.file_name().and_then(|name| name.to_str())) {
        (Some(directory), Some(name)) => (directory, name.parse::<WalFileName>()?),
        _ => {
            return Err(Error::config(
                format!("\"{}\" is not the path of a WAL file", args.path.display()),
                "Give the path that the server puts in place of %p.",
            ));
        }
    };
    settings::refuse_plain_text()?;
    let settings = settings::find(&args.storage, data_dir_of(&args.path).as_deref())?;
    let store = Store::open(&settings.storage)?;
    let identity = archive::identity_of(&args.path)?;
    let writer = data_dir_beside(&args.path).map(|data_dir| {
        let control = ControlFile::read(&data_dir).map_or(0, |control| control.timeline);
        take_over::writer(&store, &data_dir, control.max(timeline_of(&name)))
    });
    let archive = match writer {
        Some(writer) => Archive::new(store, identity, settings.compression).with_writer(writer),
        // A file that lies elsewhere is an administrator's, who works for whoever holds the lease.
        None => Archive::new(lease::follower(&store), identity, settings.compression),
    };
    let pushed = archive.push(directory, &name).await?;
    tracing::info!(%name, already_there = pushed.already_there, bytes = pushed.stored_bytes, "pushed");
    Ok(())
}

/// The data directory in whose `pg_wal` the file lies.
fn data_dir_beside(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let pg_wal = path
        .parent()
        .filter(|folder| folder.file_name().is_some_and(|name| name == "pg_wal"))?;
    pg_wal
        .parent()
        .filter(|directory| is_data_dir(directory))
        .map(Path::to_path_buf)
}

fn timeline_of(name: &WalFileName) -> u32 {
    match name {
        WalFileName::History(timeline) => *timeline,
        WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
            segment.timeline
        }
    }
}

/// Is the server that wants the file a standby?
pub fn is_standby(path: &Path) -> bool {
    data_dir_of(path).is_some_and(|data_dir| data_dir.join("standby.signal").exists())
}

/// The data directory that a path in `pg_wal` belongs to: the directory above `pg_wal`, or the working directory, which is
/// the server's when it calls us, or PGDATA.
pub fn data_dir_of(path: &Path) -> Option<PathBuf> {
    let above = std::path::absolute(path)
        .ok()
        .and_then(|path| Some(path.parent()?.parent()?.to_path_buf()));
    above
        .into_iter()
        .chain(usual_data_dirs())
        .find(|directory| is_data_dir(directory))
}

/// The working directory, then PGDATA, then that of the only cluster that Debian's tools know.
pub fn usual_data_dirs() -> impl Iterator<Item = PathBuf> {
    let pgdata = std::env::var_os("PGDATA").map(PathBuf::from);
    let known = || {
        let known = data_directories();
        (known.len() == 1).then_some(known).into_iter().flatten()
    };
    let usual = std::env::current_dir().ok().into_iter().chain(pgdata);
    usual.chain(std::iter::once_with(known).flatten())
}

/// `PG_VERSION` is in every data directory, but also in those of databases.
pub fn is_data_dir(directory: &Path) -> bool {
    directory.join("PG_VERSION").is_file() && directory.join("global").is_dir()
}
