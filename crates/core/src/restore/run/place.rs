//! The content of one member, checked on its way into the file.

use std::io::Read;
use std::sync::atomic::Ordering;

use super::assemble::{Beyond, Pages, Unfinished, pieces, room};
use super::context::Context;
use crate::data_dir::BACKUP_LABEL;
use crate::error::{Error, Result};
use crate::files::read_full;
use crate::formats::increment::{IncrementHeader, PAGE_BYTES};
use crate::restore::directory::output::Output;
use crate::restore::directory::tree::Flush;
use crate::stored::facts::{Expected, Found, Sum};
use crate::stored::member::MemberPath;
use crate::stored::members::Stop;
use crate::stored::table::Listing;

/// Bytes that are copied at a time; a multiple of the page.
const BUFFER_BYTES: usize = 256 << 10;

/// A file in a tar.
pub(crate) struct Member<'a> {
    pub(crate) context: &'a Context,
    pub(crate) path: &'a MemberPath,
    pub(crate) found: Found,
    pub(crate) mode: u32,
    /// The URL of the tar, for messages.
    pub(crate) object: &'a str,
}

/// The outcome for the file.
pub(crate) enum Placed {
    /// The whole content is written, and the file has no name yet.
    Whole(Output),
    /// It was the last piece, and the file has its name.
    Done,
    /// Older backups have the rest.
    InPart,
}

impl Member<'_> {
    pub(crate) fn place(&self, entry: &mut tar::Entry<'_, impl Read>, is_increment: bool) -> Result<Placed, Stop> {
        let table = self.context.table.as_ref();
        if table.is_some_and(|table| self.found.number().is_some_and(|file| table.is_left_out(file))) {
            return self.stub(entry, is_increment);
        }
        let unfinished = self.found.number().and_then(|file| self.context.assembly.take(file));
        match (unfinished, is_increment) {
            (None, false) => self.whole(entry).map(Placed::Whole),
            (None, true) => self.begin(entry),
            (Some(unfinished), false) => self.fill(entry, unfinished),
            (Some(unfinished), true) => self.add(entry, unfinished),
        }
    }

    /// Of the file only its size is wanted.
    fn stub(&self, entry: &mut tar::Entry<'_, impl Read>, is_increment: bool) -> Result<Placed, Stop> {
        let size = match is_increment {
            true => self.header(entry)?.file_size,
            false => entry.size(),
        };
        let output = self.context.create(self.path)?;
        output.set_size(size)?;
        Ok(Placed::Whole(output))
    }

    /// A file that is here in full, and in no newer backup.
    fn whole(&self, entry: &mut tar::Entry<'_, impl Read>) -> Result<Output, Stop> {
        let size = entry.size();
        let expected = self.expected(size)?;
        let mut output = self.context.create(self.path)?;
        if let Some(expected) = expected {
            output.reserve(expected.size);
        }
        let mut sum = expected.and_then(|expected| expected.sum).map(|sum| (sum, sum.begin()));
        let mut buffer = buffer(size);
        let mut copied = 0;
        loop {
            self.check_cancel()?;
            // What a decoder hands out does not end where a page does, and pages that are written in two parts cost more.
            let bytes = read_full(entry, &mut buffer)?;
            if bytes == 0 {
                break;
            }
            let bytes = &buffer[..bytes];
            if let Some((_, sum)) = &mut sum {
                sum.update(bytes);
            }
            output.write(bytes)?;
            copied += bytes.len() as u64;
        }
        if copied != size {
            return Err(self.truncated(copied, size));
        }
        if sum.is_some_and(|(expected, sum)| !expected.is(sum)) {
            return Err(self.wrong("has a checksum other than in the backup manifest"));
        }
        self.count(copied);
        Ok(output)
    }

    /// An increment of the newest backup that has the file: it says how long the file is.
    fn begin(&self, entry: &mut tar::Entry<'_, impl Read>) -> Result<Placed, Stop> {
        let header = self.header(entry)?;
        let expected = self.expected(header.file_size)?;
        let output = self.context.create(self.path)?;
        output.set_size(header.file_size)?;
        if let Some(expected) = expected {
            output.reserve(expected.size);
        }
        let beyond = match &self.context.table {
            Some(table) if table.has_manifest => Beyond::Stored,
            _ => Beyond::Zeros,
        };
        let mut file = Unfinished::new(header.file_size / PAGE_BYTES, self.mode, beyond);
        self.pages(entry, &header, &mut file, &output)?;
        self.park_or_keep(file, output)
    }

    /// A further increment.
    fn add(&self, entry: &mut tar::Entry<'_, impl Read>, mut file: Unfinished) -> Result<Placed, Stop> {
        let header = self.header(entry)?;
        let output = self.context.reopen(self.path)?;
        self.pages(entry, &header, &mut file, &output)?;
        self.park_or_keep(file, output)
    }

    /// The file on which the increments were taken.
    fn fill(&self, entry: &mut tar::Entry<'_, impl Read>, mut file: Unfinished) -> Result<Placed, Stop> {
        let size = entry.size();
        let output = self.context.reopen(self.path)?;
        let mut buffer = buffer(size.next_multiple_of(PAGE_BYTES));
        let mut pages = Pages::new(&mut file, &output);
        let (mut page, mut copied) = (0, 0);
        loop {
            self.check_cancel()?;
            let bytes = read_full(entry, &mut buffer)?;
            copied += bytes as u64;
            // A page that is only begun at the end of a file was written again since.
            let end = page + bytes as u64 / PAGE_BYTES;
            pages.put(page..end, &buffer)?;
            page = end;
            if bytes < buffer.len() {
                break;
            }
        }
        self.count(pages.bytes);
        if copied != size {
            return Err(self.truncated(copied, size));
        }
        file.cut(size / PAGE_BYTES);
        self.park_or_keep(file, output)
    }

    fn header(&self, entry: &mut tar::Entry<'_, impl Read>) -> Result<IncrementHeader, Stop> {
        let size = entry.size();
        let header = IncrementHeader::read_from(entry, size, &self.path.to_string());
        header
            .map_err(|error| {
                let reason = error.detail().unwrap_or_else(|| error.to_string());
                self.wrong(&format!("is not an increment: {}", reason.trim_end_matches('.')))
            })?
            .map_err(Stop::Read)
    }

    fn pages(
        &self,
        entry: &mut tar::Entry<'_, impl Read>,
        header: &IncrementHeader,
        file: &mut Unfinished,
        output: &Output,
    ) -> Result<(), Stop> {
        let mut pages = Pages::new(file, output);
        let mut buffer = vec![0; room(&header.blocks)];
        for blocks in pieces(&header.blocks) {
            self.check_cancel()?;
            let contents = &mut buffer[..blocks.len() * PAGE_BYTES as usize];
            if read_full(entry, contents)? < contents.len() {
                return Err(self.wrong("is truncated"));
            }
            pages.put_piece(blocks, &mut buffer)?;
        }
        self.count(pages.bytes);
        file.cut(header.file_size / PAGE_BYTES);
        Ok(())
    }

    fn park_or_keep(&self, file: Unfinished, output: Output) -> Result<Placed, Stop> {
        let Some(number) = self.found.number() else {
            return Err(self.wrong("is an increment without a parent"));
        };
        if !file.is_complete() {
            output.park();
            self.context.assembly.put(number, file);
            return Ok(Placed::InPart);
        }
        let expected = self.context.listing(self.found).expected();
        if let Some(Sum::Crc32c(sum)) = expected.and_then(|expected| expected.sum)
            && sum != file.crc()
        {
            return Err(self.wrong("and the newer pages of the file have a checksum other than in the backup manifest"));
        }
        self.context.assembled.set(number);
        output.keep(file.mode, Flush::AtTheEnd)?;
        Ok(Placed::Done)
    }

    /// Find the manifest's entry for the file, which has so many bytes; fails if the two do not fit.
    fn expected(&self, size: u64) -> Result<Option<Expected>, Stop> {
        let listing = self.context.listing(self.found);
        if listing == Listing::Unlisted && !self.path.is(BACKUP_LABEL) {
            return Err(self.wrong("is not in the backup manifest"));
        }
        match listing.expected() {
            Some(expected) if expected.size != size => {
                Err(self.wrong(&format!("has {size} bytes, the backup manifest says {}", expected.size)))
            }
            expected => Ok(expected),
        }
    }

    fn count(&self, bytes: u64) {
        self.context.progress.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    fn check_cancel(&self) -> Result<(), Stop> {
        match self.context.cancel.is_cancelled() {
            true => Err(Stop::Other(Error::Cancelled)),
            false => Ok(()),
        }
    }

    fn truncated(&self, copied: u64, size: u64) -> Stop {
        self.wrong(&format!("is truncated: it has {copied} of {size} bytes"))
    }

    fn wrong(&self, reason: &str) -> Stop {
        Stop::Other(Error::damaged(
            self.object,
            format!("Its member \"{}\" {reason}.", self.path),
        ))
    }
}

/// No larger than the file.
fn buffer(size: u64) -> Vec<u8> {
    vec![0; BUFFER_BYTES.min(usize::try_from(size).unwrap_or(BUFFER_BYTES)).max(1)]
}
