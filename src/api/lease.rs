//! `walarchive_take_over`.

use pgrx::prelude::*;
use walarchive_core::Error;
use walarchive_core::lease::Lease;
use walarchive_core::repository::cluster;

use super::in_archive;
use crate::error::or_raise;
use crate::guc::ArchiveSettings;
use crate::pg::server;
use crate::pg::text::SqlText;

/// Make this server the one that writes into the repository. Returns the one that did before: host and data directory. NULL if
/// no other server did.
#[pg_extern(volatile, parallel_unsafe)]
fn walarchive_take_over() -> Option<SqlText> {
    or_raise(ArchiveSettings::for_writing());
    let identity = server::identity();
    in_archive(|archive| async move {
        cluster::is_owned(archive.store(), &identity).await?;
        let writer = archive.writer().ok_or(Error::Cancelled)?;
        let before = writer.take_over().await?;
        archive.claim().await?;
        // The lease is taken, also if it cannot be read now.
        let now = Lease::read(archive.store()).await.unwrap_or_default();
        let other = before.filter(|before| now.is_none_or(|now| now.holder.instance != before.holder.instance));
        Ok(other.map(|lease| lease.name()))
    })
    .map(SqlText)
}
