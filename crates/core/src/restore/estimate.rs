//! The time that a restore will take, and what is known for it.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// What a restore drill has measured in this repository.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// When.
    pub at: DateTime<Utc>,
    /// On which machine.
    pub host: String,
    /// Stored bytes of the backup that were downloaded, unpacked and written per second; none if that is not of this machine.
    pub restored: Option<f64>,
    /// Segments that were fetched and replayed per second; none if there were too few.
    pub replayed: Option<f64>,
}

/// The time that a restore will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Of the backup itself.
    pub backup: Part,
    /// Of recovery, if there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal: Option<Part>,
}

/// A part of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// The estimate; none if nothing could be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// What it rests on.
    pub basis: String,
}

impl Estimate {
    /// All of it; none if a part is not known.
    pub fn seconds(&self) -> Option<f64> {
        let wal = self.wal.as_ref().map_or(Some(0.0), |wal| wal.seconds)?;
        Some(self.backup.seconds? + wal)
    }
}
