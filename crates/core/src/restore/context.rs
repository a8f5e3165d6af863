//! What all tars of a restore share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::apply::Progress;
use super::assemble::Assembly;
use super::level::{Bits, Level};
use super::member::{BACKUP_LABEL, MemberPath, PG_CONTROL};
use super::output::Output;
use super::table::{Expected, Found, Key, Keys, Stored, Table};
use super::tree::Tree;
use crate::error::Result;

/// Of a whole restore.
pub(super) struct Context {
    /// None if nothing is to be written.
    pub(super) tree: Option<Tree>,
    /// None if every member counts.
    pub(super) table: Option<Table>,
    /// Files that are where they belong, in full.
    pub(super) complete: Bits,
    /// Complete, and put together from several backups.
    pub(super) assembled: Bits,
    pub(super) assembly: Assembly,
    /// Those that no table knows.
    strays: Mutex<HashSet<Key>>,
    stray_keys: Keys,
    pub(super) control: AtomicBool,
    pub(super) label: AtomicBool,
    /// May the group read the backup's files? Known when `PG_VERSION` was seen.
    pub(super) group: OnceLock<bool>,
    pub(super) progress: Arc<Progress>,
    pub(super) cancel: CancellationToken,
}

/// Of the tars of one backup.
pub(super) struct Step {
    pub(super) level: Level,
    /// Members that were found in its tars.
    found: Bits,
    /// Bytes of the members so far, whether they are wanted or not.
    unpacked: AtomicU64,
}

/// What is to be done with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
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
    pub(super) fn new(level: Level, table: Option<&Table>) -> Self {
        Step {
            level,
            found: Bits::none(table.map_or(0, Table::len)),
            unpacked: AtomicU64::new(0),
        }
    }

    /// A member of so many bytes comes. The most that the backup's tars may unpack to, if it is more than that with them.
    pub(super) fn exceeds(&self, bytes: u64) -> Option<u64> {
        let before = self.unpacked.fetch_add(bytes, Ordering::Relaxed);
        self.level.most.filter(|most| before.saturating_add(bytes) > *most)
    }

    pub(super) fn is_newest(&self) -> bool {
        self.level.depth == 0
    }
}

impl Context {
    pub(super) fn new(
        tree: Option<Tree>,
        table: Option<Table>,
        kept: Option<Bits>,
        progress: Arc<Progress>,
        cancel: CancellationToken,
    ) -> Self {
        let files = table.as_ref().map_or(0, Table::len);
        Context {
            tree,
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

    /// The numbers of a member.
    pub(super) fn find(&self, path: &MemberPath) -> Found {
        let none = Found {
            own: None,
            described: None,
        };
        self.table.as_ref().map_or(none, |table| table.find_member(path))
    }

    /// What is to be done with a file, which counts as found from now on.
    pub(super) fn want(&self, step: &Step, path: &MemberPath, found: Found) -> Want {
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
            let key = self.stray_keys.of(&path.joined());
            return match self.strays.lock().insert(key) {
                true => Want::Full,
                false => Want::Twice,
            };
        };
        // Without files metadata, what the manifest does not list is for the caller to refuse.
        let stored = match (table.has_metadata, found.described) {
            (true, described) => described.and_then(|file| step.level.taken.get(file)),
            (false, Some(file)) => step.level.taken.get(file),
            (false, None) => Some(Stored::Full),
        };
        let want = match stored {
            Some(Stored::Full) => Want::Full,
            Some(Stored::Increment) => Want::Increment,
            Some(Stored::Skipped) | None => return Want::Nothing,
        };
        match found.number() {
            Some(file) if step.found.set(file) => Want::Twice,
            Some(file) if self.complete.get(file) => Want::Nothing,
            _ => want,
        }
    }

    /// A member that is neither a file nor a directory is left out. Returns whether this backup is the one to have it.
    pub(super) fn leave_out(&self, step: &Step, path: &MemberPath, found: Found) -> bool {
        let Some(table) = &self.table else {
            self.strays.lock().insert(self.stray_keys.of(&path.joined()));
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
    pub(super) fn done(&self, file: Option<usize>) {
        if let Some(file) = file {
            self.complete.set(file);
        }
    }

    /// What the manifest says of the file. The inner none: it does not list it. The outer one: there is no manifest.
    pub(super) fn expected(&self, found: Found) -> Option<Option<Expected>> {
        let table = self.table.as_ref().filter(|table| table.has_manifest)?;
        Some(found.own.and_then(|file| table.expected(file)))
    }

    /// A new file of the target.
    pub(super) fn create(&self, path: &MemberPath) -> Result<Output> {
        match &self.tree {
            Some(tree) => tree.create_file(path).map(Output::File),
            None => Ok(Output::Nowhere),
        }
    }

    /// One that was parked.
    pub(super) fn reopen(&self, path: &MemberPath) -> Result<Output> {
        match &self.tree {
            Some(tree) => tree.reopen_file(path).map(Output::File),
            None => Ok(Output::Nowhere),
        }
    }

    pub(super) fn create_directory(&self, path: &MemberPath, mode: u32) -> Result<()> {
        match &self.tree {
            Some(tree) => tree.create_directory(path, mode),
            None => Ok(()),
        }
    }
}
