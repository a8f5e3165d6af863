//! A request and its answer, tried again while that makes sense.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Request, RequestBuilder, Response, StatusCode};

use crate::http::Sending;
use crate::http::bounds::{ERROR_BYTES, PAGE_BYTES, TooMuch};
use crate::http::pool::{Left, Pool};
use crate::http::redirect::{Redirected, is_redirection};
use crate::transfer::motion::Motion;
use crate::transfer::retry::Attempts;

/// How much of an error page a message shows, in characters.
const SHOWN: usize = 300;

/// A failure, as text that holds no secret: no header is ever part of it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub(super) struct Failure {
    /// The store's verdict. None if it did not answer, or if what it says does not concern the object.
    pub(super) status: Option<StatusCode>,
    text: String,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Failure {
            status: None,
            text: text.into(),
        }
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Failure {
            status: Some(status),
            ..self
        }
    }

    /// The credentials were not accepted.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.status, Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
    }

    /// In object_store's terms.
    pub(super) fn about(self, path: &str) -> object_store::Error {
        let (path, source) = (path.to_owned(), Box::new(self.clone()));
        match self.status {
            Some(StatusCode::UNAUTHORIZED) => object_store::Error::Unauthenticated { path, source },
            Some(StatusCode::FORBIDDEN) => object_store::Error::PermissionDenied { path, source },
            Some(StatusCode::NOT_FOUND) => object_store::Error::NotFound { path, source },
            Some(StatusCode::PRECONDITION_FAILED) => object_store::Error::Precondition { path, source },
            Some(StatusCode::NOT_MODIFIED) => object_store::Error::NotModified { path, source },
            _ => object_store::Error::Generic { store: "Swift", source },
        }
    }
}

/// An answer, whatever its status. The body is here as a whole, or still to be read if that was wanted.
#[derive(Debug)]
pub(super) struct Answer {
    request: String,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) unread: Option<Response>,
}

impl Answer {
    /// The text of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Any status but success is a failure.
    pub(super) fn success(self) -> Result<Self, Failure> {
        if self.status.is_success() {
            Ok(self)
        } else {
            Err(self.failure())
        }
    }

    pub(super) fn failure(&self) -> Failure {
        let text = plain_text(&String::from_utf8_lossy(&self.body));
        let colon = if text.is_empty() { "" } else { ": " };
        Failure::new(format!("{} was answered by {}{colon}{text}", self.request, self.status)).with_status(self.status)
    }

    /// May the same request have another answer later?
    fn is_passing(&self) -> bool {
        // 498 is Swift's own "too many requests".
        matches!(self.status.as_u16(), 408 | 429 | 498 | 500 | 502 | 503 | 504)
    }

    /// The pause that the server asks for. The form with a date is not used by Swift.
    fn retry_after(&self) -> Option<Duration> {
        let seconds = self.header(RETRY_AFTER.as_str())?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }
}

/// How the body of an answer that tells of success comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Whole, with the answer.
    Whole,
    /// As a stream, which the caller reads.
    Streamed,
}

/// Send a request, again if need be. All requests of this store may be repeated. An attempt ends when nothing has moved for
/// `limit`.
pub(super) async fn exchange(
    http: &Pool,
    attempts: &mut Attempts,
    limit: Duration,
    body: Body,
    build: impl Fn(&reqwest::Client) -> (RequestBuilder, Sending),
) -> Result<Answer, Failure> {
    loop {
        let lent = http.lend();
        let (request, sending) = build(&lent.client);
        let request = request
            .build()
            .map_err(|error| Failure::new(format!("the request cannot be made: {}", causes(error))))?;
        let name = format!("{} {}", request.method(), request.url());
        let answer = tokio::select! {
            biased;
            answer = once(&lent.client, request, &name, body, &sending.motion) => {
                attempts.renew();
                answer
            }
            () = sending.motion.stopped(limit) => {
                let text = format!("{name} was not answered within {} ms", limit.as_millis());
                Err(Broken::Now(Failure::new(text)))
            }
        };
        drop(sending);
        let (failure, asked) = match answer {
            Ok(answer) if !answer.is_passing() => return Ok(answer),
            Ok(answer) => {
                if let Some(why) = Left::by(answer.status.as_u16()) {
                    http.leave(&lent, why);
                }
                (answer.failure(), answer.retry_after())
            }
            // Another attempt would be sent elsewhere, or be answered by as much, too.
            Err(Broken::For(failure)) => return Err(failure),
            Err(Broken::Now(failure)) => {
                http.leave(&lent, Left::Silence);
                (failure, None)
            }
        };
        let Some(pause) = attempts.next_pause(asked) else {
            return Err(match attempts.made() {
                0 => failure,
                made => Failure {
                    text: format!("{failure} (tried {} times)", made + 1),
                    ..failure
                },
            });
        };
        tracing::debug!(%failure, ?pause, "a request is tried again");
        tokio::time::sleep(pause).await;
    }
}

/// Why an attempt has no answer.
enum Broken {
    /// The next one may have.
    Now(Failure),
    /// No other one will have.
    For(Failure),
}

async fn once(
    http: &reqwest::Client,
    request: Request,
    name: &str,
    body: Body,
    motion: &Motion,
) -> Result<Answer, Broken> {
    let broken = |error| Broken::Now(Failure::new(format!("{name} failed: {}", causes(error))));
    let mut response = http.execute(request).await.map_err(broken)?;
    motion.answered();
    let mut answer = Answer {
        request: name.to_owned(),
        status: response.status(),
        headers: std::mem::take(response.headers_mut()),
        body: Bytes::new(),
        unread: None,
    };
    if body == Body::Streamed && answer.status.is_success() {
        answer.unread = Some(response);
        return Ok(answer);
    }
    let success = answer.status.is_success();
    let limit = if success { PAGE_BYTES } else { ERROR_BYTES };
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            // The status of an error says the main thing.
            if success {
                return Err(Broken::For(Failure::new(format!("{name}: {}", TooMuch(limit)))));
            }
            break;
        }
        motion.moved(chunk.len() as u64);
    }
    answer.body = body.freeze();
    if is_redirection(answer.status.as_u16()) {
        let text = plain_text(&String::from_utf8_lossy(&answer.body));
        let redirected = Redirected::new(answer.status, |name| answer.header(name), &text);
        return Err(Broken::For(Failure::new(format!("{name}: {redirected}"))));
    }
    Ok(answer)
}

/// The whole chain of causes, without the URL, which the message has already.
pub(super) fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut next = std::error::Error::source(&error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Swift's error pages are short HTML.
fn plain_text(page: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for char in page.chars() {
        match char {
            '<' => inside = true,
            '>' if inside => {
                inside = false;
                text.push(' ');
            }
            _ if !inside && char.is_control() => text.push(' '),
            _ if !inside => text.push(char),
            _ => {}
        }
    }
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_pages_are_short_and_plain() {
        let page = "<html><h1>Not Found</h1><p>The resource could not be found.</p></html>";
        assert_eq!(plain_text(page), "Not Found The resource could not be found.");
        assert_eq!(plain_text(&"x".repeat(10_000)).len(), SHOWN);
    }
}
