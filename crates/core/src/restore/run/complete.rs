//! Is everything there that should be?

use std::collections::HashSet;

use super::context::Context;
use crate::data_dir::{PG_CONTROL, TABLESPACE_MAP};
use crate::error::{Error, Result};
use crate::printable::counted;
use crate::repository::layout;
use crate::stored::facts::Stored;
use crate::stored::names::{ListSource, NAMED, names};
use crate::stored::table::{PathHash, Table};
use walarchive_storage::Store;

/// After the last tar but that of `pg_control`.
pub(crate) async fn check_complete(context: &Context, store: &Store, backup: &str) -> Result<()> {
    let Some(table) = &context.table else { return Ok(()) };
    let object = store.object_url(&layout::backup_folder(backup));
    let source = match table.has_metadata {
        true => ListSource::FilesMetadata,
        false => ListSource::Manifest,
    };
    if let (files, Some((file, pages))) = context.assembly.rest() {
        let keys = HashSet::from([table.key(file)]);
        let name = names(store, backup, source, table.keys().clone(), keys).await?;
        return Err(Error::damaged(
            object,
            format!(
                "{} of its file \"{}\" cannot be found in any backup that it is based on. Incomplete: {}.",
                counted(pages, "page"),
                name.first().map_or("", String::as_str),
                counted(files, "file")
            ),
        ));
    }
    let missing = Missing::of(context, table);
    if missing.count > 0 {
        let source = match table.has_manifest {
            true => ListSource::Manifest,
            false => source,
        };
        let names = names(store, backup, source, table.keys().clone(), missing.keys).await?;
        let of = match source {
            ListSource::Manifest => "its manifest lists",
            ListSource::FilesMetadata => "it has from older backups",
        };
        return Err(Error::damaged(
            object,
            format!(
                "{} that {of} cannot be found in any tar. The first is \"{}\".",
                counted(missing.count, "file"),
                names.first().map_or("", String::as_str)
            ),
        ));
    }
    if missing.vanished > 0 {
        // WAL-G may list files that vanished while it packed them, so this alone is no damage.
        tracing::warn!(
            "{} of the backup's files metadata cannot be found in any tar",
            counted(missing.vanished, "file")
        );
    }
    Ok(())
}

struct Missing {
    count: u64,
    /// Of the first few.
    keys: HashSet<PathHash>,
    /// Such as only the newest backup's files metadata has, in full.
    vanished: u64,
}

impl Missing {
    fn of(context: &Context, table: &Table) -> Self {
        let later = [PG_CONTROL, TABLESPACE_MAP].map(|path| table.find(path.as_bytes()));
        let mut missing = Missing {
            count: 0,
            keys: HashSet::new(),
            vanished: 0,
        };
        for file in (0..table.len()).filter(|file| !context.complete.get(*file) && !later.contains(&Some(*file))) {
            let from_older = matches!(table.stored(file), Some(Stored::Increment | Stored::Skipped));
            match (table.has_manifest, table.is_listed(file)) {
                (true, true) => {}
                (true, false) => continue,
                (false, _) if from_older => {}
                (false, _) => {
                    missing.vanished += 1;
                    continue;
                }
            }
            missing.count += 1;
            if missing.keys.len() < NAMED {
                missing.keys.insert(table.key(file));
            }
        }
        missing
    }
}
