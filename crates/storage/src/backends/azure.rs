//! Azure Blob Storage.
//!
//! Credentials are those of the first kind that is set at all, in the credentials file, the options or the environment: a
//! bearer token, the account's key, workload identity, a client's secret, a SAS, and last the managed identity of the machine.

mod signature;

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use object_store::azure::{AzureConfigKey as Key, AzureCredential, MicrosoftAzureBuilder};
use url::Url;

use super::cloud::Client;
use super::{cloud, credentials};
use crate::config::{StorageConfig, is_true};
use crate::error::{Error, Result};
use crate::http;
use crate::opened::Opened;
use crate::renewal::{Made, Renewed, Renewing, Signer, Signing, Watch};
use crate::url::bucket;

const HINT: &str = "Check walarchive.storage_options, for example \"azure_storage_account_name=account\", and the \
                    credentials.";
const KNOWN: &str = "azure_storage_account_name, azure_endpoint, azure_client_id, azure_tenant_id, \
                     azure_federated_token_file, azure_environment_name, azure_access_tier, use_emulator";
/// The ways in which a client can prove itself. Of several sources only the last one that has any of these is to count.
const SECRETS: [Key; 4] = [Key::AccessKey, Key::SasKey, Key::Token, Key::ClientSecret];

/// The account of Azure's emulator.
const EMULATOR: &str = "devstoreaccount1";

/// The clouds by the names that Azure's tools use: the domain of blob storage, and where tokens come from.
const CLOUDS: [(&str, &str, &str); 4] = [
    (
        "azurepubliccloud",
        "core.windows.net",
        "https://login.microsoftonline.com",
    ),
    (
        "azureusgovernmentcloud",
        "core.usgovcloudapi.net",
        "https://login.microsoftonline.us",
    ),
    (
        "azurechinacloud",
        "core.chinacloudapi.cn",
        "https://login.chinacloudapi.cn",
    ),
    (
        "azuregermancloud",
        "core.cloudapi.de",
        "https://login.microsoftonline.de",
    ),
];

/// The values from the sources, later ones over earlier ones.
struct Settings {
    keys: HashMap<Key, String>,
    client: Client,
    access_tier: Option<String>,
    environment_name: Option<String>,
}

pub(crate) fn open(url: &Url, config: &StorageConfig) -> Result<Opened> {
    let settings = gather(config)?;
    let trust = settings.client.trusted();
    let options = trust.options.clone();
    let credentials = Renewing::new({
        let (url, config) = (url.clone(), config.clone());
        move || made(&url, &config)
    })?;
    let account = settings.keys.get(&Key::AccountName).map_or(EMULATOR, String::as_str);
    let shared_key = signature::Azure::new(account);
    let skip = settings
        .keys
        .get(&Key::SkipSignature)
        .is_some_and(|value| is_true(value));
    let signer = (!skip).then(|| Signing::new(&credentials, shared_key) as Arc<dyn Signer>);
    let connector = Renewed::new(config, trust, signer)?;
    let odd = connector.odd();
    let store = builder(settings.keys, config)
        .with_credentials(Arc::clone(&credentials) as _)
        .with_http_connector(connector)
        .with_client_options(options)
        .with_container_name(bucket(url))
        .build()
        .map_err(|error| cloud::unusable(url, &error, HINT))?;
    let opened = cloud::finish(store, url, settings.access_tier, odd)?;
    Ok(opened.with_origin(move || credentials.origin()))
}

/// All settings, with the account and its place.
fn gather(config: &StorageConfig) -> Result<Settings> {
    let mut settings = Settings {
        keys: HashMap::new(),
        client: Client::new(config),
        access_tier: None,
        environment_name: None,
    };
    for (key, value) in cloud::environment("AZURE_") {
        settings.add(&key, &value);
    }
    // App Service and Functions name the place of their identity so.
    if let Some(endpoint) = cloud::variable(&["IDENTITY_ENDPOINT"]) {
        settings.keys.entry(Key::MsiEndpoint).or_insert(endpoint);
    }
    if let Some(path) = &config.credentials_file {
        let pairs = credentials::read(path)?;
        if pairs.iter().any(|(key, _)| is_secret(key)) {
            settings.keys.retain(|key, _| !SECRETS.contains(key));
        }
        for (key, value) in pairs {
            settings.known(&key, &value)?;
        }
    }
    for (key, value) in config.options.iter() {
        settings.known(key, value)?;
    }
    settings.place()?;
    Ok(settings)
}

fn is_secret(key: &str) -> bool {
    Key::from_str(alias(key)).is_ok_and(|key| SECRETS.contains(&key))
}

fn builder(keys: HashMap<Key, String>, config: &StorageConfig) -> MicrosoftAzureBuilder {
    let builder = MicrosoftAzureBuilder::new().with_retry(http::retries(config));
    keys.into_iter()
        .fold(builder, |builder, (key, value)| builder.with_config(key, value))
}

/// The credentials as object_store finds them, of a store that is used for nothing else.
fn made(url: &Url, config: &StorageConfig) -> Result<Made<AzureCredential>> {
    let mut watch = Watch::default();
    if let Some(file) = &config.credentials_file {
        watch.add(file);
    }
    let settings = gather(config)?;
    let trust = settings.client.trusted();
    let token_file = settings.keys.get(&Key::FederatedTokenFile);
    for file in trust.file.iter().chain(token_file.map(PathBuf::from).iter()) {
        watch.add(file);
    }
    let mut in_file = false;
    if let Some(path) = &config.credentials_file {
        in_file = credentials::read(path)?.iter().any(|(key, _)| is_secret(key));
    }
    let has = |key| settings.keys.contains_key(&key);
    let origin = match (&config.credentials_file, token_file) {
        (Some(path), _) if in_file => credentials::origin(path),
        _ if SECRETS.into_iter().any(has) => {
            "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_TOKEN or AZURE_CLIENT_SECRET in the \
             environment of the process"
                .to_owned()
        }
        (_, Some(file)) => format!("the workload identity of the token file \"{file}\""),
        _ => "the managed identity of the machine".to_owned(),
    };
    let store = builder(settings.keys, config)
        .with_http_connector(trust.connector(config)?)
        .with_client_options(trust.options)
        .with_container_name(bucket(url))
        .build()
        .map_err(|error| cloud::unusable(url, &error, HINT))?;
    Ok(Made {
        provider: Arc::clone(store.credentials()),
        watch,
        origin,
        in_file,
    })
}

/// Names that Azure's tools and WAL-G know, and object_store does not.
fn alias(key: &str) -> &str {
    match key {
        "azure_storage_account" | "storage_account" => "azure_storage_account_name",
        "azure_storage_key" => "azure_storage_account_key",
        "azure_storage_service_endpoint" | "azure_storage_blob_endpoint" => "azure_storage_endpoint",
        _ => key,
    }
}

impl Settings {
    fn known(&mut self, key: &str, value: &str) -> Result<()> {
        match self.add(key, value) {
            true => Ok(()),
            false => Err(cloud::unknown(key, "Azure", KNOWN)),
        }
    }

    /// False if the key is not known.
    fn add(&mut self, key: &str, value: &str) -> bool {
        let value = value.to_owned();
        match key {
            "azure_access_tier" | "access_tier" => self.access_tier = Some(value),
            "azure_environment_name" | "environment_name" => self.environment_name = Some(value),
            "azure_ca_cert_file" | "ca_cert_file" => self.client.trust(&value),
            _ => match Key::from_str(alias(key)) {
                // The container is the URL's.
                Err(_) | Ok(Key::ContainerName) => return false,
                Ok(Key::Client(key)) => self.client.set(key, &value),
                Ok(key) => drop(self.keys.insert(key, value)),
            },
        }
        true
    }

    /// Settle which account is meant, and where.
    fn place(&mut self) -> Result<()> {
        if self.keys.get(&Key::UseEmulator).is_some_and(|value| is_true(value)) {
            return Ok(());
        }
        let Some(account) = self.keys.get(&Key::AccountName) else {
            return Err(Error::config(
                "the name of the Azure storage account is not known",
                "Add \"azure_storage_account_name=…\" to walarchive.storage_options, or set AZURE_STORAGE_ACCOUNT_NAME in \
                 the environment of the process.",
            ));
        };
        if let Some(name) = &self.environment_name {
            let known = CLOUDS.iter().find(|(known, ..)| name.eq_ignore_ascii_case(known));
            let Some((_, domain, authority)) = known else {
                return Err(Error::config(
                    format!("the Azure environment \"{name}\" is not known"),
                    "Known are AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud and AzureGermanCloud.",
                ));
            };
            let endpoint = format!("https://{account}.blob.{domain}");
            self.keys.entry(Key::Endpoint).or_insert(endpoint);
            self.keys
                .entry(Key::AuthorityHost)
                .or_insert_with(|| (*authority).to_owned());
        }
        if let Some(host) = self.keys.get_mut(&Key::AuthorityHost) {
            // Azure's webhook for workload identity sets it with a slash at its end.
            *host = host.trim_end_matches('/').to_owned();
        }
        if let Some(endpoint) = self.keys.get_mut(&Key::Endpoint) {
            self.client.check_endpoint("azure_endpoint", endpoint)?;
            *endpoint = endpoint.trim_end_matches('/').to_owned();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_open(options: &str, credentials: &str) -> Result<std::sync::Arc<dyn object_store::ObjectStore>> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), credentials).expect("written");
        let mut config = StorageConfig::new("az://container/p");
        config.options = options.parse().expect("options");
        config.credentials_file = Some(file.path().to_owned());
        open(&Url::parse(&config.url).expect("a URL"), &config).map(|opened| opened.objects)
    }

    #[test]
    fn what_is_wrong_is_said_before_anything_is_asked() {
        for (options, credentials, says) in [
            (
                "",
                "azure_storage_key = aGk=",
                "the name of the Azure storage account is not known",
            ),
            (
                "account_name=a,azure_environment_name=x",
                "# none",
                "the Azure environment \"x\" is not known",
            ),
            (
                "account_name=a,colour=red",
                "# none",
                "storage option \"colour\" is not known for Azure",
            ),
            (
                "account_name=a",
                "azure_storage_key = hunter2!",
                "cannot use storage \"az://container/p\": ",
            ),
            (
                "account_name=a,azure_endpoint=http://h:1/a",
                "azure_storage_key = aGk=",
                "azure_endpoint \"http://h:1/a\" is not encrypted, and unencrypted connections are not allowed",
            ),
        ] {
            let error = try_open(options, credentials).expect_err(says);
            assert!(error.to_string().starts_with(says), "{says}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn environments_have_domains_of_their_own() {
        let store = try_open(
            "account_name=a,azure_environment_name=AzureUSGovernmentCloud",
            "azure_storage_sas_token = ?sv=1&sig=x",
        )
        .expect("a store");
        assert!(format!("{store:?}").contains("a.blob.core.usgovcloudapi.net"));
    }
}
