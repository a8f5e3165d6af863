//! What the user is told on the way.

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

/// Does the server archive its WAL? If it does not, the user is told at once that the backup waits for somebody else to do it.
pub fn archiving(facts: &Facts) -> bool {
    let mode = facts.setting("archive_mode").unwrap_or("on");
    // A role that may not see the command sees none, and a standby leaves it to its primary.
    let knows = facts.setting("config_file").is_some() && !facts.in_recovery;
    let nothing = facts
        .setting("archive_command")
        .is_none_or(|command| command == "(disabled)")
        && facts.setting("archive_library").is_none();
    let reason = match mode {
        "off" if !facts.in_recovery => "archive_mode is off",
        _ if knows && nothing => "archive_command is empty",
        _ => return true,
    };
    warning(&format!(
        "{reason}, so the backup waits until another program stores its WAL, and fails if none does"
    ));
    false
}

/// What to look at while the WAL of a backup is missing.
pub fn who_archives(facts: &Facts) -> &'static str {
    if facts.in_recovery {
        return "The primary archives it once the segment is complete; switching its WAL there completes it.";
    }
    match facts.setting("archive_mode") {
        Some("off") => {
            "Set archive_mode to on and archive_command to 'walarchive wal-push \"%p\"', and restart the server, or receive the WAL \
             by another program. The backup cannot be restored without it."
        }
        _ => {
            "Check that the archiver works and writes into this repository: see pg_stat_archiver and the server's log."
        }
    }
}

/// What was found while copying that the user should know.
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
