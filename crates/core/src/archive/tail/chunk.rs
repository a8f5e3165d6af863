//! A chunk is read from the file of its segment, checked, and made an object.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::plan::Span;
use crate::archive::frames::Frame;
use crate::encrypted::Wrapping;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::cluster::ClusterIdentity;
use crate::repository::layout::Key;
use crate::wal::{FirstPage, LONG_HEADER_BYTES, PageHeader, SHORT_HEADER_BYTES, Segment};

/// Make the object with this key of a part of the file of a segment, all of which was flushed. What was compressed is given, too.
pub(super) fn make(
    path: &Path,
    segment: Segment,
    span: Span,
    identity: &ClusterIdentity,
    wrapping: &Wrapping,
    key: &Key,
) -> Result<(Bytes, Frame)> {
    let content = read(path, segment, span, identity)?;
    let frame = Frame {
        start: span.start,
        end: span.end,
        crc: crc32c::crc32c(&content),
        content: compress(&content, wrapping).map_err(|error| Error::io("compress", path, error))?,
    };
    let object = seal(&frame.content, wrapping, key).map_err(|error| Error::io("encrypt", path, error))?;
    Ok((object, frame))
}

fn compress(content: &[u8], wrapping: &Wrapping) -> io::Result<Bytes> {
    let mut encoder = wrapping.compression().encoder(Vec::with_capacity(content.len() / 4))?;
    encoder.pledge(content.len() as u64)?;
    encoder.write_all(content)?;
    Ok(encoder.finish()?.into())
}

fn seal(compressed: &[u8], wrapping: &Wrapping, key: &Key) -> io::Result<Bytes> {
    let mut sealed = wrapping.seal(key, Vec::with_capacity(compressed.len() + compressed.len() / 256))?;
    sealed.write_all(compressed)?;
    Ok(sealed.finish()?.into())
}

fn read(path: &Path, segment: Segment, span: Span, identity: &ClusterIdentity) -> Result<Vec<u8>> {
    let failed = |error| Error::io("read", path, error);
    let invalid = |reason| Error::InvalidWal {
        file: path.display().to_string(),
        reason,
    };
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let mut header = [0; LONG_HEADER_BYTES];
    file.read_exact_at(&mut header, 0).map_err(failed)?;
    let first = FirstPage::parse(&header);
    first
        .check(segment, identity.segment_size, Some(identity.system_identifier))
        .map_err(invalid)?;
    let mut content = vec![0; (span.end - span.start) as usize];
    file.read_exact_at(&mut content, span.start).map_err(failed)?;
    let page_bytes = first
        .page_bytes()
        .ok_or_else(|| invalid("Its first page does not tell how large pages are.".to_owned()))?;
    check_pages(&content, span, segment.start(identity.segment_size).0, page_bytes).map_err(invalid)?;
    Ok(content)
}

/// A file that PostgreSQL uses again for a later segment has pages of that one, and those before it had other addresses.
fn check_pages(content: &[u8], span: Span, segment_start: u64, page_bytes: u64) -> Result<(), String> {
    let mut at = span.start.next_multiple_of(page_bytes);
    while at + SHORT_HEADER_BYTES as u64 <= span.end {
        let header = &content[(at - span.start) as usize..][..SHORT_HEADER_BYTES];
        let (found, expected) = (PageHeader::parse(header).address, Lsn(segment_start + at));
        // Behind a switch to the next segment there are zeros.
        if found != expected && header.iter().any(|byte| *byte != 0) {
            return Err(format!("The page at {expected} says that it is at {found}."));
        }
        at += page_bytes;
    }
    Ok(())
}
