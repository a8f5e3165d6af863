//! Reading and writing what may be encrypted, and telling an object that somebody has encrypted from a damaged one, by its first bytes. WAL-G
//! compresses first and encrypts then, and the key's suffix speaks of the compression only.

use std::io::Read;

use walarchive_storage::crypt::is_openpgp;
use walarchive_storage::{RangeReader, Store};

use crate::codec::Format;
use crate::error::{Error, MAY_BE_ENCRYPTED, Result};
use crate::lsn::Lsn;
use crate::repository::layout;
use crate::wal::{FirstPage, LONG_HEADER_BYTES, SegmentSize, WalFileName};

mod digest;
pub(crate) mod metadata;
mod wrapping;

pub(crate) use digest::KeyedDigest;
pub(crate) use wrapping::{Wrapped, Wrapping, refuse_unread, seal_metadata};

/// Begin to read an object of `size` stored bytes, decrypted with the keys of the store if it is of a kind that is encrypted.
/// All readers of WAL, of tars and of long metadata come through here.
pub(crate) fn reader(store: &Store, key: &str, size: u64) -> RangeReader {
    decrypting(RangeReader::new(store, key, size), store, key)
}

/// The same for an object whose size is not known; none if it is not there.
pub(crate) async fn open(store: &Store, key: &str) -> Result<Option<RangeReader>> {
    let reader = RangeReader::open(store, key).await?;
    Ok(reader.map(|reader| decrypting(reader, store, key)))
}

fn decrypting(reader: RangeReader, store: &Store, key: &str) -> RangeReader {
    if layout::is_metadata(key) {
        return reader.unsealing(store.keyring());
    }
    if !layout::is_encrypted_where_anything_is(key) {
        return reader;
    }
    let key_of_object = key.to_owned();
    reader.decrypting(store.keyring(), Box::new(move |head| is_plain(&key_of_object, head)))
}

/// Does the object begin as one does that is not encrypted? It must be of a kind that is encrypted where anything is, and some
/// kilobytes of it are needed.
pub(crate) fn is_plain(key: &str, head: &[u8]) -> bool {
    let format = Format::of_key(key).0;
    match format {
        Format::Zstd | Format::Lz4 | Format::Lzma => is_of(head, format) == Some(true),
        // Whatever the bytes are, some decoder would begin with them. What comes out of it tells.
        Format::Brotli | Format::Plain => {
            let mut content = Vec::new();
            let decoded = format
                .decoder(head)
                .and_then(|decoder| decoder.take(CONTENT_BYTES).read_to_end(&mut content));
            // It is cut off, so an error at the end says nothing.
            (decoded.is_ok() || !content.is_empty()) && has_content(key, &content)
        }
    }
}

/// As many bytes tell what it is: a block of a tar.
const CONTENT_BYTES: u64 = 512;

/// Does a file that is stored under such a key begin so?
fn has_content(key: &str, content: &[u8]) -> bool {
    match layout::wal_of_object(key) {
        Some((WalFileName::Segment(_) | WalFileName::Partial(_), _)) => content
            .first_chunk::<LONG_HEADER_BYTES>()
            .is_some_and(|header| SegmentSize::new(FirstPage::parse(header).segment_bytes.into()).is_ok()),
        Some((WalFileName::History(_), _)) => is_history(content),
        Some((WalFileName::BackupHistory(..), _)) => content.starts_with(b"START WAL LOCATION: "),
        // The mark in the header of the first member; or the end, which is all zero.
        None => match content.first_chunk::<{ CONTENT_BYTES as usize }>() {
            Some(block) => &block[257..262] == b"ustar" || block.iter().all(|byte| *byte == 0),
            None => false,
        },
    }
}

/// "1\t0/3000000\t…": a timeline, and where it was left. Comments may come before.
fn is_history(content: &[u8]) -> bool {
    let mut lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    match lines.find(|line| !line.is_empty() && !line.starts_with(b"#")) {
        Some(line) => {
            let words = line.split(u8::is_ascii_whitespace).map(str::from_utf8);
            let mut words = words.map_while(Result::ok);
            let timeline = words.next().and_then(|word| word.parse::<u32>().ok());
            let lsn = words.next().and_then(|word| word.parse::<Lsn>().ok());
            timeline.is_some() && lsn.is_some()
        }
        None => content.trim_ascii_start().starts_with(b"#") && is_text(content),
    }
}

/// So many bytes of a history file are always ASCII: the reason after them may hold what a user has written.
const TEXT_BYTES: usize = 24;

/// Does a file begin so that is text?
pub(crate) fn is_text(content: &[u8]) -> bool {
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    content.iter().take(TEXT_BYTES).all(is_text)
}

/// The error for an object that could not be decoded. `head` are its first bytes, `why` the reason, and `object` is its URL.
pub(crate) fn undecodable(object: impl Into<String>, head: &[u8], format: Format, why: impl Into<String>) -> Error {
    match looks(head, format) {
        Looks::Encrypted(how) => Error::Encrypted {
            object: object.into(),
            reason: format!("It begins as {how} does."),
        },
        Looks::Otherwise => Error::damaged(
            object,
            format!(
                "{} It is not of the compression that its name says ({}), {MAY_BE_ENCRYPTED}, as WAL-G's libsodium \
                 encryption leaves no mark, and no key is configured.",
                why.into(),
                format.suffix()
            ),
        ),
        Looks::AsNamed => Error::damaged(object, why),
    }
}

/// The error for an object whose content a decoder refused, for this reason: what the store said, if it was the store; else it
/// is encrypted, or damaged. `object` is its URL.
pub(crate) fn blame(
    reader: &mut RangeReader,
    object: impl Into<String>,
    format: Format,
    why: impl Into<String>,
) -> Error {
    match reader.take_failure() {
        Some(failure) => failure.into(),
        // It was decrypted, and what came out of it is wrong.
        None if reader.is_opened() => Error::damaged(object, why),
        None => undecodable(object, reader.head(), format, why),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Looks {
    /// By whom, with an article.
    Encrypted(&'static str),
    /// Not as the suffix says, nor as anything that is known.
    Otherwise,
    /// Nothing speaks against the suffix.
    AsNamed,
}

fn looks(head: &[u8], format: Format) -> Looks {
    let armor: [(&[u8], &str); 3] = [
        (b"-----BEGIN AGE ENCRYPTED FILE-----", "a file of age"),
        (b"age-encryption.org/", "a file of age"),
        (b"Salted__", "a file of \"openssl enc\""),
    ];
    if let Some((_, how)) = armor.iter().find(|(mark, _)| head.starts_with(mark)) {
        return Looks::Encrypted(how);
    }
    // A brotli object, or one that is not compressed, may begin with any bytes.
    match is_of(head, format) {
        Some(true) => Looks::AsNamed,
        _ if is_openpgp(head) => Looks::Encrypted("an OpenPGP message"),
        Some(false) if !head.is_empty() => Looks::Otherwise,
        _ => Looks::AsNamed,
    }
}

/// Does a stream of this format begin so? None if that cannot be told.
fn is_of(head: &[u8], format: Format) -> Option<bool> {
    let word = head.first_chunk().map(|word| u32::from_le_bytes(*word));
    // Of zstd and LZ4 alike: a frame that a reader skips.
    let skippable = word.is_some_and(|word| word & 0xffff_fff0 == 0x184d_2a50);
    match format {
        Format::Zstd => Some(skippable || word == Some(0xfd2f_b528)),
        Format::Lz4 => Some(skippable || word == Some(0x184d_2204)),
        // The three parameters in one byte; a dictionary as encoders choose it; a length, or that it is not known.
        Format::Lzma => Some(head.first_chunk::<13>().is_some_and(|header| {
            let dictionary = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
            let length = header[5..13]
                .iter()
                .rev()
                .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            header[0] < 225 && dictionary.count_ones() <= 2 && (length == u64::MAX || length < 1 << 40)
        })),
        Format::Brotli | Format::Plain => None,
    }
}

#[cfg(test)]
pub(crate) mod attacks;
#[cfg(test)]
mod written;

#[cfg(test)]
mod tests {
    use walarchive_storage::HEAD_BYTES;

    use super::*;

    const PGP: &str = "an OpenPGP message";

    #[test]
    fn encrypted_objects_are_known_by_their_first_bytes() {
        for (head, format, expected) in [
            // As WAL-G and gpg begin, with a public key; gpg with a passphrase; data at once.
            (&b"\xc1\xc0\x4c\x03\xf5\xf8"[..], Format::Lz4, Looks::Encrypted(PGP)),
            (b"\x85\x01\x8c\x03\x11\x22", Format::Zstd, Looks::Encrypted(PGP)),
            (b"\x84\x5e\x03\x11\x22\x33", Format::Plain, Looks::Encrypted(PGP)),
            (b"\x8c\x0d\x04\x09\x03\x02", Format::Lzma, Looks::Encrypted(PGP)),
            (b"\xd2\xea\x01\x00\x00\x00", Format::Brotli, Looks::Encrypted(PGP)),
            (b"-----BEGIN PGP MESSAGE-----\n", Format::Plain, Looks::Encrypted(PGP)),
            (
                b"age-encryption.org/v1\n-> X",
                Format::Zstd,
                Looks::Encrypted("a file of age"),
            ),
            // libsodium: nothing but noise.
            (b"\xf2\xb0\x20\x6d\xfe\xce", Format::Zstd, Looks::Otherwise),
            (b"\xf2\xb0\x20\x6d\xfe\xce", Format::Lz4, Looks::Otherwise),
            (
                b"\xf2\xb0\x20\x6d\xfe\xce\0\0\0\0\0\0\0\0",
                Format::Lzma,
                Looks::Otherwise,
            ),
            (b"\xf2\xb0\x20\x6d\xfe\xce", Format::Plain, Looks::AsNamed),
            (b"", Format::Zstd, Looks::AsNamed),
            // Content that fits the name, or is WAL, a history or a tar.
            (b"\x28\xb5\x2f\xfd\x04\x00", Format::Zstd, Looks::AsNamed),
            (b"\x50\x2a\x4d\x18\x04\x00", Format::Zstd, Looks::AsNamed),
            (b"\x04\x22\x4d\x18\x64\x40", Format::Lz4, Looks::AsNamed),
            (
                b"\x5d\x00\x00\x80\x00\xff\xff\xff\xff\xff\xff\xff\xff\x00",
                Format::Lzma,
                Looks::AsNamed,
            ),
            (b"\x10\xd1\x07\x00\x01\x00", Format::Plain, Looks::AsNamed),
            (b"1\t0/3000000\tno recovery", Format::Plain, Looks::AsNamed),
            (b"/base/5/1259\0\0\0\0", Format::Plain, Looks::AsNamed),
        ] {
            assert_eq!(looks(head, format), expected, "{head:02x?} as {format:?}");
        }
    }

    #[test]
    fn what_is_written_here_is_never_taken_for_encrypted() {
        use std::io::Write;

        use crate::codec::Compression;
        for compression in [
            Compression::Zstd(19),
            Compression::Lz4,
            Compression::Lzma(1),
            Compression::Lzma(9),
        ] {
            for content in [&b""[..], b"x", &[7; 100_000]] {
                let mut encoder = compression.encoder(Vec::new()).expect("an encoder");
                encoder.write_all(content).expect("compressed");
                let object = encoder.finish().expect("finished");
                let head = &object[..object.len().min(HEAD_BYTES)];
                assert_eq!(looks(head, compression.format()), Looks::AsNamed, "{compression:?}");
            }
        }
    }
}
