//! Each attack on an object of each method, compressed in each way, is told: by the readers of WAL, and by those of tars.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use walarchive_storage::StorageConfig;
use walarchive_storage::crypt::{EncryptionConfig, Method};
use walarchive_testkit::sealed::{by_libsodium, by_openpgp, lengthened, without_last_chunk};

use super::*;
use crate::archive::fetch;
use crate::blocking::blocking;
use crate::codec::Compression;
use crate::repository::inventory::read_history;
use crate::repository::layout::Key;
use crate::repository::plain_text::{encrypted_object, refuse_beside_encrypted};
use crate::stored::members::{Stop, each_member};

const KEY: [u8; 32] = [0x17; 32];
const SECRET: &[u8] = include_bytes!("../../../storage/tests/wal-g/pgp-secret.asc");
const PUBLIC: &[u8] = include_bytes!("../../../storage/tests/wal-g/pgp-public.asc");

const SEGMENT: &str = "000000010000000000000003";
const MB: usize = 1 << 20;

const COMPRESSIONS: [Compression; 5] = [
    Compression::Zstd(1),
    Compression::Lz4,
    Compression::Lzma(1),
    Compression::Brotli(1),
    Compression::Plain,
];

struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    /// With the keys of both methods, or with none.
    fn new(has_keys: bool, accept_plain: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .expect("made");
            file.write_all(content).expect("written");
            path
        };
        let mut config = StorageConfig::new(format!("file://{}/store", dir.path().display()));
        if has_keys {
            config.encryption = EncryptionConfig {
                key_files: vec![write("hex", "17".repeat(32).as_bytes()), write("secret.asc", SECRET)],
                wal_g: false,
                accept_plain,
                ..EncryptionConfig::default()
            };
        }
        std::fs::create_dir(dir.path().join("store")).expect("made");
        let store = Store::open(&config).expect("opened");
        Place { dir, store }
    }

    async fn put(&self, key: &Key, object: &[u8]) {
        self.store.put(key, object.to_vec().into()).await.expect("stored");
    }

    /// Fetch the WAL file.
    async fn fetch(&self, name: &str, format: Format) -> Result<Vec<u8>> {
        let target = self.dir.path().join("target");
        let name = name.parse().expect("a name");
        let fetched = fetch(&self.store, &name, &target, format).await;
        assert_eq!(
            target.exists(),
            fetched.is_ok(),
            "a file that has not proved right has no name"
        );
        fetched?;
        let content = std::fs::read(&target).expect("read");
        std::fs::remove_file(&target).expect("removed");
        Ok(content)
    }

    /// Read a tar. Returns the content of its last member.
    async fn unpack(&self, key: &Key, size: usize) -> Result<Vec<u8>> {
        let mut reader = reader(&self.store, key, size as u64);
        let format = Format::of_key(key).0;
        let object = key.to_string();
        blocking(move || {
            let mut content = Vec::new();
            let read = each_member(format, &mut reader, |member| {
                content.clear();
                member.read_to_end(&mut content)?;
                Ok::<_, Stop>(())
            });
            match read {
                Ok(is_whole) => {
                    assert!(is_whole, "its end mark is there");
                    Ok(content)
                }
                Err(Stop::Read(error)) => Err(blame(&mut reader, object, format, error.to_string())),
                Err(Stop::Other(error)) => Err(error),
            }
        })
        .await
    }
}

/// Nothing that could be compressed.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(next).collect()
}

fn segment() -> Vec<u8> {
    let mut bytes = noise(MB);
    bytes[..40].fill(0);
    bytes[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2] = 2;
    bytes[4] = 1;
    bytes[8..16].copy_from_slice(&(3 * MB as u64).to_le_bytes());
    bytes[24] = 9;
    bytes[32..36].copy_from_slice(&(MB as u32).to_le_bytes());
    bytes
}

fn tar(content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, Path::new("base/5/1259"), content)
        .expect("appended");
    tar.into_inner().expect("finished")
}

fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = compression.encoder(Vec::new()).expect("an encoder");
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("finished")
}

fn flipped(object: &[u8], at: usize) -> Vec<u8> {
    let mut flipped = object.to_vec();
    flipped[at] ^= 1;
    flipped
}

/// An object, and what it is called in a failure.
pub(crate) type Named = (&'static str, Vec<u8>);

/// What attacks make of an object of this method.
pub(crate) fn attacks_on(object: &[u8], method: Method) -> Vec<Named> {
    let more = vec![7; 20 << 10];
    let of_method = match method {
        Method::Libsodium => vec![
            ("without its last chunk", without_last_chunk(object).to_vec()),
            ("cut within it", object[..object.len() - 1].to_vec()),
        ],
        Method::OpenPgp => vec![
            ("without its last bytes", object[..object.len() - 30].to_vec()),
            ("with more within it", lengthened(object, more.len())),
        ],
    };
    let of_all = [
        ("with more at its end", [object, &more].concat()),
        ("with another last bit", flipped(object, object.len() - 1)),
        ("with another bit", flipped(object, object.len() / 2)),
    ];
    of_method.into_iter().chain(of_all).collect()
}

/// The object in both methods, each with what attacks make of it.
fn attacked(plain: &[u8]) -> Vec<(&'static str, Vec<u8>, Vec<Named>)> {
    let (stream, message) = (by_libsodium(plain, KEY), by_openpgp(plain, PUBLIC));
    let (on_stream, on_message) = (
        attacks_on(&stream, Method::Libsodium),
        attacks_on(&message, Method::OpenPgp),
    );
    vec![("libsodium", stream, on_stream), ("OpenPGP", message, on_message)]
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_somebody_has_meddled_with_gets_no_name() {
    let (place, content) = (Place::new(true, false), segment());
    for compression in COMPRESSIONS {
        let format = compression.format();
        let key = layout::wal(&SEGMENT.parse().expect("a name"), format);
        for (method, object, attacks) in attacked(&compressed(compression, &content)) {
            place.put(&key, &object).await;
            assert!(
                place.fetch(SEGMENT, format).await.expect(method) == content,
                "{method} {format:?}"
            );
            for (attack, object) in attacks {
                place.put(&key, &object).await;
                let error = place.fetch(SEGMENT, format).await.map(drop).expect_err(attack);
                assert!(error.is_content(), "{method} {format:?} {attack}: {error}");
            }
        }
        place.store.delete(&key).await.expect("deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tar_that_somebody_has_meddled_with_is_not_whole() {
    let (place, content) = (Place::new(true, false), noise(200 << 10));
    for compression in COMPRESSIONS {
        let format = compression.format();
        let key = layout::tar("base_000000010000000000000002", &layout::part_name(1, format));
        for (method, object, attacks) in attacked(&compressed(compression, &tar(&content))) {
            place.put(&key, &object).await;
            let unpacked = place.unpack(&key, object.len()).await.expect(method);
            assert!(unpacked == content, "{method} {format:?}");
            for (attack, object) in attacks {
                place.put(&key, &object).await;
                let unpacked = place.unpack(&key, object.len()).await.map(drop);
                let error = unpacked.expect_err(attack);
                assert!(error.is_content(), "{method} {format:?} {attack}: {error}");
            }
        }
    }
}

const HISTORY: &[u8] = b"1\t0/3000000\tno recovery target specified\n";
const BACKUP_HISTORY: &[u8] = b"START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\n";

/// What is not compressed, or by brotli, has no mark at its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn plain_text_that_is_accepted_is_known_by_its_content() {
    let accepting = Place::new(true, true);
    for (name, content) in [
        ("00000002.history", HISTORY.to_vec()),
        ("000000010000000000000009.00000028.backup", BACKUP_HISTORY.to_vec()),
        (SEGMENT, segment()),
    ] {
        for compression in COMPRESSIONS {
            let format = compression.format();
            let key = layout::wal(&name.parse().expect("a name"), format);
            let plain = compressed(compression, &content);
            accepting.put(&key, &plain).await;
            let read = accepting.fetch(name, format).await;
            assert!(read.expect("accepted") == content, "{name} {format:?}");
            for object in [by_libsodium(&plain, [1; 32]), noise(100)] {
                accepting.put(&key, &object).await;
                let error = accepting.fetch(name, format).await.expect_err("ciphertext");
                assert!(
                    error.to_string().contains("cannot be decrypted with the keys"),
                    "{name} {format:?}: {error}"
                );
            }
            accepting.store.delete(&key).await.expect("deleted");
        }
    }
    for compression in COMPRESSIONS {
        let key = layout::tar("base_1", &layout::part_name(1, compression.format()));
        assert!(is_plain(&key, &compressed(compression, &tar(b"x"))), "{compression:?}");
        assert!(is_plain(
            &key,
            &compressed(compression, &tar::Builder::new(Vec::new()).into_inner().expect("empty"))
        ));
        assert!(!is_plain(&key, &noise(8192)), "{compression:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_no_ciphertext_passes_for_a_file() {
    let place = Place::new(false, false);
    for (format, says) in [
        (Format::Plain, "It is not text"),
        (Format::Zstd, "so it may be encrypted"),
    ] {
        let key = layout::wal(&"00000002.history".parse().expect("a name"), format);
        place.put(&key, &by_libsodium(HISTORY, KEY)).await;
        let error = place.fetch("00000002.history", format).await.expect_err("ciphertext");
        assert!(error.asks_for_a_key(), "{error}");
        assert!(error.detail().is_some_and(|detail| detail.contains(says)), "{error:?}");
        place.store.delete(&key).await.expect("deleted");
    }
}

/// The end of an object must have been seen before anything of it is believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_too_long_is_no_history() {
    let place = Place::new(true, false);
    let key = layout::wal(&"00000002.history".parse().expect("a name"), Format::Zstd);
    let long = HISTORY.repeat((1 << 20) / HISTORY.len() + 1);
    place
        .put(&key, &by_openpgp(&compressed(Compression::Zstd(1), &long), PUBLIC))
        .await;
    let error = read_history(&place.store, 2).await.expect_err("too long");
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("more than 1048576 bytes")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_holds_encrypted_objects_is_told_from_a_damaged_one() {
    const BACKUP: &str = "base_000000010000000000000002";
    let place = Place::new(false, false);
    let says = async || encrypted_object(&place.store).await.expect("looked");
    assert_eq!(says().await, None, "it is empty");
    let wal = layout::wal(&SEGMENT.parse().expect("a name"), Format::Zstd);
    for (object, is_encrypted) in [
        (by_libsodium(b"text", KEY), true),
        (by_openpgp(b"text", PUBLIC), true),
        (compressed(Compression::Zstd(1), b"text"), false),
    ] {
        place.put(&wal, &object).await;
        assert_eq!(says().await.is_some(), is_encrypted);
    }
    place.put(&layout::sentinel(BACKUP), b"{}").await;
    assert_eq!(says().await, None, "a backup without tars tells nothing");
    let tar_of = |name: &str| layout::tar(BACKUP, name);
    let sealed = by_libsodium(&compressed(Compression::Lz4, &tar(b"x")), KEY);
    place.put(&tar_of("part_001.tar.lz4"), &sealed).await;
    place.put(&tar_of("pg_control.tar.lz4"), &sealed).await;
    assert!(says().await.is_some_and(|object| object.ends_with(".tar.lz4")));
    let error = refuse_beside_encrypted(&place.store).await.expect_err("refused");
    assert!(
        error.to_string().contains("writes nothing in plain text beside it"),
        "{error}"
    );
    // One that is damaged stops no archiving.
    let plain = compressed(Compression::Lz4, &tar(b"x"));
    place.put(&tar_of("pg_control.tar.lz4"), &plain).await;
    assert_eq!(says().await, None);
    // A compression of WAL-E's that nobody knows here.
    place
        .store
        .delete(&tar_of("pg_control.tar.lz4"))
        .await
        .expect("deleted");
    place.store.delete(&tar_of("part_001.tar.lz4")).await.expect("deleted");
    place.put(&tar_of("part_001.tar.lzo"), b"\x89LZO\0\r\n\x1a\n").await;
    assert_eq!(says().await, None);
}
