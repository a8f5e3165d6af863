//! Compression: what is written, and what is read (whatever WAL-G may have written).

mod brotli_end;
mod lz4_end;
mod to_the_end;

use std::io::{self, Read, Write};

use liblzma::stream::{LzmaOptions, Stream};
use liblzma::write::XzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use self::to_the_end::ToTheEnd;
use crate::error::{Error, Result};

/// How an object is compressed; its key's suffix says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Zstandard, `.zst`.
    Zstd,
    /// The LZ4 frame format, `.lz4`.
    Lz4,
    /// The legacy LZMA format, `.lzma`.
    Lzma,
    /// Brotli, `.br`.
    Brotli,
    /// Not compressed, no suffix.
    Plain,
}

impl Format {
    /// All of them, in the order of a reader's attempts.
    pub const ALL: [Format; 5] = [Format::Zstd, Format::Lz4, Format::Lzma, Format::Brotli, Format::Plain];

    /// The key's suffix, with its dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Format::Zstd => ".zst",
            Format::Lz4 => ".lz4",
            Format::Lzma => ".lzma",
            Format::Brotli => ".br",
            Format::Plain => "",
        }
    }

    /// The format that a key's suffix names, and the key without it.
    pub fn of_key(key: &str) -> (Format, &str) {
        Format::ALL
            .into_iter()
            .filter(|format| *format != Format::Plain)
            .find_map(|format| Some((format, key.strip_suffix(format.suffix())?)))
            .unwrap_or((Format::Plain, key))
    }

    /// The configured format first, then the others.
    pub fn in_order(first: Format) -> impl Iterator<Item = Format> {
        std::iter::once(first).chain(Format::ALL.into_iter().filter(move |format| *format != first))
    }

    /// A reader of the uncompressed bytes. It fails at the end of a truncated stream; it does not believe any length
    /// that the stream announces.
    pub fn decoder<'a>(self, source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(source)?;
                // 128 MB, the most that zstd itself reads without being asked: bounds the memory a hostile object takes.
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
            Format::Lz4 => {
                let decoder = lz4_end::WholeFrames::new(source);
                Box::new(ToTheEnd::new(decoder, lz4_end::WholeFrames::get_mut))
            }
            Format::Lzma => {
                let stream = Stream::new_lzma_decoder(128 << 20)?;
                let decoder = liblzma::read::XzDecoder::new_stream(source, stream);
                Box::new(ToTheEnd::new(decoder, |decoder| decoder.get_mut()))
            }
            Format::Brotli => {
                let decoder = brotli::Decompressor::new(source, 64 << 10);
                Box::new(ToTheEnd::new(decoder, |decoder| decoder.get_mut()))
            }
            Format::Plain => Box::new(source),
        })
    }
}

/// `walarchive.compression` and its level: what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard with this level, 1 to 22.
    Zstd(i32),
    /// The LZ4 frame format, which has no levels here.
    Lz4,
    /// The legacy LZMA format with this level, 1 to 9. Level 1 takes some 10 MB a stream, level 9 some 700 MB.
    Lzma(u32),
    /// Brotli with this level, 1 to 11. From level 10 on it is slower than a WAL archive can bear.
    Brotli(u32),
    /// None.
    Plain,
}

impl Default for Compression {
    fn default() -> Self {
        Compression::Zstd(1)
    }
}

impl Compression {
    /// From the two settings.
    pub fn new(method: &str, level: i32) -> Result<Self> {
        match method {
            "zstd" if (1..=22).contains(&level) => Ok(Compression::Zstd(level)),
            "lz4" => Ok(Compression::Lz4),
            "lzma" if (1..=9).contains(&level) => Ok(Compression::Lzma(level as u32)),
            "brotli" if (1..=11).contains(&level) => Ok(Compression::Brotli(level as u32)),
            "none" => Ok(Compression::Plain),
            _ => Err(Error::config(
                format!("compression \"{method}\" with level {level} is not supported"),
                "Use \"zstd\" with a level from 1 to 22, \"lzma\" from 1 to 9, \"brotli\" from 1 to 11, \"lz4\" or \"none\".",
            )),
        }
    }

    /// The format of the objects.
    pub fn format(self) -> Format {
        match self {
            Compression::Zstd(_) => Format::Zstd,
            Compression::Lz4 => Format::Lz4,
            Compression::Lzma(_) => Format::Lzma,
            Compression::Brotli(_) => Format::Brotli,
            Compression::Plain => Format::Plain,
        }
    }

    /// A writer that compresses into `sink`. What goes into a repository is made by `Wrapping`, which encrypts it, too.
    pub fn encoder<W: Write>(self, sink: W) -> io::Result<Encoder<W>> {
        self.encoder_with_threads(sink, 0)
    }

    /// The same, compressing in so many threads of its own where the method can do that; with 0 in the caller's. Each takes a
    /// few MB.
    pub(crate) fn encoder_with_threads<W: Write>(self, sink: W, threads: u32) -> io::Result<Encoder<W>> {
        Ok(match self {
            Compression::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(sink, level)?;
                // The frame's checksum lets a reader tell a damaged object from a good one.
                encoder.include_checksum(true)?;
                if threads > 0 {
                    encoder.multithread(threads)?;
                }
                Encoder::Zstd(Box::new(encoder))
            }
            Compression::Lz4 => {
                // As WAL-G, pierrec/lz4 and the lz4 program write it, with the checksum that tells damage.
                let frame = FrameInfo::new()
                    .block_size(BlockSize::Max1MB)
                    .block_mode(BlockMode::Linked)
                    .content_checksum(true);
                Encoder::Lz4(Box::new(FrameEncoder::with_frame_info(frame, sink)))
            }
            Compression::Lzma(level) => {
                let options = LzmaOptions::new_preset(level)?;
                let stream = Stream::new_lzma_encoder(&options)?;
                Encoder::Lzma(Box::new(XzEncoder::new_stream(sink, stream)))
            }
            Compression::Brotli(level) => Encoder::Brotli(Box::new(brotli_end::Ended::new(sink, level))),
            Compression::Plain => Encoder::Plain(sink),
        })
    }
}

/// A compressing writer. It must be [finished](Encoder::finish), else its output is truncated.
pub enum Encoder<W: Write> {
    /// Zstandard.
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
    /// The LZ4 frame format.
    Lz4(Box<FrameEncoder<W>>),
    /// The legacy LZMA format.
    Lzma(Box<XzEncoder<W>>),
    /// Brotli.
    Brotli(Box<brotli_end::Ended<W>>),
    /// None.
    Plain(W),
}

impl<W: Write> Encoder<W> {
    /// Promise the number of bytes that will be written, before the first of them: the compressor takes no more memory than
    /// that needs. It is an error to write another amount.
    pub fn pledge(&mut self, bytes: u64) -> io::Result<()> {
        match self {
            Encoder::Zstd(encoder) => encoder.set_pledged_src_size(Some(bytes)),
            Encoder::Lz4(_) | Encoder::Lzma(_) | Encoder::Brotli(_) | Encoder::Plain(_) => Ok(()),
        }
    }

    /// Write the end of the stream and give the sink back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Encoder::Lzma(encoder) => encoder.finish(),
            Encoder::Brotli(encoder) => encoder.finish(),
            Encoder::Plain(sink) => Ok(sink),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Zstd(encoder) => encoder.write(bytes),
            Encoder::Lz4(encoder) => encoder.write(bytes),
            Encoder::Lzma(encoder) => encoder.write(bytes),
            Encoder::Brotli(encoder) => encoder.write(bytes),
            Encoder::Plain(sink) => sink.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Zstd(encoder) => encoder.flush(),
            Encoder::Lz4(encoder) => encoder.flush(),
            Encoder::Lzma(encoder) => encoder.flush(),
            Encoder::Brotli(encoder) => encoder.flush(),
            Encoder::Plain(sink) => sink.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = compression.encoder(Vec::new()).expect("an encoder");
        encoder.write_all(bytes).expect("compressed");
        encoder.finish().expect("finished")
    }

    fn decode(format: Format, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        format.decoder(bytes)?.read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn a_key_names_its_format() {
        for format in Format::ALL {
            let key = format!("wal_005/000000010000000000000001{}", format.suffix());
            assert_eq!(Format::of_key(&key), (format, "wal_005/000000010000000000000001"));
        }
        assert_eq!(Format::in_order(Format::Plain).collect::<Vec<_>>().len(), 5);
        assert_eq!(Format::in_order(Format::Brotli).next(), Some(Format::Brotli));
    }

    const WRITTEN: [Compression; 7] = [
        Compression::Zstd(1),
        Compression::Lz4,
        Compression::Lzma(1),
        Compression::Lzma(9),
        Compression::Brotli(1),
        Compression::Brotli(5),
        Compression::Plain,
    ];

    /// Bytes that look like WAL: some of it repeats, some does not, and there is more of it than a block has.
    fn sample() -> Vec<u8> {
        let mut state = 7u32;
        (0..3u32 << 20)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at / 8192 % 4 == 0 {
                    (state >> 24) as u8
                } else {
                    (at % 64) as u8
                }
            })
            .collect()
    }

    /// Bytes through a program of the system; none if it is not there.
    fn through(program: &str, args: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
        use std::process::{Command, Stdio};
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let (mut input, bytes) = (child.stdin.take().expect("piped"), bytes.to_vec());
        let feed = std::thread::spawn(move || input.write_all(&bytes));
        let output = child.wait_with_output().expect("run");
        feed.join().expect("joined").expect("written");
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        Some(output.stdout)
    }

    /// WAL-G has lz4 frames, and "lzma" is the format that the xz program calls so; both programs read what is written here, and
    /// what they write is read.
    #[test]
    fn the_programs_of_the_system_read_it_and_are_read() {
        for (format, compression, program, args) in [
            (Format::Lz4, Compression::Lz4, "lz4", &["-c", "-q"][..]),
            (Format::Lzma, Compression::Lzma(1), "xz", &["-c", "--format=lzma", "-q"]),
            (Format::Zstd, Compression::Zstd(1), "zstd", &["-c", "-q"]),
            (Format::Brotli, Compression::Brotli(1), "brotli", &["-c", "-5"]),
        ] {
            for text in [sample(), Vec::new(), b"x".to_vec()] {
                let encoded = encode(compression, &text);
                // The level, which only brotli wants here, is nothing to decompress with.
                let decompress = args
                    .iter()
                    .filter(|arg| **arg != "-5")
                    .chain(&["-d"])
                    .copied()
                    .collect::<Vec<_>>();
                let Some(decoded) = through(program, &decompress, &encoded) else {
                    eprintln!("{program} is not installed");
                    continue;
                };
                assert!(decoded == text, "{program}: {} bytes for {}", decoded.len(), text.len());
                let theirs = through(program, args, &text).expect("installed");
                assert!(decode(format, &theirs).expect("decoded") == text, "{program}");
            }
        }
    }

    #[test]
    fn compression_saves_room_and_is_as_it_says() {
        let text = sample();
        for compression in WRITTEN {
            let encoded = encode(compression, &text);
            assert!(
                decode(compression.format(), &encoded).expect("decoded") == text,
                "{compression:?}"
            );
            let expected = if compression == Compression::Plain {
                text.len()
            } else {
                text.len() / 3
            };
            assert!(encoded.len() <= expected, "{compression:?}: {} bytes", encoded.len());
        }
        for (method, level, expected) in [
            ("zstd", 22, Some(Compression::Zstd(22))),
            ("lz4", 19, Some(Compression::Lz4)),
            ("lzma", 9, Some(Compression::Lzma(9))),
            ("none", 1, Some(Compression::Plain)),
            ("lzma", 10, None),
            ("zstd", 23, None),
            ("brotli", 11, Some(Compression::Brotli(11))),
            ("brotli", 12, None),
            ("gzip", 1, None),
        ] {
            assert_eq!(Compression::new(method, level).ok(), expected, "{method} {level}");
        }
    }

    /// The decoder by itself takes a frame that was cut between two blocks for a whole one.
    #[test]
    fn an_lz4_frame_that_was_cut_anywhere_is_not_whole() {
        let text = &sample()[..200_000];
        for checksums in [false, true] {
            let frame = FrameInfo::new()
                .block_size(BlockSize::Max64KB)
                .block_checksums(checksums)
                .content_checksum(checksums)
                .content_size(checksums.then_some(text.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(text).expect("compressed");
            let whole = encoder.finish().expect("finished");
            assert!(decode(Format::Lz4, &whole).expect("decoded") == text);
            for cut in (1..40)
                .chain((40..whole.len()).step_by(97))
                .chain(whole.len() - 20..whole.len())
            {
                assert!(
                    decode(Format::Lz4, &whole[..cut]).is_err(),
                    "cut at {cut} of {}",
                    whole.len()
                );
            }
            // Exactly between two blocks.
            let mut at = 7 + if checksums { 8 } else { 0 };
            while let Some(length) = whole[at..].first_chunk().map(|length| u32::from_le_bytes(*length)) {
                assert!(
                    decode(Format::Lz4, &whole[..at]).is_err(),
                    "cut between two blocks, at {at}"
                );
                if length == 0 {
                    break;
                }
                at += 4 + (length & 0x7fff_ffff) as usize + if checksums { 4 } else { 0 };
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes: Vec<u8>, level in 1i32..=5) {
            for compression in [Compression::Zstd(level), Compression::Lz4, Compression::Lzma(level as u32), Compression::Brotli(level as u32), Compression::Plain] {
                prop_assert_eq!(decode(compression.format(), &encode(compression, &bytes)).expect("decoded"), bytes.clone());
            }
        }

        #[test]
        fn a_truncated_stream_is_never_taken_for_a_whole_one(bytes: Vec<u8>, cut: prop::sample::Index) {
            for compression in [Compression::Zstd(1), Compression::Lz4, Compression::Lzma(1), Compression::Brotli(1)] {
                let encoded = encode(compression, &bytes);
                let cut = cut.index(encoded.len());
                if cut > 0 {
                    prop_assert!(decode(compression.format(), &encoded[..cut]).is_err(), "{:?} cut at {}", compression, cut);
                }
            }
        }
    }
}
