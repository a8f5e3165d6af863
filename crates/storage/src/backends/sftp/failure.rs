//! Failures of an SFTP server, in object_store's terms and in this crate's.

use std::time::Duration;

use object_store::path::Path;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::StatusCode;

use crate::error::Error;

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    /// Somebody must change something first: the server is not the one it should be, or is not known.
    #[error("{message}")]
    Config { message: String, hint: String },
    #[error("{0}")]
    NoCredentials(String),
    /// None of the credentials was accepted.
    #[error("{0}")]
    Refused(String),
    /// The directory of the URL is not there.
    #[error("No such directory: \"{0}\"")]
    NoDirectory(String),
    #[error("No such file")]
    NotFound,
    /// The key of the link.
    #[error("\"{0}\" is a symbolic link")]
    BehindLink(String),
    #[error("The target exists")]
    Exists,
    #[error("Permission denied on the server")]
    Denied,
    #[error("End of file")]
    Eof,
    /// No server answers there that this client gets on with.
    #[error("{0}")]
    Unusable(String),
    /// The server can do this no better a second time.
    #[error("{0}")]
    Server(String),
    /// The connection could not be made, or was lost.
    #[error("{0}")]
    Lost(String),
    #[error("the server did not answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
}

impl Failure {
    /// Could it go well on another connection?
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Failure::Lost(_) | Failure::Timeout(_))
    }

    pub(super) fn at(self, location: &Path) -> object_store::Error {
        self.named(location.as_ref())
    }

    pub(super) fn named(self, path: &str) -> object_store::Error {
        let path = path.to_owned();
        match self {
            Failure::NotFound => object_store::Error::NotFound {
                path,
                source: self.into(),
            },
            Failure::Exists => object_store::Error::AlreadyExists {
                path,
                source: self.into(),
            },
            Failure::Denied => object_store::Error::PermissionDenied {
                path,
                source: self.into(),
            },
            Failure::Refused(_) => object_store::Error::Unauthenticated {
                path,
                source: self.into(),
            },
            failure => object_store::Error::Generic {
                store: "SFTP",
                source: failure.into(),
            },
        }
    }

    /// The failure behind an error of object_store, if there is one of ours.
    pub(crate) fn behind(error: &object_store::Error) -> Option<&Failure> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref() {
                return Some(failure);
            }
            next = error.source();
        }
        None
    }

    pub(crate) fn translate(&self, operation: &'static str, object: String, store_url: &str) -> Error {
        let reason = self.to_string();
        match self {
            Failure::Config { message, hint } => Error::config(message, hint),
            Failure::NoCredentials(_) => Error::NoCredentials { object, reason },
            Failure::Refused(_) | Failure::Denied => Error::Unauthorized {
                operation,
                object,
                reason,
                credentials: None,
            },
            Failure::NoDirectory(_) => Error::NoSuchStore {
                target: store_url.to_owned(),
                reason,
            },
            Failure::BehindLink(link) => Error::BehindLink {
                object,
                link: link.clone(),
            },
            Failure::NotFound if operation != "write" => Error::NotFound { object },
            Failure::Unusable(_) => Error::Unusable {
                operation,
                object,
                reason,
            },
            Failure::Timeout(deadline) => Error::timeout(operation, object, *deadline),
            _ => Error::Store {
                operation,
                object,
                reason,
            },
        }
    }
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Self {
        match error {
            russh::Error::NoCommonAlgo { kind, theirs, .. } => Failure::Unusable(format!(
                "The server and this client have no {kind:?} algorithm in common; the server has {}.",
                theirs.join(", ")
            )),
            russh::Error::Version => Failure::Unusable("No SSH server answers there.".to_owned()),
            russh::Error::WrongServerSig => Failure::Config {
                message: "the SFTP server could not prove that it owns its host key".to_owned(),
                hint: "Somebody may be intercepting the connection; ask the server's administrator.".to_owned(),
            },
            russh::Error::IO(error) => Failure::from(error),
            russh::Error::HUP | russh::Error::Disconnect | russh::Error::SendError | russh::Error::RecvError => {
                lost("The server closed the connection.")
            }
            error => lost(format!("The connection failed: {error}.")),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        lost(format!("The connection failed: {error}."))
    }
}

impl From<SftpError> for Failure {
    fn from(error: SftpError) -> Self {
        let SftpError::Status(status) = error else {
            // All others mean that the channel is gone or that its two ends do not understand each other.
            return lost(format!("The connection was lost: {error}."));
        };
        match status.status_code {
            StatusCode::NoSuchFile => Failure::NotFound,
            StatusCode::PermissionDenied => Failure::Denied,
            StatusCode::Eof => Failure::Eof,
            StatusCode::NoConnection | StatusCode::ConnectionLost => lost("The connection was lost."),
            code => {
                let said = status.error_message.trim();
                let code = code.to_string();
                let said = if said.is_empty() { code.as_str() } else { said };
                Failure::Server(format!("The server says \"{said}\"."))
            }
        }
    }
}

pub(super) fn lost(reason: impl Into<String>) -> Failure {
    Failure::Lost(reason.into())
}
