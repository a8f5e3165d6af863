//! The plain configuration that the extension's settings and the binary's flags both become.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};

/// `walarchive.storage` and what belongs to it: where the repository is, and how to get there.
///
/// It holds no secrets: credentials are read when the store is opened, and only then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StorageConfig {
    /// The URL, for example `s3://bucket/prefix` or `file:///backup`.
    pub url: String,
    /// Options of the store under object_store's own key names.
    pub options: StorageOptions,
    /// A file of `key = value` lines with the credentials, if they are not in the environment.
    pub credentials_file: Option<PathBuf>,
    /// The longest that one attempt of one request may take, beside the transfer of what it moves.
    pub request_timeout: Duration,
    /// How long a request is tried again, counted from its first attempt. Refusals are not tried again.
    pub patience: Duration,
}

impl StorageConfig {
    /// One attempt of one request, unless told otherwise.
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

    /// A configuration with no options and no credentials file.
    pub fn new(url: impl Into<String>) -> Self {
        StorageConfig {
            url: url.into(),
            options: StorageOptions::default(),
            credentials_file: None,
            request_timeout: Self::REQUEST_TIMEOUT,
            patience: Self::REQUEST_TIMEOUT,
        }
    }

    /// The same for a backup, which has hours to lose where an archiver simply comes again: it outlasts an outage of some
    /// minutes, and slow links.
    pub fn for_backup(&self) -> Self {
        StorageConfig {
            request_timeout: self.request_timeout.max(Duration::from_secs(120)),
            patience: self.patience.max(Duration::from_secs(600)),
            ..self.clone()
        }
    }
}

/// Non-secret options of a store: `key=value` pairs, separated by commas or spaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct StorageOptions(BTreeMap<String, String>);

/// Words in a key that make its value a secret, unless it is the path of a file.
const SECRET_WORDS: [&str; 13] = [
    "customer_key",
    "encryption_key",
    "secret",
    "password",
    "passphrase",
    "token",
    "access_key",
    "account_key",
    "master_key",
    "storage_key",
    "sas_key",
    "st_key",
    "service_account_key",
];

fn is_secret(key: &str) -> bool {
    let is_path = key.ends_with("_file") || key.ends_with("_path");
    !is_path && SECRET_WORDS.iter().any(|word| key.contains(word))
}

impl StorageOptions {
    /// Add one pair. A key whose value would be a secret is refused, as settings and arguments can be seen by others.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<()> {
        let key = key.trim().to_ascii_lowercase();
        if is_secret(&key) {
            return Err(Error::config(
                format!("storage option \"{key}\" is a credential"),
                "Credentials belong into the environment of the process or into the file named by \
                 walarchive.credentials_file, where nobody else can read them.",
            ));
        }
        if url::Url::parse(value).is_ok_and(|url| !url.username().is_empty() || url.password().is_some()) {
            return Err(Error::config(
                format!("storage option \"{key}\" holds a user name or a password"),
                "Credentials belong into the environment of the process or into the file named by \
                 walarchive.credentials_file, where nobody else can read them.",
            ));
        }
        if key.is_empty() || value.is_empty() {
            return Err(Error::config(
                "a storage option has no key or no value",
                "Write options as \"key=value\", separated by commas or spaces.",
            ));
        }
        self.0.insert(key, value.trim().to_owned());
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All pairs, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl FromStr for StorageOptions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut options = StorageOptions::default();
        for pair in text.split([',', ' ', '\t', '\n']).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                // The text is not repeated: it may be a credential that was put into the wrong place.
                Error::config(
                    "a storage option is not of the form \"key=value\"",
                    "Write options as \"key=value\", separated by commas or spaces.",
                )
            })?;
            options.insert(key, value)?;
        }
        Ok(options)
    }
}

impl fmt::Display for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_separated_by_commas_or_spaces() {
        let options: StorageOptions = "aws_endpoint=http://h:1, AWS_Region=eu  allow_http=true,"
            .parse()
            .expect("options");
        assert_eq!(
            options.to_string(),
            "allow_http=true,aws_endpoint=http://h:1,aws_region=eu"
        );
        assert_eq!(options.to_string().parse::<StorageOptions>().expect("options"), options);
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for text in [
            "aws_secret_access_key=hunter2",
            "hunter2",
            "aws_session_token=hunter2",
            "password=hunter2",
            "st_key=hunter2",
            "os_application_credential_secret=hunter2",
            "sftp_private_key_passphrase=hunter2",
            "sse_customer_key_base64=hunter2",
            "azure_storage_key=hunter2",
            "access_key=hunter2",
            "google_service_account_key=hunter2",
            "proxy_url=http://me:hunter2@host",
        ] {
            let error = text.parse::<StorageOptions>().expect_err("refused");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        let paths = "aws_web_identity_token_file=/t,sftp_private_key_path=/k";
        paths.parse::<StorageOptions>().expect("paths are no secrets");
    }
}
