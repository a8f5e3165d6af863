//! `walarchive_backup_mark`.

use pgrx::prelude::*;
use walarchive_core::repository::cluster;
use walarchive_core::retention::{self, Mark};

use super::{in_archive, required, texts};
use crate::error::or_raise;
use crate::guc::ArchiveSettings;
use crate::pg::server;
use crate::pg::text::SqlText;

/// Mark a backup as permanent, so that nothing deletes it, or as impermanent again. The backups that it is based on are marked, too.
/// Returns the names of the backups that were changed.
#[pg_extern(volatile, parallel_unsafe)]
fn walarchive_backup_mark(
    name: Option<SqlText>,
    permanent: default!(Option<bool>, "true"),
) -> SetOfIterator<'static, SqlText> {
    let SqlText(name) = required("name", name);
    let mark = match required("permanent", permanent) {
        true => Mark::Permanent,
        false => Mark::Impermanent,
    };
    or_raise(ArchiveSettings::for_writing());
    let identity = server::identity();
    let changed = in_archive(|archive| async move {
        cluster::is_owned(archive.store(), &identity).await?;
        let store = archive.writable();
        store.check_fence().await?;
        retention::mark(&store, &name, mark).await
    });
    SetOfIterator::new(texts(changed))
}
