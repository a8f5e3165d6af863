//! Reading a manifest, of ours or of PostgreSQL's.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::digest::LineDigest;
use super::{ChecksumAlgorithm, ManifestFile, WalRange, unhex};
use crate::error::{Error, Result};
use crate::formats::guarded::Guarded;

/// More than the timelines of one backup.
const RANGES_LIMIT: usize = 10_000;

/// The content of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// All files of the backup but those of `pg_wal`.
    pub files: Vec<ManifestFile>,
    /// The WAL that a restore of the backup needs to become consistent.
    pub wal_ranges: Vec<WalRange>,
    /// The cluster, from version 2 of the format on.
    pub system_identifier: Option<u64>,
}

/// The content of a manifest beside its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many files it lists.
    pub files: u64,
    /// The WAL that a restore of the backup needs to become consistent.
    pub wal_ranges: Vec<WalRange>,
    /// The cluster, from version 2 of the format on.
    pub system_identifier: Option<u64>,
    /// Of the manifest itself, as it has it in its last line.
    pub checksum: String,
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
    let mut files = Vec::new();
    let summary = listen(bytes, |file| {
        files.push(file);
        Ok(())
    })?;
    let summary = summary.map_err(|error| damaged(format!("It cannot be read: {error}.")))?;
    Ok(Manifest {
        files,
        wal_ranges: summary.wal_ranges,
        system_identifier: summary.system_identifier,
    })
}

/// The same as a stream, in bounded memory whatever it is: a cluster may have millions of files. Whether the manifest is intact
/// is known at its end only. The inner error is that of the source; an error of `each` ends the reading.
pub fn listen(source: impl Read, each: impl FnMut(ManifestFile) -> Result<()>) -> Result<io::Result<Summary>> {
    let mut source = LineDigest::new(source);
    let mut reading = Reading {
        each,
        failure: None,
        version: None,
        summary: Summary::default(),
    };
    let buffered = BufReader::with_capacity(256 << 10, Guarded::new(&mut source));
    let mut json = serde_json::Deserializer::from_reader(buffered);
    let read = json.deserialize_map(Top(&mut reading)).and_then(|()| json.end());
    drop(json);
    if let Some(failure) = reading.failure {
        return Err(failure);
    }
    match read {
        Ok(()) => {}
        Err(error) if error.is_io() => return Ok(Err(error.into())),
        Err(error) => return Err(damaged(format!("It cannot be read: {error}."))),
    }
    match reading.version {
        Some(1 | 2) => {}
        Some(version) => return Err(damaged(format!("Its version {version} is not known."))),
        None => return Err(damaged("It has no version.".to_owned())),
    }
    source.finish(&reading.summary.checksum).map_err(damaged)?;
    Ok(Ok(reading.summary))
}

struct Reading<F> {
    each: F,
    /// The values that the JSON parser cannot pass on as they are.
    failure: Option<Error>,
    version: Option<u32>,
    summary: Summary,
}

struct Top<'a, F>(&'a mut Reading<F>);

impl<'de, F: FnMut(ManifestFile) -> Result<()>> Visitor<'de> for Top<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backup manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reading = self.0;
        let mut has_files = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "PostgreSQL-Backup-Manifest-Version" => reading.version = Some(map.next_value()?),
                "System-Identifier" => reading.summary.system_identifier = map.next_value()?,
                "Manifest-Checksum" => reading.summary.checksum = map.next_value()?,
                "Files" => {
                    has_files = true;
                    map.next_value_seed(Items::new(|text: FileText| {
                        reading.summary.files += 1;
                        file(text)
                            .and_then(&mut reading.each)
                            .map_err(|error| reading.failure = Some(error))
                    }))?;
                }
                "WAL-Ranges" => map.next_value_seed(Items::new(|text: RangeText| {
                    let ranges = &mut reading.summary.wal_ranges;
                    let added = match ranges.len() < RANGES_LIMIT {
                        true => range(&text).map(|range| ranges.push(range)),
                        false => Err(damaged("It has too many WAL ranges.".to_owned())),
                    };
                    added.map_err(|error| reading.failure = Some(error))
                }))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match has_files {
            true => Ok(()),
            false => Err(A::Error::missing_field("Files")),
        }
    }
}

/// An array whose items are handed on one by one.
struct Items<T, F>(F, PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: FnMut(T) -> Result<(), ()>> Items<T, F> {
    fn new(each: F) -> Self {
        Items(each, PhantomData)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T) -> Result<(), ()>> DeserializeSeed<'de> for Items<T, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T) -> Result<(), ()>> Visitor<'de> for Items<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element()? {
            (self.0)(item).map_err(|()| A::Error::custom("it is refused"))?;
        }
        Ok(())
    }
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
    use super::*;
    use crate::formats::manifest::{Checksummer, ManifestWriter, hex};
    use crate::lsn::Lsn;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};
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
        for file in sample() {
            let path = ManifestFile::path_of_line(&file.line()).expect("an entry");
            assert_eq!(path, file.path.to_str().unwrap_or_default());
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
