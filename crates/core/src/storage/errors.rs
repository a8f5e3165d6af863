//! object_store's errors in this crate's terms.

use crate::error::Error;

/// Marks that stores put into the text of an error whose kind object_store does not tell. A listing with wrong
/// credentials, for one, comes back as a generic error.
const REFUSED: [&str; 8] = [
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "403 Forbidden",
    "401 Unauthorized",
    "Permission denied (os error 13)",
];
/// Where instances of clouds ask for credentials: nobody asks there who has any.
const METADATA_SERVICES: [&str; 2] = ["169.254.169.254", "169.254.170.2"];
const NO_STORE: [&str; 2] = ["NoSuchBucket", "No such bucket"];

pub(super) fn translate(operation: &'static str, object: String, store_url: &str, error: object_store::Error) -> Error {
    if let Some(failure) = super::sftp::Failure::behind(&error) {
        return failure.translate(operation, object, store_url);
    }
    let reason = reason(&error);
    let says = |marks: &[&str]| marks.iter().any(|mark| reason.contains(mark));
    let refused = matches!(
        error,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
    );
    match error {
        _ if says(&METADATA_SERVICES) => Error::NoCredentials { object, reason },
        _ if says(&NO_STORE) => Error::NoSuchStore {
            target: store_url.to_owned(),
            reason,
        },
        // A missing object is no answer to a write or a listing: what is missing is the bucket.
        object_store::Error::NotFound { .. } if matches!(operation, "write" | "list") => Error::NoSuchStore {
            target: store_url.to_owned(),
            reason,
        },
        object_store::Error::NotFound { .. } => Error::NotFound { object },
        _ if refused || says(&REFUSED) => Error::Unauthorized {
            operation,
            object,
            reason,
        },
        _ => Error::Store {
            operation,
            object,
            reason,
        },
    }
}

/// The whole chain of causes in one line, without the repetitions that nested errors bring. The message of an outer error
/// often holds that of its source.
fn reason(error: &object_store::Error) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        if !text.contains(message.trim()) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(message.trim());
        }
        next = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
