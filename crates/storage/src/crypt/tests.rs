use std::io::{self, Cursor, Read};

use super::keyring::Keys;
use super::openpgp::OpenPgpKeys;
use super::sealing::Sealing;
use super::secretstream::BEGINNING;
use super::sodium_key::{SodiumKey, Transform};
use super::*;

mod command;
mod independent;
mod keys;
mod messages;
mod writing;

/// What a real WAL-G wrote: a timeline history file, compressed and encrypted, by each form of a key.
const NONE: &[u8] = include_bytes!("../../tests/wal-g/sodium-none.history.zst");
const HEX: &[u8] = include_bytes!("../../tests/wal-g/sodium-hex.history.zst");
const BASE64: &[u8] = include_bytes!("../../tests/wal-g/sodium-base64.history.zst");
const PGP: &[u8] = include_bytes!("../../tests/wal-g/pgp.history.lz4");
const PGP_SECRET: &[u8] = include_bytes!("../../tests/wal-g/pgp-secret.asc");
const PGP_PUBLIC: &[u8] = include_bytes!("../../tests/wal-g/pgp-public.asc");

const KEY: [u8; 32] = *b"0123456789abcdef0123456789ABCDEF";

const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x04, 0x22, 0x4d, 0x18];

fn looks() -> Looks {
    Box::new(|head| head.starts_with(ZSTD) || head.starts_with(LZ4))
}

fn ring(libsodium: &[[u8; 32]], openpgp: &[&[u8]], accept_plain: bool) -> Keys {
    let mut keys = Keys {
        libsodium: libsodium.iter().map(SodiumKey::new).collect(),
        accept_plain,
        ..Keys::default()
    };
    for text in openpgp {
        keys.openpgp
            .extend(OpenPgpKeys::parse(text, None, "a test").expect("keys"));
    }
    keys
}

fn decrypt(object: &[u8], keys: &Keys) -> Result<Vec<u8>, Flaw> {
    let mut plain = Vec::new();
    let read = open(Cursor::new(object.to_vec()), keys, &looks()).and_then(|mut source| source.read_to_end(&mut plain));
    match read {
        Ok(_) => Ok(plain),
        Err(error) => Err(Flaw::of_io(&error).unwrap_or_else(|| panic!("{error}"))),
    }
}

/// A stream, as libsodium makes it. It never begins as an OpenPGP message may, which one in some hundred does by chance.
fn sealed(plain: &[u8], key: [u8; 32]) -> Vec<u8> {
    loop {
        let sealed = sealed_by_chance(plain, key);
        if sealed[0] < 0x80 {
            return sealed;
        }
    }
}

fn sealed_by_chance(plain: &[u8], key: [u8; 32]) -> Vec<u8> {
    let mut sealing = Sealing::new(&SodiumKey::new(&key), Vec::new()).expect("begun");
    io::Write::write_all(&mut sealing, plain).expect("sealed");
    sealing.finish().expect("finished")
}

fn sample(bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

#[test]
fn what_wal_g_wrote_is_decrypted_by_each_form_of_its_keys() {
    let hex = b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
    for (object, text, transform) in [
        (NONE, &KEY[..], "none"),
        (HEX, &hex[..], "hex"),
        (BASE64, b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "base64"),
    ] {
        let key = SodiumKey::of_wal_g(text, transform.parse().expect(transform), "a test").expect(transform);
        let plain = decrypt(object, &ring(&[*key.bytes()], &[], false)).expect(transform);
        assert!(plain.starts_with(ZSTD), "{transform}");
    }
    let plain = decrypt(PGP, &ring(&[KEY], &[PGP_SECRET], false)).expect("decrypted");
    assert!(plain.starts_with(LZ4));
}

#[test]
fn streams_of_every_length_come_back() {
    for bytes in [0, 1, 8191, 8192, 8193, 3 * 8192, 100_000] {
        let plain = sample(bytes);
        let object = sealed(&plain, KEY);
        assert!(object.len() >= 24 + 17 + bytes, "{bytes}");
        assert!(
            decrypt(&object, &ring(&[[9; 32], KEY], &[], false)).expect("decrypted") == plain,
            "{bytes}"
        );
    }
}

#[test]
fn each_attack_on_a_stream_is_told() {
    let plain = sample(3 * 8192 + 100);
    let (object, other) = (sealed(&plain, KEY), sealed(&plain, KEY));
    let keyring = ring(&[KEY], &[], false);
    let chunk = |number: usize| 24 + number * 8209..24 + (number + 1) * 8209;
    let flaw = |object: &[u8]| decrypt(object, &keyring).expect_err("refused");
    let truncated = Flaw::Truncated(Method::Libsodium);
    assert_eq!(flaw(&[]), Flaw::Empty);
    for cut in [10, 24, 40, chunk(0).end, chunk(1).end] {
        assert_eq!(flaw(&object[..cut]), truncated, "cut at {cut}");
    }
    let is_damage = |object: &[u8]| matches!(flaw(object), Flaw::Damaged(Method::Libsodium, _));
    for cut in [chunk(1).end + 5, object.len() - 1] {
        assert!(is_damage(&object[..cut]), "cut at {cut}");
        assert!(flaw(&object[..cut]).detail().contains("is cut off"));
    }
    let mut reordered = object.clone();
    reordered[chunk(1)].copy_from_slice(&object[chunk(2)]);
    reordered[chunk(2)].copy_from_slice(&object[chunk(1)]);
    assert!(is_damage(&reordered));
    let mut repeated = object.clone();
    repeated.splice(chunk(2).start..chunk(2).start, object[chunk(1)].iter().copied());
    assert!(is_damage(&repeated));
    let mut spliced = object.clone();
    spliced[chunk(1)].copy_from_slice(&other[chunk(1)]);
    assert!(is_damage(&spliced));
    assert!(is_damage(&[&object[..], b"more"].concat()));
    for at in [chunk(1).start, chunk(1).start + 100, chunk(2).end - 1] {
        let mut flipped = object.clone();
        flipped[at] ^= 1;
        assert!(is_damage(&flipped), "flipped at {at}");
    }
    // Before the first chunk proves right, damage looks as another key does.
    for at in [0, 30] {
        let mut flipped = object.clone();
        flipped[at] ^= 1;
        assert_eq!(flaw(&flipped), Flaw::WrongKey(Method::Libsodium));
    }
    let whole = decrypt(&object, &ring(&[[1; 32]], &[], false));
    assert_eq!(whole, Err(Flaw::WrongKey(Method::Libsodium)));
    assert!(object.len() > BEGINNING);
}

#[test]
fn the_other_method_and_plain_text_are_told() {
    let plain = [ZSTD, &sample(20_000)].concat();
    let stream = sealed(&plain, KEY);
    let (sodium, openpgp) = (ring(&[KEY], &[], false), ring(&[], &[PGP_SECRET], false));
    assert_eq!(decrypt(PGP, &sodium), Err(Flaw::OtherMethod(Method::OpenPgp)));
    assert_eq!(decrypt(&stream, &openpgp), Err(Flaw::OtherMethod(Method::Libsodium)));
    for keyring in [&sodium, &openpgp] {
        assert_eq!(decrypt(&plain, keyring), Err(Flaw::NotEncrypted));
    }
    let accepting = ring(&[KEY], &[PGP_SECRET], true);
    assert!(decrypt(&plain, &accepting).expect("accepted") == plain);
    assert!(decrypt(&stream, &accepting).expect("decrypted") == plain);
    assert!(decrypt(PGP, &accepting).is_ok());
    // Noise is no plain text.
    assert_eq!(
        decrypt(&sealed(&plain, [3; 32]), &accepting),
        Err(Flaw::WrongKey(Method::Libsodium))
    );
}
