//! The questions of a backup to a server, from PostgreSQL 9.6 on. All differences from version to version are here.
//!
//! Every function is named with its schema, and [`prepare`] sets the search path: nothing that a database or a role has set
//! changes what a statement does.

use std::collections::BTreeMap;
use std::time::Duration;

use walarchive_core::backup::Database;
use walarchive_core::{Error, Lsn, Result};

use crate::{Session, escape_literal};

/// The oldest version whose backups this program takes: the first with backups that are not exclusive.
pub const OLDEST: u32 = 90_600;

/// How long entering or leaving backup mode may take: a checkpoint is written, and 9.6 waits for its archiver.
const BACKUP_MODE: Duration = Duration::from_secs(24 * 3600);

/// The settings that are asked for. Those that the role may not see are not there.
const SETTINGS: [&str; 22] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "config_file",
    "data_directory",
    "hba_file",
    "ident_file",
    "is_superuser",
    "krb_server_keyfile",
    "log_directory",
    "logging_collector",
    "port",
    "shared_preload_libraries",
    "ssl_key_file",
    "stats_temp_directory",
    "summarize_wal",
    "walarchive.credentials_file",
    "walarchive.encrypt_metadata",
    "walarchive.encryption",
    "walarchive.encryption_key_file",
    "walarchive.storage",
    "walarchive.storage_options",
];

/// The facts about a server.
#[derive(Debug, Clone)]
pub struct Facts {
    /// For example 150018 or 90624.
    pub version_num: u32,
    /// Of the cluster.
    pub system_identifier: u64,
    /// `wal_segment_size`, in bytes.
    pub segment_bytes: u64,
    /// Is it a standby, or restoring?
    pub in_recovery: bool,
    /// The timeline that it writes, or follows: `pg_control` knows it only from the next checkpoint on.
    pub timeline: u32,
    /// When it was started, in seconds since 1970.
    pub started: f64,
    settings: BTreeMap<String, String>,
}

impl Facts {
    /// A setting, as `pg_settings` has it; none if it is empty, or not to be seen.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// For example 15, or 9 of 9.6.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// May this role read files of the data directory by SQL?
    pub fn is_superuser(&self) -> bool {
        self.setting("is_superuser") == Some("on")
    }
}

/// The start of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The LSN.
    pub lsn: Lsn,
    /// The timeline of that LSN.
    pub timeline: u32,
}

/// How a backup ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Recovery must replay WAL up to here before the copy is consistent.
    pub lsn: Lsn,
    /// The content of `backup_label`.
    pub label: String,
    /// The content of `tablespace_map`; empty without tablespaces.
    pub tablespace_map: String,
    /// The timeline up to which a standby had replayed; 0 on a primary.
    pub timeline: u32,
    /// The next transaction ID, with its epoch.
    pub next_xid: u64,
}

/// Make the session safe, and free of time limits that were set for other clients. It uses no parallel workers: they would begin
/// their first transaction with the limits of the database.
pub async fn prepare(session: &mut Session) -> Result<()> {
    session
        .query(
            "set the search path",
            "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)",
        )
        .await?;
    session
        .query(
            "lift the time limits of the session",
            "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name IN ('statement_timeout', \
             'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout', \
             'max_parallel_workers_per_gather')",
        )
        .await?;
    Ok(())
}

/// Ask a prepared session what the server is. Refuses a server that is too old.
pub async fn facts(session: &mut Session) -> Result<Facts> {
    let what = "say what it is";
    let version_num = one(session, what, "SHOW server_version_num").await?.parse(0)?;
    if version_num < OLDEST {
        return Err(too_old(
            version_num,
            "Backups of such a server cannot be taken while others are. Upgrade it.",
        ));
    }
    let names: Vec<String> = SETTINGS.iter().map(|name| escape_literal(name)).collect();
    let sql = format!(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ({})",
        names.join(", ")
    );
    let settings = session.query("show its settings", &sql).await?;
    let row = one(
        session,
        what,
        "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
         (SELECT bytes_per_wal_segment FROM pg_catalog.pg_control_init()), pg_catalog.pg_is_in_recovery(), \
         pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())",
    )
    .await?;
    let in_recovery = row.is_true(2);
    Ok(Facts {
        version_num,
        timeline: timeline(session, version_num, in_recovery).await?,
        // The catalog knows only signed numbers.
        system_identifier: row.parse::<i64>(0)?.cast_unsigned(),
        segment_bytes: row.parse(1)?,
        in_recovery,
        started: row.parse(3)?,
        settings: settings
            .iter()
            .map(|row| (row.text(0).to_owned(), row.text(1).to_owned()))
            .collect(),
    })
}

/// A standby may have no stream, or not show it to this role.
async fn timeline(session: &mut Session, version_num: u32, in_recovery: bool) -> Result<u32> {
    let what = "say its timeline";
    if in_recovery {
        let sql = "SELECT GREATEST((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
                   (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), \
                   (SELECT pg_catalog.max(received_tli) FROM pg_catalog.pg_stat_wal_receiver))";
        return one(session, what, sql).await?.parse(0);
    }
    let sql = match version_num >= 100_000 {
        true => "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())",
        false => "SELECT pg_catalog.pg_xlogfile_name(pg_catalog.pg_current_xlog_location())",
    };
    let row = one(session, what, sql).await?;
    let digits = row.text(0).get(..8).unwrap_or_default();
    u32::from_str_radix(digits, 16).map_err(|_| Error::defect("the server's WAL file has no timeline"))
}

/// Refuse a server that cannot keep WAL for a slot from the moment on in which it is made.
pub fn check_slots(version_num: u32) -> Result<()> {
    match version_num < OLDEST {
        true => Err(too_old(
            version_num,
            "Such a server keeps no WAL for a new replication slot. Upgrade it.",
        )),
        false => Ok(()),
    }
}

fn too_old(version_num: u32, hint: &str) -> Error {
    Error::refused(
        format!("the server is of version {version_num}, which is older than 9.6"),
        hint,
    )
}

/// The schema of an extension's function, quoted, if the database has that and this role may call it.
pub async fn extension_function(session: &mut Session, extension: &str, function: &str) -> Result<Option<String>> {
    let sql = format!(
        "SELECT pg_catalog.quote_ident(n.nspname), pg_catalog.has_function_privilege(p.oid, 'EXECUTE') \
         AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_depend d ON d.refobjid = e.oid AND d.deptype = 'e' \
         AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass \
         AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
         JOIN pg_catalog.pg_proc p ON p.oid = d.objid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
         WHERE e.extname = {} AND p.proname = {}",
        escape_literal(extension),
        escape_literal(function)
    );
    let rows = session.query("look for the extension", &sql).await?;
    let found = rows.first().filter(|row| row.is_true(1));
    Ok(found.map(|row| row.text(0).to_owned()))
}

/// The content of a file of the data directory, if the role may read it.
pub async fn read_file(session: &mut Session, facts: &Facts, name: &str) -> Result<Option<String>> {
    let may = match facts.version_num >= 110_000 {
        true => one(
            session,
            "say what the role may do",
            "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_read_file(text)', 'EXECUTE')",
        )
        .await?
        .is_true(0),
        false => facts.is_superuser(),
    };
    if !may {
        return Ok(None);
    }
    let sql = format!("SELECT pg_catalog.pg_read_file({})", escape_literal(name));
    Ok(Some(one(session, "read a file", &sql).await?.text(0).to_owned()))
}

/// All databases.
pub async fn databases(session: &mut Session) -> Result<Vec<Database>> {
    // A name may be in any encoding, so its bytes are asked for.
    let rows = session
        .query(
            "list its databases",
            "SELECT oid, dattablespace, datconnlimit = -2, pg_catalog.encode(pg_catalog.replace(datname::pg_catalog.text, \
             pg_catalog.chr(92), pg_catalog.chr(92) || pg_catalog.chr(92))::pg_catalog.bytea, 'hex'), datallowconn \
             FROM pg_catalog.pg_database",
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Database {
                oid: row.parse(0)?,
                tablespace: row.parse(1)?,
                is_valid: !row.is_true(2),
                name: unhex(row.text(3)),
                allows_connections: row.is_true(4),
            })
        })
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    pairs
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// Enter backup mode, with an immediate checkpoint. It lasts as long as the session does, at most.
pub async fn start_backup(session: &mut Session, facts: &Facts, label: &str) -> Result<Start> {
    let label = escape_literal(label);
    let sql = match facts.version_num >= 150_000 {
        true => format!("SELECT pg_catalog.pg_backup_start({label}, true)"),
        false => format!("SELECT pg_catalog.pg_start_backup({label}, true, false)"),
    };
    let what = "begin the backup";
    let lsn = only(session.query_within(what, &sql, BACKUP_MODE).await?)?.parse(0)?;
    let row = one(
        session,
        what,
        "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()",
    )
    .await?;
    Ok(Start {
        lsn,
        timeline: row.parse(0)?,
    })
}

/// Leave backup mode. 9.6 waits for its archiver here; later versions are told not to.
pub async fn stop_backup(session: &mut Session, facts: &Facts) -> Result<Stop> {
    let call = match facts.version_num {
        150_000.. => "pg_catalog.pg_backup_stop(false)",
        100_000.. => "pg_catalog.pg_stop_backup(false, false)",
        _ => "pg_catalog.pg_stop_backup(false)",
    };
    let what = "end the backup";
    let sql = format!("SELECT lsn, labelfile, spcmapfile FROM {call}");
    let row = only(session.query_within(what, &sql, BACKUP_MODE).await?)?;
    let after = one(
        session,
        what,
        "SELECT (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), \
         pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())",
    )
    .await?;
    Ok(Stop {
        lsn: row.parse(0)?,
        label: row.text(1).to_owned(),
        tablespace_map: row.text(2).to_owned(),
        timeline: after.parse(0)?,
        next_xid: after.parse(1)?,
    })
}

async fn one(session: &mut Session, what: &str, sql: &str) -> Result<crate::Row> {
    only(session.query(what, sql).await?)
}

fn only(rows: Vec<crate::Row>) -> Result<crate::Row> {
    rows.into_iter()
        .next()
        .ok_or_else(|| Error::defect("the server answered without a row"))
}

#[cfg(test)]
mod tests {
    use super::unhex;

    #[test]
    fn names_may_have_any_bytes() {
        assert_eq!(unhex("61ff5c"), b"a\xff\\");
        assert_eq!(unhex(""), b"");
    }
}
