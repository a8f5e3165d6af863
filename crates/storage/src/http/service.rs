//! One attempt of one request.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;
use http_body::Body as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use reqwest::StatusCode;
use rustls::pki_types::CertificateDer;

use super::answer::Answer;
use super::bounds::{ERROR_BYTES, Kind, TooMuch};
use super::outgoing::{Outgoing, Unanswered};
use super::pool::{Left, Lent, Pool};
use super::redirect::{Redirected, is_redirection};
use super::{client, incoming, listing, retry_after};
use crate::odd::Odd;
use crate::transfer::motion::Flow;

/// With these statuses a server says that it is busy, or will be back.
const BUSY: [u16; 2] = [429, 503];

/// Failures that do not pass by themselves, in the words of the resolver and of the TLS library.
const PERMANENT: [&str; 4] = [
    "Name or service not known",
    "No address associated with hostname",
    "invalid peer certificate",
    "invalid URL",
];

/// Makes clients whose requests have our deadlines.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    /// The longest that an attempt waits while nothing moves.
    pub(super) request_timeout: Duration,
    /// The longest pause within the body of an answer.
    pub(super) idle_timeout: Duration,
    /// The longest that a server may have us wait.
    pub(super) patience: Duration,
    /// Certificates that are trusted beside the system's.
    pub(crate) trusted: Vec<CertificateDer<'static>>,
    /// The place of the store's objects, for messages, and those that have been passed over.
    pub(crate) place: String,
    pub(crate) odd: Arc<Odd>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service {
            pool: client::pool(options, &self.trusted, self.request_timeout)?,
            limits: self.clone(),
            unanswered: Unanswered::default(),
        }))
    }
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) pool: Pool,
    pub(super) limits: Connector,
    pub(super) unanswered: Unanswered,
}

/// How long after its first try an attempt that took long may be repeated, beyond the caller's patience: a signature holds for
/// a quarter of an hour.
const SIGNED_FOR: Duration = Duration::from_secs(600);

/// Before such a repetition.
const PAUSE: Duration = Duration::from_secs(1);

impl Service {
    /// Send the request, and wait for the answer as long as anything moves.
    async fn attempt(&self, request: HttpRequest) -> Result<(HttpResponse, Lent), HttpError> {
        let (parts, body) = request.into_parts();
        let (body, sending) = Outgoing::new(pieces(body).await?, &self.unanswered, self.limits.request_timeout);
        let url = parts.uri.to_string();
        let url = reqwest::Url::parse(&url).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if !body.is_end_stream() {
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let quiet = self.limits.request_timeout;
        let lent = self.pool.lend();
        let answer = tokio::select! {
            biased;
            answer = lent.client.execute(request) => answer.map_err(|error| repeatable(incoming::error(error))),
            // Of the kind that object_store tries again whatever the request is: see `repeatable`.
            () = sending.motion.stopped(quiet) => Err(HttpError::new(HttpErrorKind::Request, NoAnswer(quiet))),
        };
        let answer = answer.inspect_err(|_| self.pool.leave(&lent, Left::Silence))?;
        sending.motion.answered();
        if let Some(why) = Left::by(answer.status().as_u16()) {
            self.pool.leave(&lent, why);
        }
        Ok((incoming::response(answer), lent))
    }

    /// An attempt that took longer than the caller's patience gets no other one from there, and one that was slow because of
    /// the link would never be repeated when its connection breaks.
    async fn persist(&self, request: HttpRequest) -> Result<(HttpResponse, Lent), HttpError> {
        let first = Instant::now();
        let flow = Flow::current();
        loop {
            let (begun, moved) = (Instant::now(), flow.motion.bytes());
            let outcome = self.attempt(request.clone()).await;
            let passing = match &outcome {
                Ok((response, _)) => matches!(response.status().as_u16(), 408 | 429 | 500..),
                Err(error) => error.kind() != HttpErrorKind::Unknown,
            };
            let was_slow = begun.elapsed() > self.limits.patience && flow.motion.bytes() > moved;
            // A request that was given up because nothing moved was not slow.
            let stalled = outcome
                .as_ref()
                .err()
                .is_some_and(|error| error.source().is_some_and(|source| source.is::<NoAnswer>()));
            if !passing || !was_slow || stalled || first.elapsed() > SIGNED_FOR {
                return outcome;
            }
            let failure = match &outcome {
                Ok((response, _)) => response.status().to_string(),
                Err(error) => chain(error),
            };
            tracing::debug!(failure, "a request that took long is repeated");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The error and its causes.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// The body as it is in memory.
async fn pieces(body: HttpRequestBody) -> Result<Vec<Bytes>, HttpError> {
    let (mut body, mut pieces) = (pin!(body), Vec::new());
    while !body.is_end_stream()
        && let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await
    {
        pieces.extend(frame?.into_data());
    }
    Ok(pieces)
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let kind = Kind::of(&request);
        let query = request.uri().query().unwrap_or_default().to_owned();
        let (response, lent) = self.persist(request).await?;
        let failed = |error: HttpError| {
            self.pool.leave(&lent, Left::Silence);
            repeatable(error)
        };
        let (mut parts, body) = response.into_parts();
        if BUSY.contains(&parts.status.as_u16())
            && let Some(value) = parts.headers.get("retry-after").and_then(|value| value.to_str().ok())
            && let Some(wait) = retry_after::parse(value, Utc::now())
        {
            if wait > self.limits.patience {
                let status = parts.status.to_string();
                return Err(HttpError::new(HttpErrorKind::Unknown, ComeLater { status, wait }));
            }
            // object_store knows nothing of this header. Its own pause comes on top.
            tokio::time::sleep(wait).await;
        }
        let idle_timeout = self.limits.idle_timeout;
        let success = parts.status.is_success();
        // A download can go on from the byte where it broke.
        if success && kind == Kind::Content {
            let answer = Answer::stream(body, idle_timeout);
            return Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(answer)));
        }
        let limit = if success { kind.limit() } else { ERROR_BYTES };
        let (mut body, is_all) = Answer::whole(body, idle_timeout, limit).await.map_err(failed)?;
        if success && !is_all {
            return Err(HttpError::new(HttpErrorKind::Unknown, TooMuch(limit)));
        }
        if success {
            if let Some(code) = listing::error_code(&body) {
                let sent_as = parts.status.as_u16();
                parts.status = StatusCode::from_u16(listing::status_of(&code)).unwrap_or(StatusCode::BAD_REQUEST);
                body = format!("(sent with the status {sent_as}) {}", readable(&body)).into();
            } else if kind == Kind::Objects {
                let page =
                    listing::sift(&body, &query).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
                page.odd
                    .iter()
                    .for_each(|name| self.limits.odd.meet(&self.limits.place, name));
                body = page.body.map_or(body, Into::into);
            } else if kind == Kind::Deleted {
                listing::check_deleted(&body).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
            }
        } else {
            body = readable(&body).into();
        }
        let status = parts.status;
        let header = |name: &str| parts.headers.get(name)?.to_str().ok();
        if is_redirection(status.as_u16()) {
            let redirected = Redirected::new(status, header, &readable(&body));
            return Err(HttpError::new(HttpErrorKind::Unknown, redirected));
        }
        // object_store takes it for an outage, and asks again as long as its patience lasts.
        if status == StatusCode::NOT_IMPLEMENTED {
            let text = readable(&body);
            return Err(HttpError::new(HttpErrorKind::Unknown, NotImplemented { status, text }));
        }
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
    }
}

/// As text that a message may hold.
fn readable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let is_harmless = |char: char| !char.is_control() || char.is_ascii_whitespace();
    text.chars()
        .map(|char| {
            if is_harmless(char) {
                char
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

#[derive(Debug, thiserror::Error)]
#[error("the store answered {status}: {text}")]
struct NotImplemented {
    status: StatusCode,
    text: String,
}

/// object_store repeats a request of which it cannot know whether it was carried out only if it believes that this does no
/// harm, and of a write that must create its object it does not. All requests that walarchive makes may be repeated: the
/// second attempt at such a write finds the object of the first, is told that it exists, and who wanted the object then
/// compares its content. Only what cannot pass by itself is not worth another attempt.
fn repeatable(error: HttpError) -> HttpError {
    let kind = match error.kind() {
        HttpErrorKind::Unknown => HttpErrorKind::Unknown,
        _ if is_permanent(&error) => HttpErrorKind::Unknown,
        _ => HttpErrorKind::Request,
    };
    HttpError::new(kind, Cause(error))
}

fn is_permanent(error: &HttpError) -> bool {
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if PERMANENT.iter().any(|mark| text.contains(mark)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Keeps the first error below the one with the kind that was chosen for it.
#[derive(Debug)]
struct Cause(HttpError);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The text of an HttpError is "HTTP error: " and that of its source; ours will say so again.
        match self.0.source() {
            Some(source) => write!(f, "{source}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the request timed out: no answer within {} s", .0.as_secs_f32())]
pub(crate) struct NoAnswer(Duration);

#[derive(Debug, thiserror::Error)]
#[error("the store answered {status}, and asks not to come again within {} s", .wait.as_secs())]
struct ComeLater {
    status: String,
    wait: Duration,
}
