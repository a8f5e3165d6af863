//! The content of a backup's tars.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tar::EntryType;

use super::findings::Findings;
use crate::control_file::{ControlFile, PG_CONTROL_BYTES};
use crate::data_dir::{BACKUP_LABEL, PG_CONTROL, TABLESPACE_MAP};
use crate::encrypted::blame;
use crate::error::{Error, Result, StorageError};
use crate::files::read_full;
use crate::formats::FILES_LIMIT;
use crate::formats::increment::{IncrementHeader, PAGE_BYTES};
use crate::lsn::Lsn;
use crate::places;
use crate::printable::counted;
use crate::stored::essential::Essential;
use crate::stored::facts::{Found, Stored};
use crate::stored::level::Bits;
use crate::stored::member::MemberPath;
use crate::stored::members::{Member, Stop, TRUNCATED, each_member};
use crate::stored::progress::{Counted, ReadProgress};
use crate::stored::table::{Keys, Listing, PathHash, Table};
use crate::stored::tars::{Tar, TarKind};
use crate::verify::VerifyStatus;
use crate::verify::page_checksum::{PageChecker, first_page};
use walarchive_storage::RangeReader;

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// State that all tars of a backup share.
pub(super) struct Context {
    /// None if the backup has neither files metadata nor a manifest.
    pub(super) table: Option<Table>,
    pub(super) start: Lsn,
    /// None while `pg_control` was not seen.
    pub(super) control: Mutex<Option<ControlFile>>,
    seen: Bits,
    /// Those that the table does not know.
    strays: Mutex<HashSet<PathHash>>,
    stray_keys: Keys,
    pub(super) findings: Mutex<Findings>,
    /// A tar is encrypted, so nothing can be said of files that are in no other tar.
    pub(super) is_encrypted: AtomicBool,
    pub(super) pages: Mutex<Pages>,
    /// Of a backup without a table.
    pub(super) essential: Mutex<Essential>,
    pub(super) progress: Arc<ReadProgress>,
}

impl Context {
    pub(super) fn new(table: Option<Table>, start: Lsn, findings: Findings, progress: Arc<ReadProgress>) -> Self {
        Context {
            seen: Bits::none(table.as_ref().map_or(0, Table::len)),
            table,
            start,
            control: Mutex::new(None),
            strays: Mutex::default(),
            stray_keys: Keys::default(),
            findings: Mutex::new(findings),
            is_encrypted: AtomicBool::new(false),
            pages: Mutex::default(),
            essential: Mutex::default(),
            progress,
        }
    }

    fn find(&self, path: &MemberPath) -> Found {
        let none = Found {
            own: None,
            described: None,
        };
        self.table.as_ref().map_or(none, |table| table.find_member(path))
    }

    /// Something is to be said of a member.
    fn finding(&self, status: VerifyStatus, raw: &[u8], detail: String) {
        let name = String::from_utf8_lossy(raw).escape_debug().to_string();
        self.findings.lock().add("file", status, name, detail);
    }

    /// Returns whether it was seen before.
    fn see(&self, path: &MemberPath, found: Found) -> bool {
        match found.number() {
            Some(file) => self.seen.set(file),
            // Beyond as many as any backup has, they are not told apart.
            None => {
                let mut strays = self.strays.lock();
                strays.len() < FILES_LIMIT && !strays.insert(self.stray_keys.of(&path.joined()))
            }
        }
    }

    /// Was a member of that name seen?
    pub(super) fn has_seen(&self, path: &str) -> bool {
        let known = self.table.as_ref().and_then(|table| table.find(path.as_bytes()));
        match known {
            Some(file) => self.seen.get(file),
            None => self.strays.lock().contains(&self.stray_keys.of(path.as_bytes())),
        }
    }

    /// The numbers of the files that were not seen.
    pub(super) fn unseen(&self) -> impl Iterator<Item = usize> {
        let files = self.table.as_ref().map_or(0, Table::len);
        (0..files).filter(|file| !self.seen.get(*file))
    }
}

/// Pages whose checksum was looked at.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) checked: u64,
    pub(super) bad: u64,
}

/// Read a tar to its end; blocks. Each fault becomes a finding.
pub(super) fn read_tar(context: &Context, tar: &Tar, mut reader: RangeReader) -> Result<()> {
    let (mut files, mut bytes) = (0u64, 0u64);
    let source = Counted::new(&mut reader, &context.progress);
    let result = each_member(tar.format, source, |entry| {
        if let Some(size) = look_at_member(context, tar, entry)? {
            files += 1;
            bytes += size;
            context.progress.files_done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let damaged = match result {
        Ok(true) => None,
        Ok(false) => Some(TRUNCATED.to_owned()),
        Err(Stop::Other(error)) => return Err(error),
        Err(Stop::Read(error)) => {
            let why = format!("It cannot be unpacked: {error}.");
            match blame(&mut reader, tar.key.clone(), tar.format, why) {
                Error::Storage(StorageError::NotFound { .. }) => Some("It is missing.".to_owned()),
                failure => {
                    if !matches!(failure, Error::Damaged { .. }) {
                        context.is_encrypted.store(true, Ordering::Relaxed);
                    }
                    Some(failure.content_finding().ok_or(failure)?)
                }
            }
        }
    };
    let mut findings = context.findings.lock();
    match damaged {
        Some(reason) => findings.add("tar", VerifyStatus::Failure, tar.key.clone(), reason),
        None => {
            let files = counted(files, "file");
            let detail = format!("It was read to its end: {files}, {bytes} bytes.");
            findings.add("tar", VerifyStatus::Ok, tar.key.clone(), detail);
        }
    }
    Ok(())
}

/// The bytes of a file that was read; none for a member that a restore does not take.
fn look_at_member(context: &Context, tar: &Tar, entry: &mut Member<'_, '_>) -> Result<Option<u64>, Stop> {
    let raw = entry.path_bytes().into_owned();
    let refused = |reason: &str| {
        let detail = format!("In {}: {reason}; a restore refuses it.", tar.name);
        context.finding(VerifyStatus::Failure, &raw, detail);
        Ok(None)
    };
    let kind = entry.header().entry_type();
    let path = match MemberPath::parse(&raw) {
        _ if kind == EntryType::XGlobalHeader => return Ok(None),
        Ok(path) => path,
        Err(reason) => return refused(reason),
    };
    let found = context.find(&path);
    match kind {
        // Files metadata list them, too.
        EntryType::Directory => {
            context.see(&path, found);
            return Ok(None);
        }
        EntryType::Symlink if path.content_is_left_out() => return Ok(None),
        EntryType::Symlink if is_data_of_server(&path) => {
            let detail = format!(
                "In {}: it is a symbolic link, and the server's data behind it is not in the backup.",
                tar.name
            );
            context.finding(VerifyStatus::Failure, &raw, detail);
            return Ok(None);
        }
        EntryType::Symlink | EntryType::Char | EntryType::Block | EntryType::Fifo => {
            let detail = format!("In {}: it is a link or a device; a restore leaves it out.", tar.name);
            context.finding(VerifyStatus::Warning, &raw, detail);
            see_left_out(context, &path, found);
            return Ok(None);
        }
        EntryType::Regular | EntryType::Continuous if !raw.ends_with(b"/") => {}
        _ => return refused("it is neither a plain file nor a directory"),
    }
    if path.is_never_restored() || path.is(TABLESPACE_MAP) {
        return Ok(None);
    }
    if path.is(PG_CONTROL) && tar.kind != TarKind::Control {
        return refused("it must be in the tar that is restored last");
    }
    let described = context.table.as_ref().filter(|table| table.has_metadata);
    let stored = described.and_then(|table| table.stored(found.described?));
    if described.is_some() && stored.is_none() && !is_always_needed(&path) {
        return Ok(None);
    }
    if context.see(&path, found) {
        return refused("it is in the backup twice");
    }
    if context.table.is_none() {
        context.essential.lock().note(&path.joined());
    }
    let file = File { context, path, found };
    match stored {
        Some(Stored::Increment) => file.read_increment(entry).map(Some),
        _ => file.read(entry).map(Some),
    }
}

/// A link or a device was seen. In the place of a file that the manifest lists it is no replacement for it.
fn see_left_out(context: &Context, path: &MemberPath, found: Found) {
    let table = context.table.as_ref().filter(|table| table.has_manifest);
    let is_listed = table
        .zip(found.number())
        .is_some_and(|(table, file)| table.is_listed(file));
    if !is_always_needed(path) && !is_listed {
        context.see(path, found);
    }
}

fn is_always_needed(path: &MemberPath) -> bool {
    path.is(PG_CONTROL) || path.is(BACKUP_LABEL)
}

/// Is this a place where the server has data? WAL-G packs the link where it finds one there.
fn is_data_of_server(path: &MemberPath) -> bool {
    let path = path.joined();
    std::str::from_utf8(&path).is_ok_and(|path| places::is_of_server(Path::new(path)) && !path.ends_with(".conf"))
}

/// One file in a tar.
struct File<'a> {
    context: &'a Context,
    path: MemberPath,
    found: Found,
}

impl File<'_> {
    fn read(&self, entry: &mut Member<'_, '_>) -> Result<u64, Stop> {
        let size = entry.size();
        let expected = self.listing().expected();
        let mut sum = expected.and_then(|expected| expected.sum).map(|sum| (sum, sum.begin()));
        let mut pages = self.pages();
        let mut kept = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(size).unwrap_or(BUFFER_BYTES)).max(1)];
        let mut copied = 0u64;
        loop {
            let bytes = entry.read(&mut buffer)?;
            if bytes == 0 {
                break;
            }
            let bytes = &buffer[..bytes];
            copied += bytes.len() as u64;
            if let Some((_, sum)) = &mut sum {
                sum.update(bytes);
            }
            if let Some(pages) = &mut pages {
                pages.feed(bytes);
            }
            if self.path.is(PG_CONTROL) && copied <= PG_CONTROL_BYTES {
                kept.extend_from_slice(bytes);
            }
        }
        if self.path.is(PG_CONTROL) {
            match ControlFile::parse(&kept) {
                Ok(control) => *self.context.control.lock() = Some(control),
                Err(reason) => self.fails(reason),
            }
        }
        let wrong = match self.wrong_size(size) {
            _ if copied != size => Some(format!("It is truncated: it has {copied} of {size} bytes.")),
            Some(wrong) => Some(wrong),
            None => sum
                .filter(|(expected, sum)| !expected.is(sum.clone()))
                .map(|_| "Its checksum is another than in the backup manifest.".to_owned()),
        };
        self.conclude(wrong, pages);
        Ok(size)
    }

    /// Of an increment the pages can be looked at; the rest of the file is in older backups.
    fn read_increment(&self, entry: &mut Member<'_, '_>) -> Result<u64, Stop> {
        let size = entry.size();
        let header = match IncrementHeader::read_from(entry, size, "") {
            Ok(read) => read?,
            Err(error) => {
                self.fails(format!(
                    "It is not an increment: {}",
                    error.detail().unwrap_or_default()
                ));
                return Ok(size);
            }
        };
        let mut wrong = self.wrong_size(header.file_size);
        let mut pages = self.pages();
        let mut content = vec![0; PAGE_BYTES as usize];
        for block in &header.blocks {
            if read_full(entry, &mut content)? < content.len() {
                wrong = Some("It is truncated.".to_owned());
                break;
            }
            if let Some(pages) = &mut pages {
                pages.go_to(*block);
                pages.feed(&content);
            }
        }
        self.conclude(wrong, pages);
        Ok(size)
    }

    fn listing(&self) -> Listing {
        Listing::of(self.context.table.as_ref(), self.found)
    }

    fn wrong_size(&self, size: u64) -> Option<String> {
        match self.listing() {
            Listing::Unlisted if !self.path.is(BACKUP_LABEL) => Some("It is not in the backup manifest.".to_owned()),
            Listing::Listed(expected) if expected.size != size => Some(format!(
                "It has {size} bytes, the backup manifest says {}.",
                expected.size
            )),
            _ => None,
        }
    }

    /// None if its pages have no checksums, or it has no pages.
    fn pages(&self) -> Option<PageChecker> {
        let control = (*self.context.control.lock())?;
        let segment_pages = control.data_checksums.then_some(control.relation_segment_pages)?;
        let first = first_page(self.path.components(), segment_pages)?;
        Some(PageChecker::new(first, self.context.start))
    }

    fn conclude(&self, wrong: Option<String>, pages: Option<PageChecker>) {
        if let Some(wrong) = wrong {
            self.fails(wrong);
        } else if let Some(pages) = pages.as_ref().filter(|pages| pages.bad > 0) {
            let mut findings = self.context.findings.lock();
            findings.add("pages", VerifyStatus::Warning, self.path.to_string(), bad_pages(pages));
        }
        if let Some(found) = pages {
            let mut pages = self.context.pages.lock();
            pages.checked += found.checked;
            pages.bad += found.bad;
        }
    }

    fn fails(&self, reason: String) {
        let mut findings = self.context.findings.lock();
        findings.add("file", VerifyStatus::Failure, self.path.to_string(), reason);
    }
}

/// The file is what was backed up, so the page was so already when it was copied.
fn bad_pages(pages: &PageChecker) -> String {
    let numbers: Vec<String> = pages.some.iter().map(ToString::to_string).collect();
    format!(
        "{} with a wrong checksum: {}. They were copied so. Either the server was writing them at that moment, and the WAL \
         repairs them, or they were damaged before: check the relation in the server.",
        counted(pages.bad, "page"),
        numbers.join(", ")
    )
}
