//! Objects that go: a large one takes its segments along.

use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::client::{Call, Client, encoded};
use super::exchange::{Answer, Failure};
use super::multipart::{UPLOAD_HEADER, unique};

/// The end of the name of an old manifest that was put aside.
pub(super) const REPLACED: &str = ".replaced";

/// The body of the answer to a deletion with segments. Its status is always 200.
#[derive(Deserialize)]
struct Removed {
    #[serde(rename = "Response Status")]
    status: String,
    #[serde(rename = "Response Body", default)]
    body: String,
    #[serde(rename = "Errors", default)]
    errors: Vec<(String, String)>,
}

impl Removed {
    /// An error of the whole or of a single segment. Segments that are gone already are no error here.
    fn failure(self) -> Option<Failure> {
        let mut failed = self.errors.iter().filter(|(_, status)| !status.starts_with("404"));
        let text = match failed.next() {
            Some((name, status)) => {
                let others = failed.count();
                let more = if others == 0 {
                    String::new()
                } else {
                    format!(" (and {others} more)")
                };
                format!("\"{name}\" could not be deleted: {status}{more}")
            }
            None if self.status.starts_with("200") => return None,
            None => format!(
                "the object was not deleted with its segments: {} {}",
                self.status, self.body
            ),
        };
        let status = self.status.split_whitespace().next().and_then(|code| code.parse().ok());
        let failure = Failure::new(text);
        Some(match status {
            Some(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => failure.with_status(status),
            _ => failure,
        })
    }
}

impl Client {
    /// Delete an object, large or not. Its segments go first, then the object.
    pub(super) async fn remove(&self, object: &str) -> Result<(), Failure> {
        if self.is_large(object).await? {
            return self.remove_large(object).await;
        }
        self.ask(Call::new(Method::DELETE, object)).await.map(|_| ())
    }

    async fn remove_large(&self, object: &str) -> Result<(), Failure> {
        let call = Call::new(Method::DELETE, object)
            .query("multipart-manifest", "delete")
            .header("accept", "application/json")
            // The server deletes one segment after the other.
            .extra(self.time_for(0) * 4);
        let answer = self.ask(call).await?;
        if answer.body.is_empty() {
            return Ok(());
        }
        let removed: Removed = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::new(format!("the answer to a deletion cannot be read: {error}")))?;
        removed.failure().map_or(Ok(()), Err)
    }

    /// Write an object over whatever is there. A large object that was there goes with its segments, when the new one is
    /// in its place. They cannot be found by then, so the old manifest is copied before.
    pub(super) async fn replace(&self, object: &str, call: Call<'_>) -> Result<Answer, Failure> {
        let large = match self.is_large(object).await {
            Ok(large) => large,
            Err(failure) if failure.status == Some(StatusCode::NOT_FOUND) => false,
            Err(failure) => return Err(failure),
        };
        if !large {
            return self.ask(call).await;
        }
        let aside = format!("{}{REPLACED}", unique(object));
        self.ask(self.copy_call(object, &aside).query("multipart-manifest", "get"))
            .await?;
        let outcome = self.ask(call).await;
        let tidied = match &outcome {
            Ok(_) => self.remove_large(&aside).await,
            // The old object may still need its segments.
            Err(_) => self.ask(Call::new(Method::DELETE, &aside)).await.map(|_| ()),
        };
        if let Err(failure) = tidied {
            tracing::warn!(object = aside, %failure, "could not remove what is left of an object that was written over");
        }
        outcome
    }

    /// The server's own copy. With the query that asks for the manifest, a second object of the same segments.
    pub(super) fn copy_call<'a>(&self, from: &str, to: &'a str) -> Call<'a> {
        let container = encoded(self.container()).replace('/', "%2F");
        Call::new(Method::PUT, to).header("x-copy-from", &format!("{container}/{}", encoded(from)))
    }

    /// Is this an object with segments of its own?
    pub(super) async fn is_large(&self, object: &str) -> Result<bool, Failure> {
        let answer = self.ask(Call::new(Method::HEAD, object)).await?;
        Ok(answer
            .header("x-static-large-object")
            .is_some_and(|value| value.eq_ignore_ascii_case("true")))
    }

    /// The id of the upload that made an object; none if there is no object, or none that was uploaded in parts.
    pub(super) async fn upload_of(&self, object: &str) -> Result<Option<String>, Failure> {
        match self.ask(Call::new(Method::HEAD, object)).await {
            Ok(answer) => Ok(answer.header(UPLOAD_HEADER).map(str::to_owned)),
            Err(failure) if failure.status == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(body: &str) -> Option<String> {
        let removed: Removed = serde_json::from_str(body).expect("an answer");
        removed.failure().map(|failure| failure.to_string())
    }

    #[test]
    fn errors_within_a_success_are_seen() {
        assert_eq!(
            failure(r#"{"Response Status": "200 OK", "Response Body": "", "Errors": []}"#),
            None
        );
        let gone = r#"{"Response Status": "400 Bad Request", "Errors": [["/c/s", "404 Not Found"]]}"#;
        assert!(failure(gone).is_some());
        let one = r#"{"Response Status": "400 Bad Request", "Errors": [["/c/s", "503 Service Unavailable"]]}"#;
        assert_eq!(
            failure(one).as_deref(),
            Some("\"/c/s\" could not be deleted: 503 Service Unavailable")
        );
        let whole = r#"{"Response Status": "401 Unauthorized", "Response Body": "no", "Errors": []}"#;
        assert!(failure(whole).is_some_and(|text| text.contains("401")));
    }
}
