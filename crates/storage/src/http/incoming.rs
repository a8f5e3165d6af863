//! Answers and errors of reqwest's as object_store takes them.

use std::error::Error;

use http_body::Body;
use object_store::client::{HttpError, HttpErrorKind, HttpResponse, HttpResponseBody};

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

/// The error as object_store tells them apart, without the URL, which a signature may be part of. An error that is not known to
/// be for ever passes: see `repeatable`.
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
