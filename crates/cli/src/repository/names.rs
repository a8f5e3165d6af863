//! Names of variables.

/// Prefixes of the names that may be set from elsewhere. A file that others can write must not decide what programs and libraries do.
const NAMES: [&str; 13] = [
    "WALG_",
    "WALE_",
    "WALARCHIVE_",
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "GCS_",
    "OS_",
    "ST_",
    "SSH_",
    "YC_CSE_",
    "YC_SERVICE_",
    "PGDATA",
];

/// Names that are allowed by themselves.
const NAMES_IN_FULL: [&str; 19] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGCONNECT_TIMEOUT",
    "PGTARGETSESSIONATTRS",
    "PGAPPNAME",
    "PGOPTIONS",
];

/// Parts of the names of secrets.
const SECRETS: [&str; 9] = [
    "SECRET",
    "PASSWORD",
    "PASSPHRASE",
    "SESSION_TOKEN",
    "SAS_TOKEN",
    "STORAGE_KEY",
    "ACCESS_KEY",
    "SSE_C",
    "_KEY",
];

/// May a file or a flag set the variable?
pub(super) fn is_known(name: &str) -> bool {
    // A name with "=" in it would become another one.
    let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    name.bytes().all(is_name) && is_allowed(name)
}

fn is_allowed(name: &str) -> bool {
    NAMES.iter().any(|start| name.starts_with(start)) || NAMES_IN_FULL.contains(&name)
}

/// Does the variable hold a secret, and not the path of one?
pub(super) fn is_secret(name: &str) -> bool {
    let names_a_place = ["_PATH", "_FILE", "_COMMAND"].iter().any(|end| name.ends_with(end));
    !names_a_place && SECRETS.iter().any(|word| name.contains(word))
}
