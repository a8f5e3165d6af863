//! `pg_backup_start` and `pg_backup_stop`, each in a transaction of its own: the copying in between holds no snapshot.
//! PostgreSQL leaves backup mode by itself when the session ends between the two.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use chrono::DateTime;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;
use walarchive_core::backup::{BackupRequest, ConfigurationFiles, StopResult, emptied_directory};
use walarchive_core::formats::UserData;
use walarchive_core::{Error, Lsn, Result};

use crate::pg::server;

/// Enter backup mode, and say what is to be backed up.
pub(super) fn begin(permanent: bool, user_data: Option<String>, started_us: i64) -> Result<BackupRequest> {
    let start_lsn: Lsn = one("SELECT pg_backup_start('walarchive', fast => true)::text")?.parse()?;
    // The checkpoint that this has made, or a later one, of the same timeline.
    let timeline = one("SELECT timeline_id::text FROM pg_control_checkpoint()")?;
    let identity = server::identity();
    let hostname = nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(BackupRequest {
        data_dir: server::data_directory(),
        start_lsn,
        timeline: timeline.parse().map_err(|_| unexpected("pg_control_checkpoint"))?,
        segment_size: identity.segment_size,
        server_version_num: server::version_num(),
        system_identifier: identity.system_identifier,
        hostname,
        permanent,
        user_data: user_data.and_then(|text| UserData::of_text(&text)),
        start_time: DateTime::from_timestamp_micros(started_us).unwrap_or_default(),
        tablespaces: Vec::new(),
        emptied: emptied(),
        configuration: configuration(),
        parent: None,
    })
}

/// Where the server reads its configuration, and its secrets.
fn configuration() -> ConfigurationFiles {
    let file = |name: &CStr| {
        let path = server::setting(name);
        (!path.is_empty()).then(|| server::data_directory().join(path))
    };
    let secrets = [c"ssl_key_file", c"krb_server_keyfile", c"walarchive.credentials_file"];
    ConfigurationFiles {
        config: file(c"config_file"),
        hba: file(c"hba_file"),
        ident: file(c"ident_file"),
        secrets: secrets.into_iter().filter_map(file).collect(),
    }
}

/// Where the server writes its log, if that is below the data directory, and what it keeps statistics in.
fn emptied() -> Vec<PathBuf> {
    let written = [
        (server::setting(c"logging_collector") == "on").then(|| server::setting(c"log_directory")),
        // Up to PostgreSQL 14.
        Some(server::setting(c"stats_temp_directory")),
    ];
    let written = written.into_iter().flatten();
    written
        .filter_map(|directory| emptied_directory(&server::data_directory(), &directory))
        .collect()
}

/// A database of the cluster.
pub(super) struct Database {
    oid: u32,
    /// The OID of its tablespace.
    tablespace: u32,
    /// In the encoding of the database in which somebody wrote it.
    name: Vec<u8>,
}

/// The databases as they are now.
pub(super) fn databases() -> Result<Vec<Database>> {
    // The names byte by byte, as hexadecimal digits: no function for texts can be given them, as their encoding may not be that
    // of this database.
    let query = "SELECT string_agg(concat_ws(' ', oid, dattablespace, \
            (SELECT string_agg(lpad(to_hex(datname[i]::int & 255), 2, '0'), '' ORDER BY i) \
               FROM generate_series(0, current_setting('max_identifier_length')::int - 1) i \
              WHERE datname[i]::int <> 0)), ',') \
           FROM pg_database";
    let answer = one(query)?;
    let parse = |database: &str| {
        let mut fields = database.split(' ');
        Some(Database {
            oid: fields.next()?.parse().ok()?,
            tablespace: fields.next()?.parse().ok()?,
            name: from_hexadecimal(fields.next()?)?,
        })
    };
    let databases = answer.split(',');
    databases
        .map(|database| parse(database).ok_or_else(|| unexpected(query)))
        .collect()
}

/// The OIDs of databases.
pub(super) fn oids(databases: &[Database]) -> impl Iterator<Item = u32> {
    databases.iter().map(|database| database.oid)
}

/// The OIDs by name. A name that is not in UTF-8 is left out, as no restore could be told it.
pub(super) fn oids_by_name(databases: &[Database]) -> BTreeMap<String, u32> {
    let named = |database: &Database| Some((String::from_utf8(database.name.clone()).ok()?, database.oid));
    databases.iter().filter_map(named).collect()
}

/// Refuse a backup during which a database was moved to another tablespace. Recovery repeats the move by copying the database
/// from its old place over its new one, and of the old one the backup has what had not been removed yet, or nothing. Returns the
/// databases as they are now.
pub(super) fn check_places(before: &[Database]) -> Result<Vec<Database>> {
    let after = databases()?;
    for now in &after {
        let then = before.iter().find(|then| then.oid == now.oid);
        if then.is_some_and(|then| then.tablespace != now.tablespace) {
            return Err(Error::config(
                format!(
                    "database \"{}\" was moved to another tablespace while the backup was taken, and would be lost in a restore",
                    String::from_utf8_lossy(&now.name)
                ),
                "Take another backup; move databases while none is being taken.",
            ));
        }
    }
    Ok(after)
}

fn from_hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}

/// Leave backup mode. On a standby the primary may have failed over meanwhile: a backup that starts on one timeline and ends
/// on another is refused, as nobody could tell which WAL it needs.
pub(super) fn end(timeline: u32) -> Result<StopResult> {
    let query = "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(wait_for_archive => false)";
    let stopped = transaction(|| {
        Spi::connect(|client| {
            client
                .select(query, Some(1), &[])?
                .first()
                .get_three::<String, String, String>()
        })
    });
    if server::in_recovery() {
        let ended = one("SELECT min_recovery_end_timeline::text FROM pg_control_recovery()")?;
        if ended != timeline.to_string() && ended != "0" {
            return Err(Error::config(
                format!("the backup starts on timeline {timeline} and ends on timeline {ended}"),
                "The primary was replaced while it was taken; take another one.",
            ));
        }
    }
    let (Ok((Some(stop_lsn), Some(backup_label), tablespace_map)), next_xid) =
        (stopped, one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")?)
    else {
        return Err(unexpected("pg_backup_stop"));
    };
    Ok(StopResult {
        stop_lsn: stop_lsn.parse()?,
        backup_label,
        tablespace_map: tablespace_map.filter(|map| !map.is_empty()),
        next_xid: next_xid.parse().ok(),
    })
}

fn one(query: &str) -> Result<String> {
    // Spi::get_one would assign a transaction ID, which a standby cannot.
    let answer = transaction(|| Spi::connect(|client| client.select(query, Some(1), &[])?.first().get_one::<String>()));
    answer.ok().flatten().ok_or_else(|| unexpected(query))
}

fn transaction<T>(work: impl FnOnce() -> T) -> T {
    BackgroundWorker::transaction(AssertUnwindSafe(work))
}

fn unexpected(what: &str) -> Error {
    Error::Io {
        operation: "understand the answer of",
        path: PathBuf::from(what),
        source: std::io::Error::other("it is not what PostgreSQL's manual says"),
    }
}
