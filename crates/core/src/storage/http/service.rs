//! One attempt of one request.

use std::error::Error;
use std::time::Duration;

use chrono::Utc;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};

use super::answer::Answer;
use super::retry_after;
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
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service {
            client: ReqwestConnector::default().connect(options)?,
            limits: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct Service {
    client: HttpClient,
    limits: Connector,
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let deadline = self.limits.request_timeout + transfer::time(request.body().content_length() as u64);
        let response = match tokio::time::timeout(deadline, self.client.execute(request)).await {
            Ok(result) => result.map_err(repeatable)?,
            // Of the kind that object_store tries again whatever the request is: see `repeatable`.
            Err(_) => return Err(HttpError::new(HttpErrorKind::Request, NoAnswer(deadline))),
        };
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
