//! `wal-fetch` of a segment that is not archived yet, and of which the tail has something.

mod support;

use std::io::Write;

use support::{Place, SEGMENT, SEGMENT_BYTES, segment};
use walarchive_core::codec::Compression;

const PAGE: usize = 8192;

/// The segment with a header on each page.
fn content() -> Vec<u8> {
    let mut bytes = segment();
    bytes[36..40].copy_from_slice(&(PAGE as u32).to_le_bytes());
    for at in (PAGE..SEGMENT_BYTES).step_by(PAGE) {
        let address = 3 * SEGMENT_BYTES as u64 + at as u64;
        bytes[at..at + 24].fill(0);
        bytes[at..at + 2].copy_from_slice(&0xD110u16.to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&1u32.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&address.to_le_bytes());
    }
    bytes
}

fn put_chunk(place: &Place, end: usize, object: &[u8]) {
    let folder = format!("store/walarchive_005/tail/{SEGMENT}");
    std::fs::create_dir_all(place.path(&folder)).expect("created");
    place.write(&format!("{folder}/00000004-00000000-{end:08X}.zst"), object, 0o600);
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = Compression::Zstd(1).encoder(Vec::new()).expect("an encoder");
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("finished")
}

fn padded(end: usize) -> Vec<u8> {
    [&content()[..end], &vec![0; SEGMENT_BYTES - end][..]].concat()
}

/// A store with another segment: without anything it would be no repository.
fn place() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("store/wal_005")).expect("created");
    place.write("store/wal_005/000000010000000000000002.zst", b"", 0o600);
    place
}

#[test]
fn it_is_padded_and_said() {
    let place = place();
    put_chunk(&place, 20_000, &zstd(&content()[..20_000]));
    let (code, says) = place.fetch(&place.url());
    assert_eq!(code, 0, "{says}");
    assert!(
        says.contains(&format!("\"{SEGMENT}\" is not archived yet; its first 20000 bytes")),
        "{says}"
    );
    assert!(says.contains("epoch 4"), "{says}");
    assert!(std::fs::read(place.path("data/pg_wal/RECOVERYXLOG")).expect("read") == padded(20_000));
}

#[test]
fn damage_of_it_is_no_end_of_recovery() {
    let place = place();
    put_chunk(&place, 20_000, &zstd(&content()[..10_000]));
    let (code, says) = place.fetch(&place.url());
    assert_eq!(code, 200, "{says}");
    assert!(says.contains("00000004-00000000-00004E20.zst\" is damaged"), "{says}");
    assert!(!place.path("data/pg_wal/RECOVERYXLOG").exists());
}

/// The administrator has saved the `pg_wal` of the dead server, which has more.
#[test]
fn a_file_of_the_servers_own_that_has_more_stays() {
    let place = place();
    put_chunk(&place, 20_000, &zstd(&content()[..20_000]));
    place.write("data/recovery.signal", b"", 0o600);
    let saved = format!("data/pg_wal/{SEGMENT}");
    place.write(&saved, &padded(30_000), 0o600);
    let (code, says) = place.fetch(&place.url());
    assert_eq!(code, 74, "{says}");
    place.write(&saved, &padded(10_000), 0o600);
    let (code, says) = place.fetch(&place.url());
    assert_eq!(code, 0, "{says}");
}
