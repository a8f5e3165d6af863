//! OpenPGP messages: those of gpg, large ones, and hostile ones.

use pgp::composed::{Deserializable, MessageBuilder, SignedPublicKey};
use pgp::crypto::aead::{AeadAlgorithm, ChunkSize};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::types::CompressionAlgorithm;
use rand_core::OsRng;

use super::*;

/// A key of curve 25519 with the passphrase "correct horse".
pub(super) const LOCKED: &[u8] = include_bytes!("../../../tests/gpg/locked.asc");
/// The same keys as `PGP_SECRET`, by "gpg --export-secret-subkeys".
pub(super) const SUBKEYS: &[u8] = include_bytes!("../../../tests/gpg/subkeys.asc");
const TO_LOCKED: &[u8] = include_bytes!("../../../tests/gpg/locked.gpg");
/// To the key of `PGP_SECRET`, and to that of `LOCKED`, which is not named.
const TO_BOTH: &[u8] = include_bytes!("../../../tests/gpg/both.gpg");
const ZLIB: &[u8] = include_bytes!("../../../tests/gpg/zlib.gpg");
const BZIP2: &[u8] = include_bytes!("../../../tests/gpg/bzip2.gpg");
const SIGNED: &[u8] = include_bytes!("../../../tests/gpg/signed.gpg");
const SYMMETRIC: &[u8] = include_bytes!("../../../tests/gpg/symmetric.gpg");

const TEXT: &[u8] = b"1\t0/3000000\tno recovery target specified\n";

fn locked(passphrase: Option<&[u8]>) -> crate::Result<Keys> {
    Ok(Keys {
        openpgp: OpenPgpKeys::parse(LOCKED, passphrase, "a test")?,
        ..Keys::default()
    })
}

#[test]
fn each_attack_on_a_message_is_told() {
    let keyring = ring(&[], &[PGP_SECRET], false);
    let flaw = |object: &[u8]| decrypt(object, &keyring).expect_err("refused");
    for cut in [1, 20, 100, PGP.len() / 2, PGP.len() - 30, PGP.len() - 1] {
        assert!(
            flaw(&PGP[..cut]).is_damage() || cut < 20,
            "cut at {cut}: {:?}",
            flaw(&PGP[..cut])
        );
    }
    for from_end in [1, 25, 40, 60] {
        let mut flipped = PGP.to_vec();
        let at = PGP.len() - from_end;
        flipped[at] ^= 1;
        assert!(flaw(&flipped).is_damage(), "flipped {from_end} before the end");
    }
    assert!(flaw(&[PGP, PGP].concat()).is_damage());
    let public = ring(&[], &[PGP_PUBLIC], false);
    assert_eq!(decrypt(PGP, &public), Err(Flaw::WrongKey(Method::OpenPgp)));
}

#[test]
fn what_gpg_writes_is_read() {
    let secret = ring(&[], &[PGP_SECRET], false);
    let subkeys = ring(&[], &[SUBKEYS], false);
    let locked = locked(Some(b"correct horse")).expect("unlocked");
    for (what, message, keys) in [
        ("compressed", ZLIB, &secret),
        ("signed", SIGNED, &secret),
        ("by one of two", TO_BOTH, &secret),
        ("by the other, which is not named", TO_BOTH, &locked),
        ("by a key with a passphrase", TO_LOCKED, &locked),
        ("by a subkey whose primary key is not there", ZLIB, &subkeys),
    ] {
        assert_eq!(decrypt(message, keys).expect(what), TEXT, "{what}");
    }
    assert_eq!(decrypt(TO_LOCKED, &secret), Err(Flaw::WrongKey(Method::OpenPgp)));
    assert_eq!(decrypt(SYMMETRIC, &secret), Err(Flaw::WrongKey(Method::OpenPgp)));
}

#[test]
fn a_passphrase_that_is_missing_or_wrong_is_told() {
    for (passphrase, says) in [
        (None, "is locked by a passphrase"),
        (Some(&b"wrong"[..]), "does not unlock"),
    ] {
        let error = locked(passphrase).expect_err("refused");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn what_is_not_supported_is_not_told_as_damage() {
    let secret = ring(&[], &[PGP_SECRET], false);
    // The packet of the session key, and then the old kind of encrypted data, which has no sum of its own.
    let unprotected = [&PGP[..271], b"\xc9\x10", &[7; 16]].concat();
    for message in [BZIP2, &unprotected] {
        let flaw = decrypt(message, &secret).expect_err("refused");
        assert!(matches!(flaw, Flaw::Unsupported(_)) && !flaw.is_damage(), "{flaw:?}");
    }
}

fn public() -> SignedPublicKey {
    SignedPublicKey::from_armor_single(PGP_PUBLIC).expect("a key").0
}

/// A message to the key of `PGP_PUBLIC`, in one of the two ways of today.
fn message(content: &[u8], is_aead: bool, compression: Option<CompressionAlgorithm>) -> Vec<u8> {
    let key = public();
    let key = &key.public_subkeys[0].key;
    let mut builder = MessageBuilder::from_bytes("", content.to_vec());
    if let Some(compression) = compression {
        builder.compression(compression);
    }
    match is_aead {
        false => {
            let mut builder = builder.seipd_v1(OsRng, SymmetricKeyAlgorithm::AES256);
            builder.encrypt_to_key(OsRng, key).expect("encrypted");
            builder.to_vec(OsRng).expect("written")
        }
        true => {
            let mut builder = builder.seipd_v2(
                OsRng,
                SymmetricKeyAlgorithm::AES256,
                AeadAlgorithm::Ocb,
                ChunkSize::C64KiB,
            );
            builder.encrypt_to_key(OsRng, key).expect("encrypted");
            builder.to_vec(OsRng).expect("written")
        }
    }
}

#[test]
fn large_messages_come_back_and_each_attack_on_them_is_told() {
    let secret = ring(&[], &[PGP_SECRET], false);
    let plain = sample(3 << 20);
    for (is_aead, compression) in [
        (false, None),
        (true, None),
        (false, Some(CompressionAlgorithm::ZIP)),
        (true, Some(CompressionAlgorithm::ZLIB)),
    ] {
        let what = format!("{is_aead} {compression:?}");
        let object = message(&plain, is_aead, compression);
        assert!(is_openpgp(&object), "{what}");
        assert!(decrypt(&object, &secret).expect(&what) == plain, "{what}");
        let is_damage = |object: &[u8]| decrypt(object, &secret).is_err_and(|flaw| flaw.is_damage());
        for cut in [600, object.len() / 2, object.len() - 22, object.len() - 1] {
            assert!(is_damage(&object[..cut]), "{what}: cut at {cut}");
        }
        for at in [700, object.len() / 2, object.len() - 30, object.len() - 1] {
            let mut flipped = object.clone();
            flipped[at] ^= 1;
            assert!(is_damage(&flipped), "{what}: flipped at {at}");
        }
        assert!(is_damage(&[&object[..], b"more"].concat()), "{what}");
    }
}

/// Gives zeros without end, and counts them.
struct Zeros {
    begin: Cursor<Vec<u8>>,
    given: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Read for Zeros {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.begin.read(buffer)?;
        if bytes == 0 {
            buffer.fill(0);
            bytes = buffer.len();
        }
        self.given.fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(bytes)
    }
}

/// The library would keep all of it in memory.
#[test]
fn a_message_that_gives_no_plain_text_is_given_up() {
    let secret = ring(&[], &[PGP_SECRET], false);
    for (what, begin) in [
        // A session key of four gigabytes; and after the message a packet of a kind that nobody knows.
        ("at its beginning", b"\xc1\xff\xff\xff\xff\xff\x03".to_vec()),
        ("at its end", [PGP, b"\xff\xff\xff\xff\xff\xff"].concat()),
    ] {
        let given = std::sync::Arc::default();
        let source = Zeros {
            begin: Cursor::new(begin),
            given: std::sync::Arc::clone(&given),
        };
        let read = open(source, &secret, &looks()).and_then(|mut plain| plain.read_to_end(&mut Vec::new()));
        let error = read.expect_err("refused");
        let flaw = Flaw::of_io(&error).unwrap_or_else(|| panic!("{what}: {error}"));
        assert!(
            flaw.is_damage() && flaw.detail().contains("no plain text"),
            "{what}: {}",
            flaw.detail()
        );
        let given = given.load(std::sync::atomic::Ordering::Relaxed);
        assert!(given < 34 << 20, "{what}: {given} bytes");
    }
}
