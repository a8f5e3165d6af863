//! Hints for failures of a store: one for each kind of failure, told by the text of the store or of the network.

use std::io;

/// Marks in the reason, all in lower case, and the hint. The first one that fits counts.
const KINDS: [(&[&str], &str); 22] = [
    (
        &["and redirects to"],
        "No redirection is followed, as requests hold secrets. If that is the place of the store, name it by the endpoint (and \
         its region) in walarchive.storage_options.",
    ),
    (
        &["too many for such an answer"],
        "No store answers there, or a broken one. Check the endpoint in walarchive.storage_options.",
    ),
    (
        &["no space left on device"],
        "Free some space where the repository is, or give it more.",
    ),
    (
        &["read-only file system"],
        "The file system of the repository is mounted read-only.",
    ),
    (
        &["unknownissuer", "causedasendentity", "self-signed"],
        "The store's certificate is not signed by an authority that this machine trusts. Name the certificate of that \
         authority by ca_cert_file in walarchive.storage_options.",
    ),
    (
        &["notvalidforname", "not valid for name"],
        "The store's certificate is for another host name. Use a name in the endpoint that the certificate has.",
    ),
    (
        &[
            "certificate expired",
            "certificate: expired",
            "notvalidyet",
            "not valid yet",
        ],
        "The store's certificate has expired or is not valid yet. Renew the certificate, or set this machine's clock.",
    ),
    (
        &["invalid peer certificate"],
        "The store's certificate was not accepted. Check it, and ca_cert_file in walarchive.storage_options.",
    ),
    (
        &["invalidcontenttype", "corrupt message", "wrong version number"],
        "The server there does not speak TLS. Check the port of the endpoint; an endpoint without TLS is written with \
         http:// and needs allow_http=true.",
    ),
    (
        &["proxy", "tunnel"],
        "The proxy did not let the request through. Check proxy_url in walarchive.storage_options, or HTTPS_PROXY, HTTP_PROXY \
         and NO_PROXY in the environment of the process.",
    ),
    (
        &[
            "dns error",
            "failed to lookup address",
            "name or service not known",
            "no address associated",
            "could not be found: ",
        ],
        "The name of the store's host could not be found. Check the endpoint in walarchive.storage_options, and the name \
         service of this machine.",
    ),
    (
        &["connection refused"],
        "Nothing accepts connections at that address and port: check that the store is up, and the host and the port in \
         walarchive.storage_options. A firewall may refuse as well.",
    ),
    (
        &["network is unreachable", "no route to host"],
        "This machine cannot reach the store. Check the network, the routes and the firewalls.",
    ),
    (
        &[
            "429 too many requests",
            "503 service unavailable",
            "503 slow down",
            "<code>slowdown",
        ],
        "The store is overloaded, limits requests or is away for a moment. If this persists, raise its limits, or \
         lower walarchive.upload_concurrency and walarchive.backup_concurrency.",
    ),
    (
        &["it is not a regular file"],
        "Something else has the name of an object. Find out who put it there, and remove it.",
    ),
    (&["timed out", "<code>requesttimeout"], super::TOO_SLOW),
    (
        &[
            "keytoolong",
            "invalidobjectname",
            "invaliduri",
            "invalidblobname",
            "objectnametoolong",
            "file name too long",
        ],
        "The store does not accept this name for an object. Use a shorter prefix of plain characters in walarchive.storage.",
    ),
    (
        &[
            "entitytoolarge",
            "toomanyparts",
            "blockcountexceeds",
            "part number must be",
            "partnumber",
            "maximum allowed size",
        ],
        "The object is larger, or has more parts, than the store takes. Its limits are in its manual; lower \
         walarchive.tar_size if one tar is too large.",
    ),
    (
        &["quotaexceeded", "quota", "413 ", "507 "],
        "The store has no more room. Raise its quota, or delete old backups.",
    ),
    (
        &["invalid_grant", "reasonable timeframe"],
        "The place that gives tokens does not accept the key. Check that the key is still good, and that this machine's clock \
         is right.",
    ),
    (
        &["400 bad request"],
        "The store rejects the request; its reason is in the DETAIL. Check the endpoint, the region and the other \
         options in walarchive.storage_options.",
    ),
    (
        &[
            "connection reset",
            "connection closed",
            "broken pipe",
            "incompletemessage",
            "unexpected eof",
        ],
        "If this persists, check that the store is up, and find out what breaks connections between this machine and \
         the store: a firewall, a load balancer, a proxy.",
    ),
];

/// For a failure of no other kind.
const OTHER: &str = "If this persists, check that the store is up and can be reached from this machine, and that \
                     walarchive.storage and walarchive.storage_options are right.";

/// For what a store or the network said.
pub(super) fn of_reason(reason: &str) -> &'static str {
    let reason = reason.to_ascii_lowercase();
    let fits = |marks: &&[&str]| marks.iter().any(|mark| reason.contains(mark));
    KINDS
        .iter()
        .find(|(marks, _)| fits(marks))
        .map_or(OTHER, |(_, hint)| hint)
}

/// For a URL whose bucket, container or directory is not there.
pub(super) fn of_missing_store(target: &str) -> String {
    let (scheme, rest) = target.split_once("://").unwrap_or(("file", ""));
    let name = rest.split('/').next().unwrap_or_default();
    let kind = match scheme {
        "s3" | "gs" => "bucket",
        "az" | "swift" => "container",
        _ => "",
    };
    if kind.is_empty() || name.is_empty() {
        return "Create it, owned by the server's user if it is a directory, or correct walarchive.storage.".to_owned();
    }
    format!("Create it, or correct walarchive.storage: the store has no {kind} \"{name}\".")
}

/// Where to look, if the source of the credentials is known.
pub(super) fn of_origin(object: &str, credentials: &str) -> String {
    let check = match object.split(':').next().unwrap_or_default() {
        "gs" => "Check the key of the service account and its roles on the bucket",
        "az" => "Check the key, the SAS or the identity, and its permissions on the container",
        "swift" => "Check the user, the project, the password and the rights on the container",
        "sftp" => "Check the user in walarchive.storage, the key or the password, and the permissions on the directory",
        _ => "Check the access key, its secret and its permissions on the bucket",
    };
    let again = if credentials.contains("environment") {
        "A server reads its environment when it starts."
    } else if credentials.starts_with("the configuration file") {
        "Correct it, and run the command again."
    } else {
        "It is read again by itself when it changes."
    };
    format!("{check}: those in use are from {credentials}. {again}")
}

/// The places where the credentials of a store are looked for.
pub(super) fn of_credentials(object: &str) -> &'static str {
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

/// For a local file that could not be used; none where the message says all.
pub(super) fn of_io(source: &io::Error) -> Option<String> {
    let hint = match source.kind() {
        io::ErrorKind::StorageFull => "Free some space on that file system.",
        io::ErrorKind::PermissionDenied => "Check the owner and the mode of that file and its directories.",
        io::ErrorKind::ReadOnlyFilesystem => "The file system is mounted read-only.",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_hint_of_its_own() {
        let mut seen = Vec::new();
        for (reason, says) in [
            (
                "the store answered 307 Temporary Redirect and redirects to \"http://h:9\", which is not followed",
                "No redirection is followed",
            ),
            (
                "the store answered with more than 65536 bytes, too many for such an answer",
                "No store answers there",
            ),
            ("invalid peer certificate: UnknownIssuer", "ca_cert_file"),
            (
                "invalid peer certificate: certificate not valid for name \"h\"",
                "another host name",
            ),
            (
                "invalid peer certificate: certificate expired: verified at",
                "has expired",
            ),
            ("invalid peer certificate: BadEncoding", "was not accepted"),
            (
                "received corrupt message of type InvalidContentType",
                "does not speak TLS",
            ),
            ("tunnel error: unsuccessful: proxy authorization required", "proxy_url"),
            (
                "dns error: failed to lookup address information: Name or service not known",
                "name service",
            ),
            (
                "tcp connect error: Connection refused (os error 111)",
                "Nothing accepts",
            ),
            ("Network is unreachable (os error 101)", "cannot reach"),
            ("Server returned 503 Service Unavailable", "overloaded"),
            ("the request timed out: no answer within 3 s", "does not answer in time"),
            (
                "400 Bad Request: <Code>KeyTooLongError</Code>",
                "this name for an object",
            ),
            ("400 Bad Request: <Code>EntityTooLarge</Code>", "larger"),
            (
                "400 Bad Request: <Code>InvalidArgument</Code>Part number must be an integer",
                "more parts",
            ),
            ("403 Forbidden: <Code>QuotaExceeded</Code>", "quota"),
            ("400 Bad Request: <Code>InvalidArgument</Code>", "rejects the request"),
            ("Connection reset by peer (os error 104)", "what breaks connections"),
            ("something else", "check that the store is up"),
        ] {
            let hint = of_reason(reason);
            assert!(hint.contains(says), "{reason}: {hint}");
            seen.push(hint);
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() >= 16, "{seen:?}");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            of_missing_store("s3://bocket/prefix"),
            "Create it, or correct walarchive.storage: the store has no bucket \"bocket\"."
        );
        assert!(of_missing_store("az://c/p").contains("no container \"c\""));
        assert!(of_missing_store("file:///x").contains("if it is a directory"));
    }
}
