//! What is in the standby's data directory, and what becomes of it.

use nix::sys::stat::SFlag;
use tokio_util::sync::CancellationToken;

use super::data::is_data;
use super::room::Sizes;
use crate::data_dir::PG_CONTROL;
use crate::error::{Error, Result};
use crate::restore::directory::directories::Directories;
use crate::restore::directory::root::{Root, is_kind};
use crate::restore::directory::tablespaces::Tablespace;
use crate::restore::directory::tree::Tree;
use crate::restore::directory::walk::{DirectoryEntry, walk};
use crate::stored::facts::Stored;
use crate::stored::level::Bits;
use crate::stored::survey::BLOCK;
use crate::stored::table::Table;

/// Of the files that are in the backup.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those that are in the directory.
    pub(super) present: Bits,
    /// How many are not in the backup, and so are removed.
    pub(super) removed: u64,
    /// The bytes of all data that is there.
    pub(super) bytes: Sizes,
}

/// What one entry is.
enum Kind {
    /// Not the server's data, or a link that stays.
    Other,
    /// It is in the backup, under this number.
    Kept(usize),
    /// Data that the primary does not have any more.
    Gone,
}

fn kind(entry: &DirectoryEntry<'_>, table: &Table, tablespaces: &[Tablespace], wal: Option<&Root>) -> Kind {
    if !is_data(entry.path) || entry.is_link_of(tablespaces) || entry.is_link_to_wal(wal) {
        return Kind::Other;
    }
    table.find(entry.path).map_or(Kind::Gone, Kind::Kept)
}

/// Look at everything; blocks. `tablespaces` are those of the backup and of the directory.
pub(super) fn look(found: &Directories, table: &Table, tablespaces: &[Tablespace], major: u32) -> Result<Found> {
    let mut survey = Found {
        present: Bits::none(table.len()),
        removed: 0,
        bytes: Sizes::new(),
    };
    let Some(target) = &found.target else { return Ok(survey) };
    let wal = found.wal.as_ref().and_then(|wal| wal.root.as_ref());
    let mut look = |entry: &DirectoryEntry<'_>| {
        let kind = kind(entry, table, tablespaces, wal);
        if entry.is_directory || matches!(kind, Kind::Other) {
            return Ok(());
        }
        let stat = entry.stat()?;
        if is_kind(&stat, SFlag::S_IFLNK) {
            return Err(Error::refused(
                format!(
                    "\"{}\" is a symbolic link, and no link to a tablespace",
                    entry.full().display()
                ),
                "Put what it leads to in its place, or restore with backup-fetch --delta.",
            ));
        }
        if stat.st_nlink > 1 && matches!(kind, Kind::Kept(number) if table.stored(number) == Some(Stored::Increment)) {
            return Err(Error::refused(
                format!(
                    "file \"{}\" has other names, and pages of it would change there, too",
                    entry.full().display()
                ),
                "Copy it, and put the copy in its place; or restore with backup-fetch --delta.",
            ));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        *survey.bytes.entry(entry.tablespace).or_default() += size.div_ceil(BLOCK).saturating_mul(BLOCK);
        match kind {
            Kind::Kept(number) if is_kind(&stat, SFlag::S_IFREG) => _ = survey.present.set(number),
            _ => survey.removed += 1,
        }
        Ok(())
    };
    walk(target, &found.tablespaces, wal, major, &mut look)?;
    Ok(survey)
}

/// Remove the data that is not in the backup; blocks.
pub(super) fn clean(
    tree: &Tree,
    table: &Table,
    tablespaces: &[Tablespace],
    major: u32,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut look = |entry: &DirectoryEntry<'_>| {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        // A directory that is not empty stays.
        match kind(entry, table, tablespaces, tree.wal()) {
            Kind::Gone => entry.remove().map(drop),
            Kind::Other | Kind::Kept(_) => Ok(()),
        }
    };
    walk(tree.target(), tree.tablespaces(), tree.wal(), major, &mut look)
}

/// The files of which the backup has only some pages, and the directory nothing: so many, and the first few.
pub(super) fn without_base(table: &Table, present: &Bits, most: usize) -> (u64, Vec<usize>) {
    let is_open = |file: &usize| table.stored(*file) == Some(Stored::Increment) && !present.get(*file);
    let mut open = (0..table.len()).filter(is_open);
    let first: Vec<usize> = open.by_ref().take(most).collect();
    (first.len() as u64 + open.count() as u64, first)
}

/// That file comes from the backup's own tar.
pub(super) fn is_control(path: &[u8]) -> bool {
    path == PG_CONTROL.as_bytes()
}
