//! The plain configuration that the extension's settings and the binary's flags both become.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::crypt::EncryptionConfig;
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
    /// Where the keys of its objects are.
    pub encryption: EncryptionConfig,
    /// The longest time for one attempt of one request, beside the transfer of its bytes.
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
            url: url.into().trim().to_owned(),
            options: StorageOptions::default(),
            credentials_file: None,
            encryption: EncryptionConfig::default(),
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

/// Non-secret options of a store: `key=value` pairs, separated by commas or spaces. As in PostgreSQL's own lists, what stands
/// in double quotes may hold both, and a double quote is written twice there.
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
                "Put credentials into the environment of the process or into the file named by \
                 walarchive.credentials_file, where nobody else can read them.",
            ));
        }
        if url::Url::parse(value).is_ok_and(|url| !url.username().is_empty() || url.password().is_some()) {
            return Err(Error::config(
                format!("storage option \"{key}\" holds a user name or a password"),
                "Put credentials into the environment of the process or into the file named by \
                 walarchive.credentials_file, where nobody else can read them.",
            ));
        }
        if value.trim().starts_with(QUOTE) || value.trim().ends_with(QUOTE) {
            return Err(Error::config(
                format!("the value of storage option \"{key}\" begins or ends with a single quote"),
                FORM,
            ));
        }
        if key.is_empty() || value.trim().is_empty() {
            return Err(Error::config("a storage option has no key or no value", FORM));
        }
        self.0.insert(key, value.trim().to_owned());
        Ok(())
    }

    /// Add what an argument of the command line says: one pair, whose value may hold spaces, or a list as in the setting.
    pub fn insert_argument(&mut self, text: &str) -> Result<()> {
        let items = items(text)?;
        let pairs: Result<Vec<_>> = items.iter().map(|item| pair(item)).collect();
        match (pairs, text.split_once('=')) {
            (Ok(pairs), _) if !pairs.is_empty() => pairs.iter().try_for_each(|(key, value)| self.insert(key, value)),
            // Text after a space belongs to the value, unless it is a pair again: then nobody can tell.
            (_, Some((key, value))) if is_key(key.trim()) && !value.contains(['=', '"']) => self.insert(key, value),
            _ => Err(Error::config(
                "a --storage-option is not of the form KEY=VALUE",
                "Write it like \"--storage-option aws_region=eu-central-1\"; a value with commas, spaces or quotes belongs \
                 into double quotes: --storage-option 'os_project_name=\"My Project\"'.",
            )),
        }
    }

    /// All pairs, ordered by key, each as it is written in the setting.
    pub fn pairs(&self) -> impl Iterator<Item = String> {
        self.iter().map(|(key, value)| {
            let plain = !value.contains(|c: char| SEPARATORS.contains(&c) || c == '"');
            match plain {
                true => format!("{key}={value}"),
                false => format!("{key}=\"{}\"", value.replace('"', "\"\"")),
            }
        })
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
        for item in items(text)? {
            let (key, value) = pair(&item)?;
            options.insert(key, value)?;
        }
        Ok(options)
    }
}

impl fmt::Display for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pair) in self.pairs().enumerate() {
            write!(f, "{}{pair}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Is this value of an option true, as object_store reads it?
pub(crate) fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "on" | "yes" | "y")
}

const FORM: &str = "Write options as \"key=value\", separated by commas or spaces, and put a value that contains one \
                    of these into double quotes: os_project_name=\"My Project\".";

/// A list has double quotes. No value begins or ends with a single one: somebody took it for such a quote, and it would be sent to the
/// store as a part of the value.
const QUOTE: char = '\'';

const SEPARATORS: [char; 5] = [',', ' ', '\t', '\n', '\r'];

/// The items of a list, without their quotes.
fn items(text: &str) -> Result<Vec<String>> {
    let (mut items, mut item, mut quoted) = (Vec::new(), String::new(), false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.next_if_eq(&'"').is_some() => item.push('"'),
            '"' => quoted = !quoted,
            c if !quoted && SEPARATORS.contains(&c) => items.push(std::mem::take(&mut item)),
            c => item.push(c),
        }
    }
    if quoted {
        return Err(Error::config(
            "a double quote in the storage options is not closed",
            FORM,
        ));
    }
    items.push(item);
    items.retain(|item| !item.is_empty());
    Ok(items)
}

fn pair(item: &str) -> Result<(&str, &str)> {
    let found = item.split_once('=').filter(|(key, _)| is_key(key));
    // The text is not repeated: it may be a credential that was put into the wrong place.
    found.ok_or_else(|| Error::config("a storage option is not of the form \"key=value\"", FORM))
}

fn is_key(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
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
    fn values_may_be_quoted_as_in_postgresqls_own_lists() {
        let text = "os_project_name=\"My Project, \"\"the\"\" one\", \"os_username=a b\",os_region_name=x\"y \"z";
        let options: StorageOptions = text.parse().expect("options");
        assert_eq!(options.get("os_project_name"), Some("My Project, \"the\" one"));
        assert_eq!(options.get("os_username"), Some("a b"));
        assert_eq!(options.get("os_region_name"), Some("xy z"));
        assert_eq!(
            options.to_string(),
            "os_project_name=\"My Project, \"\"the\"\" one\",os_region_name=\"xy z\",os_username=\"a b\""
        );
        assert_eq!(options.to_string().parse::<StorageOptions>().expect("options"), options);
        for (bad, says) in [
            ("a=\"b", "is not closed"),
            ("os_project_name=My Project", "not of the form"),
            ("a=1,=2", "not of the form"),
            ("a=\"\"", "no key or no value"),
            ("a='b", "\"a\" begins or ends with a single quote"),
            (
                "aws_region='eu-central-1'",
                "\"aws_region\" begins or ends with a single quote",
            ),
            (
                "aws_region=eu-central-1',allow_http=true",
                "begins or ends with a single quote",
            ),
        ] {
            let error = bad.parse::<StorageOptions>().expect_err(bad);
            assert!(error.to_string().contains(says), "{bad}: {error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("My Project")), "{bad}");
        }
    }

    #[test]
    fn an_argument_is_a_pair_or_a_list() {
        let of = |text: &str| {
            let mut options = StorageOptions::default();
            options.insert_argument(text).map(|()| options.to_string())
        };
        for (text, becomes) in [
            ("a=1", "a=1"),
            ("b=2,a=1", "a=1,b=2"),
            ("a=1 b=2", "a=1,b=2"),
            ("os_project_name=My Project", "os_project_name=\"My Project\""),
            ("os_project_name=\"My Project\"", "os_project_name=\"My Project\""),
            ("a=\"1,b=2\"", "a=\"1,b=2\""),
            ("a=http://h/?x=1", "a=http://h/?x=1"),
        ] {
            assert_eq!(of(text).expect(text), becomes, "{text}");
            // As backup-fetch writes it into restore_command.
            assert_eq!(of(becomes).expect(becomes), becomes);
        }
        for bad in ["a='1", "a=1'", "a", "=1", "a=My Project,b=2", "a=\"x", "a="] {
            let error = of(bad).expect_err(bad);
            assert!(error.hint().is_some(), "{bad}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_back(value in "[ -~é]{1,20}") {
            let mut options = StorageOptions::default();
            if options.insert("key", &value).is_ok() {
                proptest::prop_assert_eq!(&options.to_string().parse::<StorageOptions>().expect("options"), &options);
                let mut argument = StorageOptions::default();
                for pair in options.pairs() {
                    argument.insert_argument(&pair).expect("a pair");
                }
                proptest::prop_assert_eq!(&argument, &options);
            }
        }
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
