//! S3 and what speaks its protocol.
//!
//! Credentials are those of the first place that has any: `walarchive.credentials_file`; the profile that the option
//! `aws_profile` names; `AWS_ACCESS_KEY_ID` in the environment; the profile that `AWS_PROFILE` names; web identity (IRSA);
//! the profile `default`; the container (ECS, EKS pod identity); the instance (IMDSv2).

mod deletes;
mod profile;
mod settings;
mod uploads;

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, AwsCredential};
use url::Url;

use self::deletes::Deletes;
use self::settings::Settings;
use self::uploads::Bucket;
use super::cloud;
use super::xml_uploads::Client;
use crate::config::{StorageConfig, is_true};
use crate::error::{Error, Result};
use crate::http;
use crate::opened::Opened;
use crate::renewal::{Made, Renewed, Renewing};
use crate::url::bucket;

const HINT: &str =
    "Check walarchive.storage_options, for example \"aws_region=eu-central-1\" or \"aws_endpoint=https://host\".";

pub(crate) fn open(url: &Url, config: &StorageConfig) -> Result<Opened> {
    let settings = gather(url, config)?;
    let place = Bucket::of(&settings, bucket(url));
    let trust = settings.client.trusted();
    let options = trust.options.clone();
    let credentials = Renewing::new({
        let (url, config) = (url.clone(), config.clone());
        move || made(&url, &config)
    })?;
    let signer = place.signer(&credentials);
    let connector = Renewed::new(config, trust, signer)?;
    let odd = connector.odd();
    let (storage_class, encryption, customer_key) =
        (settings.storage_class, settings.encryption, settings.customer_key);
    let builder = builder(settings.keys, config).with_client_options(options.clone());
    let builder = builder
        .with_http_connector(connector.clone())
        .with_credentials(Arc::clone(&credentials) as _);
    let builder = encrypted(builder, encryption, customer_key)?.with_bucket_name(bucket(url));
    let store = builder
        .clone()
        .build()
        .map_err(|error| cloud::unusable(url, &error, HINT))?;
    let deletes = Deletes::over(store.clone(), builder, place.name());
    let uploads = place.uploads(&store, Client::new(options, connector, config));
    let opened = cloud::finish(deletes, url, storage_class, odd)?.with_pending(uploads, url)?;
    Ok(opened.with_origin(move || credentials.origin()))
}

/// All settings, and of the credentials those that count.
fn gather(url: &Url, config: &StorageConfig) -> Result<Settings> {
    let mut settings = Settings::collect(config)?;
    settings.choose_credentials()?;
    if let Some(endpoint) = settings.take(Key::Endpoint) {
        let endpoint = settings.client.check_endpoint("aws_endpoint", &endpoint)?;
        let virtual_hosted = settings.get(Key::VirtualHostedStyleRequest).is_some_and(is_true);
        settings.set(Key::Endpoint, endpoint_of(endpoint, bucket(url), virtual_hosted));
    }
    if settings.customer_key.is_none() {
        settings.customer_key = cloud::variable(&["WALG_S3_SSE_C"]).map(customer_key);
    }
    Ok(settings)
}

fn builder(keys: HashMap<Key, String>, config: &StorageConfig) -> AmazonS3Builder {
    let builder = AmazonS3Builder::new().with_retry(http::retries(config));
    keys.into_iter()
        .fold(builder, |builder, (key, value)| builder.with_config(key, value))
}

/// The credentials as object_store finds them, of a store that is used for nothing else.
fn made(url: &Url, config: &StorageConfig) -> Result<Made<AwsCredential>> {
    let settings = gather(url, config)?;
    let mut watch = settings.watch;
    let trust = settings.client.trusted();
    if let Some(file) = &trust.file {
        watch.add(file);
    }
    let store = builder(settings.keys, config)
        .with_http_connector(trust.connector(config)?)
        .with_client_options(trust.options)
        .with_bucket_name(bucket(url))
        .build()
        .map_err(|error| cloud::unusable(url, &error, HINT))?;
    Ok(Made {
        provider: Arc::clone(store.credentials()),
        watch,
        origin: settings.origin,
        in_file: settings.in_file,
    })
}

/// Encryption by the store.
fn encrypted(
    builder: AmazonS3Builder,
    encryption: Option<String>,
    customer_key: Option<String>,
) -> Result<AmazonS3Builder> {
    const TYPE: &str = "aws_server_side_encryption";
    // object_store has a type for these keys, but does not let it be named.
    let key = |name: &str| Key::from_str(name).map_err(|_| cloud::unknown(name, "S3", TYPE));
    match (encryption.as_deref(), customer_key) {
        (None | Some("sse-c"), Some(secret)) => Ok(builder.with_ssec_encryption(secret)),
        (Some("sse-c"), None) => Err(Error::config(
            "there is no key for aws_server_side_encryption=sse-c",
            "Put \"aws_sse_customer_key_base64 = …\" into the file named by walarchive.credentials_file.",
        )),
        (Some(kind @ ("AES256" | "aws:kms" | "aws:kms:dsse")), _) => Ok(builder.with_config(key(TYPE)?, kind)),
        (Some(other), _) => Err(Error::config(
            format!("{TYPE} \"{other}\" is not known"),
            "Known are AES256, aws:kms, aws:kms:dsse and sse-c.",
        )),
        (None, None) => Ok(builder),
    }
}

/// object_store wants the bucket to be part of an endpoint that is used in virtual-host style.
fn endpoint_of(mut endpoint: Url, bucket: &str, virtual_hosted: bool) -> String {
    if virtual_hosted
        && let Some(host) = endpoint.domain().map(str::to_owned)
        && !host.starts_with(&format!("{bucket}."))
    {
        // A name of a bucket that is no name of a host stays out, and the store will tell.
        let _ = endpoint.set_host(Some(&format!("{bucket}.{host}")));
    }
    endpoint.as_str().trim_end_matches('/').to_owned()
}

/// WAL-G takes the 32 bytes of the key as they are.
fn customer_key(key: String) -> String {
    match key.len() {
        32 => BASE64_STANDARD.encode(key),
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_becomes_part_of_a_virtual_host() {
        let endpoint = |text: &str, style| endpoint_of(Url::parse(text).expect("a URL"), "b", style);
        assert_eq!(endpoint("https://h:9000/", false), "https://h:9000");
        assert_eq!(endpoint("https://h:9000", true), "https://b.h:9000");
        assert_eq!(endpoint("https://b.h", true), "https://b.h");
        assert_eq!(endpoint("http://127.0.0.1:1", true), "http://127.0.0.1:1");
    }

    #[test]
    fn wal_gs_raw_key_becomes_base64() {
        assert_eq!(customer_key("0123456789abcdef0123456789abcdef".to_owned()).len(), 44);
        assert_eq!(customer_key("x".repeat(44)), "x".repeat(44));
    }
}
