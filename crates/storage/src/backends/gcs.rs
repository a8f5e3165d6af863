//! Google Cloud Storage.
//!
//! Credentials are those of the first place that has any: `walarchive.credentials_file` (a service account's key file will do),
//! the option `google_service_account` or `google_application_credentials`, `GOOGLE_APPLICATION_CREDENTIALS`, the file that
//! `gcloud auth application-default login` left, the metadata server.

mod uploads;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey as Key};
use serde::Deserialize;
use url::Url;

use super::cloud::Client;
use super::{cloud, credentials, xml_uploads};
use crate::config::{StorageConfig, is_true};
use crate::error::{Error, Result};
use crate::http;
use crate::opened::Opened;
use crate::renewal::{Made, Renewed, Renewing, Signer, Signing, Watch};
use crate::url::bucket;

const HINT: &str = "Check walarchive.storage_options and the key file of the service account.";
const KNOWN: &str = "google_service_account, google_application_credentials, google_base_url, google_storage_class";
/// The file of gcloud's application default credentials, below the user's home.
const GCLOUD: &str = ".config/gcloud/application_default_credentials.json";

/// The values from the sources, later ones over earlier ones.
struct Settings {
    builder: GoogleCloudStorageBuilder,
    client: Client,
    storage_class: Option<String>,
    /// A key file's path, or its text where the file is the credentials file itself.
    key_file: Option<PathBuf>,
    key_text: Option<String>,
    base_url: Option<String>,
    /// Neither key file nor metadata server is to be asked.
    has_token: bool,
    /// The files that the credentials may be from.
    watch: Watch,
    /// The variable or the option that names the key file.
    key_name: Option<String>,
    /// The file that has the key, for messages.
    origin: Option<String>,
}

pub(crate) fn open(url: &Url, config: &StorageConfig) -> Result<Opened> {
    let settings = gather(config)?;
    let trust = settings.client.trusted();
    let options = trust.options.clone();
    let signed = settings.builder.get_config_value(&Key::SkipSignature);
    let signed = !signed.is_some_and(|skip| is_true(&skip));
    let credentials = Renewing::new({
        let (url, config) = (url.clone(), config.clone());
        move || made(&url, &config)
    })?;
    let signer = signed.then(|| Signing::new(&credentials, uploads::Token) as Arc<dyn Signer>);
    let connector = Renewed::new(config, trust, signer)?;
    let odd = connector.odd();
    let store = settings
        .builder
        .with_credentials(Arc::clone(&credentials) as _)
        .with_http_connector(connector.clone())
        .with_client_options(options.clone())
        .with_bucket_name(bucket(url))
        .build()
        .map_err(|error| cloud::unusable(url, &error, HINT))?;
    let client = xml_uploads::Client::new(options, connector, config);
    let uploads = uploads::uploads(&store, settings.base_url.as_deref(), bucket(url), signed, client);
    let opened = cloud::finish(store, url, settings.storage_class, odd)?.with_pending(uploads, url)?;
    Ok(opened.with_origin(move || credentials.origin()))
}

/// All settings, and the key that counts.
fn gather(config: &StorageConfig) -> Result<Settings> {
    let mut settings = Settings {
        builder: GoogleCloudStorageBuilder::new().with_retry(http::retries(config)),
        client: Client::new(config),
        storage_class: None,
        key_file: None,
        key_text: None,
        base_url: None,
        has_token: false,
        watch: Watch::default(),
        key_name: None,
        origin: None,
    };
    for (key, value) in cloud::environment("GOOGLE_") {
        settings.add(&key, &value);
        settings.note_name(&key, &value, |key| key.to_ascii_uppercase());
    }
    for (key, value) in config.options.iter() {
        settings.known(key, value)?;
        settings.note_name(key, value, str::to_owned);
    }
    if let Some(path) = &config.credentials_file {
        settings.watch.add(path);
        let text = credentials::text(path)?;
        if text.trim_start().starts_with('{') {
            settings.key_file = Some(path.clone());
            settings.key_text = Some(text);
            settings.origin = Some(credentials::origin(path));
        } else {
            for (key, value) in credentials::read(path)? {
                settings.known(&key, &value)?;
                if matches!(Key::from_str(&key), Ok(Key::BearerToken | Key::ServiceAccountKey)) {
                    settings.origin = Some(credentials::origin(path));
                }
            }
        }
    }
    settings.find_key()?;
    if let Some(base_url) = &settings.base_url {
        settings.client.check_endpoint("google_base_url", base_url)?;
        settings.builder = settings.builder.with_base_url(base_url.trim_end_matches('/'));
    }
    Ok(settings)
}

/// The credentials as object_store finds them, of a store that is used for nothing else.
fn made(url: &Url, config: &StorageConfig) -> Result<Made<GcpCredential>> {
    let settings = gather(config)?;
    let mut watch = settings.watch;
    let trust = settings.client.trusted();
    if let Some(file) = &trust.file {
        watch.add(file);
    }
    let store = settings
        .builder
        .with_http_connector(trust.connector(config)?)
        .with_client_options(trust.options)
        .with_bucket_name(bucket(url))
        .build()
        .map_err(|error| cloud::unusable(url, &error, HINT))?;
    Ok(Made {
        provider: Arc::clone(store.credentials()),
        watch,
        in_file: settings.origin.is_some(),
        origin: settings
            .origin
            .unwrap_or_else(|| "the service account of the instance".to_owned()),
    })
}

impl Settings {
    fn known(&mut self, key: &str, value: &str) -> Result<()> {
        match self.add(key, value) {
            true => Ok(()),
            false => Err(cloud::unknown(key, "GCS", KNOWN)),
        }
    }

    /// The setting or variable that names the key file.
    fn note_name(&mut self, key: &str, value: &str, shown: impl Fn(&str) -> String) {
        let names_file = matches!(
            Key::from_str(key),
            Ok(Key::ServiceAccount | Key::ApplicationCredentials)
        );
        if names_file && self.key_file.as_deref() == Some(Path::new(value)) {
            self.key_name = Some(shown(key));
        }
    }

    /// False if the key is not known.
    fn add(&mut self, key: &str, value: &str) -> bool {
        match key {
            "google_storage_class" | "storage_class" => self.storage_class = Some(value.to_owned()),
            "google_ca_cert_file" | "ca_cert_file" => self.client.trust(value),
            _ => match Key::from_str(key) {
                // The bucket is the URL's.
                Err(_) | Ok(Key::Bucket) => return false,
                Ok(Key::Client(key)) => self.client.set(key, value),
                Ok(Key::BaseUrl) => self.base_url = Some(value.to_owned()),
                Ok(Key::ServiceAccount | Key::ApplicationCredentials) => {
                    self.key_file = Some(value.into());
                    self.key_text = None;
                }
                Ok(Key::ServiceAccountKey) => self.key_text = Some(value.to_owned()),
                Ok(key) => {
                    self.has_token |= matches!(key, Key::BearerToken | Key::SkipSignature);
                    let builder = std::mem::take(&mut self.builder);
                    self.builder = builder.with_config(key, value);
                }
            },
        }
        true
    }

    /// Google has several kinds of key files under one name; each is given to object_store in the way that it takes.
    fn find_key(&mut self) -> Result<()> {
        let mut named = true;
        if self.key_file.is_none() && self.key_text.is_none() && !self.has_token {
            named = false;
            self.key_file = std::env::var_os("HOME").map(|home| Path::new(&home).join(GCLOUD));
        }
        let text = match (self.key_text.take(), &self.key_file) {
            (Some(text), _) => text,
            (None, None) => return Ok(()),
            (None, Some(path)) => {
                self.watch.add(path);
                match std::fs::read_to_string(path) {
                    Ok(text) => text,
                    // Nobody said that it has to be there; the metadata server may have what is needed.
                    Err(_) if !named => return Ok(()),
                    Err(error) => return Err(credentials::unreadable("open", path, &error)),
                }
            }
        };
        if self.origin.is_none() {
            let name = self
                .key_name
                .as_ref()
                .map_or_else(String::new, |name| format!(" ({name})"));
            let file = |path: &PathBuf| format!("the key file \"{}\"{name}", path.display());
            self.origin = self.key_file.as_ref().map(file);
        }
        let name = match &self.key_file {
            Some(path) => format!("\"{}\"", path.display()),
            None => "google_service_account_key".to_owned(),
        };
        let bad = |problem: String| {
            Error::config(
                format!("{name} {problem}"),
                "Give the JSON key file of a service account, as the Google Cloud console hands it out.",
            )
        };
        // The parser's message may hold a piece of the text.
        let key: KeyFile =
            serde_json::from_str(&text).map_err(|_| bad("is not a key file of Google Cloud".to_owned()))?;
        let builder = std::mem::take(&mut self.builder);
        self.builder = match (key.kind.as_deref(), &self.key_file) {
            (Some("service_account") | None, _) if key.private_key.is_some() => {
                self.base_url = self.base_url.take().or(key.gcs_base_url);
                builder.with_service_account_key(text)
            }
            (Some("authorized_user"), Some(path)) => builder.with_application_credentials(path.to_string_lossy()),
            (Some(kind), _) if kind != "service_account" => {
                return Err(bad(format!(
                    "holds credentials of the type \"{kind}\", which is not supported"
                )));
            }
            _ => return Err(bad("holds no private key".to_owned())),
        };
        Ok(())
    }
}

/// The part of a key file that tells what it is.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    private_key: Option<serde::de::IgnoredAny>,
    gcs_base_url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(content: &str) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), content).expect("written");
        let mut config = StorageConfig::new("gs://bucket/p");
        config.credentials_file = Some(file.path().to_owned());
        let url = Url::parse(&config.url).expect("a URL");
        let error = open(&url, &config).err().expect("refused");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        error.to_string().replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn a_key_file_that_cannot_be_used_is_said() {
        assert_eq!(
            refused("{\"a\": hunter2}"),
            "\"FILE\" is not a key file of Google Cloud"
        );
        assert_eq!(
            refused("{\"type\": \"service_account\"}"),
            "\"FILE\" holds no private key"
        );
        assert_eq!(
            refused("{\"type\": \"external_account\"}"),
            "\"FILE\" holds credentials of the type \"external_account\", which is not supported"
        );
        let error = refused(
            r#"{"type": "service_account", "private_key": "hunter2", "private_key_id": "1", "client_email": "a@b"}"#,
        );
        assert!(error.starts_with("cannot use storage \"gs://bucket/p\": "), "{error}");
        assert_eq!(
            refused("wrong = hunter2"),
            "storage option \"wrong\" is not known for GCS"
        );
    }

    #[test]
    fn http_wants_permission() {
        let mut config = StorageConfig::new("gs://bucket/p");
        config.options = "google_base_url=http://h:1,google_skip_signature=true"
            .parse()
            .expect("options");
        let url = Url::parse(&config.url).expect("a URL");
        let error = open(&url, &config).err().expect("refused").to_string();
        assert_eq!(
            error,
            "google_base_url \"http://h:1\" is not encrypted, and unencrypted connections are not allowed"
        );
        config.options.insert("allow_http", "true").expect("an option");
        open(&url, &config).expect("allowed");
    }
}
