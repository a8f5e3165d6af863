//! The largest WAL segments that PostgreSQL knows, 1 GB: they come back as they were, and take no gigabyte of memory.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use walarchive_pg_test::site::Site;
use walarchive_testkit::run;

const BYTES: u32 = 1 << 30;
const NAME: &str = "000000010000000000000003";

/// The most memory that the binary may take, in kB: some parts of 8 MB, and what compressing needs.
const MEMORY: i64 = 150 << 10;

/// A segment of PostgreSQL 15 as far as its first page tells. The rest does not compress.
fn write_segment(path: &Path) {
    let mut noise = vec![0u8; 8 << 20];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for word in noise.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut first = noise.clone();
    first[..40].fill(0);
    first[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    first[2..4].copy_from_slice(&2u16.to_le_bytes());
    first[4..8].copy_from_slice(&1u32.to_le_bytes());
    first[8..16].copy_from_slice(&(3 * u64::from(BYTES)).to_le_bytes());
    first[24..32].copy_from_slice(&7u64.to_le_bytes());
    first[32..36].copy_from_slice(&BYTES.to_le_bytes());
    let mut file = File::create(path).expect("could not create the segment");
    file.write_all(&first).expect("could not write");
    for _ in 1..BYTES as usize / noise.len() {
        file.write_all(&noise).expect("could not write");
    }
}

fn is_equal(one: &Path, other: &Path) -> bool {
    let open = |path| File::open(path).unwrap_or_else(|e| panic!("{}: {e}", Path::display(path)));
    let (mut one, mut other) = (open(one), open(other));
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    (0..BYTES >> 20).all(|_| one.read_exact(&mut a).is_ok() && other.read_exact(&mut b).is_ok() && a == b)
}

/// There and back again, and the segment once more.
fn round_trip(site: &Site) {
    let directory = site.dir().subdir("wal");
    let (segment, fetched) = (directory.join(NAME), directory.join("RECOVERYXLOG"));
    write_segment(&segment);
    let paths = [&segment, &fetched].map(|path| path.display().to_string());
    run(&mut site.walarchive(&["wal-push", &paths[0]])).expect_success();
    run(&mut site.walarchive(&["wal-push", &paths[0]])).expect_success();
    run(&mut site.walarchive(&["wal-fetch", NAME, &paths[1]])).expect_success();
    assert!(is_equal(&segment, &fetched), "it came back as something else");
    let objects = site.objects("wal_005");
    assert_eq!(objects, [format!("wal_005/{NAME}.zst")], "parts are left");
}

#[test]
fn a_segment_of_1_gb_takes_little_memory() {
    use nix::sys::resource::{UsageWho, getrusage};
    round_trip(&Site::on_files());
    // The S3 server is no child that has ended, so what is measured is the binary only.
    let s3 = Site::on_s3();
    round_trip(&s3);
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("no usage");
    println!("the most memory: {} MB", usage.max_rss() >> 10);
    assert!(usage.max_rss() < MEMORY, "{} kB", usage.max_rss());
    drop(s3);
}
