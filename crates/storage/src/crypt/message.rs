//! Writing an OpenPGP message, as gpg and WAL-G read it: encrypted data of version 1 (RFC 9580, 5.13.1) with one packet of literal
//! data in it, which is not compressed. The library has the keys; it asks for the plain text, and here that is pushed.

use std::io::{self, Write};

use aes::Aes256;
use cfb_mode::Encryptor;
use cfb_mode::cipher::inout::InOutBuf;
use cfb_mode::cipher::{AsyncStreamCipher as _, BlockEncryptMut as _, KeyIvInit as _};
use pgp::composed::RawSessionKey;
use rand_core::{OsRng, RngCore};
use sha1::{Digest as _, Sha1};

use super::recipients::{CIPHER, Recipients};

/// Bytes of a block of the cipher.
const BLOCK: usize = 16;

/// Bytes of a packet's part, a power of two.
const PART: usize = 64 << 10;

/// What stands before such a part.
const PART_HEADER: u8 = 0xe0 | PART.ilog2() as u8;

/// The first byte of a packet of encrypted data, and of one of literal data.
const ENCRYPTED: u8 = 0xc0 | 18;
const LITERAL: u8 = 0xc0 | 11;

/// The header of the packet with the sum of the plain text, which ends it.
const SUM: [u8; 2] = [0xc0 | 19, 20];

/// Encrypts what is written into a sink. It must be [finished](MessageSealing::finish), else its output is truncated.
pub struct MessageSealing<W: Write> {
    sink: W,
    cipher: Encryptor<Aes256>,
    sum: Sha1,
    /// Less than a block of what is to be encrypted, between two calls.
    rest: Vec<u8>,
    /// Plain text that waits for more: a packet's last part has a length of its own.
    literal: Vec<u8>,
    /// The same of the ciphertext.
    encrypted: Vec<u8>,
    /// Writing has failed. What follows would not be the message any more.
    is_broken: bool,
}

impl<W: Write> std::fmt::Debug for MessageSealing<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessageSealing(…)")
    }
}

impl<W: Write> MessageSealing<W> {
    /// Begin a message.
    pub(super) fn new(recipients: &Recipients, mut sink: W) -> io::Result<Self> {
        let session_key = CIPHER.new_session_key(OsRng);
        let packets = recipients.packets(&session_key).map_err(io::Error::other)?;
        sink.write_all(&packets)?;
        sink.write_all(&[ENCRYPTED])?;
        let mut sealing = MessageSealing {
            sink,
            cipher: cipher(&session_key)?,
            sum: Sha1::new(),
            rest: Vec::with_capacity(PART + BLOCK),
            literal: Vec::with_capacity(PART),
            encrypted: Vec::with_capacity(PART),
            is_broken: false,
        };
        // The version of the packet.
        sealing.encrypted.push(1);
        // Noise, of which the last two bytes are repeated.
        let mut noise = [0; BLOCK + 2];
        OsRng.fill_bytes(&mut noise[..BLOCK]);
        noise.copy_within(BLOCK - 2..BLOCK, BLOCK);
        sealing.encrypt(&noise)?;
        sealing.encrypt(&[LITERAL])?;
        // Bytes, and not text, whose line ends might be changed; no name, no time.
        sealing.literal.extend_from_slice(&[b'b', 0, 0, 0, 0, 0]);
        Ok(sealing)
    }

    /// Encrypt as many whole blocks as there are.
    fn encrypt(&mut self, plain: &[u8]) -> io::Result<()> {
        self.sum.update(plain);
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(plain);
        let whole = rest.len() - rest.len() % BLOCK;
        let (blocks, _) = InOutBuf::from(&mut rest[..whole]).into_chunks();
        self.cipher.encrypt_blocks_inout_mut(blocks);
        let put = self.put(&rest[..whole]);
        rest.drain(..whole);
        self.rest = rest;
        put
    }

    /// Put ciphertext into the packet of encrypted data.
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.encrypted.len() == PART {
                self.sink.write_all(&[PART_HEADER])?;
                self.sink.write_all(&self.encrypted)?;
                self.encrypted.clear();
            }
            let taken = bytes.len().min(PART - self.encrypted.len());
            self.encrypted.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Encrypt the plain text that waits, after the header that tells its length.
    fn put_literal(&mut self, header: &[u8]) -> io::Result<()> {
        self.encrypt(header)?;
        let mut literal = std::mem::take(&mut self.literal);
        let put = self.encrypt(&literal);
        literal.clear();
        self.literal = literal;
        put
    }

    fn may_go_on(&self) -> io::Result<()> {
        match self.is_broken {
            true => Err(io::Error::other("writing has failed before")),
            false => Ok(()),
        }
    }

    /// Write the end of the message and give the sink back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.may_go_on()?;
        self.put_literal(&length(self.literal.len()))?;
        self.encrypt(&SUM)?;
        let sum = self.sum.finalize_reset();
        self.encrypt(&sum)?;
        let mut rest = std::mem::take(&mut self.rest);
        self.cipher.clone().encrypt(&mut rest);
        self.put(&rest)?;
        self.sink.write_all(&length(self.encrypted.len()))?;
        self.sink.write_all(&self.encrypted)?;
        Ok(self.sink)
    }
}

impl<W: Write> Write for MessageSealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.may_go_on()?;
        if self.literal.len() == PART && !bytes.is_empty() {
            let put = self.put_literal(&[PART_HEADER]);
            self.is_broken = put.is_err();
            put?;
        }
        let taken = bytes.len().min(PART - self.literal.len());
        self.literal.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

fn cipher(session_key: &RawSessionKey) -> io::Result<Encryptor<Aes256>> {
    // The noise at the beginning stands for the initial vector.
    Encryptor::new_from_slices(session_key.as_ref(), &[0; BLOCK]).map_err(io::Error::other)
}

/// The length of a packet or of its last part, as its header has it.
fn length(bytes: usize) -> Vec<u8> {
    match bytes {
        0..192 => vec![bytes as u8],
        192..8384 => vec![((bytes - 192) >> 8) as u8 + 192, (bytes - 192) as u8],
        _ => [&[0xff][..], &(bytes as u32).to_be_bytes()].concat(),
    }
}
