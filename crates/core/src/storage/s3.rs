//! S3 and what speaks its protocol.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

use super::credentials;
use crate::config::StorageConfig;
use crate::error::{Error, Result};

pub(super) fn open(url: &Url, config: &StorageConfig) -> Result<Arc<dyn ObjectStore>> {
    let bucket = url.host_str().unwrap_or_default();
    let timeout = config.request_timeout;
    let client = |key, value: String| (AmazonS3ConfigKey::Client(key), value);
    // AWS_* of the environment first, then our own deadlines, then what the user set explicitly.
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: (config.patience / 10).max(Duration::from_secs(1)),
                base: 2.0,
            },
            // An archiver has better to do than to wait here: it comes again, and says meanwhile what is wrong.
            max_retries: if config.patience > timeout { 20 } else { 3 },
            retry_timeout: config.patience,
        });
    for (key, value) in [
        client(ClientConfigKey::Timeout, format!("{} ms", timeout.as_millis())),
        client(ClientConfigKey::ConnectTimeout, "5 s".to_owned()),
    ] {
        builder = builder.with_config(key, value);
    }
    if let Some(path) = &config.credentials_file {
        for (key, value) in credentials::read(path)? {
            builder = builder.with_config(known(&key)?, value);
        }
    }
    for (key, value) in config.options.iter() {
        builder = builder.with_config(known(key)?, value);
    }
    let store = builder.build().map_err(|error| {
        Error::config(
            format!("cannot use storage \"{url}\": {error}"),
            "Check walarchive.storage_options, for example \"aws_region=eu-central-1\" or \"aws_endpoint=https://host\".",
        )
    })?;
    let prefix = Path::parse(url.path().trim_matches('/')).map_err(|error| {
        Error::config(
            format!("storage \"{url}\" has an invalid prefix: {error}"),
            "Use a prefix without empty or dotted parts.",
        )
    })?;
    Ok(if prefix.as_ref().is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix))
    })
}

fn known(key: &str) -> Result<AmazonS3ConfigKey> {
    AmazonS3ConfigKey::from_str(key).map_err(|_| {
        Error::config(
            format!("storage option \"{key}\" is not known for S3"),
            "Known are for example aws_endpoint, aws_region, allow_http, aws_virtual_hosted_style_request.",
        )
    })
}
