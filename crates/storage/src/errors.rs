//! object_store's errors in this crate's terms.

use crate::error::Error;
use crate::http::{NoAnswer, Stalled};
use crate::link::BehindLink;

/// How much of a store's text a message shows, in characters.
const SHOWN: usize = 2000;

/// Marks that stores put into the text of an error whose kind object_store does not tell. A listing with wrong
/// credentials, for one, comes back as a generic error.
const REFUSED: [&str; 20] = [
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AuthenticationFailed",
    "AuthenticationRequired",
    "AuthorizationFailure",
    "AuthorizationPermissionMismatch",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
    "KeyBasedAuthenticationNotPermitted",
    "AccountIsDisabled",
    // The places that give tokens: Google's, and Azure's Entra.
    "invalid_grant",
    "invalid_client",
    "AADSTS",
    "InvalidIdentityToken",
    "403 Forbidden",
    "401 Unauthorized",
    "Permission denied (os error 13)",
];
/// The addresses at which instances of clouds ask for credentials: nobody asks there who has any.
const METADATA_SERVICES: [&str; 5] = [
    "169.254.169.254",
    "169.254.170.2",
    "/latest/api/token",
    "/metadata/identity/oauth2/token",
    "/computeMetadata/v1/instance/service-accounts",
];
const NO_STORE: [&str; 10] = [
    "NoSuchBucket",
    "No such bucket",
    "No such container",
    "InvalidBucketName",
    "ContainerNotFound",
    "ContainerDisabled",
    "ContainerBeingDeleted",
    "The requested URI does not represent any resource",
    "InvalidResourceName",
    "OutOfRangeInput",
];
/// A bucket of another region. The last ones are those of a redirection that has no text.
const WRONG_REGION: [&str; 6] = [
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "IllegalLocationConstraint",
    "TemporaryRedirect",
    "another place that it does not name",
    "not followed (<Region>",
];
/// Of what stays so until somebody changes something: another server than the store, one whose certificate is not trusted, and what is
/// no file in the place of an object. A certificate's times are not among them, as a wrong clock of this machine may be set right;
/// nor is a redirection for the time being, or a proxy that answers without TLS while it is started.
const UNUSABLE: [&str; 7] = [
    "the store answered 301 Moved Permanently and redirects to \"",
    "the store answered 308 Permanent Redirect and redirects to \"",
    "it is not a regular file",
    "invalid peer certificate: UnknownIssuer",
    "CaUsedAsEndEntity",
    "NotValidForName",
    "certificate not valid for name",
];
/// Answers of servers that do not know a request, or one of its headers.
const UNSUPPORTED: [&str; 2] = ["501 Not Implemented", "<Code>NotImplemented</Code>"];

pub(super) fn translate(operation: &'static str, object: String, store_url: &str, error: object_store::Error) -> Error {
    if let Some(failure) = crate::backends::sftp::Failure::behind(&error) {
        return failure.translate(operation, object, store_url);
    }
    if let Some(BehindLink(link)) = BehindLink::behind(&error) {
        let link = link.clone();
        return Error::BehindLink { object, link };
    }
    if let Some(skew) = crate::renewal::Skew::behind(&error) {
        let reason = skew.to_string();
        return Error::ClockSkew {
            operation,
            object,
            reason,
        };
    }
    let whole = reason(&error);
    let says = |marks: &[&str]| marks.iter().any(|mark| whole.contains(mark));
    let region = expected_region(&whole);
    let reason = shortened(&whole);
    let refused = matches!(
        error,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
    );
    match error {
        _ if store_url.starts_with("s3:") && says(&WRONG_REGION) => Error::WrongRegion {
            target: store_url.to_owned(),
            region,
            reason,
        },
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
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => Error::Unsupported {
            operation,
            object,
            reason,
        },
        _ if says(&UNSUPPORTED) => Error::Unsupported {
            operation,
            object,
            reason,
        },
        _ if says(&UNUSABLE) => Error::Unusable {
            operation,
            object,
            reason,
        },
        _ if refused || says(&REFUSED) => Error::Unauthorized {
            operation,
            object,
            reason,
            credentials: None,
        },
        error if is_late(&error) => Error::NoAnswer {
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

/// Did time run out, as opposed to an answer or a connection that broke?
fn is_late(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let of_system = error.downcast_ref::<std::io::Error>();
        error.is::<NoAnswer>()
            || error.is::<Stalled>()
            || of_system.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
            || error
                .downcast_ref::<reqwest::Error>()
                .is_some_and(reqwest::Error::is_timeout)
    })
}

/// As much as a message shows.
fn shortened(reason: &str) -> String {
    match reason.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} […]", &reason[..end]),
        None => reason.to_owned(),
    }
}

/// The region of the bucket, where the store says it.
fn expected_region(reason: &str) -> Option<String> {
    let between = |before: &str, after: &str| {
        let (_, rest) = reason.split_once(before)?;
        rest.split_once(after).map(|(region, _)| region)
    };
    let region = between("<Region>", "</Region>").or_else(|| between("expecting '", "'"))?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let valid = !region.is_empty() && region.len() < 64 && region.chars().all(is_name);
    valid.then(|| region.to_owned())
}

/// The whole chain of causes in one line, without the repetitions that nested errors bring. The message of an outer error
/// often holds that of its source.
pub(super) fn reason(error: &object_store::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scheme: &str, operation: &'static str, text: &str) -> Error {
        let error = object_store::Error::Generic {
            store: "S3",
            source: text.into(),
        };
        translate(
            operation,
            format!("{scheme}://b/p/k"),
            &format!("{scheme}://b/p"),
            error,
        )
    }

    #[test]
    fn a_wrong_region_is_told_with_the_right_one() {
        let malformed = "400 Bad Request: <Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header \
                         is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message>";
        let error = of("s3", "list", malformed);
        assert!(matches!(&error, Error::WrongRegion { region: Some(region), .. } if region == "eu-central-1"));
        assert_eq!(error.to_string(), "\"s3://b/p\" is in another region");
        assert!(error.hint().expect("a hint").contains("aws_region=eu-central-1"));
        let redirect = of(
            "s3",
            "read",
            "the store answered 301 and redirects to another place that it does not name",
        );
        assert!(matches!(redirect, Error::WrongRegion { region: None, .. }));
        assert!(redirect.hint().expect("a hint").contains("aws_region"));
    }

    #[test]
    fn what_came_too_late_is_told_by_its_kind() {
        let of = |source| {
            let error = object_store::Error::Generic { store: "S3", source };
            translate("read", "s3://b/p/k".to_owned(), "s3://b/p", error)
        };
        let system = |kind| Box::new(std::io::Error::from(kind));
        let late = of(system(std::io::ErrorKind::TimedOut));
        assert!(
            matches!(&late, Error::NoAnswer { .. }) && late.is_transient(),
            "{late:?}"
        );
        assert!(late.hint().expect("a hint").contains("in time"), "{late:?}");
        assert_eq!(late.turn(), crate::Turn::Store);
        assert!(matches!(
            of(system(std::io::ErrorKind::ConnectionReset)),
            Error::Store { .. }
        ));
        assert!(matches!(of("it says: timed out".into()), Error::Store { .. }));
    }

    #[test]
    fn marks_tell_the_kind() {
        for mark in [
            "AuthenticationFailed",
            "AADSTS70021",
            "invalid_grant",
            "AccountIsDisabled",
        ] {
            assert!(matches!(of("az", "list", mark), Error::Unauthorized { .. }), "{mark}");
        }
        for mark in ["ContainerNotFound", "InvalidResourceName", "NoSuchBucket"] {
            assert!(matches!(of("az", "list", mark), Error::NoSuchStore { .. }), "{mark}");
        }
        let metadata = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token";
        assert!(matches!(of("gs", "list", metadata), Error::NoCredentials { .. }));
        assert!(matches!(of("gs", "list", "AuthorizationHeader"), Error::Store { .. }));
    }

    #[test]
    fn what_is_no_store_does_not_pass_by_itself() {
        for reason in [
            "the store answered 301 Moved Permanently and redirects to \"http://h:9\", which is not followed",
            "the store answered 308 Permanent Redirect and redirects to \"http://h:9\", which is not followed",
            "it is not a regular file",
            "invalid peer certificate: UnknownIssuer",
            "invalid peer certificate: certificate not valid for name \"h\"; certificate is only valid for DnsName(\"g\")",
        ] {
            let error = of("gs", "read", reason);
            assert!(
                matches!(error, Error::Unusable { .. }) && !error.is_transient() && error.is_unreachable(),
                "{error:?}"
            );
            assert!(error.detail().expect("a reason").contains(reason), "{error:?}");
        }
        for reason in [
            "invalid peer certificate: certificate expired: verified at",
            "the store answered 302 Found and redirects to \"http://h:9\", which is not followed",
            "the store answered 307 Temporary Redirect and redirects to \"http://h:9\", which is not followed",
            "the store answered 301 Moved Permanently and redirects to another place that it does not name, which is not followed",
            "received corrupt message of type InvalidContentType",
        ] {
            let error = of("gs", "read", reason);
            assert!(error.is_transient(), "{error:?}");
        }
    }

    #[test]
    fn hints_are_those_of_the_scheme() {
        for (scheme, says) in [
            ("s3", "AWS_ACCESS_KEY_ID"),
            ("gs", "GOOGLE_APPLICATION_CREDENTIALS"),
            ("az", "AZURE_STORAGE_ACCOUNT_KEY"),
            ("swift", "OS_PASSWORD"),
            ("sftp", "SSH_PASSWORD"),
            ("file", "directory"),
        ] {
            let hint = of(scheme, "read", "403 Forbidden").hint().expect("a hint");
            assert!(hint.contains(says), "{scheme}: {hint}");
        }
    }
}
