//! Reading a manifest, of ours or of PostgreSQL's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{ChecksumAlgorithm, ManifestFile, WalRange, hex, unhex};
use crate::error::{Error, Result};

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// All files of the backup but those of `pg_wal`.
    pub files: Vec<ManifestFile>,
    /// The WAL that a restore of the backup needs to become consistent.
    pub wal_ranges: Vec<WalRange>,
    /// The cluster, from version 2 of the format on.
    pub system_identifier: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Text {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    files: Vec<FileText>,
    #[serde(rename = "WAL-Ranges", default)]
    wal_ranges: Vec<RangeText>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileText {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Last-Modified")]
    last_modified: Option<String>,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct RangeText {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

/// Read a manifest and check it against its own checksum. The paths in it are untrusted: nobody has looked whether they
/// lead out of the data directory. [`Error::Damaged`] says what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Manifest> {
    let text: Text = serde_json::from_slice(bytes).map_err(|error| damaged(format!("It cannot be read: {error}.")))?;
    if !matches!(text.version, 1 | 2) {
        return Err(damaged(format!("Its version {} is not known.", text.version)));
    }
    verify(bytes, &text.checksum)?;
    Ok(Manifest {
        files: text.files.into_iter().map(file).collect::<Result<_>>()?,
        wal_ranges: text.wal_ranges.iter().map(range).collect::<Result<_>>()?,
        system_identifier: text.system_identifier,
    })
}

/// The checksum covers everything up to the line that holds it, which is the last one.
fn verify(bytes: &[u8], expected: &str) -> Result<()> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let end = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = format!("\"Manifest-Checksum\": \"{expected}\"}}");
    if body[end..] != *line.as_bytes() {
        return Err(damaged("Its last line is not its checksum.".to_owned()));
    }
    let actual = hex(&Sha256::digest(&bytes[..end]));
    if actual != expected {
        return Err(damaged(format!("Its checksum is {actual}, it says {expected}.")));
    }
    Ok(())
}

fn file(text: FileText) -> Result<ManifestFile> {
    let path = match (&text.path, &text.encoded_path) {
        (Some(path), None) => Some(PathBuf::from(path)),
        (None, Some(encoded)) => unhex(encoded).map(|bytes| PathBuf::from(OsString::from_vec(bytes))),
        _ => None,
    };
    let path = path
        .filter(|path| !path.as_os_str().is_empty())
        .ok_or_else(|| damaged("It has a file without a path.".to_owned()))?;
    let named = |what| damaged(format!("The {what} of \"{}\" cannot be read.", path.display()));
    let last_modified = match &text.last_modified {
        Some(time) => parse_time(time).ok_or_else(|| named("time"))?,
        None => DateTime::UNIX_EPOCH,
    };
    // SHA-224, -384 and -512 are valid in PostgreSQL's own manifests; without a known one only sizes can be compared.
    let algorithm = text.algorithm.and_then(|name| name.parse::<ChecksumAlgorithm>().ok());
    let checksum = match (algorithm, &text.checksum) {
        (Some(algorithm), Some(sum)) => {
            let sum = unhex(sum).filter(|sum| sum.len() == algorithm.length());
            Some((algorithm, sum.ok_or_else(|| named("checksum"))?))
        }
        (Some(_), None) => return Err(named("checksum")),
        (None, _) => None,
    };
    Ok(ManifestFile {
        path,
        size: text.size,
        last_modified,
        checksum,
    })
}

fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let time = text.strip_suffix(" GMT").or_else(|| text.strip_suffix(" UTC"))?;
    let time = NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S").ok()?;
    Some(time.and_utc())
}

fn range(text: &RangeText) -> Result<WalRange> {
    let lsn = |value: &str| {
        value
            .parse()
            .map_err(|_| damaged(format!("\"{value}\" in its WAL ranges is not an LSN.")))
    };
    Ok(WalRange {
        timeline: text.timeline,
        start: lsn(&text.start)?,
        end: lsn(&text.end)?,
    })
}

fn damaged(reason: String) -> Error {
    Error::damaged("backup_manifest", reason)
}

#[cfg(test)]
mod tests {
    use super::super::{Checksummer, ManifestWriter};
    use super::*;
    use crate::lsn::Lsn;
    use proptest::prelude::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn sample() -> Vec<ManifestFile> {
        let sum = |algorithm| Some((algorithm, Checksummer::new(algorithm).finish()));
        let at = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        [
            (PathBuf::from("base/5/1259"), sum(ChecksumAlgorithm::Crc32c)),
            (PathBuf::from("odd \"name\"\n\u{1}é"), sum(ChecksumAlgorithm::Sha256)),
            (PathBuf::from(OsStr::from_bytes(b"not/utf\xff8")), None),
        ]
        .into_iter()
        .map(|(path, checksum)| ManifestFile {
            path,
            size: 8192,
            last_modified: at,
            checksum,
        })
        .collect()
    }

    fn write(major: u32, files: &[ManifestFile]) -> Vec<u8> {
        let mut writer = ManifestWriter::new(Vec::new(), major, u64::MAX - 1).expect("begun");
        for file in files {
            writer.file(file).expect("written");
        }
        let range = WalRange {
            timeline: 3,
            start: Lsn(0x16_B374_D848),
            end: Lsn(0x16_B374_D900),
        };
        writer.finish(&[range]).expect("finished")
    }

    #[test]
    fn both_versions_come_back() {
        for major in [15, 17] {
            let manifest = parse(&write(major, &sample())).expect("a manifest");
            assert_eq!(manifest.files, sample());
            assert_eq!(manifest.wal_ranges.len(), 1);
            assert_eq!(manifest.wal_ranges[0].end, Lsn(0x16_B374_D900));
            assert_eq!(manifest.system_identifier, (major == 17).then_some(u64::MAX - 1));
            assert!(parse(&write(major, &[])).expect("empty").files.is_empty());
        }
    }

    #[test]
    fn the_text_is_that_of_postgresql() {
        let text = String::from_utf8(write(16, &sample()[..1])).expect("UTF-8");
        let (body, last) = text.trim_end().rsplit_once('\n').expect("lines");
        assert_eq!(
            body,
            "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{ \"Path\": \"base/5/1259\", \"Size\": 8192, \
             \"Last-Modified\": \"2023-11-14 22:13:20 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \
             \"00000000\" }\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 3, \"Start-LSN\": \"16/B374D848\", \"End-LSN\": \
             \"16/B374D900\" }\n],"
        );
        assert!(
            last.starts_with("\"Manifest-Checksum\": \"") && last.ends_with("\"}"),
            "{last}"
        );
    }

    #[test]
    fn unknown_algorithms_are_no_failure() {
        let text = String::from_utf8(write(15, &sample()[..1])).expect("UTF-8");
        let text = text.replace("CRC32C", "SHA512");
        let end = text.find("\"Manifest-Checksum\"").expect("the last line");
        let sum = hex(&Sha256::digest(&text.as_bytes()[..end]));
        let manifest = parse(format!("{}\"Manifest-Checksum\": \"{sum}\"}}\n", &text[..end]).as_bytes());
        assert_eq!(manifest.expect("a manifest").files[0].checksum, None);
    }

    proptest! {
        #[test]
        fn no_flipped_bit_goes_unseen(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = write(15, &sample());
            let at = at % (bytes.len() - 1);
            bytes[at] ^= 1 << bit;
            prop_assert!(parse(&bytes).is_err(), "byte {at}, bit {bit}");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
