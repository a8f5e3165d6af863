//! Requests to one container.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Method, StatusCode, redirect};

use super::super::PART_BYTES;
use super::super::renewal::{Followed, Watch};
use super::super::retry::{Attempts, Retry};
use super::auth::Auth;
use super::exchange::{Answer, Failure, causes, exchange};
use super::options::Settings;
use crate::config::StorageConfig;
use crate::error::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What stands for itself in a path. Swift's names are any UTF-8.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A part of a path or of a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, IN_PATH).to_string()
}

pub(super) struct Client {
    http: Arc<Followed<reqwest::Client>>,
    auth: Auth,
    container: String,
    retry: Retry,
    /// For one attempt; it covers the transfer of [`PART_BYTES`].
    timeout: Duration,
    /// Something was read from the container or written to it, so a missing object is no missing container.
    container_seen: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("auth", &self.auth)
            .field("container", &self.container)
            .finish_non_exhaustive()
    }
}

/// One request.
#[derive(Debug)]
pub(super) struct Call<'a> {
    method: Method,
    object: &'a str,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    stream: bool,
    extra: Duration,
}

impl<'a> Call<'a> {
    /// About an object; about the container if the name is empty.
    pub(super) fn new(method: Method, object: &'a str) -> Self {
        Call {
            method,
            object,
            query: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            stream: false,
            extra: Duration::ZERO,
        }
    }

    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        let mark = if self.query.is_empty() { '?' } else { '&' };
        self.query = format!("{}{mark}{name}={}", self.query, encoded(value).replace('/', "%2F"));
        self
    }

    /// The value must be one that a header may hold; names are to be encoded before.
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// The body of a success is left unread.
    pub(super) fn streamed(mut self) -> Self {
        self.stream = true;
        self
    }

    /// More time than a usual request has.
    pub(super) fn extra(mut self, extra: Duration) -> Self {
        self.extra = extra;
        self
    }
}

/// A client that trusts the certificates of the file, beside the system's.
fn http_client(ca_cert_file: Option<&Path>) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("walarchive/", env!("CARGO_PKG_VERSION")))
        // Swift redirects nowhere, and the token is not for whoever sends a redirection.
        .redirect(redirect::Policy::none());
    if let Some(path) = ca_cert_file {
        let pem = std::fs::read(path).map_err(|error| {
            Error::config(
                format!("could not open ca_cert_file \"{}\": {error}", path.display()),
                "Put the certificates there, readable for the user of the process, or correct ca_cert_file (OS_CACERT).",
            )
        })?;
        let certificates = Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|found| !found.is_empty());
        let certificates = certificates.ok_or_else(|| {
            let message = format!("\"{}\" holds no certificate", path.display());
            Error::config(
                message,
                "ca_cert_file (OS_CACERT) names a file of certificates in PEM format.",
            )
        })?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| {
        let message = format!("cannot make a client for Swift: {}", causes(error));
        Error::config(message, "Check the file named by ca_cert_file (OS_CACERT).")
    })
}

impl Client {
    pub(super) fn new(container: &str, settings: Arc<Followed<Settings>>, config: &StorageConfig) -> Result<Self> {
        let ca_cert_file = settings.in_use().ca_cert_file.clone();
        let http = Arc::new(Followed::new("certificates", move |_| {
            let mut watch = Watch::default();
            if let Some(file) = &ca_cert_file {
                watch.add(file);
            }
            Ok((http_client(ca_cert_file.as_deref())?, watch))
        })?);
        Ok(Client {
            auth: Auth::new(settings, Arc::clone(&http), config.request_timeout),
            http,
            container: container.to_owned(),
            retry: Retry::new(config),
            timeout: config.request_timeout,
            container_seen: AtomicBool::new(false),
        })
    }

    pub(super) fn container(&self) -> &str {
        &self.container
    }

    /// How long the transfer of so many bytes may take.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        let parts = bytes.div_ceil(PART_BYTES).max(1);
        self.timeout.saturating_mul(u32::try_from(parts).unwrap_or(u32::MAX))
    }

    pub(super) fn retry(&self) -> &Retry {
        &self.retry
    }

    /// The answer, if it is a success.
    pub(super) async fn ask(&self, call: Call<'_>) -> Result<Answer, Failure> {
        let mut attempts = self.retry.begin();
        let answer = self.send(&call, &mut attempts).await?;
        if answer.status.is_success() {
            self.container_seen.store(true, Ordering::Relaxed);
            // "Accepted" is how Swift says that it has a later version, or a later deletion, and threw this one away.
            if call.method == Method::PUT && answer.status == StatusCode::ACCEPTED {
                let text = format!(
                    "{}, which means that Swift has a newer one and did not keep it",
                    answer.failure()
                );
                return Err(Failure::new(text).with_status(StatusCode::PRECONDITION_FAILED));
            }
            return Ok(answer);
        }
        if answer.status == StatusCode::NOT_FOUND && self.container_is_missing(&call, &mut attempts).await? {
            let text = format!("No such container: \"{}\" ({})", self.container, answer.failure());
            return Err(Failure::new(text).with_status(StatusCode::NOT_FOUND));
        }
        Err(answer.failure())
    }

    /// Swift says the same of a missing object and of an object in a missing container, and who looks for WAL must not
    /// take the one for the other.
    async fn container_is_missing(&self, call: &Call<'_>, attempts: &mut Attempts) -> Result<bool, Failure> {
        if call.object.is_empty() {
            return Ok(true);
        }
        if self.container_seen.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let answer = self.send(&Call::new(Method::HEAD, ""), attempts).await?;
        self.container_seen
            .fetch_or(answer.status.is_success(), Ordering::Relaxed);
        Ok(answer.status == StatusCode::NOT_FOUND)
    }

    /// The answer, whatever its status. A token that the store does not take is renewed once.
    async fn send(&self, call: &Call<'_>, attempts: &mut Attempts) -> Result<Answer, Failure> {
        let limit = self.time_for(call.body.len() as u64) + call.extra;
        let mut stale = None;
        loop {
            let session = self.auth.session(stale, attempts).await?;
            let slash = if call.object.is_empty() { "" } else { "/" };
            let url = format!(
                "{}/{}{slash}{}{}",
                session.storage_url,
                encoded(&self.container).replace('/', "%2F"),
                encoded(call.object),
                call.query
            );
            let http = self.http.get();
            let build = || {
                let request = http.request(call.method.clone(), &url).headers(call.headers.clone());
                let request = request.header("x-auth-token", session.token.clone());
                match call.method {
                    // Nobody else says that nothing comes, and Swift wants to know.
                    Method::PUT if call.body.is_empty() => request.header(CONTENT_LENGTH, 0),
                    Method::PUT => request.body(call.body.clone()),
                    _ => request,
                }
            };
            let answer = exchange(&http, attempts, limit, call.stream, build).await?;
            if answer.status != StatusCode::UNAUTHORIZED || stale.is_some() {
                return Ok(answer);
            }
            stale = Some(session.number);
        }
    }
}
