//! Errors of a server, and failures on the way to it.

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use walarchive_core::Error;

use crate::mode::Mode;

/// SQLSTATE of a role that may not do this.
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// SQLSTATE of a database that does not exist.
pub(crate) const NO_DATABASE: &str = "3D000";
/// SQLSTATE of a connection that `pg_hba.conf` does not allow.
pub(crate) const INVALID_AUTHORIZATION: &str = "28000";
/// SQLSTATE of what does not exist, such as a replication slot.
pub(crate) const NO_OBJECT: &str = "42704";
/// SQLSTATE of what exists already.
pub(crate) const OBJECT_EXISTS: &str = "42710";
/// SQLSTATE of a file that does not exist, such as a WAL segment.
pub(crate) const NO_FILE: &str = "58P01";
/// SQLSTATE of a replication slot that the server has given up, and of other states that forbid a command.
const NOT_IN_STATE: &str = "55000";
/// SQLSTATE of a wrong password.
const INVALID_PASSWORD: &str = "28P01";

/// How grave a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// NOTICE, INFO, LOG, DEBUG.
    Notice,
    /// WARNING.
    Warning,
    /// ERROR, FATAL, PANIC.
    Error,
}

/// A message of the server's: an ErrorResponse or a NoticeResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// How grave it is.
    pub severity: Severity,
    /// SQLSTATE.
    pub code: String,
    /// The message.
    pub message: String,
    /// DETAIL.
    pub detail: Option<String>,
    /// HINT.
    pub hint: Option<String>,
}

impl Notice {
    /// Of the fields of such a message. Bytes that are not UTF-8 are replaced: before a session is there, nobody knows the
    /// encoding.
    pub(crate) fn of(mut fields: ErrorFields<'_>) -> std::io::Result<Self> {
        let mut notice = Notice {
            severity: Severity::Notice,
            code: String::new(),
            message: String::new(),
            detail: None,
            hint: None,
        };
        let (mut plain, mut localized) = (None, None);
        while let Some(field) = fields.next()? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => plain = Some(text),
                b'S' => localized = Some(text),
                b'C' => notice.code = text,
                b'M' => notice.message = text,
                b'D' => notice.detail = Some(text),
                b'H' => notice.hint = Some(text),
                _ => {}
            }
        }
        notice.severity = match plain.or(localized).as_deref() {
            Some("ERROR" | "FATAL" | "PANIC") => Severity::Error,
            Some("WARNING") => Severity::Warning,
            _ => Severity::Notice,
        };
        Ok(notice)
    }

    /// The message with its detail.
    fn text(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{} ({})", self.message, detail.trim_end_matches('.')),
            None => self.message.clone(),
        }
    }

    /// Of a statement that failed. `what` says what was being done: "begin the backup".
    pub(crate) fn into_error(self, what: &str) -> Error {
        let hint = match self.code.as_str() {
            INSUFFICIENT_PRIVILEGE => "Connect as a superuser, or grant the role what it needs; see docs/backups.md.",
            _ => "See the server's log.",
        };
        Error::server(
            format!("the server could not {what}: {}", self.text()),
            self.hint.unwrap_or_else(|| hint.to_owned()),
        )
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server said no, and the session is good.
    Server(Notice),
    /// The session is of no more use.
    Lost(Error),
}

impl Failure {
    /// `what` says what was being done.
    pub(crate) fn into_error(self, what: &str) -> Error {
        match self {
            Failure::Server(notice) => notice.into_error(what),
            Failure::Lost(error) => error,
        }
    }

    /// Of a stream of WAL. What another attempt cannot change is a refusal.
    pub(crate) fn of_stream(self) -> Error {
        match self {
            Failure::Server(notice) if notice.code == NO_FILE => Error::refused(
                format!("the server no longer has the WAL that comes next: {}", notice.text()),
                "The WAL in between is lost, unless it is in the repository. Take a base backup, and go on with \"walarchive wal-receive --allow-gap\".",
            ),
            Failure::Server(notice) if notice.code == NOT_IN_STATE => Error::refused(
                format!("the server cannot send WAL by this replication slot: {}", notice.text()),
                "Remove the slot with \"walarchive wal-receive --drop-slot\". The next call makes it anew.",
            ),
            other => other.into_error("send WAL"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Lost(error)
    }
}

/// Why one attempt to connect failed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The server was not reached, or the connection broke.
    Unreachable(String),
    /// The two sides could not agree on TLS.
    Tls(String),
    /// The server said no.
    Server(Notice),
    /// Something on this side: a password that is missing, a method that is not known.
    Here(Error),
}

impl Refusal {
    /// The error that is reported. `server` is how messages call it, and `mode` what the session was for.
    pub(crate) fn into_error(self, server: &str, mode: Mode) -> Error {
        let connect = |reason: String, hint: &str| {
            Error::server(format!("could not connect to the server at {server}: {reason}"), hint)
        };
        match self {
            Refusal::Here(error) => error,
            Refusal::Unreachable(reason) => connect(
                reason,
                "Check that the server runs, and PGHOST, PGPORT or the service that name it.",
            ),
            Refusal::Tls(reason) => connect(reason, "Check PGSSLMODE, PGSSLROOTCERT and the server's certificate."),
            Refusal::Server(notice) => {
                let hint = match notice.code.as_str() {
                    INSUFFICIENT_PRIVILEGE => match mode {
                        Mode::Replication => "Give the role the right by ALTER ROLE ... REPLICATION.",
                        Mode::Sql => "Give the role the right by GRANT CONNECT ON DATABASE.",
                    },
                    INVALID_PASSWORD => "Check PGUSER, and PGPASSWORD or the password file.",
                    INVALID_AUTHORIZATION => "Check PGUSER, PGDATABASE and the server's pg_hba.conf.",
                    NO_DATABASE => "Name a database by PGDATABASE.",
                    _ => "See the server's log.",
                };
                let text = notice.text();
                connect(text, notice.hint.as_deref().unwrap_or(hint))
            }
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Refusal::Unreachable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_is_missing_is_that_of_the_session() {
        let refused = |mode| {
            let notice = Notice {
                severity: Severity::Error,
                code: INSUFFICIENT_PRIVILEGE.to_owned(),
                message: "permission denied".to_owned(),
                detail: None,
                hint: None,
            };
            let error = Refusal::Server(notice).into_error("the host", mode);
            error.hint().expect("a hint").to_string()
        };
        assert!(refused(Mode::Replication).contains("ALTER ROLE ... REPLICATION"));
        assert!(refused(Mode::Sql).contains("GRANT CONNECT ON DATABASE"));
    }
}
