//! Core's errors as server messages: SQLSTATE, message, DETAIL and HINT.

use pgrx::{PgLogLevel, PgSqlErrorCode, ereport};
use walarchive_core::backup::CorruptPages;
use walarchive_core::{Error, printable};

use crate::pg::text::message;
use crate::pg::{CaughtError, ErrorReport};
use crate::shmem::{Failure, Text};

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

/// The SQLSTATE of an error.
fn sqlstate(error: &Error) -> PgSqlErrorCode {
    use PgSqlErrorCode::*;
    match error {
        Error::Config { .. } | Error::WrongRegion { .. } => ERRCODE_CONFIG_FILE_ERROR,
        Error::Unauthorized { .. } | Error::NoCredentials { .. } => ERRCODE_INSUFFICIENT_PRIVILEGE,
        Error::NoSuchStore { .. } | Error::NotFound { .. } | Error::NoBackup { .. } => ERRCODE_UNDEFINED_FILE,
        Error::Store { .. } | Error::ClockSkew { .. } => ERRCODE_CONNECTION_FAILURE,
        Error::Unsupported { .. } => ERRCODE_FEATURE_NOT_SUPPORTED,
        Error::Timeout { .. } => ERRCODE_CONNECTION_DOES_NOT_EXIST,
        Error::Conflict { .. } | Error::BackupExists { .. } => ERRCODE_DUPLICATE_FILE,
        Error::ForeignRepository { .. } | Error::OtherSegmentSize { .. } | Error::NotWriter { .. } => {
            ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
        }
        Error::InvalidWal { .. } | Error::Damaged { .. } | Error::CorruptPages { .. } => ERRCODE_DATA_CORRUPTED,
        Error::Io { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull => ERRCODE_DISK_FULL,
            std::io::ErrorKind::NotFound => ERRCODE_UNDEFINED_FILE,
            std::io::ErrorKind::PermissionDenied => ERRCODE_INSUFFICIENT_PRIVILEGE,
            _ => ERRCODE_IO_ERROR,
        },
        Error::Cancelled => ERRCODE_QUERY_CANCELED,
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Failure {
            sqlstate: sqlstate(error) as i32,
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
                message: Text::new(ereport.message()),
                detail: Text::EMPTY,
                hint: Text::new("This is a defect of walarchive; please report it."),
            };
        };
        Failure {
            sqlstate: report.sql_error_code() as i32,
            message: Text::new(report.message()),
            detail: Text::new(report.detail().unwrap_or_default()),
            hint: Text::new(report.hint().unwrap_or_default()),
        }
    }
}

fn report(failure: &Failure, text: String) -> ErrorReport {
    let shown = |text: &str| message(text).into_owned();
    let sqlstate = PgSqlErrorCode::from(failure.sqlstate as isize);
    let mut report = ErrorReport::new(sqlstate, shown(&text), "walarchive");
    if let Some(detail) = failure.detail.to_option() {
        report = report.set_detail(shown(&detail));
    }
    if let Some(hint) = failure.hint.to_option() {
        report = report.set_hint(shown(&hint));
    }
    report
}

/// A WARNING: `context: message`, with DETAIL and HINT.
pub fn warn(context: &str, failure: &Failure) {
    report(failure, format!("{context}: {}", failure.message.as_str())).report(PgLogLevel::WARNING);
}

/// A WARNING, with DETAIL and HINT.
pub fn notify(failure: &Failure) {
    report(failure, failure.message.as_str().to_owned()).report(PgLogLevel::WARNING);
}

/// End the statement with this failure.
pub fn raise(failure: &Failure) -> ! {
    report(failure, failure.message.as_str().to_owned()).report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// The value, or the end of the statement.
pub fn or_raise<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| raise(&Failure::from(&error)))
}

/// A NOTICE to the client.
pub fn notice(text: &str) {
    pgrx::notice!("{}", message(text));
}

/// A line of core's for the server's log.
pub fn log_line(severity: Severity, text: &str) {
    let text = message(&printable::line(text)).into_owned();
    match severity {
        Severity::Warning => ereport!(
            PgLogLevel::WARNING,
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("walarchive: {text}")
        ),
        Severity::Log => pgrx::log!("walarchive: {text}"),
        Severity::Debug => pgrx::debug1!("walarchive: {text}"),
    }
}
