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
    // What is not understood has no effect, and is named.
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

/// The format that WAL-G would have written.
pub(super) fn format(environment: Environment<'_>) -> Option<Format> {
    Compression::new(&environment(COMPRESSION)?, 1)
        .ok()
        .map(Compression::format)
}

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
    let further = [
        (FOLDER, "a folder below the prefix"),
        (COMPRESSION, "how what is written is compressed"),
        (LEVEL, "the level of it"),
        (ZSTD_LEVEL, "the level of zstd"),
        ("WALG_CONFIG_PATH", "the configuration file"),
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
    prefixes.chain(further).chain(options).chain(secrets).collect()
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
        || [FOLDER, COMPRESSION, LEVEL, ZSTD_LEVEL].contains(&name)
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
mod tests {
    use super::*;

    fn lookup<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn prefixes_become_urls() {
        for (variables, expected) in [
            (&[("WALG_S3_PREFIX", "s3://b/p")][..], "s3://b/p"),
            (&[("WALG_GS_PREFIX", "gs://b/p")], "gs://b/p"),
            (&[("WALG_AZ_PREFIX", "azure://c/p")], "az://c/p"),
            (&[("WALG_SWIFT_PREFIX", "swift://c/p")], "swift://c/p"),
            (&[("WALG_FILE_PREFIX", "/a b")], "file:///a%20b"),
            (&[("WALG_SSH_PREFIX", "ssh://h/p")], "sftp://h/p"),
            (
                &[
                    ("WALG_SSH_PREFIX", "ssh://h/p/"),
                    ("SSH_USERNAME", "u"),
                    ("SSH_PORT", "2222"),
                ],
                "sftp://u@h:2222/p",
            ),
            (
                &[
                    ("WALG_SSH_PREFIX", "ssh://me@h:22/p"),
                    ("SSH_USERNAME", "u"),
                    ("SSH_PORT", "2222"),
                ],
                "sftp://me@h:22/p",
            ),
        ] {
            let found = url(&lookup(variables)).expect("found");
            assert_eq!(found.as_deref(), Some(expected), "{variables:?}");
        }
        assert_eq!(url(&lookup(&[])).expect("asked"), None);
        for variables in [
            &[("WALG_FILE_PREFIX", "relative")][..],
            &[("WALG_SSH_PREFIX", "h/p")],
            &[("WALG_SSH_PREFIX", "ssh://h/p"), ("SSH_PORT", "ssh")],
        ] {
            url(&lookup(variables)).expect_err("refused");
        }
    }

    #[test]
    fn a_folder_is_below_any_prefix_and_wal_e_has_names_too() {
        for (variables, expected) in [
            (&[("WALE_S3_PREFIX", "s3://b/p")][..], "s3://b/p"),
            (
                &[("WALE_S3_PREFIX", "s3://e"), ("WALG_S3_PREFIX", "s3://g/")],
                "s3://g/",
            ),
            (
                &[("WALG_S3_PREFIX", "s3://b/p/"), ("WALG_STORAGE_PREFIX", "/a/b/")],
                "s3://b/p/a/b",
            ),
            (
                &[("WALG_FILE_PREFIX", "/d"), ("WALG_STORAGE_PREFIX", "x")],
                "file:///d/x",
            ),
            (&[("WALG_FILE_PREFIX", "/d"), ("WALG_STORAGE_PREFIX", "/")], "file:///d"),
        ] {
            let found = url(&lookup(variables)).expect("found");
            assert_eq!(found.as_deref(), Some(expected), "{variables:?}");
        }
    }

    #[test]
    fn what_has_no_effect_is_named_once() {
        let remarks = |variables: &[(&str, &str)]| {
            let variables: Vec<_> = variables
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value)))
                .collect();
            super::remarks(&variables)
        };
        let understood = [
            ("WALG_S3_PREFIX", "s3://b"),
            ("WALG_S3_SSE", "x"),
            ("WALG_S3_SSE_C", "x"),
            ("WALG_COMPRESSION_METHOD", "lz4"),
            ("WALG_STORAGE_PREFIX", "x"),
            ("WALG_UPLOAD_CONCURRENCY", "16"),
            ("WALG_DELTA_MAX_STEPS", "6"),
            ("PATH", "/bin"),
        ];
        assert_eq!(remarks(&understood), [""; 0]);
        let found = remarks(&[("WALG_UPLOAD_WAL_METADATA", "BULK"), ("WALE_X", "y"), ("WALG_Y", "")]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("have no effect: WALE_X, WALG_UPLOAD_WAL_METADATA\n"),
            "{found:?}"
        );
        assert_eq!(
            remarks(&[("WALG_COMPRESSION_METHOD", "brotli"), ("WALG_ZSTD_LEVEL", "best")]),
            [""; 0]
        );
        let found = remarks(&[("WALG_COMPRESSION_METHOD", "gzip")]);
        assert!(found.len() == 1 && !found[0].contains("gzip"), "{found:?}");
        let found = remarks(&[
            ("WALG_FILE_PREFIX", "/d"),
            ("WALG_GS_PREFIX", "gs://b"),
            ("WALE_GS_PREFIX", "gs://c"),
        ]);
        assert_eq!(
            found,
            ["WALG_GS_PREFIX is used; ignored: WALE_GS_PREFIX, WALG_FILE_PREFIX"]
        );
    }

    #[test]
    fn wal_gs_compression_counts_if_it_can_be_written() {
        for (method, written, read) in [
            ("lz4", Some(Compression::Lz4), Some(Format::Lz4)),
            ("lzma", Some(Compression::Lzma(1)), Some(Format::Lzma)),
            ("zstd", Some(Compression::Zstd(1)), Some(Format::Zstd)),
            ("none", Some(Compression::Plain), Some(Format::Plain)),
            ("brotli", Some(Compression::Brotli(1)), Some(Format::Brotli)),
            ("gzip", None, None),
        ] {
            let variables = [(COMPRESSION, method)];
            let found = compression(&lookup(&variables)).transpose().expect(method);
            assert_eq!(found, written, "{method}");
            assert_eq!(format(&lookup(&variables)), read, "{method}");
        }
        assert!(compression(&lookup(&[(LEVEL, "7")])).is_none() && format(&lookup(&[])).is_none());
    }

    #[test]
    fn a_level_belongs_to_its_method() {
        let with = |method, name, level| {
            let variables = [(COMPRESSION, method), (name, level)];
            compression(&lookup(&variables)).expect("a method").ok()
        };
        for (method, name, level, expected) in [
            ("zstd", LEVEL, "7", Some(Compression::Zstd(7))),
            ("brotli", LEVEL, "11", Some(Compression::Brotli(11))),
            ("lz4", LEVEL, "9", Some(Compression::Lz4)),
            ("zstd", ZSTD_LEVEL, "Best", Some(Compression::Zstd(11))),
            ("brotli", ZSTD_LEVEL, "best", Some(Compression::Brotli(1))),
            ("zstd", LEVEL, "99", None),
            ("zstd", LEVEL, "high", None),
            ("zstd", ZSTD_LEVEL, "worst", None),
        ] {
            assert_eq!(with(method, name, level), expected, "{method} {name} {level}");
        }
    }

    fn options(url: &str, given: &str, variables: &[(&str, &str)]) -> String {
        let mut options = given.parse().expect("options");
        add_options(url, &mut options, &lookup(variables)).expect("added");
        options.to_string()
    }

    #[test]
    fn variables_become_options_of_their_store() {
        let all: Vec<(&str, &str)> = RULES
            .iter()
            .flat_map(|rule| rule.variables.first())
            .map(|name| (*name, "true"))
            .chain(
                SECRETS
                    .iter()
                    .flat_map(|(_, names)| *names)
                    .map(|name| (*name, "hunter2")),
            )
            .collect();
        for scheme in ["s3", "gs", "az", "swift", "sftp", "file"] {
            let found = options(&format!("{scheme}://x"), "", &all);
            assert!(!found.contains("hunter2"), "{found}");
            for rule in RULES.iter() {
                if let Some(option) = rule.options.first().filter(|option| **option != "aws_profile") {
                    let there = format!(",{found}").contains(&format!(",{option}="));
                    assert_eq!(there, rule.scheme == scheme, "{option} in {found}");
                }
            }
        }
        let variables = [
            ("AWS_ENDPOINT", "h:9000"),
            ("AWS_S3_FORCE_PATH_STYLE", "false"),
            ("AWS_PROFILE", "p"),
            ("WALG_S3_SSE", "aws:kms"),
        ];
        assert_eq!(
            options("s3://b", "aws_region=eu", &variables),
            "aws_endpoint=https://h:9000,aws_profile=p,aws_region=eu,aws_server_side_encryption=aws:kms,\
             aws_virtual_hosted_style_request=true"
        );
        assert_eq!(
            options(
                "swift://c",
                "",
                &[("OS_AUTH_URL", "http://h:5000/v3"), ("OS_TENANT_NAME", "t")]
            ),
            "allow_http=true,os_auth_url=http://h:5000/v3,os_project_name=t"
        );
    }

    /// The table of the manual is made from the code; this test prints it when they differ.
    #[test]
    fn the_manual_tells_the_same() {
        let mut table = String::from("| variable | becomes |\n|---|---|\n");
        let code = |names: &[&str]| {
            names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        for prefix in PREFIXES {
            table.push_str(&format!("| `{prefix}` | the storage |\n"));
        }
        for rule in RULES.iter() {
            let option = match rule.options.first() {
                Some(option)
                    if std::ptr::fn_addr_eq(rule.convert, super::rules::opposite as fn(&str) -> Option<String>) =>
                {
                    format!("`{option}`, the opposite")
                }
                Some(option) => format!("`{option}`"),
                None => "part of the storage".to_owned(),
            };
            table.push_str(&format!("| {} | {option} |\n", code(rule.variables)));
        }
        for secret in SECRETS.iter().flat_map(|(_, names)| *names) {
            table.push_str(&format!("| `{secret}` | nothing: read where it is |\n"));
        }
        let manual = include_str!("../../../../docs/wal-g.md");
        assert!(manual.contains(&table), "docs/wal-g.md needs this table:\n{table}");
    }
}
