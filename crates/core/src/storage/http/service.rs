//! One attempt of one request.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::StatusCode;
use rustls::pki_types::CertificateDer;

use super::answer::Answer;
use super::bounds::{ERROR_BYTES, Kind, TooMuch};
use super::pool::{Left, Pool};
use super::redirect::{Redirected, is_redirection};
use super::{client, listing, retry_after};
use crate::storage::odd::Odd;
use crate::storage::transfer;

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
    /// An attempt that sends nothing.
    pub(super) request_timeout: Duration,
    /// The longest pause within the body of an answer.
    pub(super) idle_timeout: Duration,
    /// The longest that a server may have us wait.
    pub(super) patience: Duration,
    /// Certificates that are trusted beside the system's.
    pub(in crate::storage) trusted: Vec<CertificateDer<'static>>,
    /// Where the store's objects are, for messages, and which of them have been passed over.
    pub(in crate::storage) place: String,
    pub(in crate::storage) odd: Arc<Odd>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service {
            pool: client::pool(options, &self.trusted)?,
            limits: self.clone(),
        }))
    }
}

#[derive(Debug)]
pub(super) struct Service {
    pub(super) pool: Pool,
    pub(super) limits: Connector,
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let deadline = self.limits.request_timeout + transfer::time(request.body().content_length() as u64);
        let kind = Kind::of(&request);
        let query = request.uri().query().unwrap_or_default().to_owned();
        let lent = self.pool.lend();
        let failed = |error: HttpError| {
            self.pool.leave(&lent, Left::Silence);
            repeatable(error)
        };
        let response = match tokio::time::timeout(deadline, lent.client.call(request)).await {
            Ok(result) => result.map_err(failed)?,
            // Of the kind that object_store tries again whatever the request is: see `repeatable`.
            Err(_) => return Err(failed(HttpError::new(HttpErrorKind::Request, NoAnswer(deadline)))),
        };
        let (mut parts, body) = response.into_parts();
        if let Some(why) = Left::by(parts.status.as_u16()) {
            self.pool.leave(&lent, why);
        }
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
        // A download knows how to go on from the byte at which it broke.
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
