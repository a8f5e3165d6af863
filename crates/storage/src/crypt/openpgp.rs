//! OpenPGP messages, as WAL-G and gpg write them.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgp::composed::{DecryptionOptions, Edata, Message, PublicOrSecret, SignedPublicKey, SignedSecretKey, TheRing};
use pgp::errors::Error as PgpError;
use pgp::types::{KeyDetails as _, Password, Seipdv1ReadMode};

use super::flaw::{Flaw, Method};
use super::recipients::{Recipients, is_for_encryption};
use crate::error::{Error, Result};

/// Bytes that are read of the source at a time.
const BUFFER: usize = 64 << 10;

/// So many bytes of a message may give no plain text, at its beginning, in its middle and at its end: the library keeps packets
/// that it does not know, and chunks that have not proved right, in memory. No program writes a chunk of more than 4 MiB by itself.
const SILENT_BYTES: u64 = 32 << 20;

/// Compressed or signed within one another: gpg does both once.
const MOST_LAYERS: usize = 4;

/// The library writes secret keys into the log, at its lower levels. So these levels are left out of the program.
const _: () = assert!(log::STATIC_MAX_LEVEL as usize <= log::LevelFilter::Info as usize);

/// How an armored block of keys begins.
const BLOCK: &str = "-----BEGIN PGP ";

/// Keys of OpenPGP.
#[derive(Default, PartialEq)]
pub(crate) struct OpenPgpKeys {
    secret: Vec<SignedSecretKey>,
    public: Vec<SignedPublicKey>,
    /// What the first source with such keys has: new objects are encrypted to these.
    recipients: Vec<SignedPublicKey>,
}

impl fmt::Debug for OpenPgpKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secret, {} public", self.secret.len(), self.public.len())
    }
}

impl OpenPgpKeys {
    /// The keys in a text, armored or not, each secret one unlocked by the passphrase if it is locked. `place` is where the text
    /// is from, for messages.
    pub(super) fn parse(text: &[u8], passphrase: Option<&[u8]>, place: &str) -> Result<Self> {
        let wrong = || {
            Error::config(
                format!("there is no OpenPGP key in {place}"),
                "It is written by \"gpg --export-secret-keys --armor\", or without \"secret-\" if it is to encrypt only.",
            )
        };
        let mut found = OpenPgpKeys::default();
        for block in blocks(text) {
            let (keys, _) = PublicOrSecret::from_reader_many_buf(block).map_err(|_| wrong())?;
            for key in keys {
                match key.map_err(|_| wrong())? {
                    PublicOrSecret::Secret(mut key) => {
                        unlock(&mut key, passphrase).map_err(|_| locked(passphrase.is_some(), place))?;
                        found.secret.push(key);
                    }
                    PublicOrSecret::Public(key) => found.public.push(key),
                }
            }
        }
        found.recipients = match found.public.is_empty() {
            true => found.secret.iter().map(SignedSecretKey::to_public_key).collect(),
            false => found.public.clone(),
        };
        match found.is_empty() {
            true => Err(wrong()),
            false => Ok(found),
        }
    }

    /// Are there none?
    pub(super) fn is_empty(&self) -> bool {
        self.secret.is_empty() && self.public.is_empty()
    }

    /// Those and these.
    pub(super) fn extend(&mut self, others: Self) {
        if self.is_empty() {
            self.recipients = others.recipients;
        }
        self.secret.extend(others.secret);
        self.public.extend(others.public);
    }

    /// Whom new objects are encrypted to; none if there is no key.
    pub(super) fn recipients(&self) -> Result<Option<Recipients>> {
        Recipients::of(&self.recipients)
    }

    /// The fingerprints of the keys that decrypt, by what they say about themselves.
    pub(super) fn decrypting(&self) -> impl Iterator<Item = Vec<u8>> {
        self.secret.iter().flat_map(|key| {
            let users = key.details.users.iter().flat_map(|user| &user.signatures);
            let mut own = users.chain(&key.details.direct_signatures);
            let primary = own.any(is_for_encryption).then_some(&key.primary_key);
            let primary = primary.map(|key| (key.algorithm(), key.fingerprint()));
            let subkeys = key.secret_subkeys.iter();
            let subkeys = subkeys
                .filter(|subkey| subkey.signatures.iter().any(is_for_encryption))
                .map(|subkey| (subkey.key.algorithm(), subkey.key.fingerprint()));
            let all = subkeys.chain(primary);
            all.filter(|(algorithm, _)| algorithm.can_encrypt())
                .map(|(_, fingerprint)| fingerprint.as_bytes().to_vec())
        })
    }
}

/// An armored text may have several blocks, one after the other.
fn blocks(text: &[u8]) -> Vec<&[u8]> {
    let mut starts: Vec<usize> = Vec::new();
    for at in 0..text.len() {
        if text[at..].starts_with(BLOCK.as_bytes()) {
            starts.push(at);
        }
    }
    match starts.first() {
        None => vec![text],
        Some(_) => (0..starts.len())
            .map(|number| &text[starts[number]..starts.get(number + 1).copied().unwrap_or(text.len())])
            .collect(),
    }
}

fn locked(has_passphrase: bool, place: &str) -> Error {
    match has_passphrase {
        true => Error::config(
            format!("the passphrase does not unlock the OpenPGP key in {place}"),
            "Correct WALG_PGP_KEY_PASSPHRASE.",
        ),
        false => Error::config(
            format!("the OpenPGP key in {place} is locked by a passphrase"),
            "Set WALG_PGP_KEY_PASSPHRASE in the environment.",
        ),
    }
}

/// Once here, and not for each object: it takes long on purpose.
fn unlock(key: &mut SignedSecretKey, passphrase: Option<&[u8]>) -> pgp::errors::Result<()> {
    let password = Password::from(passphrase.unwrap_or_default());
    let primary = key.primary_key.remove_password(&password);
    for subkey in &mut key.secret_subkeys {
        subkey.key.remove_password(&password)?;
    }
    match key.secret_subkeys.is_empty() {
        true => primary,
        // "gpg --export-secret-subkeys" leaves a primary key without its secret part. It signs, and does not decrypt.
        false => Ok(()),
    }
}

/// Does an encrypted OpenPGP message begin so (RFC 9580)? It begins with the packet of a session key, of a marker, or of the
/// encrypted data, each of which has its version at a place that the packet's header tells; or it is armored.
pub fn is_openpgp(head: &[u8]) -> bool {
    if head.starts_with(b"-----BEGIN PGP MESSAGE-----") {
        return true;
    }
    let Some((&first, rest)) = head.split_first() else {
        return false;
    };
    let (tag, length_bytes) = match (first & 0xc0, rest.first()) {
        (0xc0, Some(192..=223)) => (first & 0x3f, 2),
        (0xc0, Some(255)) => (first & 0x3f, 5),
        // One byte, or the first of several parts.
        (0xc0, Some(_)) => (first & 0x3f, 1),
        (0x80, Some(_)) => (first >> 2 & 0x0f, [1, 2, 4, 0][usize::from(first & 3)]),
        _ => return false,
    };
    let version = rest.get(length_bytes).copied();
    match tag {
        // A session key for a public key, and one for a passphrase.
        1 => matches!(version, Some(2 | 3 | 6)),
        3 => matches!(version, Some(4..=6)),
        10 => rest[length_bytes.min(rest.len())..].starts_with(b"PGP"),
        // Encrypted data with integrity protection, and the older kind with authentication.
        18 => matches!(version, Some(1 | 2)),
        20 => version == Some(1),
        _ => false,
    }
}

/// Gives the plain text of a message, in bounded memory. The message proves right only at its end, so nothing may be believed
/// before that: the end of this reader is it.
pub(super) struct Opening {
    message: Message<'static>,
    silent: Arc<AtomicU64>,
    is_over: bool,
}

impl Opening {
    /// Find the key of the message.
    pub(super) fn new(keys: &OpenPgpKeys, source: impl Read + Send + 'static) -> io::Result<Self> {
        let silent = Arc::<AtomicU64>::default();
        let source = Watched {
            source,
            silent: Arc::clone(&silent),
        };
        let source = BufReader::with_capacity(BUFFER, source);
        let begun = catch_unwind(AssertUnwindSafe(|| begin(keys, source)));
        match begun.unwrap_or_else(|_| Err(malformed("").into_io())) {
            Ok(message) => Ok(Opening {
                message,
                silent,
                is_over: false,
            }),
            Err(error) => Err(unless_silent(&silent, error)),
        }
    }
}

fn begin(keys: &OpenPgpKeys, source: impl BufRead + fmt::Debug + Send + 'static) -> io::Result<Message<'static>> {
    let (message, _) = Message::from_reader(source).map_err(flawed)?;
    match &message {
        Message::Encrypted {
            edata: Edata::SymEncryptedData { .. },
            ..
        } => {
            return Err(unsupported(
                "It is an OpenPGP message of the old kind, which cannot be told from a changed one.",
            ));
        }
        Message::Encrypted { .. } => {}
        _ => return Err(Flaw::NotEncrypted.into_io()),
    }
    let none = Password::empty();
    let ring = TheRing {
        secret_keys: keys.secret.iter().collect(),
        key_passwords: vec![&none],
        // It may have many gigabytes.
        decrypt_options: DecryptionOptions::new()
            .set_seipdv1_read_mode(Seipdv1ReadMode::Streaming)
            .enable_gnupg_aead(),
        ..TheRing::default()
    };
    let (mut message, _) = message.decrypt_the_ring(ring, true).map_err(flawed)?;
    for _ in 0..MOST_LAYERS {
        if message.literal_data_header().is_some() {
            return Ok(message);
        }
        if message.is_encrypted() {
            break;
        }
        message = message.decompress().map_err(|error| match error {
            // Of the same kind as damage, so its words tell it.
            PgpError::IO { source, .. } if source.to_string().starts_with("unsupported compression") => {
                unsupported("What is in the OpenPGP message is compressed in a way that is not supported.")
            }
            error => flawed(error),
        })?;
    }
    Err(unsupported(
        "It is an OpenPGP message with others within it, and the plain text is not in the first of them.",
    ))
}

impl Read for Opening {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_over {
            return Ok(0);
        }
        // A part of the message that lies about its length must not end more than this.
        let read = catch_unwind(AssertUnwindSafe(|| self.message.read(buffer)));
        match read.unwrap_or_else(|_| Err(malformed("").into_io())) {
            Ok(bytes) => {
                self.is_over = bytes == 0 && !buffer.is_empty();
                self.silent.store(0, Ordering::Relaxed);
                Ok(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(unless_silent(&self.silent, of_io(error))),
        }
    }
}

/// A source that ends with an error when it has given too much for nothing; and without a word about itself.
struct Watched<R> {
    source: R,
    silent: Arc<AtomicU64>,
}

impl<R> fmt::Debug for Watched<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("source")
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.read(buffer)?;
        let before = self.silent.fetch_add(bytes as u64, Ordering::Relaxed);
        match before + bytes as u64 > SILENT_BYTES {
            true => Err(io::Error::other("too much without plain text")),
            false => Ok(bytes),
        }
    }
}

/// The error, or what has led to it: the library tells it in words of its own.
fn unless_silent(silent: &AtomicU64, error: io::Error) -> io::Error {
    match silent.load(Ordering::Relaxed) > SILENT_BYTES {
        true => Flaw::Damaged(
            Method::OpenPgp,
            format!("The OpenPGP message has more than {SILENT_BYTES} bytes that give no plain text."),
        )
        .into_io(),
        false => error,
    }
}

fn of_io(error: io::Error) -> io::Error {
    if Flaw::of_io(&error).is_some() {
        return error;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Flaw::Truncated(Method::OpenPgp).into_io(),
        _ => malformed(&error.to_string()).into_io(),
    }
}

fn flawed(error: PgpError) -> io::Error {
    match error {
        PgpError::MissingKey => Flaw::WrongKey(Method::OpenPgp).into_io(),
        PgpError::IO { source, .. } => of_io(source),
        PgpError::Unsupported { message, .. } | PgpError::Unimplemented { message, .. } => {
            unsupported(&format!("The OpenPGP message needs what is not supported: {message}."))
        }
        other => malformed(&other.to_string()).into_io(),
    }
}

fn unsupported(what: &str) -> io::Error {
    Flaw::Unsupported(what.to_owned()).into_io()
}

fn malformed(why: &str) -> Flaw {
    let why = match why.trim_end_matches('.') {
        "" => String::new(),
        why => format!(": {why}"),
    };
    Flaw::Damaged(
        Method::OpenPgp,
        format!("The OpenPGP message is not the one that was encrypted{why}."),
    )
}
