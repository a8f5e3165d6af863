//! The meaning of a store's refusal.

use std::fmt;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use object_store::client::{HttpError, HttpResponse, HttpResponseBody};

/// How much of a refusal is read, in bytes. Its code comes early.
const READ: usize = 64 << 10;

/// Stores accept clocks that differ by a quarter of an hour. In minutes; one less, as the answer took some time.
const ACCEPTED_SKEW: i64 = 14;

/// Denials that may mean the clock.
const CLOCK: [&str; 5] = [
    "RequestTimeTooSkewed",
    "Signature expired",
    "Signature not yet current",
    "Request date header too old",
    "RequestExpired",
];

/// Denials of the credentials, as opposed to their permissions.
const CREDENTIALS: [&str; 9] = [
    "ExpiredToken",
    "TokenRefreshRequired",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
];

/// The meaning of an answer for the next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The credentials are good, whatever else the answer says.
    Accepted,
    /// The request came too slowly.
    TooSlow,
    /// The clocks differ.
    Skewed(Skew),
    /// The credentials are not good, or not any more.
    Credentials,
    /// They may not do this, or the answer does not say why.
    Denied {
        /// The answer has no body.
        mute: bool,
    },
    /// Nothing that another attempt would change.
    Other,
}

/// The two clocks when the store refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skew {
    here: DateTime<Utc>,
    /// If the store says it.
    there: Option<DateTime<Utc>>,
}

impl Skew {
    /// The one behind an error of object_store.
    pub(crate) fn behind(error: &object_store::Error) -> Option<&Skew> {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(skew) = error.downcast_ref() {
                return Some(skew);
            }
            next = error.source();
        }
        None
    }
}

impl std::error::Error for Skew {}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |time: &DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
        write!(f, "It is {} here", shown(&self.here))?;
        let Some(there) = self.there else {
            return write!(f, ", and the store does not say what time it has.");
        };
        let seconds = (there - self.here).num_seconds();
        let side = if seconds < 0 { "behind" } else { "ahead" };
        write!(
            f,
            " and {} at the store, which is {} s {side}.",
            shown(&there),
            seconds.abs()
        )
    }
}

/// Reads the body of a refusal, and only of such.
pub(super) async fn of(response: HttpResponse) -> Result<(HttpResponse, Verdict), HttpError> {
    let status = response.status().as_u16();
    // A server that redirects, or is not well, has not looked at the credentials.
    if matches!(status, 200..300 | 304 | 404 | 409 | 412 | 416) {
        return Ok((response, Verdict::Accepted));
    }
    if !matches!(status, 400 | 401 | 403) {
        return Ok((response, Verdict::Other));
    }
    let date = response.headers().get("date").and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    let date = date.map(|date| date.to_utc());
    let (parts, body) = response.into_parts();
    let mut read = BytesMut::new();
    let mut chunks = body.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        let room = READ - read.len();
        read.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if read.len() == READ {
            break;
        }
    }
    let verdict = judge(status, &String::from_utf8_lossy(&read), date, Utc::now());
    let body: Bytes = read.freeze();
    Ok((HttpResponse::from_parts(parts, HttpResponseBody::from(body)), verdict))
}

fn judge(status: u16, text: &str, date: Option<DateTime<Utc>>, here: DateTime<Utc>) -> Verdict {
    let says = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
    if says(&["<Code>RequestTimeout</Code>"]) {
        return Verdict::TooSlow;
    }
    let there = date.or_else(|| server_time(text));
    let differ = there.is_some_and(|there| (there - here).abs() >= TimeDelta::minutes(ACCEPTED_SKEW));
    // Azure says little more than that the authentication failed; the answer to a HEAD says nothing.
    if says(&CLOCK) || (differ && (text.is_empty() || says(&CREDENTIALS))) {
        return Verdict::Skewed(Skew { here, there });
    }
    if status == 401 || says(&CREDENTIALS) {
        return Verdict::Credentials;
    }
    match (status, text.is_empty()) {
        (400, false) => Verdict::Other,
        (_, mute) => Verdict::Denied { mute },
    }
}

/// S3 says in the text which time it has.
fn server_time(text: &str) -> Option<DateTime<Utc>> {
    let (_, rest) = text.split_once("<ServerTime>")?;
    let (time, _) = rest.split_once("</ServerTime>")?;
    DateTime::parse_from_rfc3339(time.trim()).ok().map(|time| time.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
    }

    #[test]
    fn answers_are_told_apart() {
        let here = at("2026-11-20T10:00:00Z");
        let judge = |status, text: &str, date| judge(status, text, date, here);
        let code = |code: &str| format!("<Error><Code>{code}</Code></Error>");
        assert_eq!(judge(400, &code("RequestTimeout"), None), Verdict::TooSlow);
        assert_eq!(judge(400, &code("ExpiredToken"), None), Verdict::Credentials);
        assert_eq!(
            judge(403, &code("AuthenticationFailed"), Some(here)),
            Verdict::Credentials
        );
        assert_eq!(judge(401, "", Some(here)), Verdict::Credentials);
        assert_eq!(judge(403, &code("AccessDenied"), None), Verdict::Denied { mute: false });
        assert_eq!(judge(403, "", None), Verdict::Denied { mute: true });
        assert_eq!(judge(400, &code("InvalidArgument"), None), Verdict::Other);
    }

    #[test]
    fn the_clock_is_seen_by_what_is_said_and_by_the_date() {
        let here = at("2026-11-20T10:00:00Z");
        let there = at("2026-11-20T08:00:00Z");
        let skewed = Verdict::Skewed(Skew {
            here,
            there: Some(there),
        });
        let text = "<Code>RequestTimeTooSkewed</Code><ServerTime>2026-11-20T08:00:00Z</ServerTime>";
        assert_eq!(judge(403, text, None, here), skewed);
        assert_eq!(judge(403, "", Some(there), here), skewed, "the answer to a HEAD");
        assert_eq!(
            judge(403, "<Code>AuthenticationFailed</Code>", Some(there), here),
            skewed
        );
        assert_eq!(
            judge(403, "<Code>AccessDenied</Code>", Some(there), here),
            Verdict::Denied { mute: false }
        );
        let Verdict::Skewed(skew) = skewed else { unreachable!() };
        assert_eq!(
            skew.to_string(),
            "It is 2026-11-20 10:00:00 UTC here and 2026-11-20 08:00:00 UTC at the store, which is 7200 s behind."
        );
    }
}
