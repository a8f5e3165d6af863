//! Requests to one container.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::ClientOptions;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use super::auth::Auth;
use super::exchange::{Answer, Body, Failure, exchange};
use super::options::Settings;
use crate::config::StorageConfig;
use crate::error::{Error, Result};
use crate::http::pool::Pool;
use crate::http::{Outgoing, Unanswered};
use crate::odd::{Odd, escaped};
use crate::renewal::{Followed, Watch};
use crate::transfer::retry::{Attempts, Retry};
use crate::url::place;
use crate::{PART_BYTES, errors, http};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes that stand for themselves in a path. Swift's names are any UTF-8.
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
    http: Arc<Followed<Pool>>,
    auth: Auth,
    container: String,
    retry: Retry,
    /// The longest that an attempt waits while nothing moves.
    timeout: Duration,
    unanswered: Unanswered,
    /// Something was read from the container or written to it, so a missing object is no missing container.
    container_seen: AtomicBool,
    place: String,
    odd: Arc<Odd>,
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
    answer: Body,
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
            answer: Body::Whole,
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
        self.answer = Body::Streamed;
        self
    }

    /// More time than a usual request has.
    pub(super) fn extra(mut self, extra: Duration) -> Self {
        self.extra = extra;
        self
    }
}

/// Connections that trust the certificates of the file, beside the system's.
fn pool(config: &StorageConfig, ca_cert_file: Option<&Path>) -> Result<Pool> {
    let trusted = ca_cert_file.map(crate::http::certificates::certificates).transpose()?;
    let options = ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http2()
        // Which URLs may be without TLS is looked at where they come from.
        .with_allow_http(true);
    http::pool(config, &options, &trusted.unwrap_or_default()).map_err(|error| {
        let message = format!("cannot make a client for Swift: {}", errors::reason(&error));
        Error::config(message, "Check the file named by ca_cert_file (OS_CACERT).")
    })
}

impl Client {
    pub(super) fn new(container: &str, settings: Arc<Followed<Settings>>, config: &StorageConfig) -> Result<Self> {
        let ca_cert_file = settings.in_use().ca_cert_file.clone();
        let own = config.clone();
        let http = Arc::new(Followed::new("certificates", move |_| {
            let mut watch = Watch::default();
            if let Some(file) = &ca_cert_file {
                watch.add(file);
            }
            Ok((pool(&own, ca_cert_file.as_deref())?, watch))
        })?);
        Ok(Client {
            auth: Auth::new(settings, Arc::clone(&http), config.request_timeout),
            http,
            container: container.to_owned(),
            retry: Retry::new(config),
            timeout: config.request_timeout,
            unanswered: Unanswered::default(),
            container_seen: AtomicBool::new(false),
            place: place(&config.url),
            odd: Arc::default(),
        })
    }

    /// The listing has a name that is no key.
    pub(super) fn pass_over(&self, name: &str) {
        self.odd.meet(&self.place, &escaped(name.as_bytes()));
    }

    /// Names that were passed over.
    pub(super) fn odd(&self) -> Arc<Odd> {
        self.odd.clone()
    }

    pub(super) fn container(&self) -> &str {
        &self.container
    }

    /// How long the server may copy so many bytes.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        let parts = bytes.div_ceil(PART_BYTES).max(1);
        self.timeout.saturating_mul(u32::try_from(parts).unwrap_or(u32::MAX))
    }

    /// The longest that a transfer waits while nothing moves.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
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
        let limit = self.timeout + call.extra;
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
            let build = |http: &reqwest::Client| {
                let request = http.request(call.method.clone(), &url).headers(call.headers.clone());
                let request = request.header("x-auth-token", session.token.clone());
                let (body, sending) = Outgoing::new(vec![call.body.clone()], &self.unanswered, limit);
                let request = match call.method {
                    // Nobody else says that nothing comes, and Swift wants to know.
                    Method::PUT if call.body.is_empty() => request.header(CONTENT_LENGTH, 0),
                    Method::PUT => request
                        .header(CONTENT_LENGTH, call.body.len())
                        .body(reqwest::Body::wrap(body)),
                    _ => request,
                };
                (request, sending)
            };
            let answer = exchange(&http, attempts, limit, call.answer, build).await?;
            if answer.status != StatusCode::UNAUTHORIZED || stale.is_some() {
                return Ok(answer);
            }
            stale = Some(session.number);
        }
    }
}
