//! What our own writers make.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Error;

fn keyring(method: Method) -> Keyring {
    Keyring::of(ring(&[KEY], &[PGP_SECRET], false), Some(method))
}

fn sealer(method: Method) -> Sealer {
    keyring(method).sealer().expect("a sealer")
}

/// An object, written with pieces of uneven lengths.
fn written(sealer: &Sealer, plain: &[u8]) -> Vec<u8> {
    let mut sealed = sealer.seal(Vec::new()).expect("begun");
    let mut rest = plain;
    for piece in [1, 15, 16, 17, 4096, 8191, 70_000].into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(piece.min(rest.len()));
        sealed.write_all(now).expect("written");
        rest = later;
    }
    sealed.flush().expect("flushed");
    sealed.finish().expect("finished")
}

const METHODS: [Method; 2] = [Method::Libsodium, Method::OpenPgp];

#[test]
fn objects_of_every_length_come_back() {
    const PART: usize = 64 << 10;
    let keys = ring(&[KEY], &[PGP_SECRET], false);
    for method in METHODS {
        let sealer = sealer(method);
        assert_eq!(sealer.method(), Some(method));
        let borders = [0, 16, 192, 8192, 8384, PART, 2 * PART, 3 * 8192, 4 * PART];
        let around = borders.into_iter().flat_map(|border| border.max(10) - 10..border + 10);
        // The header of the literal data, the version, and the noise shift the borders of what they are within.
        for bytes in (0..40).chain(around).chain(PART - 40..PART).chain([1 << 20, 3_000_001]) {
            let plain = sample(bytes);
            let object = written(&sealer, &plain);
            assert!(method == Method::Libsodium || is_openpgp(&object), "{bytes} bytes");
            let read = decrypt(&object, &keys).unwrap_or_else(|flaw| panic!("{method}, {bytes} bytes: {flaw:?}"));
            assert!(read == plain, "{method}, {bytes} bytes");
        }
    }
}

#[test]
fn each_attack_on_what_is_written_is_told() {
    let keys = ring(&[KEY], &[PGP_SECRET], false);
    for method in METHODS {
        let sealer = sealer(method);
        let plain = sample(300_000);
        let (object, other) = (written(&sealer, &plain), written(&sealer, &plain));
        assert!(
            object != other && object.len() == other.len(),
            "{method}: a key of its own"
        );
        // The beginning, and parts of the same length.
        let (start, part) = match method {
            Method::Libsodium => (24, 8209),
            Method::OpenPgp => (first_part(&object), (64 << 10) + 1),
        };
        let range = |number: usize| start + number * part..start + (number + 1) * part;
        assert!(range(3).end < object.len());
        let refused = |what: &str, object: &[u8]| {
            let flaw = decrypt(object, &keys).expect_err(what);
            assert!(flaw.is_damage(), "{method}, {what}: {flaw:?}");
        };
        for number in 1..4 {
            refused("cut at a border", &object[..range(number).start]);
        }
        refused("cut within", &object[..range(2).start + 1000]);
        refused("the last byte is missing", &object[..object.len() - 1]);
        refused("bytes appended", &[&object[..], b"more"].concat());
        refused("itself appended", &[&object[..], &object[..]].concat());
        for at in [range(1).start + 100, range(2).end - 5, object.len() - 1] {
            let mut flipped = object.clone();
            flipped[at] ^= 1;
            refused("a bit flipped", &flipped);
        }
        let mut reordered = object.clone();
        reordered[range(1)].copy_from_slice(&object[range(2)]);
        reordered[range(2)].copy_from_slice(&object[range(1)]);
        refused("reordered", &reordered);
        let mut left_out = object.clone();
        left_out.drain(range(1));
        refused("a part left out", &left_out);
        let mut spliced = object.clone();
        spliced[range(2)].copy_from_slice(&other[range(2)]);
        refused("spliced", &spliced);
        spliced = object.clone();
        spliced.truncate(range(1).start);
        spliced.extend_from_slice(&other[range(1).start..]);
        refused("the end of another", &spliced);
        assert!(decrypt(&object, &keys).expect("the object itself") == plain);
    }
}

/// Where the first part of the encrypted data begins, which follows the key of the session for an RSA key of 2048 bits or more.
fn first_part(message: &[u8]) -> usize {
    let key_bytes = usize::from(message[1] - 192) * 256 + usize::from(message[2]) + 192;
    assert_eq!(message[0], 0xc1);
    assert_eq!(message[3 + key_bytes..][..3], [0xd2, 0xf0, 1]);
    3 + key_bytes + 1
}

/// A sink that takes so many bytes, and then fails; it counts the sinks that are left.
struct Failing {
    room: usize,
    alive: Arc<AtomicUsize>,
}

#[derive(Debug, thiserror::Error)]
#[error("canceled")]
struct Canceled;

impl Write for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, Canceled));
        }
        self.room -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn the_error_of_the_sink_comes_out_as_it_is_and_ends_the_object() {
    let alive = Arc::new(AtomicUsize::new(0));
    let is_that = |error: &io::Error| {
        let is_canceled = error.get_ref().is_some_and(|inner| inner.is::<Canceled>());
        error.kind() == io::ErrorKind::QuotaExceeded && is_canceled
    };
    let failing = |room: usize| {
        alive.fetch_add(1, Ordering::Relaxed);
        let alive = Arc::clone(&alive);
        Failing { room, alive }
    };
    for method in METHODS {
        let sealer = sealer(method);
        let error = sealer.seal(failing(0)).map(|_| ()).expect_err("the header is refused");
        assert!(is_that(&error), "{method}: {error}");
        let mut sealed = sealer.seal(failing(200_000)).expect("begun");
        let error = sealed.write_all(&sample(1 << 20)).expect_err("the sink is full");
        assert!(is_that(&error), "{method}: {error}");
        let again = sealed.write_all(&sample(1 << 20)).expect_err("it stays so");
        assert!(!is_that(&again), "{method}: {again}");
        sealed
            .finish()
            .map(|_| ())
            .expect_err("what is cut off is not finished");
        let mut sealed = sealer.seal(failing(1000)).expect("begun");
        sealed.write_all(b"short").expect("it waits");
        let filled = sealed.write_all(&sample(5000));
        let error = filled
            .and_then(|()| sealed.finish().map(|_| ()))
            .expect_err("the sink is full");
        assert!(is_that(&error), "{method}: {error}");
    }
    assert_eq!(alive.load(Ordering::Relaxed), 0, "all sinks are given back");
}

#[test]
fn what_is_dropped_before_its_end_is_truncated_and_leaves_nothing_behind() {
    /// A sink that others can look into.
    #[derive(Clone, Default)]
    struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for method in METHODS {
        let sink = Shared::default();
        let mut sealed = sealer(method).seal(sink.clone()).expect("begun");
        sealed.write_all(&sample(500_000)).expect("written");
        drop(sealed);
        assert_eq!(
            Arc::strong_count(&sink.0),
            1,
            "{method}: the sink is given back at once"
        );
        let object = sink.0.lock().expect("not poisoned").clone();
        let flaw = decrypt(&object, &ring(&[KEY], &[PGP_SECRET], false)).expect_err("truncated");
        assert!(flaw.is_damage(), "{method}: {flaw:?}");
    }
}

#[test]
fn one_sealer_serves_many_threads() {
    let keys = ring(&[KEY], &[PGP_SECRET], false);
    for method in METHODS {
        let sealer = sealer(method);
        let objects: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    scope.spawn({
                        let sealer = &sealer;
                        move || written(sealer, &sample(100_000 + number))
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("written"))
                .collect()
        });
        for (number, object) in objects.iter().enumerate() {
            assert!(
                decrypt(object, &keys).expect("decrypted") == sample(100_000 + number),
                "{method}"
            );
        }
    }
}

#[test]
fn small_texts_are_sealed_and_opened() {
    let text = b"6996854329561349823";
    for method in METHODS {
        let keyring = keyring(method);
        let sealed = keyring.sealer().expect("a sealer").seal_small(text).expect("sealed");
        assert_eq!(keyring.open_small(&sealed).expect("opened"), text, "{method}");
        assert!(!sealed.windows(text.len()).any(|part| part == text));
        let cut = keyring.open_small(&sealed[..sealed.len() - 1]).expect_err("cut off");
        let other = Keyring::of(ring(&[[3; 32]], &[], false), None);
        let other = other.open_small(&sealed).expect_err("another key");
        let is_told = match &other {
            Error::Sealed {
                flaw: Flaw::WrongKey(found) | Flaw::OtherMethod(found),
                ..
            } => *found == method,
            _ => false,
        };
        assert!(is_told, "{other:?}");
        match method {
            // It has one chunk, which is also what tells the key.
            Method::Libsodium => assert!(matches!(cut, Error::Sealed { .. }), "{cut:?}"),
            Method::OpenPgp => assert!(matches!(cut, Error::Damaged { .. }), "{cut:?}"),
        }
        let plain = keyring.open_small(text).expect_err("plain");
        assert!(
            matches!(plain, Error::Sealed { .. } | Error::Damaged { .. }),
            "{plain:?}"
        );
    }
    let nobody = Sealer::default();
    assert_eq!(nobody.seal_small(text).expect("as it is"), text);
    assert_eq!(
        (nobody.method(), nobody.key_id(b"salt"), nobody.digest_key()),
        (None, String::new(), None)
    );
}

#[test]
fn ids_tell_keys_apart_and_agree() {
    let salt = b"salt";
    let sodium = sealer(Method::Libsodium);
    let id = sodium.key_id(salt);
    // By an implementation of its own: HMAC-SHA256 of the label, a zero byte and the salt.
    assert_eq!(id, "5323f8bf89737285");
    assert_ne!(id, sodium.key_id(b"other salt"));
    let keyring = Keyring::of(ring(&[[9; 32], KEY], &[PGP_SECRET], false), Some(Method::OpenPgp));
    let ids = keyring.key_ids(salt).expect("ids");
    let openpgp = keyring.sealer().expect("a sealer").key_id(salt);
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[1], (Method::Libsodium, id));
    assert_eq!(ids[2], (Method::OpenPgp, openpgp.clone()));
    // The public key writes for the same recipient.
    let public = Keyring::of(ring(&[], &[PGP_PUBLIC], false), Some(Method::OpenPgp));
    let public_sealer = public.sealer().expect("a sealer");
    assert_eq!(public_sealer.key_id(salt), openpgp);
    assert!(public.key_ids(salt).expect("ids").is_empty());
    assert_eq!(
        public_sealer.digest_key(),
        keyring.sealer().expect("a sealer").digest_key()
    );
    let keys = [&sodium, &public_sealer].map(|sealer| sealer.digest_key().expect("a key"));
    assert!(keys[0] != keys[1] && *keys[0] != KEY);
    let text = format!("{sodium:?} {public_sealer:?} {keyring:?} {public:?}");
    let digits = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for secret in ["0123456789", "48, 49", &digits(&KEY[..8]), &digits(&keys[0][..8])] {
        assert!(!text.to_lowercase().contains(secret), "{text}");
    }
}

#[test]
fn who_can_read_what_it_writes_is_known() {
    let can_read = |openpgp: &[&[u8]], writes| Keyring::of(ring(&[KEY], openpgp, false), writes).can_read();
    for (openpgp, writes, expected) in [
        (&[][..], None, true),
        (&[], Some(Method::Libsodium), true),
        (&[PGP_SECRET], Some(Method::OpenPgp), true),
        (&[PGP_PUBLIC], Some(Method::OpenPgp), false),
        (&[PGP_PUBLIC, PGP_SECRET], Some(Method::OpenPgp), true),
        (&[super::messages::SUBKEYS], Some(Method::OpenPgp), true),
    ] {
        assert_eq!(can_read(openpgp, writes).expect("known"), expected, "{writes:?}");
    }
    let locked = OpenPgpKeys::parse(super::messages::LOCKED, Some(b"correct horse"), "a test").expect("a key");
    let mut keys = ring(&[], &[PGP_PUBLIC], false);
    keys.openpgp.extend(locked);
    let other = Keyring::of(keys, Some(Method::OpenPgp));
    assert!(!other.can_read().expect("known"), "the secret key is another one");
}

/// The first of a method's keys writes, and the first source with OpenPGP keys.
#[test]
fn the_first_key_writes() {
    let two = Keyring::of(ring(&[[9; 32], KEY], &[], false), Some(Method::Libsodium));
    let object = two.sealer().expect("a sealer").seal_small(b"text").expect("sealed");
    assert_eq!(
        decrypt(&object, &ring(&[[9; 32]], &[], false)).expect("decrypted"),
        b"text"
    );
    let locked = OpenPgpKeys::parse(super::messages::LOCKED, Some(b"correct horse"), "a test").expect("a key");
    let mut keys = ring(&[], &[PGP_SECRET], false);
    keys.openpgp.extend(locked);
    let object = Keyring::of(keys, Some(Method::OpenPgp)).sealer().expect("a sealer");
    let object = object.seal_small(b"text").expect("sealed");
    assert_eq!(
        decrypt(&object, &ring(&[], &[PGP_SECRET], false)).expect("decrypted"),
        b"text"
    );
}

/// Never as plain text by accident.
#[test]
fn a_method_without_a_key_is_refused() {
    for (keys, writes) in [
        (ring(&[KEY], &[], false), Method::OpenPgp),
        (ring(&[], &[PGP_SECRET], false), Method::Libsodium),
    ] {
        let keyring = Keyring::of(keys, Some(writes));
        let error = keyring.sealer().expect_err("no key");
        assert!(
            error.to_string().ends_with(&format!("there is no {writes} key")),
            "{error}"
        );
        keyring.can_read().expect_err("no key");
    }
    let keyring = Keyring::new(&EncryptionConfig {
        writes: Some(Method::Libsodium),
        ..EncryptionConfig::default()
    });
    assert_eq!((keyring.writes(), keyring.is_empty()), (Some(Method::Libsodium), true));
    keyring.sealer().expect_err("no key at all");
    let nothing = Keyring::new(&EncryptionConfig::default());
    assert_eq!(nothing.sealer().expect("plain").method(), None);
}
