//! Whose turn it is.

use super::Error;

/// Who has to act before another attempt can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Whoever asked: a setting, an argument, credentials, or a decision about what is in the repository.
    User,
    /// The store, or the way to it.
    Store,
    /// The machine that this runs on: PostgreSQL, its files and the system below them.
    Server,
    /// walarchive, which has a defect.
    Ours,
}

impl Error {
    /// Who has to act before another attempt can succeed?
    pub fn turn(&self) -> Turn {
        match self {
            Error::Store { .. } | Error::NoAnswer { .. } | Error::Timeout { .. } => Turn::Store,
            Error::Io { .. } => Turn::Server,
            // A fence that cannot tell has asked the store.
            Error::Refused(refusal) if !refusal.is_final => Turn::Store,
            Error::Setting { .. }
            | Error::Unauthorized { .. }
            | Error::ClockSkew { .. }
            | Error::NoCredentials { .. }
            | Error::NoSuchStore { .. }
            | Error::WrongRegion { .. }
            | Error::NotFound { .. }
            | Error::Unsupported { .. }
            | Error::Damaged { .. }
            | Error::BehindLink { .. }
            | Error::Refused(_)
            | Error::Cancelled => Turn::User,
        }
    }
}
