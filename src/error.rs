//! Core's errors as server messages: SQLSTATE, message, DETAIL and HINT.

use pgrx::{PgLogLevel, PgSqlErrorCode};
use walarchive_core::backup::CorruptPages;
use walarchive_core::formats::LeftOut;
use walarchive_core::{Error, printable, wal_g};

use crate::guc;
use crate::pg::CaughtError;
use crate::pg::report::{self, Report};
use crate::shmem::{Failure, Text};

/// The most entries that the client is told were left out. The log and the metadata of the backup have more.
const NAMED: usize = 8;

mod repeat;
mod sqlstate;

/// How a line that core logged appears in the server's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// WARNING.
    Warning,
    /// LOG.
    Log,
    /// DEBUG1.
    Debug,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Failure {
            sqlstate: sqlstate::of(error) as i32,
            canceled: matches!(error, Error::Cancelled),
            message: Text::new(&error.to_string()),
            detail: Text::new(&error.detail().unwrap_or_default()),
            hint: Text::new(&error.hint().unwrap_or_default()),
        }
    }
}

impl From<&CorruptPages> for Failure {
    fn from(corrupt: &CorruptPages) -> Self {
        let count = match corrupt.pages {
            1 => "one page with a wrong checksum".to_owned(),
            pages => format!("{pages} pages with a wrong checksum"),
        };
        Failure {
            sqlstate: PgSqlErrorCode::ERRCODE_DATA_CORRUPTED as i32,
            canceled: false,
            message: Text::new(&format!("the backup holds {count}, as the server's files do")),
            detail: Text::new(&format!("In {corrupt}.")),
            hint: Text::new(
                "Find the relations with pg_filenode_relation() and check them, with pg_amcheck for example; keep an older \
                 backup until they are repaired.",
            ),
        }
    }
}

impl From<&CaughtError> for Failure {
    fn from(error: &CaughtError) -> Self {
        let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = error else {
            let CaughtError::RustPanic { ereport, .. } = error else {
                unreachable!("the two others were matched")
            };
            return Failure {
                sqlstate: PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as i32,
                canceled: false,
                message: Text::new(ereport.message()),
                detail: Text::EMPTY,
                hint: Text::new(walarchive_core::REPORT_IT),
            };
        };
        Failure {
            sqlstate: report.sql_error_code() as i32,
            canceled: report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            message: Text::new(report.message()),
            detail: Text::new(report.detail().unwrap_or_default()),
            hint: Text::new(report.hint().unwrap_or_default()),
        }
    }
}

fn report<'a>(failure: &'a Failure, message: &'a str) -> Report<'a> {
    Report {
        sqlstate: PgSqlErrorCode::from(failure.sqlstate as isize),
        message,
        detail: failure.detail.as_str(),
        hint: failure.hint.as_str(),
    }
}

/// A WARNING: `context: message`, with DETAIL and HINT.
pub fn warn(context: &str, failure: &Failure) {
    let message = format!("{context}: {}", failure.message.as_str());
    if repeat::is_said(&message) {
        return;
    }
    report::emit(PgLogLevel::WARNING, &report(failure, &message));
}

/// A WARNING, with DETAIL and HINT.
pub fn notify(failure: &Failure) {
    report::emit(PgLogLevel::WARNING, &report(failure, failure.message.as_str()));
}

/// Name once the variables of WAL-G in the server's environment that have no effect, and those that do not allow it to write.
pub fn warn_of_wal_g() {
    let refused = guc::refuse_plain_text();
    let mut unread = wal_g::not_read_by_server(std::env::vars_os());
    if refused.is_ok() {
        // The server has keys of its own. Only the passphrase is for them.
        let keys = wal_g::encryption_settings(std::env::vars_os());
        unread.extend(keys.into_iter().filter(|name| name != "WALG_PGP_KEY_PASSPHRASE"));
    }
    if !unread.is_empty() {
        let message = format!(
            "walarchive: variables of WAL-G have no effect on this server: {}",
            unread.join(", ")
        );
        let hint = "The server has settings of its own, such as walarchive.storage and walarchive.compression; the binary \
                    \"walarchive\" reads these variables.";
        warning(PgSqlErrorCode::ERRCODE_WARNING, &message, "", hint);
    }
    if let Err(refused) = refused {
        warn("WAL cannot be archived", &Failure::from(&refused));
    }
}

/// A NOTICE, with DETAIL and HINT.
pub fn tell(failure: &Failure) {
    report::emit(PgLogLevel::NOTICE, &report(failure, failure.message.as_str()));
}

/// The NOTICE of a backup that has left something out.
pub fn left_out(first: &[LeftOut], count: u64) -> Option<Failure> {
    if count == 0 {
        return None;
    }
    let named: Vec<String> = first.iter().take(NAMED).map(LeftOut::to_string).collect();
    let more = match count.saturating_sub(named.len() as u64) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(Failure {
        sqlstate: PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION as i32,
        canceled: false,
        message: Text::new(&match count {
            1 => "1 entry of the data directory is not in the backup".to_owned(),
            _ => format!("{count} entries of the data directory are not in the backup"),
        }),
        detail: Text::new(&format!("Left out: {}{more}.", named.join(", "))),
        hint: Text::new(
            "Symbolic links are followed only where the server keeps its own data. Back up what else you need by other means.",
        ),
    })
}

/// Databases whose tables a backup cannot name, and why, for a NOTICE.
pub fn unnamed(refused: &[(&str, Error)]) -> Option<Failure> {
    let (_, reason) = refused.first()?;
    let named = refused.iter().take(NAMED);
    let named: Vec<String> = named.map(|(name, _)| format!("\"{}\"", name.escape_debug())).collect();
    let more = match refused.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(Failure {
        sqlstate: PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION as i32,
        canceled: false,
        message: Text::new("the backup does not have the names of all tables"),
        detail: Text::new(&format!("Not of those in {}{more}: {reason}.", named.join(", "))),
        hint: Text::new("A restore can choose these databases, but no tables of them. See the server's log."),
    })
}

/// End the statement with this failure.
pub fn raise(failure: &Failure) -> ! {
    report::raise(&report(failure, failure.message.as_str()))
}

/// The value, or the end of the statement.
pub fn or_raise<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| raise(&Failure::from(&error)))
}

/// A WARNING.
pub fn warning(sqlstate: PgSqlErrorCode, message: &str, detail: &str, hint: &str) {
    let report = Report {
        sqlstate,
        message,
        detail,
        hint,
    };
    report::emit(PgLogLevel::WARNING, &report);
}

/// A NOTICE to the client.
pub fn notice(text: &str) {
    notice_with_detail(text, "");
}

/// A NOTICE to the client, with DETAIL.
pub fn notice_with_detail(text: &str, detail: &str) {
    plain(PgLogLevel::NOTICE, text, detail);
}

fn plain(level: PgLogLevel, message: &str, detail: &str) {
    let report = Report {
        sqlstate: PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        message,
        detail,
        hint: "",
    };
    report::emit(level, &report);
}

/// A line of core's for the server's log.
pub fn log_line(severity: Severity, text: &str) {
    let text = format!("walarchive: {}", printable::line(text));
    match severity {
        Severity::Warning if repeat::is_said(&text) => {}
        Severity::Warning => warning(PgSqlErrorCode::ERRCODE_WARNING, &text, "", ""),
        Severity::Log => plain(PgLogLevel::LOG, &text, ""),
        Severity::Debug => plain(PgLogLevel::DEBUG1, &text, ""),
    }
}
