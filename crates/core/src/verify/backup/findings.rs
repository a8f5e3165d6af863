//! The rows of a report on a backup.

use serde::Serialize;

use crate::verify::VerifyStatus;

/// Of one kind of finding, so many are told one by one.
const TOLD: usize = 100;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupFinding {
    /// The kind of thing: "sentinel", "manifest", "tar", "file", "pages", "configuration" or "wal".
    pub what: &'static str,
    /// OK, or what it means.
    pub status: VerifyStatus,
    /// The object's key, the file's path or the name of the segment.
    pub path: String,
    /// A sentence.
    pub detail: String,
}

/// Bounded, however much is wrong.
#[derive(Debug)]
pub(super) struct Findings {
    rows: Vec<BackupFinding>,
    pub(super) worst: VerifyStatus,
    untold: u64,
}

impl Default for Findings {
    fn default() -> Self {
        Findings {
            rows: Vec::new(),
            worst: VerifyStatus::Ok,
            untold: 0,
        }
    }
}

impl Findings {
    pub(super) fn add(
        &mut self,
        what: &'static str,
        status: VerifyStatus,
        path: impl Into<String>,
        detail: impl Into<String>,
    ) {
        self.worst = self.worst.max(status);
        if self.rows.iter().filter(|row| row.what == what).count() >= TOLD && status != VerifyStatus::Ok {
            self.untold += 1;
            return;
        }
        self.rows.push(BackupFinding {
            what,
            status,
            path: path.into(),
            detail: detail.into(),
        });
    }

    pub(super) fn into_rows(mut self) -> Vec<BackupFinding> {
        if self.untold > 0 {
            let detail = format!("{} more are wrong.", self.untold);
            self.rows.push(BackupFinding {
                what: "file",
                status: self.worst,
                path: String::new(),
                detail,
            });
        }
        self.rows
    }
}
