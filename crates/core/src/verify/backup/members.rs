//! What is in a backup's tars.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tar::EntryType;

use super::findings::Findings;
use crate::control_file::{ControlFile, PG_CONTROL_BYTES};
use crate::error::{Error, Result};
use crate::formats::files_metadata::FilesMetadata;
use crate::formats::manifest::Checksummer;
use crate::lsn::Lsn;
use crate::restore::Progress;
use crate::restore::member::{BACKUP_LABEL, MemberPath, PG_CONTROL, TABLESPACE_MAP};
use crate::restore::members::{Member, Stop, TRUNCATED, each_member};
use crate::restore::plan::{Manifest, Tar, TarKind};
use crate::storage::RangeReader;
use crate::verify::Status;
use crate::verify::page_checksum::{PageChecker, first_page};

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// What all tars of a backup share.
pub(super) struct Context {
    pub(super) manifest: Option<Manifest>,
    pub(super) files: Option<FilesMetadata>,
    pub(super) start: Lsn,
    /// None while `pg_control` was not seen.
    pub(super) control: Mutex<Option<ControlFile>>,
    pub(super) seen: Mutex<HashSet<MemberPath>>,
    pub(super) findings: Mutex<Findings>,
    pub(super) pages: Mutex<Pages>,
    pub(super) progress: Arc<Progress>,
}

/// Pages whose checksum was looked at.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) checked: u64,
    pub(super) bad: u64,
}

/// Counts downloaded bytes.
struct Counted<'a> {
    inner: &'a mut RangeReader,
    progress: &'a Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.progress.bytes_done.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Read a tar to its end; blocks. What is wrong with it becomes a finding.
pub(super) fn read_tar(context: &Context, tar: &Tar, mut reader: RangeReader) -> Result<()> {
    let (mut files, mut bytes) = (0u64, 0u64);
    let source = Counted {
        inner: &mut reader,
        progress: &context.progress,
    };
    let result = each_member(tar.format, source, |entry| {
        if let Some(size) = look_at_member(context, tar, entry)? {
            files += 1;
            bytes += size;
            context.progress.files_done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let damaged = match (result, reader.take_failure()) {
        (Ok(true), _) => None,
        (Ok(false), _) => Some(TRUNCATED.to_owned()),
        (Err(Stop::Other(error)), _) => return Err(error),
        (Err(Stop::Read(_)), Some(Error::NotFound { .. })) => Some("It is missing.".to_owned()),
        (Err(Stop::Read(_)), Some(Error::Damaged { reason, .. })) => Some(reason),
        (Err(Stop::Read(_)), Some(failure)) => return Err(failure),
        (Err(Stop::Read(error)), None) => Some(format!("It cannot be unpacked: {error}.")),
    };
    let mut findings = context.findings.lock();
    match damaged {
        Some(reason) => findings.add("tar", Status::Failure, tar.key.clone(), reason),
        None => {
            let detail = format!("It was read to its end: {files} files, {bytes} bytes.");
            findings.add("tar", Status::Ok, tar.key.clone(), detail);
        }
    }
    Ok(())
}

/// The bytes of a file that was read; none of what a restore does not take.
fn look_at_member(context: &Context, tar: &Tar, entry: &mut Member<'_, '_>) -> Result<Option<u64>, Stop> {
    let raw = entry.path_bytes().into_owned();
    let name = || String::from_utf8_lossy(&raw).escape_debug().to_string();
    let refused = |reason: &str| {
        let detail = format!("In {}: {reason}; a restore refuses it.", tar.name);
        context.findings.lock().add("file", Status::Failure, name(), detail);
        Ok(None)
    };
    let kind = entry.header().entry_type();
    let path = match MemberPath::parse(&raw) {
        _ if kind == EntryType::XGlobalHeader => return Ok(None),
        Ok(path) => path,
        Err(reason) => return refused(reason),
    };
    match kind {
        // Files metadata list them, too.
        EntryType::Directory => {
            context.seen.lock().insert(path);
            return Ok(None);
        }
        EntryType::Symlink if path.content_is_left_out() => return Ok(None),
        EntryType::Regular | EntryType::Continuous if !raw.ends_with(b"/") => {}
        _ => return refused("it is neither a plain file nor a directory"),
    }
    if path.is_never_restored() || path.is(TABLESPACE_MAP) {
        return Ok(None);
    }
    if path.is(PG_CONTROL) && tar.kind != TarKind::Control {
        return refused("it must be in the tar that is restored last");
    }
    let described = context.files.as_ref().map(|files| files.files.get(&path.key()));
    let always = path.is(PG_CONTROL) || path.is(BACKUP_LABEL);
    if matches!(described, Some(None)) && !always {
        return Ok(None);
    }
    if !context.seen.lock().insert(path.clone()) {
        return refused("it is in the backup twice");
    }
    let incremented = described.flatten().is_some_and(|file| file.is_incremented);
    read_file(context, &path, entry, !incremented).map(Some)
}

fn read_file(context: &Context, path: &MemberPath, entry: &mut Member<'_, '_>, has_pages: bool) -> Result<u64, Stop> {
    let size = entry.size();
    let expected = context
        .manifest
        .as_ref()
        .map(|manifest| manifest.files.get(&path.to_path()));
    let mut sum = expected
        .flatten()
        .and_then(|expected| expected.checksum.as_ref())
        .map(|(algorithm, checksum)| (Checksummer::new(*algorithm), checksum));
    let control = *context.control.lock();
    let mut pages = control
        .filter(|control| control.data_checksums && has_pages)
        .and_then(|control| first_page(path.components(), control.relation_segment_pages))
        .map(|first| PageChecker::new(first, context.start));
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
        if let Some((sum, _)) = &mut sum {
            sum.update(bytes);
        }
        if let Some(pages) = &mut pages {
            pages.feed(bytes);
        }
        if path.is(PG_CONTROL) && copied <= PG_CONTROL_BYTES {
            kept.extend_from_slice(bytes);
        }
    }
    let wrong = match expected {
        _ if copied != size => Some(format!("It is truncated: it has {copied} of {size} bytes.")),
        Some(None) if !path.is(BACKUP_LABEL) => Some("It is not in the backup manifest.".to_owned()),
        Some(Some(expected)) if expected.size != size => Some(format!(
            "It has {size} bytes, the backup manifest says {}.",
            expected.size
        )),
        _ => sum
            .filter(|(sum, checksum)| sum.clone().finish() != **checksum)
            .map(|_| "Its checksum is another than in the backup manifest.".to_owned()),
    };
    let mut findings = context.findings.lock();
    if path.is(PG_CONTROL) {
        match ControlFile::parse(&kept) {
            Ok(control) => *context.control.lock() = Some(control),
            Err(reason) => findings.add("file", Status::Failure, path.to_string(), reason),
        }
    }
    if let Some(wrong) = wrong {
        findings.add("file", Status::Failure, path.to_string(), wrong);
    } else if let Some(pages) = &pages
        && pages.bad > 0
    {
        findings.add("pages", Status::Warning, path.to_string(), bad_pages(pages));
    }
    if let Some(found) = pages {
        let mut pages = context.pages.lock();
        pages.checked += found.checked;
        pages.bad += found.bad;
    }
    Ok(size)
}

/// The file is what was backed up, so the page was so already when it was copied.
fn bad_pages(pages: &PageChecker) -> String {
    let numbers: Vec<String> = pages.some.iter().map(ToString::to_string).collect();
    format!(
        "{} pages have a wrong checksum, the first are {}. They were copied so: either the server was writing them at that \
         moment, and the WAL repairs them, or they were damaged before; check the relation in the server.",
        pages.bad,
        numbers.join(", ")
    )
}
