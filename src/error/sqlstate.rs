//! The SQLSTATE of each error.

use pgrx::PgSqlErrorCode;
use walarchive_core::{Error, StorageError};

/// The SQLSTATE of an error.
pub(super) fn of(error: &Error) -> PgSqlErrorCode {
    use PgSqlErrorCode::*;
    match error {
        Error::Storage(error) => of_storage(error),
        Error::NoRepository { .. } => ERRCODE_UNDEFINED_FILE,
        Error::NoBackup { .. } => ERRCODE_UNDEFINED_OBJECT,
        Error::Encrypted { .. } | Error::Sealed { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        Error::Conflict { .. } | Error::BackupExists { .. } => ERRCODE_DUPLICATE_FILE,
        // A missing or wrong setting, or a refusal. A wrong argument has a SQLSTATE of its own: see `api::argument`.
        Error::Setting { .. }
        | Error::Refused { .. }
        | Error::Server { .. }
        | Error::ForeignRepository { .. }
        | Error::OtherSegmentSize { .. }
        | Error::NotWriter { .. } => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        Error::InvalidWal { .. } | Error::Damaged { .. } | Error::CorruptPages { .. } => ERRCODE_DATA_CORRUPTED,
        Error::Defect { .. } => ERRCODE_INTERNAL_ERROR,
        Error::Io { source, .. } => of_io(source),
        Error::Cancelled => ERRCODE_QUERY_CANCELED,
    }
}

fn of_storage(error: &StorageError) -> PgSqlErrorCode {
    use PgSqlErrorCode::*;
    match error {
        StorageError::Unauthorized { .. } | StorageError::NoCredentials { .. } => ERRCODE_INSUFFICIENT_PRIVILEGE,
        StorageError::NoSuchStore { .. } | StorageError::NotFound { .. } => ERRCODE_UNDEFINED_FILE,
        StorageError::Store { .. } | StorageError::Unusable { .. } | StorageError::ClockSkew { .. } => {
            ERRCODE_CONNECTION_FAILURE
        }
        StorageError::Unsupported { .. } => ERRCODE_FEATURE_NOT_SUPPORTED,
        StorageError::Setting { .. }
        | StorageError::WrongRegion { .. }
        | StorageError::BehindLink { .. }
        | StorageError::Sealed { .. }
        | StorageError::Refused(_) => ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        StorageError::Damaged { .. } => ERRCODE_DATA_CORRUPTED,
        StorageError::Io { source, .. } => of_io(source),
        // The same for a deadline that has passed, as with PostgreSQL's own timeouts.
        StorageError::Timeout { .. } | StorageError::NoAnswer { .. } | StorageError::Cancelled => {
            ERRCODE_QUERY_CANCELED
        }
    }
}

fn of_io(source: &std::io::Error) -> PgSqlErrorCode {
    use PgSqlErrorCode::*;
    match source.kind() {
        std::io::ErrorKind::StorageFull => ERRCODE_DISK_FULL,
        std::io::ErrorKind::NotFound => ERRCODE_UNDEFINED_FILE,
        std::io::ErrorKind::PermissionDenied => ERRCODE_INSUFFICIENT_PRIVILEGE,
        _ => ERRCODE_IO_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error as IoError, ErrorKind};
    use std::time::Duration;

    use walarchive_storage::crypt::Flaw;

    use super::*;

    /// Five characters of six bits each, the first one lowest, as in `MAKE_SQLSTATE`.
    fn text(code: PgSqlErrorCode) -> String {
        let letter = |at: i32| char::from(b'0' + (code as i32 >> (6 * at) & 0x3F) as u8);
        (0..5).map(letter).collect()
    }

    #[test]
    fn each_class_has_its_sqlstate() {
        let word = || "x".to_owned();
        let io = |kind| Error::io("read", "/f", IoError::from(kind));
        let failed = || StorageError::Store {
            operation: "read",
            object: word(),
            reason: word(),
        };
        let missing = || StorageError::NoSuchStore {
            target: word(),
            reason: word(),
        };
        let denied = || StorageError::NoCredentials {
            object: word(),
            reason: word(),
        };
        let unable = || StorageError::Unsupported {
            operation: "create",
            object: word(),
            reason: word(),
        };
        for (error, sqlstate) in [
            (Error::config("m", "H."), "55000"),
            (Error::refused("m", "H."), "55000"),
            (Error::server("m", "H."), "55000"),
            (Error::defect("m"), "XX000"),
            (Error::damaged("o", "R."), "XX001"),
            (Error::Cancelled, "57014"),
            (Error::timeout("read", "o", Duration::from_secs(1)), "57014"),
            (Error::from(failed()), "08006"),
            (Error::from(missing()), "58P01"),
            (Error::from(denied()), "42501"),
            (Error::from(unable()), "0A000"),
            (Error::NoRepository { target: word() }, "58P01"),
            (
                Error::NoBackup {
                    message: word(),
                    hint: word(),
                },
                "42704",
            ),
            (
                Error::BackupExists {
                    name: word(),
                    reason: word(),
                },
                "58P02",
            ),
            (
                Error::Encrypted {
                    object: word(),
                    reason: word(),
                },
                "55000",
            ),
            (
                Error::Sealed {
                    object: word(),
                    flaw: Flaw::NotEncrypted,
                },
                "55000",
            ),
            (io(ErrorKind::StorageFull), "53100"),
            (io(ErrorKind::NotFound), "58P01"),
            (io(ErrorKind::PermissionDenied), "42501"),
            (io(ErrorKind::Other), "58030"),
        ] {
            assert_eq!(text(of(&error)), sqlstate, "{error:?}");
        }
    }
}
