//! One error for the whole crate: what happened, to which object, and what to do about it.

mod hints;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::encrypted::MAY_BE_ENCRYPTED;

/// What can go wrong. [`Error::is_transient`] alone decides whether something is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting or an argument that cannot be right.
    #[error("{message}")]
    Config {
        /// What is wrong.
        message: String,
        /// What to change.
        hint: String,
    },
    /// The store does not accept the credentials, or they do not suffice.
    #[error("the store denied the permission to {operation} \"{object}\"")]
    Unauthorized {
        /// The verb: "read", "write", "list", "delete".
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// What the store said.
        reason: String,
        /// Where the credentials in use are from, if that is known: "the file \"/x\"".
        credentials: Option<String>,
    },
    /// The clock of this machine and that of the store differ by more than the store accepts.
    #[error("could not {operation} \"{object}\", as this machine's clock and the store's differ")]
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
        /// What was tried last.
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
    /// The store does not know how to do what it was asked for.
    #[error("the store cannot {operation} \"{object}\" as it was asked to")]
    Unsupported {
        /// The verb.
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// What the store said.
        reason: String,
    },
    /// No answer within the deadline.
    #[error("could not {operation} \"{object}\" within {}", seconds(*.deadline))]
    Timeout {
        /// The verb.
        operation: &'static str,
        /// The object's URL.
        object: String,
        /// The deadline that passed.
        deadline: Duration,
    },
    /// An object of other content lies under the name.
    #[error("\"{object}\" is in the repository already, with other content than \"{local}\"")]
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
        /// What differs.
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
        /// By what that is known.
        reason: String,
    },
    /// Something to be removed lies behind a symbolic link.
    #[error("\"{object}\" was not removed, as \"{link}\" is a symbolic link")]
    BehindLink {
        /// The object's URL.
        object: String,
        /// The link's key in the repository.
        link: String,
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
        source: io::Error,
    },
    /// A backup of this name exists, or is being taken.
    #[error("a backup named \"{name}\" exists already")]
    BackupExists {
        /// The backup's name.
        name: String,
        /// What was found under the name.
        reason: String,
    },
    /// There is no such backup.
    #[error("{message}")]
    NoBackup {
        /// What was looked for.
        message: String,
        /// What there is instead.
        hint: String,
    },
    /// The work was cancelled from outside.
    #[error("canceled on request")]
    Cancelled,
}

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// In the name of each object with WAL.
const WAL_OBJECT: &str = "/wal_005/";

const TOO_SLOW: &str = "The store does not answer in time, or the link to it is slow. Check the store and the network. A server \
                        waits longer with a larger walarchive.archive_timeout.";

impl Error {
    /// An invalid setting or argument, with what to change.
    pub fn config(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Config {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// A local file that could not be used.
    pub fn io(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::Io {
            operation,
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    /// A damaged object.
    pub fn damaged(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Damaged {
            object: object.into(),
            reason: reason.into(),
        }
    }

    /// May this pass by itself, so that trying again later makes sense without anybody changing anything?
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Store { .. } | Error::Timeout { .. } | Error::ClockSkew { .. } | Error::Io { .. }
        )
    }

    /// Is it the content of an object that cannot be used, damaged or encrypted, as opposed to a store that cannot be asked?
    pub fn is_content(&self) -> bool {
        matches!(self, Error::Damaged { .. } | Error::Encrypted { .. })
    }

    /// Could the archive not be asked at all (as opposed to: it was asked, and the answer is bad)?
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Error::Store { .. }
                | Error::Timeout { .. }
                | Error::ClockSkew { .. }
                | Error::Unauthorized { .. }
                | Error::NoCredentials { .. }
                | Error::NoSuchStore { .. }
                | Error::WrongRegion { .. }
        )
    }

    /// Could another attempt succeed after somebody, or something, has put right what is around the archive: a setting, a
    /// file, the network, the store? What the archive holds itself does not change by waiting.
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
                | Error::Unsupported { .. }
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
            | Error::Unsupported { reason, .. }
            | Error::ForeignRepository { reason, .. }
            | Error::InvalidWal { reason, .. }
            | Error::NotWriter { reason, .. }
            | Error::Conflict { reason, .. }
            | Error::BackupExists { reason, .. }
            | Error::CorruptPages { reason, .. }
            | Error::Encrypted { reason, .. }
            | Error::Damaged { reason, .. } => Some(reason.clone()).filter(|reason| !reason.is_empty()),
            Error::OtherSegmentSize { .. } => Some(
                "Both have the same system identifier, so the size of this cluster's segments was changed, as \
                 pg_resetwal --wal-segsize does."
                    .to_owned(),
            ),
            Error::Timeout { .. } => Some("Until then the store reported neither success nor an error.".to_owned()),
            _ => None,
        }
    }

    /// What to do about it, as a sentence, for the HINT line.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Config { hint, .. } | Error::NoBackup { hint, .. } | Error::NotWriter { hint, .. } => hint.as_str(),
            Error::Unauthorized {
                object,
                credentials: Some(credentials),
                ..
            } => return Some(origin_hint(object, credentials)),
            Error::ClockSkew { .. } => {
                "Set the clock of this machine by NTP, and the store's if that is your own. The credentials are not the reason."
            }
            Error::Unauthorized { object, .. } | Error::NoCredentials { object, .. } => credentials_hint(object),
            Error::WrongRegion {
                region: Some(region), ..
            } => return Some(format!("Set \"aws_region={region}\" in walarchive.storage_options.")),
            Error::WrongRegion { .. } => {
                "Set the region of the bucket in walarchive.storage_options, as in \"aws_region=eu-central-1\", or correct \
                 aws_endpoint."
            }
            Error::NoSuchStore { target, reason } => return Some(hints::of_missing_store(target, reason)),
            Error::NotFound { .. } | Error::Cancelled => return None,
            Error::Store { reason, .. } => hints::of_reason(reason),
            Error::Unsupported { .. } => {
                "This server does not speak all of the protocol; check walarchive.storage_options, or use another store."
            }
            Error::Timeout { .. } => TOO_SLOW,
            Error::Conflict { .. } => {
                "Do not remove either before you know where the object came from: two servers may archive into one \
                 prefix, or this server was restored without a new timeline. Give each cluster a prefix of its own."
            }
            Error::ForeignRepository { .. } => {
                "Point walarchive.storage at a prefix of its own for each cluster; after pg_upgrade or initdb use a \
                 new prefix."
            }
            Error::OtherSegmentSize { .. } => {
                "Point walarchive.storage at a prefix of its own, and take a backup there at once. What is in the old one can be \
                 restored up to the change."
            }
            Error::InvalidWal { .. } => {
                "The file was left in place. Check whether it was copied into pg_wal from another cluster."
            }
            Error::Damaged { reason, .. } if reason.contains(MAY_BE_ENCRYPTED) => {
                "If WAL-G encrypted it, read it with WAL-G and the key, as walarchive cannot decrypt yet. Else look for another \
                 copy of the object, or restore from another backup."
            }
            Error::Damaged { object, .. } if object.contains(WAL_OBJECT) => {
                "Recovery cannot go beyond it. If a server still has the file in pg_wal, move the object away and archive the file \
                 by walarchive wal-push; else restore up to a target before it, or take another backup."
            }
            Error::Damaged { .. } => {
                "What the repository holds under this name cannot be used. Look for another copy of the object, or \
                 restore from another backup."
            }
            Error::Encrypted { .. } => {
                "walarchive cannot decrypt yet. Read it with the tool that encrypted it, and with the key."
            }
            Error::BehindLink { .. } => {
                "What a link leads to may be anything, so nothing behind one is removed. Mount the other file system in the \
                 place of the link, or make the directory of the whole repository the link, or remove these files by hand."
            }
            Error::CorruptPages { .. } => {
                "Find the relation with pg_filenode_relation() and check it, with pg_amcheck for example; restore it from an \
                 older backup, or set walarchive.on_checksum_failure to \"warning\" to back the pages up as they are."
            }
            Error::BackupExists { .. } => {
                "Another standby may be taking the same backup now, or a crash left it unfinished. Wait for the next \
                 WAL segment, or remove the leftovers if no backup is running."
            }
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull => "Free some space on that file system.",
                io::ErrorKind::PermissionDenied => "Check the owner and the mode of that file and its directories.",
                io::ErrorKind::ReadOnlyFilesystem => "The file system is mounted read-only.",
                _ => return None,
            },
        };
        Some(hint.to_owned())
    }
}

/// What to look at, where the place is known that the credentials are from.
fn origin_hint(object: &str, credentials: &str) -> String {
    let check = match object.split(':').next().unwrap_or_default() {
        "gs" => "Check the key of the service account and its roles on the bucket",
        "az" => "Check the key, the SAS or the identity, and its permissions on the container",
        "swift" => "Check the user, the project, the password and the rights on the container",
        "sftp" => "Check the user in walarchive.storage, the key or the password, and the permissions on the directory",
        _ => "Check the access key, its secret and its permissions on the bucket",
    };
    let again = if credentials.contains("environment") {
        "A server reads its environment when it starts."
    } else {
        "It is read again by itself when it changes."
    };
    format!("{check}: what is in use is from {credentials}. {again}")
}

/// Where the credentials of a store are looked for.
fn credentials_hint(object: &str) -> &'static str {
    match object.split(':').next().unwrap_or_default() {
        "file" => "Check the owner and the mode of the directory; it must belong to the user of the process.",
        "gs" => {
            "Check the key file of the service account and its roles on the bucket: GOOGLE_APPLICATION_CREDENTIALS in the \
             environment of the process (a server reads it when it starts), the option google_service_account, or \
             walarchive.credentials_file."
        }
        "az" => {
            "Check the name of the storage account, its key, the SAS or the identity, and their permissions on the \
             container: azure_storage_account_name in walarchive.storage_options, AZURE_STORAGE_ACCOUNT_KEY or \
             AZURE_STORAGE_SAS_TOKEN in the environment of the process (a server reads it when it starts), or the file \
             named by walarchive.credentials_file."
        }
        "swift" => {
            "Check the user, the project and the password: OS_AUTH_URL, OS_USERNAME, OS_PROJECT_NAME and OS_PASSWORD (or \
             ST_AUTH, ST_USER and ST_KEY) in the environment of the process (a server reads it when it starts), or the \
             file named by walarchive.credentials_file."
        }
        "sftp" => {
            "Check the user in walarchive.storage, the key named by SSH_PRIVATE_KEY_PATH or sftp_private_key_path, or \
             SSH_PASSWORD in the environment of the process (a server reads it when it starts) or in the file named by \
             walarchive.credentials_file, and the permissions on the directory."
        }
        _ => {
            "Check the access key, its secret and its permissions on the bucket: AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY in the environment of the process (a server reads it when it starts), or the \
             file named by walarchive.credentials_file."
        }
    }
}

fn seconds(deadline: Duration) -> String {
    if deadline.subsec_millis() == 0 {
        format!("{} s", deadline.as_secs())
    } else {
        format!("{} ms", deadline.as_millis())
    }
}
