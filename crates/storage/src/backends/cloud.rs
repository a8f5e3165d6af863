//! Common parts of S3, GCS and Azure: the sources of their settings, and the checks before a store is opened.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::{ClientConfigKey, ClientOptions, ObjectStore};
use url::Url;

use super::storage_class::StorageClass;
use crate::config::{StorageConfig, is_true};
use crate::error::{Error, Result};
use crate::http;
use crate::odd::Odd;
use crate::opened::Opened;
use crate::renewal::Trust;
use crate::url::below_prefix;

/// The settings of the HTTP client, collected in the order in which later ones win.
pub(crate) struct Client {
    options: ClientOptions,
    allow_http: bool,
    ca_cert_file: Option<String>,
}

impl Client {
    pub fn new(config: &StorageConfig) -> Self {
        Client {
            options: http::client_options(config),
            allow_http: false,
            ca_cert_file: None,
        }
    }

    pub fn set(&mut self, key: ClientConfigKey, value: &str) {
        if key == ClientConfigKey::AllowHttp {
            self.allow_http = is_true(value);
        }
        let options = std::mem::take(&mut self.options);
        self.options = options.with_config(key, value);
    }

    pub fn trust(&mut self, ca_cert_file: &str) {
        self.ca_cert_file = Some(ca_cert_file.to_owned());
    }

    /// Is this endpoint one that may be talked to? Object data and signatures would be readable on the way to one without
    /// TLS, which is for the user to decide.
    pub fn check_endpoint(&self, key: &str, endpoint: &str) -> Result<Url> {
        let bad = |problem: &str| {
            Err(Error::config(
                format!("{key} {problem}"),
                "Write it like \"https://host\" or \"https://host:9000\".",
            ))
        };
        let url = match Url::parse(endpoint) {
            Ok(url) if url.has_host() => url,
            // Without a scheme, the name of the host is taken for one.
            _ => return bad(&format!("\"{endpoint}\" is not a URL with https:// and a host")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return bad("holds a user name or a password");
        }
        match url.scheme() {
            "https" => Ok(url),
            "http" if self.allow_http => Ok(url),
            "http" => Err(Error::config(
                format!("{key} \"{endpoint}\" is not encrypted, and unencrypted connections are not allowed"),
                "Use https://, or add \"allow_http=true\" to walarchive.storage_options if nobody can listen on the way to \
                 the store.",
            )),
            _ => bad(&format!("\"{endpoint}\" is neither https:// nor http://")),
        }
    }

    /// The options for object_store, and the certificates that are trusted beside the system's.
    pub fn trusted(&self) -> Trust {
        Trust {
            file: self.ca_cert_file.clone().map(PathBuf::from),
            options: self.options.clone(),
        }
    }
}

/// The variables of the environment whose name begins so, in lower case, without empty ones.
pub(crate) fn environment(prefix: &str) -> Vec<(String, String)> {
    let mut found: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| name.starts_with(prefix) && !value.is_empty())
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    found.sort();
    found
}

/// The first of these variables that is set.
pub(crate) fn variable(names: &[&str]) -> Option<String> {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    names.iter().find_map(set)
}

/// The error for a key that the store does not know.
pub(crate) fn unknown(key: &str, store: &str, known: &str) -> Error {
    Error::config(
        format!("storage option \"{key}\" is not known for {store}"),
        format!("Known are for example {known}, allow_http and ca_cert_file."),
    )
}

/// The error of object_store's builders.
pub(crate) fn unusable(url: &Url, error: &object_store::Error, hint: &str) -> Error {
    let reason = crate::errors::reason(error);
    // The prefix says "Generic S3 error" or alike, which tells nothing.
    let reason = reason.split_once("error: ").map_or(reason.as_str(), |(_, rest)| rest);
    Error::config(format!("cannot use storage \"{url}\": {reason}"), hint)
}

/// The store of a bucket, from the URL's prefix on, that writes objects of a storage class if one was chosen.
pub(crate) fn finish(store: impl ObjectStore, url: &Url, class: Option<String>, odd: Arc<Odd>) -> Result<Opened> {
    let objects = match class {
        Some(class) => below_prefix(StorageClass::over(store, class), url)?,
        None => below_prefix(store, url)?,
    };
    Ok(Opened {
        objects,
        pending: None,
        odd,
        origin: None,
    })
}
