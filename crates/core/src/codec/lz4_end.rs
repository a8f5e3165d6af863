//! Find the end of an LZ4 frame. The decoder takes a stream that was cut between two blocks for a whole one, so somebody has to
//! look for the end mark.

use std::io::{self, ErrorKind, Read};

use lz4_flex::frame::FrameDecoder;

const MAGIC: u32 = 0x184d_2204;

/// A decoder that fails at the end of a truncated frame.
pub(super) struct WholeFrames<R: Read>(FrameDecoder<Watched<R>>);

impl<R: Read> WholeFrames<R> {
    pub(super) fn new(source: R) -> Self {
        WholeFrames(FrameDecoder::new(Watched {
            source,
            frame: Frame::Header(Vec::with_capacity(HEADER_BYTES)),
        }))
    }

    /// The source. Nothing that comes after the frame was read of it.
    pub(super) fn get_mut(&mut self) -> &mut R {
        &mut self.0.get_mut().source
    }
}

impl<R: Read> Read for WholeFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.read(buffer)?;
        if bytes == 0 && !buffer.is_empty() && !self.0.get_ref().frame.may_end() {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "it ends before the end of its frame",
            ));
        }
        Ok(bytes)
    }
}

struct Watched<R> {
    source: R,
    frame: Frame,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.read(buffer)?;
        let mut rest = &buffer[..bytes];
        while !rest.is_empty() {
            rest = self.frame.take(rest);
        }
        Ok(bytes)
    }
}

/// The magic number, the flags, the size of a block, the size of the content, the number of a dictionary, a checksum.
const HEADER_BYTES: usize = 4 + 1 + 1 + 8 + 4 + 1;

/// The next thing in the stream.
enum Frame {
    /// The header, as far as it was read.
    Header(Vec<u8>),
    /// The four bytes before a block, as far as they were read.
    Length { blocks: Blocks, seen: Vec<u8> },
    /// So many bytes of a block.
    Block { blocks: Blocks, left: u64 },
    /// So many bytes of the checksum of the content.
    Checksum(usize),
    /// Nothing.
    End,
    /// Nobody knows: it is no frame, or one of an old kind, which has no end mark.
    Unknown,
}

#[derive(Clone, Copy)]
struct Blocks {
    have_checksums: bool,
    end_with_checksum: bool,
}

impl Frame {
    fn may_end(&self) -> bool {
        match self {
            Frame::End | Frame::Unknown => true,
            Frame::Header(seen) => seen.is_empty(),
            Frame::Length { .. } | Frame::Block { .. } | Frame::Checksum(_) => false,
        }
    }

    /// Take some bytes, and give the others back.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (first, rest) = match bytes.split_first() {
            Some((first, rest)) => (*first, rest),
            None => return bytes,
        };
        match self {
            Frame::Header(seen) => {
                seen.push(first);
                if let Some(next) = after_header(seen) {
                    *self = next;
                }
                rest
            }
            Frame::Length { blocks, seen } => {
                seen.push(first);
                if let Ok(length) = seen[..].try_into().map(u32::from_le_bytes) {
                    *self = after_length(*blocks, length);
                }
                rest
            }
            Frame::Block { blocks, left } => {
                let here = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                if *left == 0 {
                    *self = Frame::Length {
                        blocks: *blocks,
                        seen: Vec::with_capacity(4),
                    };
                }
                &bytes[here..]
            }
            Frame::Checksum(left) => {
                *left -= 1;
                if *left == 0 {
                    *self = Frame::End;
                }
                rest
            }
            Frame::End | Frame::Unknown => &[],
        }
    }
}

/// None while the header is not complete.
fn after_header(seen: &[u8]) -> Option<Frame> {
    let magic = u32::from_le_bytes(*seen.first_chunk()?);
    if magic != MAGIC {
        return Some(Frame::Unknown);
    }
    let flags = *seen.get(4)?;
    let is_set = |bit: u8| flags & bit != 0;
    let bytes = 7 + if is_set(0x08) { 8 } else { 0 } + if is_set(0x01) { 4 } else { 0 };
    (seen.len() == bytes).then(|| Frame::Length {
        blocks: Blocks {
            have_checksums: is_set(0x10),
            end_with_checksum: is_set(0x04),
        },
        seen: Vec::with_capacity(4),
    })
}

fn after_length(blocks: Blocks, length: u32) -> Frame {
    match length {
        0 if blocks.end_with_checksum => Frame::Checksum(4),
        0 => Frame::End,
        // The highest bit says that the block is not compressed.
        _ => Frame::Block {
            left: u64::from(length & 0x7fff_ffff) + if blocks.have_checksums { 4 } else { 0 },
            blocks,
        },
    }
}
