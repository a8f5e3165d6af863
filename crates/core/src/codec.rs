//! Compression: what is written (zstd or nothing), and what is read (whatever WAL-G may have written).

use std::io::{self, Read, Write};

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
    /// All of them, in the order in which a reader tries them.
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
            Format::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(source)),
            Format::Lzma => {
                let stream = liblzma::stream::Stream::new_lzma_decoder(128 << 20)?;
                Box::new(liblzma::read::XzDecoder::new_stream(source, stream))
            }
            Format::Brotli => Box::new(brotli_decompressor::Decompressor::new(source, 64 << 10)),
            Format::Plain => Box::new(source),
        })
    }
}

/// `walarchive.compression` and its level: what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Zstandard with this level, 1 to 22.
    Zstd(i32),
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
            "none" => Ok(Compression::Plain),
            _ => Err(Error::config(
                format!("compression \"{method}\" with level {level} is not supported"),
                "Use \"zstd\" with a level from 1 to 22, or \"none\".",
            )),
        }
    }

    /// The format of the objects.
    pub fn format(self) -> Format {
        match self {
            Compression::Zstd(_) => Format::Zstd,
            Compression::Plain => Format::Plain,
        }
    }

    /// A writer that compresses into `sink`.
    pub fn encoder<W: Write>(self, sink: W) -> io::Result<Encoder<W>> {
        self.encoder_with_threads(sink, 0)
    }

    /// The same, compressing in so many threads of its own; with 0 in the caller's. Each takes a few MB.
    pub fn encoder_with_threads<W: Write>(self, sink: W, threads: u32) -> io::Result<Encoder<W>> {
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
            Compression::Plain => Encoder::Plain(sink),
        })
    }
}

/// A compressing writer. It must be [finished](Encoder::finish), else its output is truncated.
pub enum Encoder<W: Write> {
    /// Zstandard.
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
    /// None.
    Plain(W),
}

impl<W: Write> Encoder<W> {
    /// Promise the size of what will be written, in bytes, before the first of them: the compressor takes no more memory
    /// than that needs. It is an error to write another amount.
    pub fn pledge(&mut self, bytes: u64) -> io::Result<()> {
        match self {
            Encoder::Zstd(encoder) => encoder.set_pledged_src_size(Some(bytes)),
            Encoder::Plain(_) => Ok(()),
        }
    }

    /// Write the end of the stream and give the sink back.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Zstd(encoder) => encoder.finish(),
            Encoder::Plain(sink) => Ok(sink),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Zstd(encoder) => encoder.write(bytes),
            Encoder::Plain(sink) => sink.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Zstd(encoder) => encoder.flush(),
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

    #[test]
    fn what_wal_g_may_have_written_is_read() {
        let text = b"what WAL-G wrote ".repeat(1000);
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(&text).expect("lz4");
        assert_eq!(decode(Format::Lz4, &lz4.finish().expect("lz4")).expect("lz4"), text);
        let options = liblzma::stream::LzmaOptions::new_preset(6).expect("lzma");
        let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("lzma");
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        lzma.write_all(&text).expect("lzma");
        assert_eq!(decode(Format::Lzma, &lzma.finish().expect("lzma")).expect("lzma"), text);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes: Vec<u8>, level in 1i32..=5) {
            for compression in [Compression::Zstd(level), Compression::Plain] {
                prop_assert_eq!(decode(compression.format(), &encode(compression, &bytes)).expect("decoded"), bytes.clone());
            }
        }

        #[test]
        fn a_truncated_stream_is_never_taken_for_a_whole_one(bytes: Vec<u8>, cut: prop::sample::Index) {
            let encoded = encode(Compression::Zstd(1), &bytes);
            let cut = cut.index(encoded.len());
            prop_assume!(cut > 0);
            prop_assert!(decode(Format::Zstd, &encoded[..cut]).is_err());
        }
    }
}
