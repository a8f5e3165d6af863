//! Messages to the user on the way.

use walarchive_client::server::Facts;
use walarchive_core::backup::PreparedBackup;

use crate::print::plain;

/// Left-out files that are named.
const NAMED: usize = 10;

/// A note on stderr.
pub fn note(text: &str) {
    eprintln!("walarchive: note: {}", plain(text));
}

/// A warning on stderr.
pub fn warning(text: &str) {
    eprintln!("walarchive: warning: {}", plain(text));
}

/// How a server archives its WAL, as far as it is known.
#[derive(Debug, Clone)]
pub struct Archiving {
    /// `archive_mode`.
    pub mode: Option<String>,
    /// Is a command or a library set? None if the role may not see that.
    pub is_configured: Option<bool>,
    /// A standby leaves it to its primary.
    pub in_recovery: bool,
}

impl Archiving {
    /// That of a server.
    pub fn of(facts: &Facts) -> Self {
        let command = facts
            .setting("archive_command")
            .is_some_and(|command| command != "(disabled)");
        Archiving {
            mode: facts.setting("archive_mode").map(str::to_owned),
            // A role that may not see the one may not see the other.
            is_configured: facts
                .setting("config_file")
                .map(|_| command || facts.setting("archive_library").is_some()),
            in_recovery: facts.in_recovery,
        }
    }

    /// Does the server archive, as far as is known?
    pub fn archives(&self) -> bool {
        self.problem().is_none()
    }

    fn problem(&self) -> Option<&'static str> {
        match self.mode.as_deref() {
            _ if self.in_recovery => None,
            Some("off") => Some("archive_mode is off"),
            _ if self.is_configured == Some(false) => Some("archive_command is empty"),
            _ => None,
        }
    }

    /// If the server archives nothing, tell the user at once that the backup waits for somebody else to do it.
    pub fn tell(&self) {
        if let Some(problem) = self.problem() {
            warning(&format!(
                "{problem}, so the backup waits until another program stores its WAL, and fails if none does"
            ));
        }
    }

    /// The place to look at while the WAL of a backup is missing.
    pub fn hint(&self) -> &'static str {
        if self.in_recovery {
            return "The primary archives it once the segment is complete; switching its WAL there completes it.";
        }
        match self.mode.as_deref() {
            Some("off") => {
                "Set archive_mode to on and archive_command to 'walarchive wal-push \"%p\"', and restart the server, or receive \
                 the WAL by another program. The backup cannot be restored without it."
            }
            _ => {
                "Check that the archiver works and writes into this repository: see pg_stat_archiver and the server's log."
            }
        }
    }
}

/// Findings of the copy that the user should know.
pub fn findings(prepared: &PreparedBackup) {
    let corrupt = prepared.corrupt_pages();
    if corrupt.pages > 0 {
        warning(&format!(
            "{} pages with a wrong checksum were copied as they are: {corrupt}",
            corrupt.pages
        ));
    }
    let (left_out, count) = prepared.left_out();
    if count > 0 {
        let named: Vec<String> = left_out.iter().take(NAMED).map(ToString::to_string).collect();
        note(&format!(
            "{count} entries of the data directory are not in the backup, because they are not the server's: {}",
            named.join(", ")
        ));
    }
}
