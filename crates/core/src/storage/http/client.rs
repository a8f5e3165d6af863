//! The client below object_store: as that would make it, but for what concerns the network.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use http_body::Body;
use object_store::client::{HttpError, HttpErrorKind, HttpResponse, HttpResponseBody};
use object_store::{ClientConfigKey as Key, ClientOptions};
use reqwest::{Certificate, NoProxy, Proxy};

use super::outgoing::STALLED;

/// A peer that has sent nothing for so long is asked whether it is there; three questions that are not answered end the
/// connection.
const KEEPALIVE: Duration = Duration::from_secs(15);
const QUESTIONS: u32 = 3;

/// A client with these options, which trusts these authorities too. A connection ends when the peer takes nothing for the
/// time that a request may wait.
pub(super) fn build(
    options: &ClientOptions,
    authorities: Option<&Path>,
    request_timeout: Duration,
) -> object_store::Result<reqwest::Client> {
    let text = |key| options.get_config_value(&key);
    let is_set = |key| text(key).is_some_and(|value| value == "true");
    let mut builder = reqwest::Client::builder()
        .user_agent(
            text(Key::UserAgent).unwrap_or_else(|| concat!("walarchive/", env!("CARGO_PKG_VERSION")).to_owned()),
        )
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .tcp_keepalive_retries(QUESTIONS)
        .tcp_user_timeout(request_timeout.max(STALLED))
        .https_only(!is_set(Key::AllowHttp))
        .danger_accept_invalid_certs(is_set(Key::AllowInvalidCertificates));
    let authorities = authorities.map(certificates).transpose()?.unwrap_or_default();
    builder = match is_set(Key::NoSystemCertificates) {
        true => builder.tls_certs_only(authorities),
        false => builder.tls_certs_merge(authorities),
    };
    if is_set(Key::Http1Only) {
        builder = builder.http1_only();
    }
    if is_set(Key::Http2Only) {
        builder = builder.http2_prior_knowledge();
    }
    let time = |key| text(key).and_then(|value| humantime::parse_duration(&value).ok());
    if let Some(limit) = time(Key::ConnectTimeout) {
        builder = builder.connect_timeout(limit);
    }
    if let Some(limit) = time(Key::Timeout) {
        builder = builder.timeout(limit);
    }
    if let Some(limit) = time(Key::ReadTimeout) {
        builder = builder.read_timeout(limit);
    }
    if let Some(limit) = time(Key::PoolIdleTimeout) {
        builder = builder.pool_idle_timeout(limit);
    }
    if let Some(most) = text(Key::PoolMaxIdlePerHost).and_then(|most| most.parse().ok()) {
        builder = builder.pool_max_idle_per_host(most);
    }
    if let Some(interval) = time(Key::Http2KeepAliveInterval) {
        builder = builder.http2_keep_alive_interval(interval);
    }
    if let Some(limit) = time(Key::Http2KeepAliveTimeout) {
        builder = builder.http2_keep_alive_timeout(limit);
    }
    if is_set(Key::Http2KeepAliveWhileIdle) {
        builder = builder.http2_keep_alive_while_idle(true);
    }
    if let Some(bytes) = text(Key::Http2MaxFrameSize).and_then(|bytes| bytes.parse::<u32>().ok()) {
        builder = builder.http2_max_frame_size(bytes);
    }
    if let Some(url) = text(Key::ProxyUrl) {
        let mut proxy = Proxy::all(url).map_err(unusable)?;
        if let Some(excluded) = text(Key::ProxyExcludes) {
            proxy = proxy.no_proxy(NoProxy::from_string(&excluded));
        }
        if let Some(pem) = text(Key::ProxyCaCertificate) {
            let certificate = Certificate::from_pem(pem.as_bytes()).map_err(unusable)?;
            builder = builder.tls_certs_merge([certificate]);
        }
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(unusable)
}

fn certificates(file: &Path) -> object_store::Result<Vec<Certificate>> {
    let pem = std::fs::read(file).map_err(|error| object_store::Error::Generic {
        store: "HTTP client",
        source: format!("could not open \"{}\": {error}", file.display()).into(),
    })?;
    Certificate::from_pem_bundle(&pem).map_err(unusable)
}

fn unusable(error: reqwest::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "HTTP client",
        source: Box::new(error.without_url()),
    }
}

/// The answer as object_store takes it.
pub(super) fn response(answer: reqwest::Response) -> HttpResponse {
    let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
    HttpResponse::from_parts(parts, HttpResponseBody::new(Incoming(body)))
}

/// A body whose errors object_store understands.
struct Incoming(reqwest::Body);

impl Body for Incoming {
    type Data = bytes::Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        let polled = std::pin::Pin::new(&mut self.0).poll_frame(cx);
        polled.map(|frame| frame.map(|frame| frame.map_err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

/// The error as object_store tells them apart, without the URL, which a signature may be part of. What is not known to be
/// for ever passes: see `repeatable`.
pub(super) fn error(error: reqwest::Error) -> HttpError {
    let timed_out = |error: &(dyn Error + 'static)| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
    };
    let mut next: Option<&(dyn Error + 'static)> = Some(&error);
    let mut kind = if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_builder() || error.is_redirect() {
        HttpErrorKind::Unknown
    } else {
        HttpErrorKind::Interrupted
    };
    while let Some(error) = next {
        if timed_out(error) && kind == HttpErrorKind::Interrupted {
            kind = HttpErrorKind::Timeout;
        }
        next = error.source();
    }
    HttpError::new(kind, error.without_url())
}
