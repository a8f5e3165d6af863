//! `files_metadata.json`: an entry for each file of a backup, and which tar holds it.

mod all_visible;
mod names;
mod stream;
mod write;

use std::collections::BTreeMap;
use std::io::{BufReader, BufWriter, Read, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use all_visible::AllVisible;
pub use names::{DatabasesWriter, Rank, RelationEntry};
pub use stream::{Listener, Relation, Relations, listen};
pub use write::{FileEntry, FilesMetadataWriter, TarFileSetsWriter};

/// The whole object. It can be larger than 1 GB as text, so it is only ever written and read as a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FilesMetadata {
    /// By path: with a leading slash, relative to the data directory.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub files: BTreeMap<String, FileDescription>,
    /// The members of each tar, by its file name.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub tar_file_sets: BTreeMap<String, Vec<String>>,
    /// The names of the cluster's databases and of their relations when the backup started.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub databases_by_names: BTreeMap<String, DatabaseObjects>,
}

/// One file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FileDescription {
    /// The tar's member is an increment on the parent's file.
    pub is_incremented: bool,
    /// Unchanged since the parent, in no tar.
    pub is_skipped: bool,
    /// When the file was modified last.
    #[serde(rename = "MTime", serialize_with = "nanoseconds", deserialize_with = "lenient_time")]
    pub mtime: DateTime<Utc>,
    /// Pages whose checksum was wrong when they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt_blocks: Option<CorruptBlocks>,
    /// How often the file was changed since the statistics began; an order for packing, no more.
    pub updates_count: u64,
    /// Facts that tell a later delta backup that the file was not written since. Of walarchive's own; WAL-G ignores it.
    #[serde(rename = "walarchive", skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Of a table's file in a cluster without data checksums: the pages that the backup, with all that it is based on, holds
    /// marked by VACUUM, which does so without a new LSN. Of walarchive's own; WAL-G ignores it.
    #[serde(rename = "walarchive_all_visible", skip_serializing_if = "Option::is_none")]
    pub all_visible: Option<AllVisible>,
}

/// A file as it was found just before it was copied. It is written only of files whose last change is so old that another
/// one could not have come with the same time: equal identities then mean equal content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// In bytes.
    pub size: u64,
    /// Number of the inode.
    pub inode: u64,
    /// When the inode changed last, in nanoseconds since 1970: unlike the time of modification, no program can set it.
    pub changed: i64,
    /// The checksum of the content, in the form `crc32c:HEX` or `sha256:HEX` that the manifest has in two fields. Empty if
    /// nobody knows it: only an increment of the file was stored.
    pub checksum: String,
}

/// Pages whose checksum was wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CorruptBlocks {
    /// How many.
    #[serde(rename = "CorruptBlocksCount")]
    pub count: u64,
    /// The numbers of the first few.
    #[serde(rename = "SomeCorruptBlocks", deserialize_with = "null_is_empty")]
    pub some: Vec<u32>,
}

/// One database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatabaseObjects {
    /// Its OID.
    pub oid: u32,
    /// Its tables, by qualified name.
    #[serde(rename = "tables_new", deserialize_with = "null_is_empty")]
    pub tables: BTreeMap<String, TableObject>,
}

/// One table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableObject {
    /// Its OID.
    pub oid: u32,
    /// The name of its files.
    pub relfilenode: u32,
}

impl FilesMetadata {
    /// Write it as JSON, and flush.
    pub fn write_to(&self, sink: impl Write) -> std::io::Result<()> {
        let mut sink = BufWriter::with_capacity(256 << 10, sink);
        serde_json::to_writer(&mut sink, self)?;
        sink.flush()
    }

    /// Read what [`FilesMetadata::write_to`] or WAL-G wrote: missing fields and null maps are empty.
    pub fn read_from(source: impl Read) -> std::io::Result<Self> {
        Ok(serde_json::from_reader(BufReader::with_capacity(256 << 10, source))?)
    }
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Finer than the other times: a later delta backup compares it with the file's own.
fn nanoseconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Nanos, true))
}

fn lenient_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DateTime<Utc>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(text) => DateTime::parse_from_rfc3339(&text)
            .map(|time| time.with_timezone(&Utc))
            .map_err(serde::de::Error::custom),
        None => Ok(DateTime::UNIX_EPOCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"{"Files": {"/base/5/1259": {"IsIncremented": false, "IsSkipped": false,
        "MTime": "2026-11-20T10:00:00.123456789Z",
        "CorruptBlocks": {"CorruptBlocksCount": 1, "SomeCorruptBlocks": [17]}, "UpdatesCount": 0}},
        "TarFileSets": {"part_001.tar.zst": ["/base/5/1259"], "backup_label.tar.zst": ["backup_label","tablespace_map"]},
        "DatabasesByNames": {"postgres": {"oid": 5, "tables_new": {"public.t": {"oid": 16384, "relfilenode": 16384}}}}}"#;

    #[test]
    fn the_shape_is_that_of_the_format_page() {
        let metadata = FilesMetadata::read_from(PAGE.as_bytes()).expect("read");
        assert_eq!(
            metadata.files["/base/5/1259"].mtime.timestamp_subsec_nanos(),
            123_456_789
        );
        let mut text = Vec::new();
        metadata.write_to(&mut text).expect("written");
        let written: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let page: serde_json::Value = serde_json::from_str(PAGE).expect("JSON");
        assert_eq!(written, page);
        let plain = serde_json::to_value(FileDescription::default()).expect("JSON");
        assert!(plain.get("CorruptBlocks").is_none());
    }

    #[test]
    fn what_other_versions_leave_out_is_no_failure() {
        for text in [
            "{}",
            r#"{"Files": null, "TarFileSets": null, "DatabasesByNames": null}"#,
            r#"{"Files": {}, "More": 1}"#,
        ] {
            let metadata = FilesMetadata::read_from(text.as_bytes()).expect(text);
            assert_eq!(metadata, FilesMetadata::default());
        }
        let text = r#"{"Files": {"/a": {"MTime": null, "CorruptBlocks": null}, "/b": {"IsSkipped": true}}}"#;
        let metadata = FilesMetadata::read_from(text.as_bytes()).expect("read");
        assert_eq!(metadata.files["/a"], FileDescription::default());
        assert!(metadata.files["/b"].is_skipped);
        let text = r#"{"DatabasesByNames": {"db": {"oid": 1, "tables": {"a": 5}}}}"#;
        assert_eq!(
            FilesMetadata::read_from(text.as_bytes())
                .expect("read")
                .databases_by_names["db"]
                .oid,
            1
        );
        assert!(FilesMetadata::read_from(&b"{\"Files\": {"[..]).is_err());
    }
}
