//! `global/pg_control`: whose cluster a data directory is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::data_dir::{PG_CONTROL, PG_VERSION};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::version;
use crate::wal::SegmentSize;

/// The bytes of the file, most of them zero, in every version.
pub const PG_CONTROL_BYTES: u64 = 8192;

/// The structure is somewhere in this range of sizes in every version, and never larger than a disk sector.
const SMALLEST: usize = 200;
const LARGEST: usize = 512;

/// `PG_CONTROL_VERSION` of PostgreSQL 11.
const VERSION_OF_11: u32 = 1100;
/// The same of PostgreSQL 12.
const VERSION_OF_12: u32 = 1201;

/// `DB_SHUTDOWNED_IN_RECOVERY` and `DB_IN_ARCHIVE_RECOVERY`, among the values of `DBState`.
const STATES_IN_RECOVERY: [u32; 2] = [2, 5];

/// `FLOATFORMAT_VALUE`, which stands directly before the sizes that the server was built with.
const FLOAT_FORMAT: f64 = 1_234_567.0;

/// The fields that are read. The layout differs from version to version; these fields are found without knowing the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system_identifier: u64,
    /// `PG_CONTROL_VERSION`. PostgreSQL 13 to 16 share one: ask [`read_major_version`] for the major version.
    pub pg_control_version: u32,
    /// `CATALOG_VERSION_NO`.
    pub catalog_version: u32,
    /// `wal_segment_size`.
    pub segment_size: SegmentSize,
    /// The place of the last checkpoint.
    pub checkpoint: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: u32,
    /// `BLCKSZ`: the bytes of a relation's page.
    pub page_bytes: u32,
    /// Do pages have checksums?
    pub data_checksums: bool,
    /// Pages in each file of a relation but the last: `RELSEG_SIZE`.
    pub relation_segment_pages: u32,
    /// Does its server recover from an archive or follow a primary, or did it when it was stopped?
    pub in_recovery: bool,
    /// Recovery starts here: all changes before it are on disk.
    pub redo: Lsn,
    /// `minRecoveryPoint`: nothing that is on disk comes from later WAL. 0 outside of recovery.
    pub min_recovery: Lsn,
    /// The timeline of that place.
    pub min_recovery_timeline: u32,
}

impl ControlFile {
    /// Read that of a data directory. The server may be writing it at the same time, so a copy whose checksum is wrong is
    /// read again a few times before it counts as damaged.
    pub fn read(data_dir: &Path) -> Result<Self> {
        Self::read_with_content(data_dir).map(|(control, _)| control)
    }

    /// The same, and the bytes that were found intact.
    pub fn read_with_content(data_dir: &Path) -> Result<(Self, Vec<u8>)> {
        const TRIES: usize = 10;
        let path = data_dir.join(PG_CONTROL);
        for left in (0..TRIES).rev() {
            let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
            match Self::parse(&bytes) {
                Ok(control) => return Ok((control, bytes)),
                Err(reason) if left == 0 => return Err(Error::damaged(path.display().to_string(), reason)),
                // A write of 8 kB is over in no time; the pause only lets the writer run.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        unreachable!("the last try returns")
    }

    /// Read its bytes; the reason if they are not those of an intact one.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let content = content(bytes).ok_or("Its checksum is wrong, or it is not a pg_control file.")?;
        let number = |at: usize| u32::from_le_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]]);
        let long = |at: usize| u64::from(number(at + 4)) << 32 | u64::from(number(at));
        // The sizes, and behind them whether pages have checksums, follow the float.
        let sizes = (64..content.len().saturating_sub(40))
            .step_by(8)
            .find(|at| content[*at..at + 8] == FLOAT_FORMAT.to_le_bytes())
            .map(|at| at + 8)
            .ok_or("It is of a machine with another float format.")?;
        // Up to 10 they also know the checkpoint before.
        let checkpoint_at = if number(8) < VERSION_OF_11 { 48 } else { 40 };
        // From 12 on the next transaction ID has 64 bits, and must be aligned.
        let behind = checkpoint_at + if number(8) < VERSION_OF_12 { 80 } else { 88 };
        Ok(ControlFile {
            system_identifier: long(0),
            pg_control_version: number(8),
            catalog_version: number(12),
            segment_size: SegmentSize::new(u64::from(number(sizes + 12))).map_err(|error| format!("{error}."))?,
            checkpoint: Lsn(long(32)),
            timeline: number(checkpoint_at + 8),
            page_bytes: number(sizes),
            data_checksums: number(sizes + 36) != 0,
            relation_segment_pages: number(sizes + 4),
            in_recovery: STATES_IN_RECOVERY.contains(&number(16)),
            redo: Lsn(long(checkpoint_at)),
            // Behind the counter of unlogged relations.
            min_recovery: Lsn(long(behind + 8)),
            min_recovery_timeline: number(behind + 16),
        })
    }
}

/// The structure without its checksum, if there is a place where its checksum stands.
fn content(bytes: &[u8]) -> Option<&[u8]> {
    (SMALLEST..=LARGEST)
        .step_by(4)
        .take_while(|end| end + 4 <= bytes.len())
        .map(|end| (&bytes[..end], &bytes[end..end + 4]))
        .find(|(content, sum)| crc32c::crc32c(content).to_le_bytes() == **sum)
        .map(|(content, _)| content)
}

/// The major version of a data directory, from its `PG_VERSION`.
pub fn read_major_version(data_dir: &Path) -> Result<u32> {
    let path: PathBuf = data_dir.join(PG_VERSION);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    version::parse(&text).ok_or_else(|| {
        let known = version::name(version::OLDEST);
        let reason = format!("It holds no major version that is known: those from {known} on are.");
        Error::damaged(path.display().to_string(), reason)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The system identifier of the sample.
    pub(crate) const SYSTEM_IDENTIFIER: u64 = 7_412_345_678_901_234_567;

    /// A file as PostgreSQL 15 writes it, as far as it is read.
    pub(crate) fn sample(segment_bytes: u32, size: usize) -> Vec<u8> {
        sample_with(segment_bytes, size, false)
    }

    /// The same, of a cluster with data checksums or without.
    pub(crate) fn sample_with(segment_bytes: u32, size: usize, data_checksums: bool) -> Vec<u8> {
        let mut bytes = vec![0u8; size];
        bytes[0..8].copy_from_slice(&SYSTEM_IDENTIFIER.to_le_bytes());
        bytes[8..12].copy_from_slice(&1300u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&202_209_061u32.to_le_bytes());
        bytes[200..208].copy_from_slice(&FLOAT_FORMAT.to_le_bytes());
        bytes[208..212].copy_from_slice(&8192u32.to_le_bytes());
        bytes[212..216].copy_from_slice(&131_072u32.to_le_bytes());
        bytes[216..220].copy_from_slice(&8192u32.to_le_bytes());
        bytes[220..224].copy_from_slice(&segment_bytes.to_le_bytes());
        bytes[244] = data_checksums.into();
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.resize(8192, 0);
        bytes
    }

    /// The same, of a server on this timeline.
    pub(crate) fn sample_of_timeline(segment_bytes: u32, timeline: u32) -> Vec<u8> {
        let mut bytes = sample(segment_bytes, 288);
        bytes[48..52].copy_from_slice(&timeline.to_le_bytes());
        let sum = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn it_is_found_whatever_its_size() {
        for size in [288, 292, 300] {
            let control = ControlFile::parse(&sample(64 << 20, size)).expect("intact");
            assert_eq!(control.system_identifier, SYSTEM_IDENTIFIER);
            assert_eq!(
                (control.pg_control_version, control.catalog_version),
                (1300, 202_209_061)
            );
            assert_eq!(control.segment_size.bytes(), 64 << 20);
            assert_eq!(
                (
                    control.page_bytes,
                    control.relation_segment_pages,
                    control.data_checksums
                ),
                (8192, 131_072, false)
            );
        }
    }

    #[test]
    fn the_timeline_is_where_the_version_has_it() {
        for (version, at) in [(960u32, 56), (1002, 56), (1100, 48), (1300, 48), (1800, 48)] {
            let mut bytes = sample(16 << 20, 288);
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            bytes[at..at + 4].copy_from_slice(&7u32.to_le_bytes());
            let sum = crc32c::crc32c(&bytes[..288]);
            bytes[288..292].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(ControlFile::parse(&bytes).expect("intact").timeline, 7, "{version}");
        }
    }

    #[test]
    fn damage_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("global")).expect("created");
        let path = dir.path().join(PG_CONTROL);
        let mut bytes = sample(16 << 20, 288);
        std::fs::write(&path, &bytes).expect("written");
        assert_eq!(
            ControlFile::read(dir.path()).expect("intact").segment_size,
            SegmentSize::DEFAULT
        );
        bytes[100] ^= 1;
        std::fs::write(&path, &bytes).expect("written");
        assert!(matches!(ControlFile::read(dir.path()), Err(Error::Damaged { .. })));
        for length in [0, 3, 16, 200, 291] {
            assert!(ControlFile::parse(&bytes[..length]).is_err(), "{length}");
        }
        assert!(ControlFile::parse(&vec![0; 8192]).is_err());
    }

    #[test]
    fn the_major_version_is_a_line_of_text() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(read_major_version(dir.path()), Err(Error::Io { .. })));
        std::fs::write(dir.path().join("PG_VERSION"), "15\n").expect("written");
        assert_eq!(read_major_version(dir.path()).expect("read"), 15);
        std::fs::write(dir.path().join("PG_VERSION"), "9.6\n").expect("written");
        assert_eq!(read_major_version(dir.path()).expect("read"), 9);
        std::fs::write(dir.path().join("PG_VERSION"), "x").expect("written");
        assert!(matches!(read_major_version(dir.path()), Err(Error::Damaged { .. })));
    }
}
