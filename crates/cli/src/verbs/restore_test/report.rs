//! The result of a drill, for people.

use std::fmt::Write;
use std::path::Path;

use walarchive_core::printable;
use walarchive_core::repository::drills::{Drill, DrillStatus};

use super::args::RestoreTest;
use crate::print;

/// Tell the user what happens.
pub fn say(args: &RestoreTest, text: &str) {
    if !args.quiet {
        eprintln!("walarchive: {}", printable::lines(text));
    }
}

/// How to connect to a server that is kept, and how to end it.
pub fn connect(data: &Path, socket: &Path, role: &str, pg_ctl: &Path) -> String {
    format!(
        "the server is running; connect with: psql -h {socket} -p 5432 -U {role}\n\
         stop it with: {pg_ctl} stop -D {data}\n\
         The next restore drill removes its directory after that.",
        socket = socket.display(),
        data = data.display(),
        pg_ctl = pg_ctl.display()
    )
}

/// Where to look for the reason why a server that was to be kept has ended.
pub fn ended(data: &Path, log: &Path) -> String {
    format!(
        "the server has ended; its log is \"{log}\", its directory \"{data}\"\n\
         The next restore drill removes both.",
        log = log.display(),
        data = data.display()
    )
}

/// A line for each check, and what was reached.
pub fn text(drill: &Drill) -> String {
    let mut text = String::new();
    for check in &drill.checks {
        let mut lines = check.detail.lines();
        let first = lines.next().unwrap_or_default();
        // A String takes everything.
        let _ = writeln!(
            text,
            "{:<16} {:<8} {:>9.1} s  {}",
            check.check,
            check.status.as_str(),
            check.seconds,
            printable::line(first)
        );
        for line in lines {
            let _ = writeln!(text, "{:>38}{}", "", printable::line(line));
        }
    }
    let backup = printable::line(&drill.backup);
    text.push_str(&match drill.status {
        DrillStatus::Ok => format!("backup \"{backup}\" is proven: {}", reached(drill)),
        DrillStatus::Failed | DrillStatus::Skipped => format!("backup \"{backup}\" failed the restore drill"),
    });
    text
}

fn reached(drill: &Drill) -> String {
    let seconds = |seconds: Option<f64>| seconds.unwrap_or_default();
    let mut text = format!(
        "restored in {:.1} s, recovered in {:.1} s",
        seconds(drill.restore_seconds),
        seconds(drill.replay_seconds)
    );
    if let Some(lsn) = drill.lsn {
        let _ = write!(text, ", to LSN {lsn}");
    }
    match drill.last_transaction_time {
        Some(time) => text.push_str(&format!(", the last transaction at {}", print::time(time))),
        None => text.push_str(", without a transaction"),
    }
    text.push_str(&drill.left_out());
    text
}
