//! One error for the whole crate: what happened, to which object, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use walarchive_storage::Error as StorageError;
use walarchive_storage::Refusal;
pub use walarchive_storage::Turn;
use walarchive_storage::crypt::Flaw;

/// Part of the text of an error about an object that may be encrypted or damaged: nobody can tell.
pub(crate) const MAY_BE_ENCRYPTED: &str = "so it may be encrypted";

/// In the reason of [`Error::InvalidWal`] where a segment has lost its end, or has not got it yet.
pub(crate) const ONLY_BEGINNING: &str = "and zeros behind them";

/// What can go wrong. [`Error::turn`] alone decides whether something is tried again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A setting or an argument that cannot be right.
    #[error("{message}")]
    Setting {
        /// What is wrong.
        message: String,
        /// What to change.
        hint: String,
    },
    /// The present state does not allow what was asked for.
    #[error("{message}")]
    Refused {
        /// What stands in the way.
        message: String,
        /// How to get past it.
        hint: String,
    },
    /// PostgreSQL's own functions or files say what they must not say, or say nothing.
    #[error("{message}")]
    Server {
        /// What they said.
        message: String,
        /// What to look at.
        hint: String,
    },
    /// A state that cannot be has been met.
    #[error("{message}")]
    Defect {
        /// What it is.
        message: String,
    },
    /// An object of other content is under the name.
    #[error("\"{object}\" is already in the repository, with other content than \"{local}\"")]
    Conflict {
        /// The object's URL.
        object: String,
        /// The local file.
        local: String,
        /// Where they differ.
        reason: String,
    },
    /// The repository belongs to another cluster.
    #[error("the repository \"{repository}\" belongs to another cluster")]
    ForeignRepository {
        /// The repository's URL.
        repository: String,
        /// The difference.
        reason: String,
    },
    /// The repository has another writer than this server, or will have.
    #[error("{message}")]
    NotWriter {
        /// What is refused.
        message: String,
        /// Who writes, since when, and what this server is.
        reason: String,
        /// The ways out.
        hint: String,
    },
    /// The repository is this cluster's, and has its WAL in segments of another size.
    #[error(
        "the repository \"{repository}\" has WAL segments of {of_repository} bytes, and this cluster writes segments of {of_cluster}"
    )]
    OtherSegmentSize {
        /// The repository's URL.
        repository: String,
        /// Its `wal_segment_size`, in bytes.
        of_repository: u64,
        /// The cluster's.
        of_cluster: u64,
    },
    /// A WAL file that must not be archived or restored under its name.
    #[error("\"{file}\" is not a valid WAL file of this cluster")]
    InvalidWal {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object whose content cannot be what was stored.
    #[error("\"{object}\" is damaged")]
    Damaged {
        /// The object's URL or the file's path.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An object that somebody has encrypted.
    #[error("\"{object}\" is encrypted, and no key is configured")]
    Encrypted {
        /// The object's URL.
        object: String,
        /// The sign of it.
        reason: String,
    },
    /// An object that cannot be decrypted with the keys that are configured.
    #[error("\"{object}\" {flaw}")]
    Sealed {
        /// The object's URL.
        object: String,
        /// The reason.
        flaw: Flaw,
    },
    /// A relation's file whose pages are not what the server wrote.
    #[error("file \"{}\" has pages with a wrong checksum", file.display())]
    CorruptPages {
        /// The file, relative to the data directory.
        file: PathBuf,
        /// Which pages.
        reason: String,
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
    /// A backup of this name exists, or is being taken.
    #[error("a backup named \"{name}\" already exists")]
    BackupExists {
        /// The backup's name.
        name: String,
        /// The object that was found under the name.
        reason: String,
    },
    /// There is no such backup.
    #[error("{message}")]
    NoBackup {
        /// The name or the time that was looked for.
        message: String,
        /// The alternatives.
        hint: String,
    },
    /// The work was cancelled from outside.
    #[error("canceled on request")]
    Cancelled,
    /// There is a store, and no repository in it.
    #[error("there is no repository in \"{target}\"")]
    NoRepository {
        /// The URL.
        target: String,
    },
    /// A failure of the store, or of the way to it.
    #[error(transparent)]
    Storage(StorageError),
}

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The hint for an error whose reason is walarchive itself.
pub const REPORT_IT: &str = "This is a defect of walarchive; please report it.";
/// In the name of each object with WAL.
const WAL_OBJECT: &str = "/wal_005/";
/// The same of WAL that is not archived yet.
const TAIL_OBJECT: &str = "/walarchive_005/tail/";

impl Error {
    /// A setting or an argument that cannot be right, with what to change.
    pub fn config(message: impl Into<String>, hint: impl Into<String>) -> Self {
        StorageError::config(message, hint).into()
    }

    /// A refusal: the present state does not allow it. With the way to get past it.
    pub fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Refused {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// An answer of PostgreSQL's own functions or files that cannot be right, with the place to look at.
    pub fn server(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Server {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// A state that cannot be has been met.
    pub fn defect(message: impl Into<String>) -> Self {
        Error::Defect {
            message: message.into(),
        }
    }

    /// Something was not done within the time that it had.
    pub fn timeout(operation: &'static str, object: impl Into<String>, deadline: Duration) -> Self {
        Error::Storage(StorageError::timeout(operation, object, deadline))
    }

    /// A local file that could not be used.
    pub fn io(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        StorageError::io(operation, path, source).into()
    }

    /// A damaged object.
    pub fn damaged(object: impl Into<String>, reason: impl Into<String>) -> Self {
        StorageError::damaged(object, reason).into()
    }

    /// Who has to act before another attempt can succeed?
    pub fn turn(&self) -> Turn {
        match self {
            Error::Storage(error) => error.turn(),
            Error::Io { .. } => Turn::Machine,
            Error::Defect { .. } => Turn::Ours,
            Error::Setting { .. }
            | Error::Refused { .. }
            | Error::Server { .. }
            | Error::CorruptPages { .. }
            | Error::Conflict { .. }
            | Error::ForeignRepository { .. }
            | Error::NotWriter { .. }
            | Error::OtherSegmentSize { .. }
            | Error::InvalidWal { .. }
            | Error::Damaged { .. }
            | Error::Encrypted { .. }
            | Error::Sealed { .. }
            | Error::BackupExists { .. }
            | Error::NoBackup { .. }
            | Error::NoRepository { .. }
            | Error::Cancelled => Turn::User,
        }
    }

    /// May this pass by itself, so that trying again later makes sense without anybody changing anything?
    pub fn is_transient(&self) -> bool {
        self.turn().may_pass_by_itself()
    }

    /// Is it the content of an object that cannot be used, damaged or encrypted, as opposed to a store that cannot be asked?
    pub fn is_content(&self) -> bool {
        self.content_finding().is_some()
    }

    /// Could a key make the object readable, as far as one can tell?
    pub fn asks_for_a_key(&self) -> bool {
        match self {
            Error::Encrypted { .. } => true,
            Error::Sealed { flaw, .. } => matches!(flaw, Flaw::NoKey | Flaw::WrongKey(_) | Flaw::OtherMethod(_)),
            Error::Damaged { reason, .. } => reason.contains(MAY_BE_ENCRYPTED),
            _ => false,
        }
    }

    /// The same, with what is wrong with it as a sentence, for a finding about the object.
    pub fn content_finding(&self) -> Option<String> {
        match self {
            Error::Damaged { reason, .. } => Some(reason.clone()),
            Error::Encrypted { reason, .. } => Some(format!("It is encrypted, and no key is configured. {reason}")),
            Error::Sealed { flaw, .. } => Some(format!("It {flaw}. {}", flaw.detail())),
            _ => None,
        }
    }

    /// Could the archive not be asked at all? A bad answer is an answer.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Error::Storage(error) => error.is_unreachable(),
            _ => matches!(self, Error::NoRepository { .. }),
        }
    }

    /// Could another attempt succeed after somebody, or something, has put right what is around the archive: a setting, a file,
    /// the network, the store? Waiting does not change the content of the archive.
    pub fn may_pass(&self) -> bool {
        !matches!(
            self,
            Error::Damaged { .. }
                | Error::InvalidWal { .. }
                | Error::CorruptPages { .. }
                | Error::Conflict { .. }
                | Error::ForeignRepository { .. }
                | Error::BackupExists { .. }
                | Error::NoBackup { .. }
                | Error::Storage(StorageError::Unsupported { .. })
        )
    }

    /// The facts behind the message, for the DETAIL line.
    pub fn detail(&self) -> Option<String> {
        match self {
            Error::Storage(error) => error.detail(),
            Error::ForeignRepository { reason, .. }
            | Error::InvalidWal { reason, .. }
            | Error::NotWriter { reason, .. }
            | Error::Conflict { reason, .. }
            | Error::BackupExists { reason, .. }
            | Error::CorruptPages { reason, .. }
            | Error::Encrypted { reason, .. }
            | Error::Damaged { reason, .. } => Some(reason.clone()).filter(|reason| !reason.is_empty()),
            Error::Sealed { flaw, .. } => Some(flaw.detail()),
            Error::OtherSegmentSize { .. } => Some(
                "Both have the same system identifier, so the size of this cluster's segments was changed, as \
                 pg_resetwal --wal-segsize does."
                    .to_owned(),
            ),
            Error::NoRepository { .. } => Some(
                "It has no owner's file, no WAL and no backups. Perhaps it is not mounted, or the prefix is wrong."
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// What to do about it, as a sentence, for the HINT line.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Setting { hint, .. }
            | Error::Refused { hint, .. }
            | Error::Server { hint, .. }
            | Error::NoBackup { hint, .. }
            | Error::NotWriter { hint, .. } => hint.as_str(),
            Error::Defect { .. } => REPORT_IT,
            Error::Storage(error) => return error.hint(),
            Error::NoRepository { target } => return Some(without_repository(target)),
            Error::Cancelled => return None,
            Error::Conflict { .. } => {
                "Do not remove either before you know which server wrote the object: two servers may archive into one \
                 prefix, or this server was restored without a new timeline. Give each cluster a prefix of its own."
            }
            Error::ForeignRepository { .. } => {
                "Point walarchive.storage at a prefix of its own for each cluster; after pg_upgrade or initdb use a \
                 new prefix."
            }
            Error::OtherSegmentSize { .. } => {
                "Point walarchive.storage at a prefix of its own, and take a backup there at once. The old one can be restored \
                 up to the change."
            }
            Error::InvalidWal { reason, .. } if reason.contains(ONLY_BEGINNING) => {
                "It is archived once the server has all of it, or the store has as much as the server. If the server's disk has lost \
                 the rest, look for the file on another server. Files behind it wait. To give it up, rename its .ready file in \
                 pg_wal/archive_status to .done."
            }
            Error::InvalidWal { .. } => {
                "The file was left in place. Check whether it was copied into pg_wal from another cluster."
            }
            Error::Damaged { reason, .. } if reason.contains(MAY_BE_ENCRYPTED) => {
                "If it is encrypted, give the key with walarchive.encryption_key_file or --encryption-key-file, or in WAL-G's \
                 variables. Otherwise look for another copy of the object, or restore from another backup."
            }
            Error::Damaged { object, .. } if object.contains(TAIL_OBJECT) => {
                "Recovery cannot go beyond it. To end recovery before it, add --allow-gap to wal-fetch in restore_command."
            }
            Error::Damaged { object, .. } if object.contains(WAL_OBJECT) => {
                "Recovery cannot go beyond it. If a server still has the file in pg_wal, move the object away and \
                 archive the file by walarchive wal-push; otherwise restore up to a target before it, or take another \
                 backup."
            }
            Error::Damaged { .. } => StorageError::hint_of_damaged(),
            Error::Encrypted { .. } => {
                "Give the key with walarchive.encryption_key_file or --encryption-key-file, or in WAL-G's variables. What \
                 neither WAL-G nor walarchive has encrypted takes the tool that has."
            }
            Error::Sealed { flaw, .. } => flaw.hint(),
            Error::CorruptPages { .. } => {
                "Find the relation with pg_filenode_relation() and check it, with pg_amcheck for example; restore it from an \
                 older backup, or set walarchive.on_checksum_failure to \"warning\" to back the pages up as they are."
            }
            Error::BackupExists { .. } => {
                "Another standby may be taking the same backup now, or a crash left it unfinished. Wait for the next \
                 WAL segment, or remove the leftovers if no backup is running."
            }
            Error::Io { source, .. } => {
                return StorageError::hint_of_io(source);
            }
        };
        Some(hint.to_owned())
    }
}

/// The hint if there is a store, and no repository in it.
fn without_repository(target: &str) -> String {
    let kind = match target.split("://").next() {
        Some("s3" | "gs") => "bucket",
        Some("az" | "swift") => "container",
        _ => "directory",
    };
    format!(
        "The {kind} is there. Correct walarchive.storage if the repository has another prefix; otherwise the first \
         server that archives creates it. If you have emptied it, run walarchive take-over on a server that archived there before."
    )
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Setting { message, hint } => Error::Setting { message, hint },
            StorageError::Damaged { object, reason } => Error::Damaged { object, reason },
            StorageError::Sealed { object, flaw } => Error::Sealed { object, flaw },
            StorageError::Io {
                operation,
                path,
                source,
            } => Error::Io {
                operation,
                path,
                source,
            },
            StorageError::Cancelled => Error::Cancelled,
            // A fence is made here, and says why in this crate's own terms.
            StorageError::Refused(refusal) => match refusal.reason.downcast_ref::<Error>() {
                Some(error) => error.clone(),
                None => Error::Storage(StorageError::Refused(refusal)),
            },
            error => Error::Storage(error),
        }
    }
}

/// For a fence: only another writer is an answer.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal {
            is_final: matches!(error, Error::NotWriter { .. }),
            reason: Arc::new(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_says_whose_turn_it_is() {
        let store = StorageError::Store {
            operation: "read",
            object: "s3://b/o".to_owned(),
            reason: "500".to_owned(),
        };
        let not_final = StorageError::Refused(Refusal {
            is_final: false,
            reason: Arc::new(store.clone()),
        });
        let broken = Error::io("read", "/f", io::Error::other("broken"));
        for (error, turn, is_transient) in [
            (Error::config("m", "H."), Turn::User, false),
            (Error::refused("m", "H."), Turn::User, false),
            (Error::server("m", "H."), Turn::User, false),
            (broken, Turn::Machine, true),
            (Error::defect("m"), Turn::Ours, false),
            (Error::Storage(store), Turn::Store, true),
            (Error::timeout("lock", "/f", Duration::from_secs(1)), Turn::Store, true),
            (Error::Storage(not_final), Turn::Store, true),
            (StorageError::config("m", "H.").into(), Turn::User, false),
        ] {
            assert_eq!((error.turn(), error.is_transient()), (turn, is_transient), "{error:?}");
        }
        assert_eq!(Error::defect("m").hint().as_deref(), Some(REPORT_IT));
        assert_eq!(Error::refused("m", "H.").hint().as_deref(), Some("H."));
    }
}
