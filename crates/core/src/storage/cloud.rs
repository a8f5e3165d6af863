//! What S3, GCS and Azure have in common: where their settings come from, and what is looked at before a store is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::{Certificate, ClientConfigKey, ClientOptions, ObjectStore};
use url::Url;

use super::renewal::Trust;
use super::storage_class::StorageClass;
use super::{Opened, http, url::below_prefix};
use crate::config::StorageConfig;
use crate::error::{Error, Result};

/// The settings of the HTTP client, collected in the order in which later ones win.
pub(super) struct Client {
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
                format!("{key} \"{endpoint}\" is not encrypted, and that is not allowed"),
                "Use https://, or add \"allow_http=true\" to walarchive.storage_options if nobody can listen on the way to \
                 the store.",
            )),
            _ => bad(&format!("\"{endpoint}\" is neither https:// nor http://")),
        }
    }

    /// The options for object_store, with the certificates of an authority of one's own.
    pub fn finish(self) -> Result<ClientOptions> {
        (self.trusted().options)()
    }

    /// The same, each time with the certificates that the file holds then.
    pub fn trusted(&self) -> Trust {
        let (options, file) = (self.options.clone(), self.ca_cert_file.clone().map(PathBuf::from));
        Trust {
            file: file.clone(),
            options: Arc::new(move || match &file {
                None => Ok(options.clone()),
                Some(file) => Ok(certificates(file)?
                    .into_iter()
                    .fold(options.clone(), ClientOptions::with_root_certificate)),
            }),
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<Certificate>> {
    let pem = std::fs::read(file).map_err(|error| {
        Error::config(
            format!("could not open ca_cert_file \"{}\": {error}", file.display()),
            "Put the certificates there, readable for the user of the process, or correct ca_cert_file.",
        )
    })?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::config(
            format!("ca_cert_file \"{}\" holds no certificate", file.display()),
            "It holds one or more certificates in PEM form, each between BEGIN CERTIFICATE and END CERTIFICATE.",
        )),
    }
}

/// The variables of the environment whose name begins so, in lower case, without empty ones.
pub(super) fn environment(prefix: &str) -> Vec<(String, String)> {
    let mut found: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| name.starts_with(prefix) && !value.is_empty())
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    found.sort();
    found
}

/// The first of these variables that is set.
pub(super) fn variable(names: &[&str]) -> Option<String> {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    names.iter().find_map(set)
}

/// As object_store reads a boolean.
pub(super) fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "on" | "yes" | "y")
}

/// The error for a key that the store does not know.
pub(super) fn unknown(key: &str, store: &str, known: &str) -> Error {
    Error::config(
        format!("storage option \"{key}\" is not known for {store}"),
        format!("Known are for example {known}, allow_http and ca_cert_file."),
    )
}

/// The error of object_store's builders.
pub(super) fn unusable(url: &Url, error: &object_store::Error, hint: &str) -> Error {
    let reason = super::errors::reason(error);
    // The prefix says "Generic S3 error" or alike, which tells nothing.
    let reason = reason.split_once("error: ").map_or(reason.as_str(), |(_, rest)| rest);
    Error::config(format!("cannot use storage \"{url}\": {reason}"), hint)
}

/// The store of a bucket, from the URL's prefix on, that writes objects of a storage class if one was chosen.
pub(super) fn finish(store: impl ObjectStore, url: &Url, class: Option<String>) -> Result<Opened> {
    let objects = match class {
        Some(class) => below_prefix(StorageClass::new(store, class), url)?,
        None => below_prefix(store, url)?,
    };
    Ok(Opened {
        objects,
        pending: None,
        origin: None,
    })
}
