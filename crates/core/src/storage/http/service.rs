//! One attempt of one request.

use std::error::Error;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;
use http_body::Body as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};

use super::answer::Answer;
use super::client;
use super::outgoing::{Outgoing, Unanswered};
use super::retry_after;
use crate::storage::motion::Flow;

/// Statuses by which a server says that it is busy, or will be back.
const BUSY: [u16; 2] = [429, 503];

/// What does not pass by itself, in the words of the resolver and of the TLS library.
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
    /// Certificates of authorities that are trusted beside the system's, in PEM form. Read for each client.
    pub(super) authorities: Option<PathBuf>,
}

impl Connector {
    /// The same, but its clients trust the authorities of this file too.
    pub(crate) fn trusting(self, authorities: Option<PathBuf>) -> Self {
        Connector { authorities, ..self }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service {
            client: client::build(options, self.authorities.as_deref(), self.request_timeout)?,
            limits: self.clone(),
            unanswered: Unanswered::default(),
        }))
    }
}

#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    limits: Connector,
    unanswered: Unanswered,
}

/// What an attempt that took long may be repeated for, beyond the patience of who retries: a signature holds for a quarter of
/// an hour.
const SIGNED_FOR: Duration = Duration::from_secs(600);

/// Before such a repetition.
const PAUSE: Duration = Duration::from_secs(1);

impl Service {
    /// Send the request, and wait for the answer as long as anything moves.
    async fn attempt(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
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
        let answer = tokio::select! {
            biased;
            answer = self.client.execute(request) => answer.map_err(|error| repeatable(client::error(error)))?,
            // Of the kind that object_store tries again whatever the request is: see `repeatable`.
            () = sending.motion.stopped(quiet) => return Err(HttpError::new(HttpErrorKind::Request, NoAnswer(quiet))),
        };
        sending.motion.answered();
        Ok(client::response(answer))
    }

    /// What took longer than the patience of who retries gets no other attempt from there, and what was slow because the link
    /// is would never be repeated when its connection breaks.
    async fn persist(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let first = Instant::now();
        let flow = Flow::current();
        loop {
            let (begun, moved) = (Instant::now(), flow.motion.bytes());
            let outcome = self.attempt(request.clone()).await;
            let passing = match &outcome {
                Ok(response) => matches!(response.status().as_u16(), 408 | 429 | 500..),
                Err(error) => error.kind() != HttpErrorKind::Unknown,
            };
            let was_slow = begun.elapsed() > self.limits.patience && flow.motion.bytes() > moved;
            // What was given up because nothing moved was not slow.
            let stalled = outcome
                .as_ref()
                .err()
                .is_some_and(|error| error.source().is_some_and(|source| source.is::<NoAnswer>()));
            if !passing || !was_slow || stalled || first.elapsed() > SIGNED_FOR {
                return outcome;
            }
            tracing::debug!("a request that took long is repeated");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The body as it lies in memory.
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
        let response = self.persist(request).await?;
        let (parts, body) = response.into_parts();
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
        // An object has a time, a listing has none. A download knows how to go on from the byte at which it broke.
        let answer = if parts.status.is_success() && parts.headers.contains_key("last-modified") {
            Answer::stream(body, idle_timeout)
        } else {
            Answer::read(body, idle_timeout).await.map_err(repeatable)?
        };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(answer)))
    }
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
        self.0.source().and_then(Error::source)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the request timed out: no answer within {} s", .0.as_secs_f32())]
struct NoAnswer(Duration);

#[derive(Debug, thiserror::Error)]
#[error("the store answered {status}, and asks not to come again within {} s", .wait.as_secs())]
struct ComeLater {
    status: String,
    wait: Duration,
}
