//! Reading the tail of a segment.

use std::io::{self, Read};

use super::TailObject;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::{self, blame};
use crate::error::{Error, Result, StorageError};
use crate::wal::{SegmentSize, WalWalker, Walked};
use walarchive_storage::Store;

/// Bytes that are decompressed at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// Walk through a segment by its chunks, as far as they go. `objects` are those of one cover, in order. None if one of them is gone: the
/// segment was archived whole, or they were merged.
pub(crate) async fn walk_tail(
    store: &Store,
    objects: Vec<TailObject>,
    mut walker: WalWalker,
    size: SegmentSize,
) -> Result<(WalWalker, Option<Walked>)> {
    let Some(first) = objects.first() else {
        return Ok((walker, None));
    };
    walker.begin(first.chunk.segment);
    let store = store.clone();
    blocking(move || {
        let mut reached = 0;
        for object in objects {
            let mut reader = encrypted::reader(&store, &object.key(), object.size);
            let Err(error) = feed(&mut walker, &mut reader, &object, reached) else {
                reached = object.chunk.end;
                continue;
            };
            let why = format!("It cannot be decompressed: {error}.");
            let problem = match blame(&mut reader, store.object_url(&object.key()), Format::Zstd, why) {
                Error::Storage(StorageError::NotFound { .. }) => return Ok((walker.anew(), None)),
                failure => failure.content_finding().ok_or(failure)?,
            };
            let walked = Walked {
                problem: Some(format!("{}: {problem}", object.key())),
                begins_before: false,
                ..walker.cut()
            };
            return Ok((walker.anew(), Some(walked)));
        }
        let walked = match reached >= size.bytes() {
            true => walker.end(),
            false => walker.cut(),
        };
        Ok((walker, Some(walked)))
    })
    .await
}

/// What a chunk has behind `reached`.
fn feed(walker: &mut WalWalker, reader: &mut (impl Read + Send), object: &TailObject, reached: u64) -> io::Result<()> {
    let mut decoder = Format::Zstd.decoder(reader)?;
    let chunk = object.chunk;
    let (mut at, mut buffer) = (chunk.start, vec![0; BUFFER_BYTES]);
    loop {
        let bytes = match decoder.read(&mut buffer) {
            Ok(0) if at == chunk.end => return Ok(()),
            Ok(0) => return Err(io::Error::other("it has fewer bytes than its name says")),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let known = usize::try_from(reached.saturating_sub(at))
            .unwrap_or(usize::MAX)
            .min(bytes);
        at += bytes as u64;
        if at > chunk.end {
            return Err(io::Error::other("it has more bytes than its name says"));
        }
        walker.feed(&buffer[known..bytes]);
    }
}
