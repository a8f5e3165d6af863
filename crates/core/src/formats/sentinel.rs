//! The sentinel, which makes a backup exist, and `metadata.json`, which repeats it for listings.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::excerpt::{Excerpt, excerpt};
use super::guarded::Guarded;
use super::places::{Configuration, FollowedLink, LeftOut};
use super::{FILES_OF_SENTINEL, SENTINEL_LIMIT, UserData};
use crate::lsn::Lsn;

/// `DateFmt` and `date_fmt`, as WAL-G writes them.
const DATE_FORMAT: &str = "%Y-%m-%dT%H:%M:%S.%fZ";

/// `<name>_backup_stop_sentinel.json`. Reads those of WAL-G 1.x too, which lack most fields and call `DeltaLSN`
/// `DeltaFromLSN`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Sentinel {
    /// Where the backup starts.
    #[serde(rename = "LSN")]
    pub start_lsn: Lsn,
    /// Where it ends: a restore is consistent from here on.
    #[serde(rename = "FinishLSN")]
    pub finish_lsn: Lsn,
    /// Delta backups: start LSN of the parent.
    #[serde(
        rename = "DeltaLSN",
        alias = "DeltaFromLSN",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub delta_lsn: Option<Lsn>,
    /// Delta backups: name of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_from: Option<String>,
    /// Delta backups: name of the full backup at the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_full_name: Option<String>,
    /// Delta backups: steps from the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_count: Option<u32>,
    /// `server_version_num`.
    #[serde(default)]
    pub pg_version: u32,
    /// From `pg_control`.
    #[serde(default)]
    pub system_identifier: Option<u64>,
    /// Bytes packed into tars.
    #[serde(default)]
    pub uncompressed_size: u64,
    /// Bytes stored.
    #[serde(default)]
    pub compressed_size: u64,
    /// Bytes of the data directory on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_catalog_size: Option<u64>,
    /// Where the tablespaces were.
    #[serde(rename = "Spec", default, skip_serializing_if = "Option::is_none")]
    pub tablespaces: Option<TablespaceSpec>,
    /// What the user attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
    /// No `files_metadata.json` was written: every member of every tar counts.
    #[serde(default)]
    pub files_metadata_disabled: bool,
    /// Always null.
    #[serde(default)]
    pub chkp_num: Option<u32>,
    /// The version of this format.
    #[serde(default)]
    pub version: u32,
    /// When the backup started.
    #[serde(with = "crate::formats::time", default)]
    pub start_time: DateTime<Utc>,
    /// When its last byte was copied.
    #[serde(with = "crate::formats::time", default)]
    pub finish_time: DateTime<Utc>,
    /// The format of the two times.
    #[serde(default)]
    pub date_fmt: String,
    /// The host of the server.
    #[serde(default)]
    pub hostname: String,
    /// Its data directory.
    #[serde(default)]
    pub data_dir: String,
    /// Never deleted by retention.
    #[serde(default)]
    pub is_permanent: bool,
}

/// The longest host name or path that is taken for one, in bytes.
const TEXT_LIMIT: usize = 4096;

/// The short part of a text, and the user data, if that is JSON and does not nest without end.
fn taken_apart(text: &[u8], user_data: &str) -> Result<(Vec<u8>, Option<UserData>), String> {
    let kept = excerpt(text, &FILES_OF_SENTINEL, &[user_data], SENTINEL_LIMIT as usize);
    let Excerpt { text, aside } = kept.map_err(|error| error.to_string())?;
    let aside = aside.and_then(|aside| {
        let read = std::io::copy(&mut Guarded::new(&aside[..]), &mut std::io::sink());
        let user_data = std::str::from_utf8(&aside).ok().filter(|_| read.is_ok());
        UserData::of_text(user_data?)
    });
    Ok((text, aside))
}

fn are_short(texts: &[&str]) -> Result<(), String> {
    match texts.iter().all(|text| text.len() <= TEXT_LIMIT) {
        true => Ok(()),
        false => Err("a name in it is too long".to_owned()),
    }
}

impl Sentinel {
    /// From the text of a sentinel, in memory that is bounded by the length of the text. The error says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let (text, user_data) = taken_apart(text, "UserData")?;
        let mut sentinel: Self = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        are_short(&[&sentinel.hostname, &sentinel.data_dir, &sentinel.date_fmt])?;
        sentinel.user_data = user_data;
        Ok(sentinel)
    }

    /// The version of the format that is written.
    pub const VERSION: u32 = 2;

    /// The value of `DateFmt`.
    pub fn date_format() -> String {
        DATE_FORMAT.to_owned()
    }
}

/// `metadata.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct ExtendedMetadata {
    /// See [`Sentinel`], as for all others.
    #[serde(with = "crate::formats::time")]
    pub start_time: DateTime<Utc>,
    #[allow(missing_docs)]
    #[serde(with = "crate::formats::time")]
    pub finish_time: DateTime<Utc>,
    #[allow(missing_docs)]
    pub date_fmt: String,
    #[allow(missing_docs)]
    pub hostname: String,
    #[allow(missing_docs)]
    pub data_dir: String,
    #[allow(missing_docs)]
    pub pg_version: u32,
    #[allow(missing_docs)]
    pub start_lsn: Lsn,
    #[allow(missing_docs)]
    pub finish_lsn: Lsn,
    #[allow(missing_docs)]
    pub is_permanent: bool,
    #[allow(missing_docs)]
    pub system_identifier: Option<u64>,
    #[allow(missing_docs)]
    pub uncompressed_size: u64,
    #[allow(missing_docs)]
    pub compressed_size: u64,
    #[allow(missing_docs)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
    /// Ours alone: the next transaction ID when the backup ended. A transaction with this ID or a later one commits after
    /// the backup's end, so the backup can be restored to it.
    #[serde(rename = "walarchive_next_xid", skip_serializing_if = "Option::is_none")]
    pub next_xid: Option<u64>,
    /// Ours alone: pages whose checksum was wrong when they were read. None if they have no checksums.
    #[serde(rename = "walarchive_corrupt_pages", skip_serializing_if = "Option::is_none")]
    pub corrupt_pages: Option<u64>,
    /// Ours alone: symbolic links that were followed. A restore makes directories and files of them.
    #[serde(rename = "walarchive_links", skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<FollowedLink>,
    /// Ours alone: what is not in the backup though it is in the data directory, the first of it.
    #[serde(rename = "walarchive_left_out", skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Ours alone: how much that is in all.
    #[serde(rename = "walarchive_left_out_count", skip_serializing_if = "is_zero")]
    pub left_out_count: u64,
    /// Ours alone: OIDs whose directories may be in the backup in part, as they are of no database that was there from the
    /// start of the backup to its end.
    #[serde(rename = "walarchive_incomplete_databases", skip_serializing_if = "Vec::is_empty")]
    pub incomplete_databases: Vec<u32>,
    /// Ours alone: the configuration that was outside of the data directory. None if there was none.
    #[serde(rename = "walarchive_configuration", skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Configuration>,
    /// Ours alone: whether the cluster has data checksums, as `pg_control` in the backup says, which may be encrypted. None if it
    /// is not known.
    #[serde(rename = "walarchive_data_checksums", skip_serializing_if = "Option::is_none")]
    pub data_checksums: Option<bool>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Default for ExtendedMetadata {
    fn default() -> Self {
        ExtendedMetadata {
            start_time: DateTime::UNIX_EPOCH,
            finish_time: DateTime::UNIX_EPOCH,
            date_fmt: String::new(),
            hostname: String::new(),
            data_dir: String::new(),
            pg_version: 0,
            start_lsn: Lsn(0),
            finish_lsn: Lsn(0),
            is_permanent: false,
            system_identifier: None,
            uncompressed_size: 0,
            compressed_size: 0,
            user_data: None,
            next_xid: None,
            corrupt_pages: None,
            links: Vec::new(),
            left_out: Vec::new(),
            left_out_count: 0,
            incomplete_databases: Vec::new(),
            configuration: None,
            data_checksums: None,
        }
    }
}

impl ExtendedMetadata {
    /// As [`Sentinel::parse`].
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let (text, user_data) = taken_apart(text, "user_data")?;
        let mut metadata: Self = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        are_short(&[&metadata.hostname, &metadata.data_dir, &metadata.date_fmt])?;
        metadata.user_data = user_data;
        Ok(metadata)
    }
}

impl From<&Sentinel> for ExtendedMetadata {
    fn from(sentinel: &Sentinel) -> Self {
        ExtendedMetadata {
            start_time: sentinel.start_time,
            finish_time: sentinel.finish_time,
            date_fmt: sentinel.date_fmt.clone(),
            hostname: sentinel.hostname.clone(),
            data_dir: sentinel.data_dir.clone(),
            pg_version: sentinel.pg_version,
            start_lsn: sentinel.start_lsn,
            finish_lsn: sentinel.finish_lsn,
            is_permanent: sentinel.is_permanent,
            system_identifier: sentinel.system_identifier,
            uncompressed_size: sentinel.uncompressed_size,
            compressed_size: sentinel.compressed_size,
            user_data: sentinel.user_data.clone(),
            ..ExtendedMetadata::default()
        }
    }
}

/// `Spec`: the tablespaces of a backup, by OID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceSpec {
    /// The data directory when the backup was taken.
    pub base_prefix: String,
    /// The OIDs, as text.
    #[serde(rename = "tablespaces", default)]
    pub oids: Vec<String>,
    /// By OID.
    #[serde(flatten)]
    pub locations: BTreeMap<String, TablespaceLocation>,
}

/// Where one tablespace was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceLocation {
    /// The directory.
    pub loc: String,
    /// The link to it, relative to the data directory: `pg_tblspc/<oid>`.
    pub link: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_wal_g_sentinel() {
        let text = r#"{"LSN":33554472,"FinishLSN":33554744,"PgVersion":150018,"SystemIdentifier":7412345678901234567,
            "UncompressedSize":23000000,"CompressedSize":3000000,"DataCatalogSize":23000001,
            "Spec":{"base_prefix":"/pgdata","tablespaces":["16400"],"16400":{"loc":"/ts","link":"pg_tblspc/16400"}},
            "UserData":{"a":1},"FilesMetadataDisabled":false,"ChkpNum":null,"Version":2,
            "StartTime":"2026-11-20T10:00:00.123456789Z","FinishTime":"2026-11-20T10:00:05Z",
            "DateFmt":"%Y-%m-%dT%H:%M:%S.%fZ","Hostname":"h","DataDir":"/pgdata","IsPermanent":true}"#;
        let sentinel = Sentinel::parse(text.as_bytes()).expect("a sentinel");
        assert_eq!(sentinel.user_data.as_ref().map(UserData::as_str), Some(r#"{"a":1}"#));
        assert_eq!(sentinel.start_lsn, Lsn(33554472));
        let spec = sentinel.tablespaces.as_ref().expect("tablespaces");
        assert_eq!(spec.locations["16400"].loc, "/ts");
        let again: serde_json::Value = serde_json::to_value(&sentinel).expect("written");
        assert_eq!(
            again["Spec"],
            serde_json::from_str::<serde_json::Value>(text).expect("json")["Spec"]
        );
        assert!(again["LSN"].is_u64() && again["ChkpNum"].is_null() && again.get("DeltaLSN").is_none());
        let metadata = serde_json::to_value(ExtendedMetadata::from(&sentinel)).expect("written");
        assert_eq!(metadata["start_lsn"], 33554472);
    }

    #[test]
    fn reads_an_old_sentinel() {
        let text = r#"{"LSN":1,"FinishLSN":2,"DeltaFromLSN":3,"Files":{"/x":{}},"TarFileSets":{},"Spec":null}"#;
        let sentinel = Sentinel::parse(text.as_bytes()).expect("a sentinel");
        assert_eq!(sentinel.delta_lsn, Some(Lsn(3)));
    }

    #[test]
    fn what_nests_without_end_or_is_too_long_is_refused() {
        let with = |user_data: &str| format!(r#"{{"LSN":1,"FinishLSN":2,"UserData":{user_data}}}"#);
        let nested = "[".repeat(1000) + &"]".repeat(1000);
        for user_data in [nested.as_str(), "null", "[1,]"] {
            let sentinel = Sentinel::parse(with(user_data).as_bytes()).expect("a sentinel");
            assert_eq!(sentinel.user_data, None, "the backup is good all the same");
        }
        for user_data in [format!("[{}1]", "[],".repeat(1 << 19)), "{".to_owned()] {
            assert!(Sentinel::parse(with(&user_data).as_bytes()).is_err());
        }
        let host = format!(r#"{{"LSN":1,"FinishLSN":2,"Hostname":"{}"}}"#, "h".repeat(5000));
        assert!(Sentinel::parse(host.as_bytes()).is_err());
        assert_eq!(
            Sentinel::parse(with("null").as_bytes()).expect("a sentinel").user_data,
            None
        );
    }
}
