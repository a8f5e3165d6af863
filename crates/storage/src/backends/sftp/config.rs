//! The place of the server, our name there, and our proof.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use super::keys;
use super::keys::KeyFile;
use crate::backends::credentials;
use crate::config::StorageConfig;
use crate::error::{Error, Result};
use crate::renewal::Watch;
use crate::transfer::retry::Retry;

const OPTIONS: &str = "Known are sftp_user, sftp_port, sftp_private_key_path, sftp_known_hosts and sftp_agent_socket.";
const CREDENTIALS: &str = "Known are sftp_password and sftp_private_key_passphrase.";

/// Reads a variable of the environment.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

#[derive(Debug)]
pub(super) struct Settings {
    pub host: String,
    pub port: u16,
    pub user: String,
    /// As the server is asked for it: absolute, or relative to the home directory.
    pub root: String,
    pub known_hosts: KnownHostsFiles,
    pub keys: Vec<KeyFile>,
    pub password: Option<Secret>,
    pub agent: Option<PathBuf>,
    /// Default key files that were passed over, and why.
    pub passed_over: Vec<String>,
    pub request_timeout: Duration,
    pub retry: Retry,
    /// The files that the credentials may be from.
    pub watch: Watch,
    /// The source of the credentials, for messages.
    pub origin: String,
}

/// The files that name the hosts we trust.
#[derive(Debug)]
pub(super) enum KnownHostsFiles {
    /// The user named it: it must be there.
    Given(PathBuf),
    /// Those of them that are there; the first is where a key is to be added.
    Usual(Vec<PathBuf>),
}

/// Text that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Default)]
struct Given {
    user: Option<String>,
    port: Option<String>,
    key: Option<PathBuf>,
    known_hosts: Option<PathBuf>,
    agent: Option<PathBuf>,
    password: Option<Secret>,
    passphrase: Option<Secret>,
    /// The credentials file has the password.
    password_in_file: bool,
}

impl Settings {
    /// Would the server be shown the same?
    pub(super) fn proves_the_same_as(&self, other: &Settings) -> bool {
        let shown = |keys: &[KeyFile]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
        self.password == other.password && shown(&self.keys) == shown(&other.keys)
    }

    pub(super) fn new(url: &Url, config: &StorageConfig, environment: Environment<'_>) -> Result<Self> {
        let given = given(config, environment)?;
        let host = url.host_str().unwrap_or_default();
        // The resolver wants an IPv6 address without its brackets, and known_hosts has names in lower case.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = match (url.port(), given.port) {
            (Some(port), _) => port,
            (None, Some(text)) => text.parse().map_err(|_| {
                Error::config(
                    format!("\"{text}\" is not the port of an SFTP server"),
                    "Write it into the URL, as in \"sftp://user@host:2222/path\".",
                )
            })?,
            (None, None) => 22,
        };
        let us = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let user = match url.username() {
            "" => given.user.or_else(|| us.as_ref().map(|us| us.name.clone())),
            user => Some(decoded(user, url)?),
        };
        let user = user.ok_or_else(|| {
            Error::config(
                format!("storage \"{url}\" names no user"),
                "Write it as \"sftp://user@host/path\".",
            )
        })?;
        let home = environment("HOME").map(PathBuf::from).or(us.map(|us| us.dir));
        let mut watch = Watch::default();
        for file in config.credentials_file.iter().chain(&given.key) {
            watch.add(file);
        }
        if let (None, None, Some(home)) = (&given.key, &given.password, &home) {
            keys::usual_paths(home).for_each(|path| watch.add(path));
        }
        let (keys, passed_over) = match (&given.key, &given.password, &home) {
            (Some(path), _, _) => (vec![keys::load(path, given.passphrase.as_ref())?], Vec::new()),
            (None, None, Some(home)) => keys::usual(home, given.passphrase.as_ref()),
            _ => (Vec::new(), Vec::new()),
        };
        let known_hosts = match given.known_hosts {
            Some(path) => KnownHostsFiles::Given(path),
            None => KnownHostsFiles::Usual(
                home.map(|home| home.join(".ssh/known_hosts"))
                    .into_iter()
                    .chain([PathBuf::from("/etc/ssh/ssh_known_hosts")])
                    .collect(),
            ),
        };
        let mut origins: Vec<String> = keys
            .iter()
            .map(|file| format!("the key file \"{}\"", file.path.display()))
            .collect();
        match (&given.password, &config.credentials_file) {
            (Some(_), Some(path)) if given.password_in_file => {
                origins.push(credentials::origin(path));
            }
            (Some(_), _) => origins.push("SSH_PASSWORD in the environment of the process".to_owned()),
            _ => {}
        }
        Ok(Settings {
            watch,
            origin: origins.join(" and "),
            host,
            port,
            user,
            root: root(url)?,
            known_hosts,
            keys,
            password: given.password,
            agent: given.agent,
            passed_over,
            request_timeout: config.request_timeout,
            retry: Retry::new(config),
        })
    }
}

/// The values that are set, the more explicit place before the environment.
fn given(config: &StorageConfig, environment: Environment<'_>) -> Result<Given> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let mut given = Given {
        user: variable("SSH_USERNAME"),
        port: variable("SSH_PORT"),
        key: variable("SSH_PRIVATE_KEY_PATH").map(PathBuf::from),
        known_hosts: None,
        agent: variable("SSH_AUTH_SOCK").map(PathBuf::from),
        password: variable("SSH_PASSWORD").map(Secret),
        passphrase: variable("SSH_PRIVATE_KEY_PASSPHRASE").map(Secret),
        password_in_file: false,
    };
    if let Some(path) = &config.credentials_file {
        for (key, value) in credentials::read(path)? {
            match key.as_str() {
                "sftp_password" | "ssh_password" => {
                    given.password = Some(Secret(value));
                    given.password_in_file = true;
                }
                "sftp_private_key_passphrase" | "ssh_private_key_passphrase" => given.passphrase = Some(Secret(value)),
                _ => return Err(unknown("credential", &key, CREDENTIALS)),
            }
        }
    }
    for (key, value) in config.options.iter() {
        match key {
            "sftp_user" | "ssh_username" => given.user = Some(value.to_owned()),
            "sftp_port" | "ssh_port" => given.port = Some(value.to_owned()),
            "sftp_private_key_path" | "ssh_private_key_path" => given.key = Some(absolute(key, value)?),
            "sftp_known_hosts" => given.known_hosts = Some(absolute(key, value)?),
            "sftp_agent_socket" | "ssh_auth_sock" => given.agent = Some(absolute(key, value)?),
            _ => return Err(unknown("storage option", key, OPTIONS)),
        }
    }
    Ok(given)
}

fn unknown(what: &str, key: &str, known: &str) -> Error {
    Error::config(format!("{what} \"{key}\" is not known for SFTP"), known)
}

/// A DBA does not count from a server's current directory.
fn absolute(key: &str, value: &str) -> Result<PathBuf> {
    let path = Path::new(value);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Error::config(
        format!("storage option \"{key}\" is not an absolute path: \"{value}\""),
        "Write the path from the root directory on.",
    ))
}

/// The directory of the URL. One that begins with `/~/` is below the user's home, from where SFTP counts relative paths.
fn root(url: &Url) -> Result<String> {
    let path = decoded(url.path(), url)?;
    let path = path.trim_end_matches('/');
    if path.split('/').any(|part| part == "." || part == "..") || path.contains(['\0', '\n']) {
        return Err(Error::config(
            format!("storage \"{url}\" has an invalid path"),
            "Write a path without dotted parts.",
        ));
    }
    Ok(match path.strip_prefix("/~") {
        Some("") => ".".to_owned(),
        // Never an option nor an absolute path, however many slashes there are.
        Some(rest) if rest.starts_with('/') => format!("./{}", rest.trim_start_matches('/')),
        _ if path.is_empty() => "/".to_owned(),
        _ => path.to_owned(),
    })
}

fn decoded(text: &str, url: &Url) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| {
        Error::config(
            format!("storage \"{url}\" is not UTF-8"),
            "Names in the URL must be UTF-8, percent-encoded where a URL needs it.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str, options: &str, environment: &[(&str, &str)]) -> Result<Settings> {
        let config = StorageConfig {
            options: options.parse().expect("options"),
            ..StorageConfig::new(url)
        };
        let url = Url::parse(url).expect("a URL");
        Settings::new(&url, &config, &|name| {
            let found = environment.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const HOME: (&str, &str) = ("HOME", "/nonexistent");

    #[test]
    fn the_url_tells_where() {
        let found = settings("sftp://me%40home@Host:2222/a%20dir/b/", "", &[HOME]).expect("settings");
        assert_eq!(
            (found.user.as_str(), found.host.as_str(), found.port),
            ("me@home", "host", 2222)
        );
        assert_eq!(found.root, "/a dir/b");
        for (url, root) in [
            ("sftp://h/~/x/y", "./x/y"),
            ("sftp://h/~", "."),
            ("sftp://h/~x", "/~x"),
            ("sftp://h", "/"),
            ("sftp://h/", "/"),
        ] {
            assert_eq!(settings(url, "", &[HOME]).expect("settings").root, root, "{url}");
        }
        let found = settings("sftp://[::1]/x", "", &[HOME]).expect("settings");
        assert_eq!((found.host.as_str(), found.port), ("::1", 22));
        assert!(settings("sftp://h/a/%2e%2e/b", "", &[HOME]).is_ok_and(|found| !found.root.contains("..")));
    }

    #[test]
    fn options_come_before_the_environment_and_the_url_before_both() {
        let environment = [
            HOME,
            ("SSH_USERNAME", "env"),
            ("SSH_PORT", "1022"),
            ("SSH_AUTH_SOCK", "/a"),
        ];
        let found = settings("sftp://h/x", "", &environment).expect("settings");
        assert_eq!((found.user.as_str(), found.port), ("env", 1022));
        assert_eq!(found.agent.as_deref(), Some(Path::new("/a")));
        let options = "sftp_user=opt,sftp_port=2022,sftp_agent_socket=/b";
        let found = settings("sftp://h/x", options, &environment).expect("settings");
        assert_eq!((found.user.as_str(), found.port), ("opt", 2022));
        assert_eq!(found.agent.as_deref(), Some(Path::new("/b")));
        let found = settings("sftp://me@h:22/x", options, &environment).expect("settings");
        assert_eq!((found.user.as_str(), found.port), ("me", 22));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (options, says) in [
            ("aws_region=x", "\"aws_region\" is not known"),
            ("sftp_port=99999", "not the port"),
            ("sftp_known_hosts=known_hosts", "not an absolute path"),
            ("sftp_private_key_path=/nonexistent/key", "/nonexistent/key"),
        ] {
            let error = settings("sftp://h/x", options, &[HOME]).expect_err(options);
            assert!(error.to_string().contains(says), "{options}: {error}");
        }
    }

    #[test]
    fn passwords_are_never_shown() {
        let environment = [
            HOME,
            ("SSH_PASSWORD", "hunter2"),
            ("SSH_PRIVATE_KEY_PASSPHRASE", "hunter2"),
        ];
        let found = settings("sftp://h/x", "", &environment).expect("settings");
        assert!(found.password.is_some());
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    }
}
