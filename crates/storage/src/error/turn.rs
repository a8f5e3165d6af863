//! Whose turn it is.

use super::Error;

/// Who has to act before another attempt can succeed. Only this decides whether something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The one who asked: a setting, an argument, credentials, or a decision about what is in the repository.
    User,
    /// The store, or the way to it. This may pass by itself.
    Store,
    /// The machine that this runs on: its files, its clock and the system below them. This may pass by itself.
    Machine,
    /// walarchive, which has a defect.
    Ours,
}

impl Turn {
    /// May the failure pass by itself, so that trying again makes sense without anybody changing anything?
    pub fn may_pass_by_itself(self) -> bool {
        match self {
            Turn::Store | Turn::Machine => true,
            Turn::User | Turn::Ours => false,
        }
    }
}

impl Error {
    /// Who has to act before another attempt can succeed?
    pub fn turn(&self) -> Turn {
        match self {
            Error::Store { .. } | Error::NoAnswer { .. } | Error::Timeout { .. } => Turn::Store,
            // NTP sets a clock, mostly.
            Error::Io { .. } | Error::ClockSkew { .. } => Turn::Machine,
            // A fence that cannot tell has asked the store.
            Error::Refused(refusal) if !refusal.is_final => Turn::Store,
            Error::Setting { .. }
            | Error::Unauthorized { .. }
            | Error::NoCredentials { .. }
            | Error::NoSuchStore { .. }
            | Error::WrongRegion { .. }
            | Error::NotFound { .. }
            | Error::Unusable { .. }
            | Error::Unsupported { .. }
            | Error::Damaged { .. }
            | Error::Sealed { .. }
            | Error::BehindLink { .. }
            | Error::Refused(_)
            | Error::Cancelled => Turn::User,
        }
    }
}
