//! Leaving out what needs not be fetched after all.

use crate::error::Result;
use crate::formats::files_metadata::Listener;
use crate::stored::contents::Sets;
use crate::stored::level::{Bits, Level};
use crate::stored::metadata::{FileFlags, listen_to, metadata_object};
use crate::stored::table::Table;
use crate::stored::tars::TarKind;
use walarchive_storage::Store;

/// Finds the tars that are still needed.
struct Needed {
    table: Table,
    level: Level,
    sets: Sets,
    needed: Vec<Option<bool>>,
}

impl Listener for Needed {
    type File = FileFlags;

    fn file(&mut self, _: &str, _: FileFlags) -> Result<(), String> {
        Ok(())
    }

    fn tar(&mut self, name: &str) -> Result<(), String> {
        self.sets.tar(name);
        if let Some(tar) = self.sets.current {
            self.needed[tar].get_or_insert(false);
        }
        Ok(())
    }

    fn member(&mut self, path: &str) -> Result<(), String> {
        let file = self.table.find(path.trim_matches('/').as_bytes());
        if let (Some(tar), Some(file)) = (self.sets.current, file)
            && self.level.taken.get(file).is_some()
        {
            self.needed[tar] = Some(true);
        }
        Ok(())
    }
}

/// Take none of the files that are `there` from any backup, and none of the tars that are not needed then.
pub(super) async fn narrow(
    store: &Store,
    mut table: Table,
    levels: Vec<Level>,
    there: &Bits,
) -> Result<(Table, Vec<Level>)> {
    let mut narrowed = Vec::with_capacity(levels.len());
    for mut level in levels {
        let there = (0..table.len()).filter(|file| there.get(*file));
        there.for_each(|file| level.taken.leave(file));
        // Without files metadata nobody knows the files of a tar.
        if table.has_metadata {
            let (key, size) = metadata_object(store, &level.backup).await?;
            let listener = Needed {
                table,
                sets: Sets::new(&level.tars),
                needed: vec![None; level.tars.len()],
                level,
            };
            let mut found = listen_to(store, &key, size, listener).await?;
            let mut needed = found.needed.into_iter();
            found
                .level
                .tars
                .retain(|tar| needed.next().flatten().unwrap_or(true) || tar.kind != TarKind::Part);
            (table, level) = (found.table, found.level);
        }
        narrowed.push(level);
    }
    Ok((table, narrowed))
}
