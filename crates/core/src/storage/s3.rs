//! S3 and what speaks its protocol.

use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use url::Url;

use super::{credentials, http, url::below_prefix, url::bucket};
use crate::config::StorageConfig;
use crate::error::{Error, Result};

pub(super) fn open(url: &Url, config: &StorageConfig) -> Result<Arc<dyn ObjectStore>> {
    // AWS_* of the environment first, then our own deadlines, then what the user set explicitly.
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket(url))
        .with_retry(http::retries(config))
        .with_client_options(http::client_options(config))
        .with_http_connector(http::connector(config));
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
    below_prefix(store, url)
}

fn known(key: &str) -> Result<AmazonS3ConfigKey> {
    AmazonS3ConfigKey::from_str(key).map_err(|_| {
        Error::config(
            format!("storage option \"{key}\" is not known for S3"),
            "Known are for example aws_endpoint, aws_region, allow_http, aws_virtual_hosted_style_request.",
        )
    })
}
