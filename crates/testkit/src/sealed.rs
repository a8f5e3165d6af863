//! Objects as WAL-G encrypts them, by libsodium's secretstream and by OpenPGP; and such as somebody has meddled with.

mod independent;

use crypto_secretstream::{Key, PushStream, Tag};
use pgp::composed::{Deserializable, MessageBuilder, SignedPublicKey};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use rand_core::OsRng;

pub use independent::{GpgKey, by_pynacl};

/// Bytes of a chunk of libsodium's before it is encrypted, and after.
const CHUNK: usize = 8192;
const SEALED_CHUNK: usize = CHUNK + 17;

/// The stream: a header, and chunks of which the last one is marked. It never begins as an OpenPGP message may, which one in some
/// hundred does by chance.
pub fn by_libsodium(plain: &[u8], key: [u8; 32]) -> Vec<u8> {
    let (header, mut stream) = loop {
        let begun = PushStream::init(OsRng, &Key::from(key));
        if begun.0.as_ref()[0] < 0x80 {
            break begun;
        }
    };
    let mut sealed = header.as_ref().to_vec();
    let mut chunks: Vec<&[u8]> = plain.chunks(CHUNK).collect();
    let last = chunks.pop().unwrap_or_default();
    for (chunk, tag) in chunks
        .into_iter()
        .map(|chunk| (chunk, Tag::Message))
        .chain([(last, Tag::Final)])
    {
        let mut chunk = chunk.to_vec();
        stream.push(&mut chunk, &[], tag).expect("a chunk was encrypted");
        sealed.extend(chunk);
    }
    sealed
}

/// The stream without its last chunk: it ends at the border of two.
pub fn without_last_chunk(sealed: &[u8]) -> &[u8] {
    let last = (sealed.len() - 24 - 1) / SEALED_CHUNK * SEALED_CHUNK;
    &sealed[..24 + last]
}

/// A message to the first encryption key of an armored public key, which `gpg --decrypt` reads.
pub fn by_openpgp(plain: &[u8], public_key: &[u8]) -> Vec<u8> {
    let (key, _) = SignedPublicKey::from_armor_single(public_key).expect("an armored public key");
    let mut message = MessageBuilder::from_bytes("", plain.to_vec()).seipd_v1(OsRng, SymmetricKeyAlgorithm::AES256);
    message
        .encrypt_to_key(OsRng, &key.public_subkeys[0].key)
        .expect("a session key was encrypted");
    message.to_vec(OsRng).expect("a message was encrypted")
}

/// The message with so many bytes more within its encrypted data, before the end that the message itself tells.
pub fn lengthened(message: &[u8], more: usize) -> Vec<u8> {
    let (kind, length, rest) = packet(message);
    assert_eq!(kind, 0xc1, "it begins with a session key");
    let (session_key, rest) = (&message[..message.len() - rest.len() + length], &rest[length..]);
    let (kind, mut length, mut rest) = packet(rest);
    assert_eq!(kind, 0xd2, "encrypted data follows");
    let mut data = Vec::new();
    // In several parts, each with its length.
    loop {
        let is_last = length & PARTIAL == 0;
        let (part, after) = rest.split_at(length & !PARTIAL);
        data.extend_from_slice(part);
        if is_last {
            break;
        }
        (length, rest) = length_of(after);
    }
    data.extend(std::iter::repeat_n(7, more));
    let length = u32::try_from(data.len()).expect("a small message").to_be_bytes();
    [session_key, &[0xd2, 0xff], &length, &data].concat()
}

/// Marks a length as that of a part.
const PARTIAL: usize = 1 << 40;

/// The kind of a packet, its length, and what follows that.
fn packet(bytes: &[u8]) -> (u8, usize, &[u8]) {
    let (length, rest) = length_of(&bytes[1..]);
    (bytes[0], length, rest)
}

fn length_of(bytes: &[u8]) -> (usize, &[u8]) {
    let byte = |at: usize| usize::from(bytes[at]);
    match bytes[0] {
        0..=191 => (byte(0), &bytes[1..]),
        192..=223 => (((byte(0) - 192) << 8) + byte(1) + 192, &bytes[2..]),
        224..=254 => (1 << (byte(0) & 31) | PARTIAL, &bytes[1..]),
        255 => (byte(1) << 24 | byte(2) << 16 | byte(3) << 8 | byte(4), &bytes[5..]),
    }
}
