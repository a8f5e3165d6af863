//! WAL-G's variables, so that a container that ran WAL-G runs this program unchanged.
//!
//! Variables without secrets become options of the store, so that the restore_command of a restored server has them as well.
//! Secrets stay where they are: core reads them from the environment.

mod rules;

use std::ffi::OsString;

use url::Url;
use walarchive_core::codec::{Compression, Format};
use walarchive_core::{Error, Result, wal_g};
use walarchive_storage::StorageOptions;
use walarchive_storage::crypt::WAL_G_KEYS;

use self::rules::{RULES, SECRETS};

/// The environment, or what a test puts in its place.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The prefixes, in the order of the search. WAL-E's names count as WAL-G's do.
const PREFIXES: [&str; 6] = [
    "WALG_S3_PREFIX",
    "WALG_GS_PREFIX",
    "WALG_AZ_PREFIX",
    "WALG_SWIFT_PREFIX",
    "WALG_SSH_PREFIX",
    "WALG_FILE_PREFIX",
];

/// A folder below all of these.
const FOLDER: &str = "WALG_STORAGE_PREFIX";

const COMPRESSION: &str = "WALG_COMPRESSION_METHOD";

/// The level for it, as a number.
const LEVEL: &str = "WALG_COMPRESSION_LEVEL";

/// The level for zstd, as a word.
const ZSTD_LEVEL: &str = "WALG_ZSTD_LEVEL";

/// WAL-G's words, and the levels that come nearest.
const ZSTD_LEVELS: [(&str, i32); 4] = [("fastest", 1), ("default", 3), ("better", 7), ("best", 11)];

const UPLOAD_CONCURRENCY: &str = "WALG_UPLOAD_CONCURRENCY";

/// As many as the server uploads if `walarchive.upload_concurrency` is not set, and the most that can be set.
const UPLOADS: usize = 8;
const MOST_UPLOADS: usize = 64;

/// WAL-E's name of a prefix.
fn of_wal_e(prefix: &str) -> String {
    prefix.replacen("WALG_", "WALE_", 1)
}

/// The storage, as the first prefix that is set names it.
pub(super) fn url(environment: Environment<'_>) -> Result<Option<String>> {
    let found = prefix_url(environment)?;
    let folder = environment(FOLDER).map(|folder| folder.trim_matches('/').to_owned());
    Ok(match (found, folder.filter(|folder| !folder.is_empty())) {
        (Some(url), Some(folder)) => Some(format!("{}/{folder}", url.trim_end_matches('/'))),
        (found, _) => found,
    })
}

fn prefix_url(environment: Environment<'_>) -> Result<Option<String>> {
    let value = |name: &str| environment(name).or_else(|| environment(&of_wal_e(name)));
    let Some((name, prefix)) = PREFIXES.iter().find_map(|name| Some((*name, value(name)?))) else {
        return Ok(None);
    };
    let bad = |problem: &str, hint: &str| Error::config(format!("{name} {problem}"), hint);
    match name {
        "WALG_FILE_PREFIX" => file_url(&prefix).map(Some),
        "WALG_SSH_PREFIX" => {
            let hint = "Write it like \"ssh://host/path\", or use --storage sftp://user@host/path.";
            let mut url = prefix
                .strip_prefix("ssh://")
                .and_then(|rest| Url::parse(&format!("sftp://{rest}")).ok())
                .filter(Url::has_host)
                .ok_or_else(|| bad("is not of the form ssh://host/path", hint))?;
            if url.username().is_empty()
                && let Some(user) = environment("SSH_USERNAME")
            {
                // This cannot fail: the URL has a host.
                let _ = url.set_username(&user);
            }
            if url.port().is_none()
                && let Some(port) = environment("SSH_PORT")
            {
                let port = port
                    .parse()
                    .map_err(|_| Error::config("SSH_PORT is not a port", "Set it to a number from 1 to 65535."))?;
                let _ = url.set_port(Some(port));
            }
            Ok(Some(url.as_str().trim_end_matches('/').to_owned()))
        }
        // WAL-G's name of the scheme is Azure's own.
        "WALG_AZ_PREFIX" => Ok(Some(match prefix.strip_prefix("azure://") {
            Some(rest) => format!("az://{rest}"),
            None => prefix,
        })),
        _ => Ok(Some(prefix)),
    }
}

fn file_url(prefix: &str) -> Result<String> {
    let path = prefix.strip_prefix("file://localhost").unwrap_or(prefix);
    if path.starts_with("file://") {
        return Ok(path.to_owned());
    }
    Url::from_directory_path(path)
        .map(|url| url.as_str().trim_end_matches('/').to_owned())
        .map_err(|()| {
            Error::config(
                format!("WALG_FILE_PREFIX \"{prefix}\" is not an absolute path"),
                "Use an absolute path, or --storage file:///path.",
            )
        })
}

/// How WAL-G would compress; none if its variables do not say it. A level counts only where the method has levels.
pub(super) fn compression(environment: Environment<'_>) -> Option<Result<Compression>> {
    let method = environment(COMPRESSION)?;
    // A setting that is not understood has no effect, and is named.
    Compression::new(&method, 1).ok()?;
    Some(level(environment, &method).and_then(|level| Compression::new(&method, level.unwrap_or(1))))
}

fn level(environment: Environment<'_>, method: &str) -> Result<Option<i32>> {
    if let Some(level) = environment(LEVEL) {
        return level.trim().parse().map(Some).map_err(|_| {
            Error::config(
                "WALG_COMPRESSION_LEVEL is not a number",
                "Set it to a level of the method.",
            )
        });
    }
    match environment(ZSTD_LEVEL).filter(|_| method == "zstd") {
        None => Ok(None),
        Some(word) => {
            let known = ZSTD_LEVELS
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(word.trim()));
            known.map(|(_, level)| Some(*level)).ok_or_else(|| {
                Error::config(
                    "WALG_ZSTD_LEVEL is not a level of zstd",
                    "Set it to fastest, default, better or best.",
                )
            })
        }
    }
}

/// How many WAL files are uploaded at a time.
pub(super) fn upload_concurrency(environment: Environment<'_>) -> Result<usize> {
    let Some(value) = environment(UPLOAD_CONCURRENCY) else {
        return Ok(UPLOADS);
    };
    match value.parse() {
        Ok(number @ 1..=MOST_UPLOADS) => Ok(number),
        _ => Err(Error::config(
            format!("WALG_UPLOAD_CONCURRENCY is \"{value}\", not a number from 1 to {MOST_UPLOADS}"),
            "Correct it, or take it out of the environment.",
        )),
    }
}

/// The format of what WAL-G would have written.
pub(super) fn format(environment: Environment<'_>) -> Option<Format> {
    Compression::new(&environment(COMPRESSION)?, 1)
        .ok()
        .map(Compression::format)
}

/// The replication slot of `wal-receive`.
pub const SLOT: &str = "WALG_SLOTNAME";

/// The user data of the backup that `backup-fetch` fetches.
pub const TARGET_USER_DATA: &str = "WALG_FETCH_TARGET_USER_DATA";

/// Remarks on variables that are set, but not understood or without effect.
pub(super) fn remarks(variables: &[(OsString, OsString)]) -> Vec<String> {
    let mut remarks = Vec::new();
    let pairs = || variables.iter().map(|(name, value)| (name, value));
    let unknown = wal_g::not_understood(pairs(), is_understood);
    if !unknown.is_empty() {
        remarks.push(format!(
            "settings of WAL-G that walarchive does not understand have no effect: {}\n\
             HINT:  See docs/wal-g.md in the manual for those that are understood.",
            unknown.join(", ")
        ));
    }
    let value = |name: &str| {
        let found = variables
            .iter()
            .find(|(other, value)| other == name && !value.is_empty());
        found.and_then(|(_, value)| value.to_str().map(str::to_owned))
    };
    if value(COMPRESSION).is_some() && compression(&value).is_none() {
        remarks.push(format!(
            "{COMPRESSION} has no effect on what is written: its value is not understood\n\
             HINT:  Set it to zstd, lz4, lzma, brotli or none, or unset it: then walarchive.compression decides."
        ));
    }
    let set: Vec<String> = PREFIXES
        .iter()
        .flat_map(|name| [(*name).to_owned(), of_wal_e(name)])
        .filter(|name| value(name).is_some())
        .collect();
    if let [first, others @ ..] = &set[..]
        && !others.is_empty()
    {
        remarks.push(format!("{first} is used; ignored: {}", others.join(", ")));
    }
    remarks
}

/// The variables that have an effect, and what they become.
pub fn variables() -> Vec<(String, String)> {
    let prefixes = PREFIXES
        .iter()
        .map(|name| ((*name).to_owned(), "the storage".to_owned()));
    let keys = WAL_G_KEYS.map(|name| (name.to_owned(), "a key to encrypt and to decrypt with".to_owned()));
    let further = [
        (FOLDER, "a folder below the prefix"),
        (COMPRESSION, "how what is written is compressed"),
        (LEVEL, "the level of it"),
        (ZSTD_LEVEL, "the level of zstd"),
        ("WALG_CONFIG_PATH", "the configuration file"),
        (SLOT, "the replication slot of wal-receive"),
        (TARGET_USER_DATA, "the user data of the backup to fetch"),
    ];
    let further = further.map(|(name, what)| (name.to_owned(), what.to_owned()));
    let options = RULES.iter().flat_map(|rule| {
        let what = match rule.options.first() {
            Some(option) => format!("option {option} of {}", rule.scheme),
            None => "part of the storage".to_owned(),
        };
        rule.variables
            .iter()
            .map(move |name| ((*name).to_owned(), what.clone()))
    });
    let secrets = SECRETS.iter().flat_map(|(scheme, names)| {
        let what = format!("a secret of {scheme}");
        names.iter().map(move |name| ((*name).to_owned(), what.clone()))
    });
    prefixes
        .chain(further)
        .chain(keys)
        .chain(options)
        .chain(secrets)
        .collect()
}

/// The secrets that an environment has for a storage, as lines of a credentials file.
pub(super) fn credentials(url: &str, environment: Environment<'_>) -> Vec<(String, String)> {
    let scheme = url.split(':').next().unwrap_or_default();
    let names = SECRETS
        .iter()
        .filter(|(of, _)| *of == scheme)
        .flat_map(|(_, names)| *names);
    let key = |name: &str| match name {
        "WALG_S3_SSE_C" => "aws_sse_customer_key_base64".to_owned(),
        "AZURE_STORAGE_ACCESS_KEY" | "AZURE_STORAGE_KEY" => "azure_storage_account_key".to_owned(),
        _ => name.to_ascii_lowercase(),
    };
    names.filter_map(|name| Some((key(name), environment(name)?))).collect()
}

/// Does the variable have an effect, at least for some kind of storage?
fn is_understood(name: &str) -> bool {
    let is_prefix = |prefix: &&str| *prefix == name || of_wal_e(prefix) == name;
    PREFIXES.iter().any(is_prefix)
        || [FOLDER, COMPRESSION, LEVEL, ZSTD_LEVEL, SLOT, TARGET_USER_DATA].contains(&name)
        || WAL_G_KEYS.contains(&name)
        || RULES.iter().any(|rule| rule.variables.contains(&name))
        || SECRETS.iter().any(|(_, names)| names.contains(&name))
}

/// Add the options that the environment has and `options` has not.
pub(super) fn add_options(url: &str, options: &mut StorageOptions, environment: Environment<'_>) -> Result<()> {
    let scheme = url.split(':').next().unwrap_or_default();
    // As with AWS's own tools, a key in the environment comes before a profile in it. As an option, the profile would come first.
    let has_key = environment("AWS_ACCESS_KEY_ID").is_some();
    for rule in RULES.iter().filter(|rule| rule.scheme == scheme) {
        let Some(option) = rule.options.first() else { continue };
        if rule.options.iter().any(|name| options.get(name).is_some()) || (*option == "aws_profile" && has_key) {
            continue;
        }
        let found = rule.variables.iter().find_map(|name| environment(name));
        let Some(value) = found.and_then(|value| (rule.convert)(&value)) else {
            continue;
        };
        options.insert(option, &value)?;
        // For WAL-G an http:// URL is permission enough.
        let decided = ["allow_http", "aws_allow_http"]
            .iter()
            .any(|name| options.get(name).is_some());
        if value.starts_with("http://") && !decided {
            options.insert("allow_http", "true")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
