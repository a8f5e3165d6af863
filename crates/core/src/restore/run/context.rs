//! State that all tars of a restore share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::assemble::Assembly;
use crate::data_dir::{BACKUP_LABEL, PG_CONTROL};
use crate::error::{Error, Result};
use crate::formats::FILES_LIMIT;
use crate::restore::directory::output::Output;
use crate::restore::directory::tree::Tree;
use crate::restore::mask::Mask;
use crate::stored::facts::Found;
use crate::stored::level::{Bits, Level, Taken};
use crate::stored::member::MemberPath;
use crate::stored::progress::ReadProgress;
use crate::stored::table::{Keys, Listing, PathHash, Table};

/// Of a whole restore.
pub(crate) struct Context {
    /// None if nothing is to be written.
    pub(crate) tree: Option<Tree>,
    /// If not all files are to come.
    pub(crate) mask: Option<Mask>,
    /// None if every member counts.
    pub(crate) table: Option<Table>,
    /// Files that are where they belong, in full.
    pub(crate) complete: Bits,
    /// Complete, and put together from several backups.
    pub(crate) assembled: Bits,
    pub(crate) assembly: Assembly,
    /// Those that no table knows.
    strays: Mutex<HashSet<PathHash>>,
    stray_keys: Keys,
    pub(crate) control: AtomicBool,
    pub(crate) label: AtomicBool,
    /// May the group read the backup's files? Known when `PG_VERSION` was seen.
    pub(crate) group: OnceLock<bool>,
    pub(crate) progress: Arc<ReadProgress>,
    pub(crate) cancel: CancellationToken,
}

/// Of the tars of one backup.
pub(crate) struct Step {
    pub(crate) level: Level,
    /// Members that were found in its tars.
    found: Bits,
    /// Bytes of the members so far, whether they are wanted or not.
    unpacked: AtomicU64,
}

/// The treatment of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Leave it out.
    Nothing,
    /// It was there before.
    Twice,
    /// It is a file in full.
    Full,
    /// It is an increment.
    Increment,
}

impl Step {
    pub(crate) fn new(level: Level, table: Option<&Table>) -> Self {
        Step {
            level,
            found: Bits::none(table.map_or(0, Table::len)),
            unpacked: AtomicU64::new(0),
        }
    }

    /// A member of so many bytes comes. The most that the backup's tars may unpack to, if it is more than that with them.
    pub(crate) fn exceeds(&self, bytes: u64) -> Option<u64> {
        let before = self.unpacked.fetch_add(bytes, Ordering::Relaxed);
        self.level.most.filter(|most| before.saturating_add(bytes) > *most)
    }

    pub(crate) fn is_newest(&self) -> bool {
        self.level.depth == 0
    }
}

impl Context {
    pub(crate) fn new(
        tree: Option<Tree>,
        table: Option<Table>,
        kept: Option<Bits>,
        progress: Arc<ReadProgress>,
        cancel: CancellationToken,
    ) -> Self {
        let files = table.as_ref().map_or(0, Table::len);
        Context {
            tree,
            mask: None,
            table,
            complete: kept.unwrap_or_else(|| Bits::none(files)),
            assembled: Bits::none(files),
            assembly: Assembly::default(),
            strays: Mutex::default(),
            stray_keys: Keys::default(),
            control: AtomicBool::new(false),
            label: AtomicBool::new(false),
            group: OnceLock::new(),
            progress,
            cancel,
        }
    }

    /// Is the file to come at all?
    pub(crate) fn takes(&self, path: &[u8]) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.takes(path))
    }

    /// The numbers of a member.
    pub(crate) fn find(&self, path: &MemberPath) -> Found {
        let none = Found {
            own: None,
            described: None,
        };
        self.table.as_ref().map_or(none, |table| table.find_member(path))
    }

    /// Decide on a file, which counts as found from now on.
    pub(crate) fn want(&self, step: &Step, path: &MemberPath, found: Found) -> Want {
        for (special, done) in [(PG_CONTROL, &self.control), (BACKUP_LABEL, &self.label)] {
            if path.is(special) {
                // They are of the backup that is restored, whatever files metadata says.
                return match step.is_newest() {
                    false => Want::Nothing,
                    true if done.swap(true, Ordering::Relaxed) => Want::Twice,
                    true => Want::Full,
                };
            }
        }
        let Some(table) = &self.table else {
            return match self.is_new_stray(path) {
                true => Want::Full,
                false => Want::Twice,
            };
        };
        // Without files metadata, what the manifest does not list is for the caller to refuse.
        let taken = match (table.has_metadata, found.described) {
            (true, described) => described.and_then(|file| step.level.taken.get(file)),
            (false, Some(file)) => step.level.taken.get(file),
            (false, None) => Some(Taken::Full),
        };
        let want = match taken {
            Some(Taken::Full) => Want::Full,
            Some(Taken::Increment) => Want::Increment,
            None => return Want::Nothing,
        };
        match found.number() {
            Some(file) if step.found.set(file) => Want::Twice,
            Some(file) if self.complete.get(file) => Want::Nothing,
            _ => want,
        }
    }

    /// Was no member of that path seen? Beyond as many as any backup has, they are not told apart.
    fn is_new_stray(&self, path: &MemberPath) -> bool {
        let mut strays = self.strays.lock();
        strays.len() >= FILES_LIMIT || strays.insert(self.stray_keys.of(&path.joined()))
    }

    /// A member that is neither a file nor a directory is left out. Returns whether this backup is the one to have it.
    pub(crate) fn leave_out(&self, step: &Step, path: &MemberPath, found: Found) -> bool {
        let Some(table) = &self.table else {
            self.is_new_stray(path);
            return true;
        };
        let Some(file) = found.number() else {
            return step.is_newest();
        };
        let is_taken = step.is_newest() || step.level.taken.get(file).is_some();
        // A file of a manifest is still missing then, and one that has the same name comes twice.
        if is_taken && !step.found.set(file) && !(table.has_manifest && table.is_listed(file)) {
            self.done(Some(file));
        }
        is_taken
    }

    /// The file is where it belongs, in full.
    pub(crate) fn done(&self, file: Option<usize>) {
        if let Some(file) = file {
            self.complete.set(file);
        }
    }

    /// The manifest's entry for the file.
    pub(crate) fn listing(&self, found: Found) -> Listing {
        Listing::of(self.table.as_ref(), found)
    }

    /// A new file of the target.
    pub(crate) fn create(&self, path: &MemberPath) -> Result<Output> {
        match &self.tree {
            Some(tree) => tree.create_file(path).map(Output::File),
            None => self.check_place(path).map(|()| Output::Nowhere),
        }
    }

    /// Could it be created? Nothing can be below a file, as far as the manifest tells which these are.
    fn check_place(&self, path: &MemberPath) -> Result<()> {
        let Some(table) = self.table.as_ref().filter(|table| table.has_manifest) else {
            return Ok(());
        };
        let components = path.components();
        for depth in 1..components.len() {
            let above = components[..depth].join(&b'/');
            if table.find(&above).is_some_and(|number| table.is_listed(number)) {
                return Err(Error::damaged(
                    String::from_utf8_lossy(&above).escape_debug().to_string(),
                    "The backup has files below it, but it is no directory.",
                ));
            }
        }
        Ok(())
    }

    /// One that was parked.
    pub(crate) fn reopen(&self, path: &MemberPath) -> Result<Output> {
        match &self.tree {
            Some(tree) => tree.reopen_file(path).map(Output::File),
            None => Ok(Output::Nowhere),
        }
    }

    pub(crate) fn create_directory(&self, path: &MemberPath, mode: u32) -> Result<()> {
        match &self.tree {
            Some(tree) => tree.create_directory(path, mode),
            None => Ok(()),
        }
    }
}
