//! Records that matter to somebody who is about to replay them.

use std::fmt;

use chrono::{DateTime, Utc};

use super::pages::bytes;
use crate::lsn::Lsn;

/// So many are kept of one segment: nobody makes more restore points and tablespaces than that.
pub(super) const MOST: usize = 1000;

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Where the record that says so begins.
    pub lsn: Lsn,
    /// When it ended.
    pub time: DateTime<Utc>,
    /// Its ID, by the lower 32 bits; none of one that was prepared.
    pub xid: Option<u32>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its changes are there from then on.
    Commit,
    /// They are not.
    Abort,
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// The name that it was given.
    pub name: String,
    /// Where its record begins.
    pub lsn: Lsn,
    /// When it was made.
    pub time: Option<DateTime<Utc>>,
}

/// The effect of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `pg_create_restore_point()`.
    RestorePoint(RestorePoint),
    /// `CREATE TABLESPACE`.
    Tablespace {
        /// Its OID.
        oid: u32,
        /// Its directory; empty for one inside the data directory.
        location: String,
    },
    /// The server was started with other values of [`Parameters`].
    Parameters(Parameters),
}

impl Event {
    /// Is it a tablespace with a directory of its own?
    pub fn is_outside(&self) -> bool {
        matches!(self, Event::Tablespace { location, .. } if !location.is_empty())
    }
}

/// Settings that must not be lower on a server that replays WAL as a hot standby than on the one that wrote it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Those that the version does not tell are none.
    values: [Option<i32>; 5],
}

impl Parameters {
    /// Their names, and PostgreSQL's defaults.
    const KNOWN: [(&'static str, i32); 5] = [
        ("max_connections", 100),
        ("max_worker_processes", 8),
        ("max_wal_senders", 10),
        ("max_prepared_transactions", 0),
        ("max_locks_per_transaction", 64),
    ];

    /// `xl_parameter_change`, which has them in this order. `max_wal_senders` is among them since PostgreSQL 12: before, it took
    /// its sessions from `max_connections`.
    pub(super) fn parse(data: &[u8], is_since_12: bool) -> Option<Self> {
        let places = match is_since_12 {
            true => [Some(0), Some(1), Some(2), Some(3), Some(4)],
            false => [Some(0), Some(1), None, Some(2), Some(3)],
        };
        data.get(..4 * places.iter().flatten().count())?;
        let value = |place: usize| i32::from_le_bytes(bytes(data, 4 * place));
        Some(Parameters {
            values: places.map(|place| place.map(value)),
        })
    }

    /// The greater value of each.
    pub fn max(self, other: Self) -> Self {
        let mut values = self.values;
        values
            .iter_mut()
            .zip(other.values)
            .for_each(|(value, other)| *value = other.max(*value));
        Parameters { values }
    }

    /// Name, value, and the value that a server has which is told nothing.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, i32, i32)> {
        let known = Self::KNOWN.into_iter().zip(self.values);
        known.filter_map(|((name, default), value)| Some((name, value?, default)))
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self
            .each()
            .map(|(name, value, _)| format!("{name} = {value}"))
            .collect();
        f.write_str(&each.join(", "))
    }
}

/// Up to its zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
