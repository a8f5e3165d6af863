//! The lists of `backup-list`.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use walarchive_core::Lsn;
use walarchive_core::formats::UserData;
use walarchive_core::repository::inventory::BackupDetail;

use super::boxed::boxed;
use super::json::{compact, indented};
use super::tabbed::tabbed;
use crate::print::plain;

/// There is one storage only, and this is WAL-G's name for it.
const STORAGE: &str = "default";

/// For a backup whose name does not tell it.
const UNKNOWN_SEGMENT: &str = "ZZZZZZZZZZZZZZZZZZZZZZZZ";

/// Say on stderr which backups cannot be restored, or used in another way: the lists have no place for it.
pub fn tell_problems(backups: &[BackupDetail], used: &str) {
    for backup in backups {
        if let Some(problem) = &backup.problem {
            eprintln!(
                "walarchive: warning: backup \"{}\" cannot be {used}: {}",
                plain(&backup.backup_name),
                plain(problem)
            );
        }
    }
}

/// A list as `--pretty`, `--json` and `--detail` ask for it, with its last line feed; empty for no backups, unless it is JSON.
pub fn backups(backups: &[BackupDetail], pretty: bool, json: bool, detail: bool) -> String {
    if json {
        let rows: Vec<Row<'_>> = backups.iter().map(|backup| Row::new(backup, detail)).collect();
        return match pretty {
            true => format!("{}\n", indented(&rows)),
            false => format!("{}\n", compact(&rows)),
        };
    }
    if backups.is_empty() {
        return String::new();
    }
    let fields = |backup| fields(backup, pretty, detail);
    match pretty {
        false => {
            let names = NAMES.iter().map(|(name, _)| (*name).to_owned());
            let header = names.take(if detail { NAMES.len() } else { SHORT }).collect();
            tabbed(
                &std::iter::once(header)
                    .chain(backups.iter().map(fields))
                    .collect::<Vec<_>>(),
            )
        }
        true => {
            let names = NAMES
                .iter()
                .map(|(_, name)| *name)
                .take(if detail { NAMES.len() } else { SHORT });
            let header: Vec<&str> = std::iter::once("#").chain(names).collect();
            let rows = backups
                .iter()
                .enumerate()
                .map(|(at, backup)| std::iter::once(at.to_string()).chain(fields(backup)).collect());
            format!("{}\n", boxed(&header, &[0], rows))
        }
    }
}

/// So many columns has a list without details.
const SHORT: usize = 4;

/// The names of the columns: of the plain list, and of the table.
const NAMES: [(&str, &str); 12] = [
    ("backup_name", "Backup name"),
    ("modified", "Modified"),
    ("wal_file_name", "WAL file name"),
    ("storage_name", "Storage name"),
    ("start_time", "Start time"),
    ("finish_time", "Finish time"),
    ("hostname", "Hostname"),
    ("data_dir", "Datadir"),
    ("pg_version", "PG version"),
    ("start_lsn", "Start LSN"),
    ("finish_lsn", "Finish LSN"),
    ("is_permanent", "Permanent"),
];

fn fields(backup: &BackupDetail, pretty: bool, detail: bool) -> Vec<String> {
    let time = |time: DateTime<Utc>| match pretty {
        true => time.format("%A, %d-%b-%y %H:%M:%S UTC").to_string(),
        false => time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    let known = |time: String| if is_known(backup) { time } else { "-".to_owned() };
    let mut fields = vec![
        plain(&backup.backup_name),
        time(backup.time),
        wal_file_name(backup).to_owned(),
        STORAGE.to_owned(),
    ];
    if detail {
        fields.extend([
            known(time(backup.start_time)),
            known(time(backup.finish_time)),
            plain(&backup.hostname),
            plain(&backup.data_dir),
            backup.pg_version.to_string(),
            Lsn(backup.start_lsn).to_string(),
            Lsn(backup.finish_lsn).to_string(),
            backup.is_permanent.to_string(),
        ]);
    }
    fields
}

/// Could what describes the backup be read?
fn is_known(backup: &BackupDetail) -> bool {
    backup.finish_lsn != 0
}

fn wal_file_name(backup: &BackupDetail) -> &str {
    match backup.wal_file_name.as_str() {
        "" => UNKNOWN_SEGMENT,
        name => name,
    }
}

/// A backup as JSON has it.
#[derive(Serialize)]
pub struct Row<'a> {
    backup_name: &'a str,
    time: Time,
    wal_file_name: &'a str,
    storage_name: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    detail: Option<Detail<'a>>,
}

#[derive(Serialize)]
struct Detail<'a> {
    start_time: Time,
    finish_time: Time,
    date_fmt: &'a str,
    hostname: &'a str,
    data_dir: &'a str,
    pg_version: u32,
    start_lsn: u64,
    finish_lsn: u64,
    is_permanent: bool,
    system_identifier: Option<u64>,
    uncompressed_size: u64,
    compressed_size: u64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "parsed")]
    user_data: Option<&'a UserData>,
}

impl<'a> Row<'a> {
    /// With or without details.
    pub fn new(backup: &'a BackupDetail, detail: bool) -> Self {
        let known = |time| Time(is_known(backup).then_some(time));
        Row {
            backup_name: &backup.backup_name,
            time: Time(Some(backup.time)),
            wal_file_name: wal_file_name(backup),
            storage_name: STORAGE,
            detail: detail.then(|| Detail {
                start_time: known(backup.start_time),
                finish_time: known(backup.finish_time),
                date_fmt: &backup.date_fmt,
                hostname: &backup.hostname,
                data_dir: &backup.data_dir,
                pg_version: backup.pg_version,
                start_lsn: backup.start_lsn,
                finish_lsn: backup.finish_lsn,
                is_permanent: backup.is_permanent,
                system_identifier: backup.system_identifier,
                uncompressed_size: backup.uncompressed_size,
                compressed_size: backup.compressed_size,
                user_data: backup.user_data.as_ref(),
            }),
        }
    }
}

/// A time in UTC with as many digits of its second as it has; none is the time that Go has for it.
struct Time(Option<DateTime<Utc>>);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(time) = self.0 else {
            return serializer.serialize_str("0001-01-01T00:00:00Z");
        };
        let seconds = time.format("%Y-%m-%dT%H:%M:%S").to_string();
        let fraction = format!(".{:09}", time.timestamp_subsec_nanos());
        let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
        serializer.serialize_str(&format!("{seconds}{fraction}Z"))
    }
}

/// One at a time: parsed, it can take a hundred times the room of its text.
fn parsed<S: Serializer>(user_data: &Option<&UserData>, serializer: S) -> Result<S::Ok, S::Error> {
    user_data.map(UserData::to_value).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup() -> BackupDetail {
        let time = |text: &str| text.parse().expect("a time");
        BackupDetail {
            backup_name: "base_000000010000000000000003".to_owned(),
            time: time("2026-11-20T10:00:02.5Z"),
            wal_file_name: "000000010000000000000003".to_owned(),
            start_time: time("2026-11-20T10:00:00.123450Z"),
            finish_time: time("2026-11-20T10:00:01Z"),
            date_fmt: "%Y-%m-%dT%H:%M:%S.%fZ".to_owned(),
            hostname: "<host>".to_owned(),
            data_dir: "/d".to_owned(),
            pg_version: 150_020,
            start_lsn: 0x300_0028,
            finish_lsn: 0x300_0100,
            is_permanent: false,
            system_identifier: Some(7),
            uncompressed_size: 100,
            compressed_size: 10,
            user_data: UserData::of_text(r#"{"b": 1, "a": [2]}"#),
            timeline: Some(1),
            parent: None,
            chain: Vec::new(),
            corrupt_pages: None,
            links: Vec::new(),
            left_out: Vec::new(),
            restorable: true,
            proven: None,
            problem: None,
        }
    }

    #[test]
    fn the_plain_list_and_the_table_are_those_of_wal_g() {
        let list = [backup()];
        assert_eq!(
            backups(&list, false, false, false),
            "backup_name                   modified             wal_file_name            storage_name\n\
             base_000000010000000000000003 2026-11-20T10:00:02Z 000000010000000000000003 default\n"
        );
        assert_eq!(
            backups(&list, true, false, false),
            "+---+-------------------------------+--------------------------------+--------------------------+--------------+\n\
             | # | BACKUP NAME                   | MODIFIED                       | WAL FILE NAME            | STORAGE NAME |\n\
             +---+-------------------------------+--------------------------------+--------------------------+--------------+\n\
             | 0 | base_000000010000000000000003 | Friday, 20-Nov-26 10:00:02 UTC | 000000010000000000000003 | default      |\n\
             +---+-------------------------------+--------------------------------+--------------------------+--------------+\n"
        );
        let detail = backups(&list, false, false, true);
        assert!(
            detail.ends_with(
                " 2026-11-20T10:00:00Z 2026-11-20T10:00:01Z <host>   /d       150020     0/3000028 0/3000100  false\n"
            ),
            "{detail}"
        );
        assert_eq!(backups(&[], true, false, true), "");
    }

    #[test]
    fn json_has_the_fields_of_wal_g_in_its_order() {
        assert_eq!(
            backups(&[backup()], false, true, true),
            concat!(
                r#"[{"backup_name":"base_000000010000000000000003","time":"2026-11-20T10:00:02.5Z","#,
                r#""wal_file_name":"000000010000000000000003","storage_name":"default","#,
                r#""start_time":"2026-11-20T10:00:00.12345Z","finish_time":"2026-11-20T10:00:01Z","#,
                r#""date_fmt":"%Y-%m-%dT%H:%M:%S.%fZ","hostname":"\u003chost\u003e","data_dir":"/d","pg_version":150020,"#,
                r#""start_lsn":50331688,"finish_lsn":50331904,"is_permanent":false,"system_identifier":7,"#,
                r#""uncompressed_size":100,"compressed_size":10,"user_data":{"a":[2],"b":1}}]"#,
                "\n"
            )
        );
        assert_eq!(backups(&[], false, true, false), "[]\n");
        assert!(!backups(&[backup()], false, true, false).contains("start_time"));
    }
}
