//! `walarchive_take_over`.

use pgrx::prelude::*;
use walarchive_core::{Error, cluster};

use super::in_archive;
use crate::error::or_raise;
use crate::guc::ArchiveSettings;
use crate::pg::server;
use crate::pg::text::SqlText;

/// From now on this server writes into the repository, whoever did before. Returns who that was: host and data directory.
#[pg_extern(volatile, parallel_unsafe)]
fn walarchive_take_over() -> Option<SqlText> {
    or_raise(ArchiveSettings::for_writing());
    let identity = server::identity();
    in_archive(|archive| async move {
        cluster::is_owned(archive.store(), &identity).await?;
        let writer = archive.writer().ok_or(Error::Cancelled)?;
        let before = writer.take_over().await?;
        archive.claim().await?;
        Ok(before.map(|lease| lease.name()))
    })
    .map(SqlText)
}
