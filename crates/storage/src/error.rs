//! Failures of a store, or of the way to it: what happened, to which object, and what to do about it.

mod hints;
mod turn;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::crypt::Flaw;

pub use turn::Turn;

/// What can go wrong. [`Error::turn`] alone decides whether something is tried again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An option of the store, or a file that one names, that cannot be right.
    #[error("{message}")]
    Setting {
        /// What is wrong.
        message: String,
        /// What to change.
        hint: String,
    },
    /// The store does not accept the credentials, or they do not suffice.
    #[error("the store denied permission to {operation} \"{object}\"")]
    Unauthorized {
        /// The verb: "read", "write", "list", "delete".
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// What the store said.
        reason: String,
        /// The source of the credentials in use, if that is known: "the file "/x"".
        credentials: Option<String>,
    },
    /// The clock of this machine and that of the store differ by more than the store accepts.
    #[error("could not {operation} \"{object}\", because the clocks of this machine and of the store differ")]
    ClockSkew {
        /// The verb: "read", "write", "list", "delete".
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// Both times, and how far they are apart.
        reason: String,
    },
    /// No place where credentials are looked for had any.
    #[error("no credentials were found for \"{object}\"")]
    NoCredentials {
        /// The object's URL.
        object: String,
        /// The result of the last try.
        reason: String,
    },
    /// The bucket, container or directory of the URL is not there.
    #[error("\"{target}\" does not exist")]
    NoSuchStore {
        /// The URL up to the bucket, or the directory.
        target: String,
        /// What the store said.
        reason: String,
    },
    /// The bucket is in another region than the one that the requests are signed for.
    #[error("\"{target}\" is in another region")]
    WrongRegion {
        /// The URL up to the prefix.
        target: String,
        /// The right one, where the store says it.
        region: Option<String>,
        /// What the store said.
        reason: String,
    },
    /// An object that is not there.
    #[error("\"{object}\" does not exist in the repository")]
    NotFound {
        /// The object's URL.
        object: String,
    },
    /// The store could not be asked, or answered with an error of its own.
    #[error("could not {operation} \"{object}\"")]
    Store {
        /// The verb: "read", "write", "list", "delete".
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// What the store or the network said.
        reason: String,
    },
    /// What answers there, or what is there, is not the store, or no server that this client gets on with. It stays so until somebody
    /// changes something.
    #[error("could not {operation} \"{object}\"")]
    Unusable {
        /// The verb: "read", "write", "list", "delete".
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// What it said, or what it is.
        reason: String,
    },
    /// The store does not know how to do what it was asked for.
    #[error("the store does not support what is needed to {operation} \"{object}\"")]
    Unsupported {
        /// The verb.
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// What the store said.
        reason: String,
    },
    /// The store did not answer a request in time, and no further attempt helped.
    #[error("could not {operation} \"{object}\"")]
    NoAnswer {
        /// The verb: "read", "write", "list", "delete".
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// What the client of the store said.
        reason: String,
    },
    /// Something as a whole was not done within the time that it had.
    #[error("could not {operation} \"{object}\" within {}", seconds(*.deadline))]
    Timeout {
        /// The verb.
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// The deadline that passed.
        deadline: Duration,
    },
    /// An object whose content cannot be what was stored.
    #[error("\"{object}\" is damaged")]
    Damaged {
        /// The object's URL or the file's path.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object that cannot be decrypted with the keys that are configured.
    #[error("\"{object}\" {flaw}")]
    Sealed {
        /// The object's URL.
        object: String,
        /// The reason: never damage, which is an error of its own.
        flaw: Flaw,
    },
    /// Something to be removed is behind a symbolic link.
    #[error("\"{object}\" was not removed, because \"{link}\" is a symbolic link")]
    BehindLink {
        /// The object's URL.
        object: String,
        /// The link's key in the repository.
        link: String,
    },
    /// A local file could not be used.
    #[error("could not {operation} \"{}\": {source}", path.display())]
    Io {
        /// The verb: "open", "read", "write", "create", "remove", "rename".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The work was cancelled from outside.
    #[error("canceled on request")]
    Cancelled,
    /// The fence did not let a change through.
    #[error("{0}")]
    Refused(Refusal),
}

/// Why a fence does not permit a change.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The error of whoever made the fence.
    pub reason: Arc<dyn std::error::Error + Send + Sync>,
    /// Is this an answer, as opposed to a fence that cannot tell at the moment?
    pub is_final: bool,
}

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const TOO_SLOW: &str = "The store does not answer in time, or the link to it is slow. Check the store and the network. A server \
                        waits longer with a larger walarchive.archive_timeout.";

impl Error {
    /// A wrong option, with what to change.
    pub fn config(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Setting {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Something was not done within the time that it had.
    pub fn timeout(operation: &'static str, object: impl Into<String>, deadline: Duration) -> Self {
        Error::Timeout {
            operation,
            object: object.into(),
            deadline,
        }
    }

    /// A local file that could not be used.
    pub fn io(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::Io {
            operation,
            path: path.as_ref().to_path_buf(),
            source: Arc::new(source),
        }
    }

    /// A damaged object.
    pub fn damaged(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Damaged {
            object: object.into(),
            reason: reason.into(),
        }
    }

    /// An object that cannot be decrypted.
    pub(crate) fn flawed(object: impl Into<String>, flaw: Flaw) -> Self {
        let object = object.into();
        match flaw.is_damage() {
            true => Error::damaged(object, flaw.detail()),
            false => Error::Sealed { object, flaw },
        }
    }

    /// May this pass by itself, so that trying again later makes sense without anybody changing anything?
    pub fn is_transient(&self) -> bool {
        self.turn().may_pass_by_itself()
    }

    /// Could the store not be asked at all? A bad answer is an answer.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Error::Store { .. }
                | Error::Unusable { .. }
                | Error::NoAnswer { .. }
                | Error::Timeout { .. }
                | Error::ClockSkew { .. }
                | Error::Unauthorized { .. }
                | Error::NoCredentials { .. }
                | Error::NoSuchStore { .. }
                | Error::WrongRegion { .. }
        )
    }

    /// The facts behind the message, for the DETAIL line.
    pub fn detail(&self) -> Option<String> {
        match self {
            Error::Unauthorized { reason, .. }
            | Error::ClockSkew { reason, .. }
            | Error::NoCredentials { reason, .. }
            | Error::NoSuchStore { reason, .. }
            | Error::WrongRegion { reason, .. }
            | Error::Store { reason, .. }
            | Error::Unusable { reason, .. }
            | Error::NoAnswer { reason, .. }
            | Error::Unsupported { reason, .. }
            | Error::Damaged { reason, .. } => Some(reason.clone()).filter(|reason| !reason.is_empty()),
            Error::Sealed { flaw, .. } => Some(flaw.detail()),
            Error::Timeout { .. } => Some("The store reported neither success nor an error in this time.".to_owned()),
            Error::Setting { .. }
            | Error::NotFound { .. }
            | Error::BehindLink { .. }
            | Error::Io { .. }
            | Error::Cancelled
            | Error::Refused(_) => None,
        }
    }

    /// What to do about a damaged object.
    pub fn hint_of_damaged() -> &'static str {
        "This object of the repository cannot be used. Look for another copy of it, or restore from another backup."
    }

    /// What to do about a local file that could not be used; none where the message says all.
    pub fn hint_of_io(source: &io::Error) -> Option<String> {
        hints::of_io(source)
    }

    /// What to do about it, as a sentence, for the HINT line.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Setting { hint, .. } => hint.as_str(),
            Error::Unauthorized {
                object,
                credentials: Some(credentials),
                ..
            } => return Some(hints::of_origin(object, credentials)),
            Error::ClockSkew { .. } => {
                "Set the clock of this machine by NTP, and the store's if that is your own. The credentials are not the reason."
            }
            Error::Unauthorized { object, .. } | Error::NoCredentials { object, .. } => hints::of_credentials(object),
            Error::WrongRegion {
                region: Some(region), ..
            } => return Some(format!("Set \"aws_region={region}\" in walarchive.storage_options.")),
            Error::WrongRegion { .. } => {
                "Set the region of the bucket in walarchive.storage_options, as in \"aws_region=eu-central-1\", or correct \
                 aws_endpoint."
            }
            Error::NoSuchStore { target, .. } => return Some(hints::of_missing_store(target)),
            Error::Store { reason, .. } | Error::Unusable { reason, .. } => hints::of_reason(reason),
            Error::Unsupported { .. } => {
                "This server does not speak all of the protocol; check walarchive.storage_options, or use another store."
            }
            Error::Timeout { .. } | Error::NoAnswer { .. } => TOO_SLOW,
            Error::Damaged { .. } => return Some(Self::hint_of_damaged().to_owned()),
            Error::Sealed { flaw, .. } => flaw.hint(),
            Error::BehindLink { .. } => {
                "A link may lead anywhere, so nothing behind one is removed. Mount the other file system in the \
                 place of the link, or make the directory of the whole repository the link, or remove these files by hand."
            }
            Error::Io { source, .. } => return hints::of_io(source),
            Error::NotFound { .. } | Error::Cancelled | Error::Refused(_) => return None,
        };
        Some(hint.to_owned())
    }
}

fn seconds(deadline: Duration) -> String {
    if deadline.subsec_millis() == 0 {
        format!("{} s", deadline.as_secs())
    } else {
        format!("{} ms", deadline.as_millis())
    }
}
