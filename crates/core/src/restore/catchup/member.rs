//! One tar: whole files take the place of the standby's, and pages go into its files.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use tar::EntryType;

use super::data::is_data;
use super::shared::Shared;
use super::survey::is_control;
use crate::data_dir::BACKUP_LABEL;
use crate::encrypted::blame;
use crate::error::{Error, Result};
use crate::files::read_full;
use crate::formats::increment::{IncrementHeader, PAGE_BYTES};
use crate::restore::directory::tree::Flush;
use crate::stored::facts::{Expected, Stored};
use crate::stored::member::MemberPath;
use crate::stored::members::{Stop, TRUNCATED, each_member};
use crate::stored::progress::Counted;
use crate::stored::table::Listing;
use crate::stored::tars::{Tar, TarKind};
use walarchive_storage::RangeReader;

/// Bytes that are copied at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// Unpack a tar; blocks. `object` is its URL, for messages.
pub(super) fn unpack(shared: &Shared, tar: &Tar, object: &str, mut reader: RangeReader) -> Result<()> {
    let source = Counted::new(&mut reader, &shared.progress).until(&shared.cancel);
    let unpacker = Unpacker { shared, tar, object };
    let unpacked = each_member(tar.format, source, |entry| unpacker.member(entry));
    match unpacked {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::damaged(object, TRUNCATED)),
        Err(Stop::Other(error)) => Err(error),
        Err(Stop::Read(error)) => {
            let reason = format!("It cannot be unpacked: {error}.");
            Err(match blame(&mut reader, object, tar.format, reason) {
                refused if refused.is_content() && shared.cancel.is_cancelled() => Error::Cancelled,
                blamed => blamed,
            })
        }
    }
}

struct Unpacker<'a> {
    shared: &'a Shared,
    tar: &'a Tar,
    object: &'a str,
}

impl Unpacker<'_> {
    fn member(&self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), Stop> {
        let raw = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let path = MemberPath::parse(&raw).map_err(|reason| {
            let name = String::from_utf8_lossy(&raw).escape_debug().to_string();
            Stop::Other(Error::damaged(
                self.object,
                format!("Its member \"{name}\" is refused: {reason}."),
            ))
        })?;
        let mode = entry.header().mode()?;
        let is_directory = kind == EntryType::Directory;
        if self.tar.kind == TarKind::Label {
            return match path.is(BACKUP_LABEL) {
                true => self.label(entry, &path, mode),
                false => Ok(()),
            };
        }
        let joined = path.joined();
        let found = self.shared.table.find_member(&path);
        let is_taken = is_data(&joined) && !is_control(&joined) && !path.is_beside_tablespace(is_directory);
        if !is_taken || is_directory {
            found
                .number()
                .into_iter()
                .for_each(|file| _ = self.shared.seen.set(file));
        }
        match kind {
            _ if !is_taken => Ok(()),
            EntryType::Directory => Ok(self.shared.tree.create_directory(&path, mode)?),
            EntryType::Regular | EntryType::Continuous => self.file(entry, &path, mode),
            _ => Err(self.wrong(&path, "is neither a file nor a directory")),
        }
    }

    fn label(&self, entry: &mut tar::Entry<'_, impl Read>, path: &MemberPath, mode: u32) -> Result<(), Stop> {
        self.whole(entry, path, mode, None)?;
        self.shared.label.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn file(&self, entry: &mut tar::Entry<'_, impl Read>, path: &MemberPath, mode: u32) -> Result<(), Stop> {
        let (shared, found) = (self.shared, self.shared.table.find_member(path));
        // WAL-G, too, takes no member that its files metadata does not know.
        let Some((file, stored)) = found.number().and_then(|file| Some((file, shared.table.stored(file)?))) else {
            return Ok(());
        };
        if shared.seen.set(file) {
            return Err(self.wrong(path, "is in the backup twice"));
        }
        let expected = Listing::of(Some(&shared.table), found).expected();
        match stored {
            Stored::Full => self.whole(entry, path, mode, expected)?,
            Stored::Increment => self.pages(entry, path, mode, expected)?,
            Stored::Skipped => return Err(self.wrong(path, "should be in no tar")),
        }
        shared.progress.files_done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A new file, which takes the place of the old one.
    fn whole(
        &self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &MemberPath,
        mode: u32,
        expected: Option<Expected>,
    ) -> Result<(), Stop> {
        let size = entry.size();
        self.check_size(path, size, expected)?;
        let new = self.shared.tree.create_file(path)?;
        let mut sum = expected.and_then(|expected| expected.sum).map(|sum| (sum, sum.begin()));
        let length = BUFFER_BYTES.min(usize::try_from(size).unwrap_or(BUFFER_BYTES)).max(1);
        let (mut buffer, mut copied) = (vec![0; length], 0);
        loop {
            self.check_cancel()?;
            let bytes = entry.read(&mut buffer)?;
            if bytes == 0 {
                break;
            }
            if let Some((_, sum)) = &mut sum {
                sum.update(&buffer[..bytes]);
            }
            let written = new.file.write_all_at(&buffer[..bytes], copied);
            written.map_err(|error| Error::io("write", &new.path, error))?;
            copied += bytes as u64;
        }
        if copied != size {
            return Err(self.wrong(path, "is truncated"));
        }
        if sum.is_some_and(|(expected, sum)| !expected.is(sum)) {
            return Err(self.wrong(path, "has a checksum other than in the backup manifest"));
        }
        self.shared.progress.bytes_written.fetch_add(copied, Ordering::Relaxed);
        Ok(new.keep(mode, Flush::AtTheEnd)?)
    }

    /// The standby's file. WAL-G, whose backups have no manifest, takes new files as increments, too.
    fn open(&self, path: &MemberPath, mode: u32) -> Result<(File, PathBuf)> {
        let (tree, is_wal_gs) = (&self.shared.tree, !self.shared.table.has_manifest);
        match tree.open_in_place(path) {
            Err(Error::Io { source, .. }) if is_wal_gs && source.kind() == ErrorKind::NotFound => {
                tree.create_file(path)?.keep(mode, Flush::AtTheEnd)?;
                tree.open_in_place(path)
            }
            opened => opened,
        }
    }

    /// Pages for a file of the standby.
    fn pages(
        &self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &MemberPath,
        mode: u32,
        expected: Option<Expected>,
    ) -> Result<(), Stop> {
        let size = entry.size();
        let header = IncrementHeader::read_from(entry, size, &path.to_string());
        let header = header
            .map_err(|error| {
                let reason = error.detail().unwrap_or_else(|| error.to_string());
                self.wrong(path, &format!("is not an increment: {}", reason.trim_end_matches('.')))
            })?
            .map_err(Stop::Read)?;
        self.check_size(path, header.file_size, expected)?;
        let (file, full) = self.open(path, mode)?;
        let failed = |error| Error::io("write", &full, error);
        let before = file.metadata().map_err(|error| Error::io("read", &full, error))?.len();
        self.check_gap(path, before, &header)?;
        file.set_len(header.file_size).map_err(failed)?;
        let mut page = vec![0; PAGE_BYTES as usize];
        for block in &header.blocks {
            self.check_cancel()?;
            if read_full(entry, &mut page)? < page.len() {
                return Err(self.wrong(path, "is truncated"));
            }
            let at = u64::from(*block) * PAGE_BYTES;
            // WAL-G may have read more than the file had before: replay of the WAL appends it again.
            if at < header.file_size {
                file.write_all_at(&page, at).map_err(failed)?;
                self.shared
                    .progress
                    .bytes_written
                    .fetch_add(PAGE_BYTES, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// All pages beyond the end of the standby's file must come.
    fn check_gap(&self, path: &MemberPath, before: u64, header: &IncrementHeader) -> Result<(), Stop> {
        let (first, end) = (before / PAGE_BYTES, header.file_size / PAGE_BYTES);
        let beyond = header.blocks.iter().map(|block| u64::from(*block));
        let mut beyond: Vec<u64> = beyond.filter(|block| (first..end).contains(block)).collect();
        beyond.sort_unstable();
        beyond.dedup();
        if beyond.len() as u64 >= end.saturating_sub(first) {
            return Ok(());
        }
        Err(Stop::Other(Error::refused(
            format!("\"{path}\" has fewer pages in the directory than the backup takes for granted"),
            "The standby does not have all changes from before the LSN of catchup-push. Restore with backup-fetch --delta.",
        )))
    }

    fn check_size(&self, path: &MemberPath, size: u64, expected: Option<Expected>) -> Result<(), Stop> {
        match expected {
            Some(expected) if expected.size != size => Err(self.wrong(
                path,
                &format!("has {size} bytes, the backup manifest says {}", expected.size),
            )),
            _ => Ok(()),
        }
    }

    fn check_cancel(&self) -> Result<(), Stop> {
        match self.shared.cancel.is_cancelled() {
            true => Err(Stop::Other(Error::Cancelled)),
            false => Ok(()),
        }
    }

    fn wrong(&self, path: &MemberPath, reason: &str) -> Stop {
        Stop::Other(Error::damaged(self.object, format!("Its member \"{path}\" {reason}.")))
    }
}
