//! Uploads in parts as S3 and Google Cloud Storage list them: the XML interface that they have in common. object_store can
//! end an upload, but does not list them.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, Error, Result};
use once_cell::sync::OnceCell;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;

use crate::config::StorageConfig;
use crate::pending::{PendingUpload, PendingUploads};
use crate::renewal::Renewed;
use crate::transfer::retry::Retry;

/// The largest answer that is read, in bytes. A page has up to a thousand uploads, with names of up to a KiB each.
const ANSWER_LIMIT: usize = 16 << 20;

/// How much of an error's text a message shows, in characters.
const SHOWN: usize = 1000;

/// The characters that stand for themselves in a query.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Signs requests.
#[async_trait]
pub(crate) trait Authorize: Send + Sync {
    /// Add to the request what proves who asks.
    async fn authorize(&self, request: &mut HttpRequest) -> Result<()>;
}

/// The uploads of a bucket.
pub(crate) struct XmlUploads<S, A> {
    pub(crate) store: S,
    /// The place of the bucket; none if it cannot be asked.
    pub(crate) bucket: Option<Url>,
    pub(crate) authorizer: A,
    /// For a listing.
    pub(crate) permission: &'static str,
    pub(crate) client: Client,
}

/// A client of one's own, made when it is wanted: mostly it never is.
pub(crate) struct Client {
    options: ClientOptions,
    connector: Renewed,
    retry: Retry,
    made: OnceCell<HttpClient>,
}

impl Client {
    /// With the deadlines and retries of the configuration.
    pub(crate) fn new(options: ClientOptions, connector: Renewed, config: &StorageConfig) -> Self {
        Client {
            options,
            connector,
            retry: Retry::new(config),
            made: OnceCell::new(),
        }
    }
}

/// A page of a listing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    /// Not used. A server that does not know the request may answer with a list of objects, which has no such element.
    #[serde(rename = "Bucket")]
    _bucket: IgnoredAny,
    #[serde(default)]
    is_truncated: bool,
    next_key_marker: Option<String>,
    next_upload_id_marker: Option<String>,
    #[serde(default, rename = "Upload")]
    uploads: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    upload_id: String,
    initiated: DateTime<Utc>,
}

/// After which upload a page begins: its key and its id.
type Marker = (String, String);

/// The failure, and whether the same request may have another answer later.
struct Failure {
    error: Error,
    passing: bool,
}

impl Failure {
    fn of(error: HttpError) -> Self {
        Failure {
            passing: error.kind() != HttpErrorKind::Unknown,
            error: generic(error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error, passing: false }
    }
}

fn generic(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic {
        store: "list of uploads",
        source: error.into(),
    }
}

impl<S: MultipartStore, A: Authorize> XmlUploads<S, A> {
    /// The page after a marker, and when the server answered.
    async fn page(&self, prefix: &str, after: Option<&Marker>) -> Result<(Page, DateTime<Utc>)> {
        let mut url = self.bucket.clone().ok_or_else(|| Error::NotSupported {
            source: "buckets of this kind have no list of uploads".into(),
        })?;
        url.set_query(Some(&query(prefix, after)));
        let client = &self.client;
        let http = client
            .made
            .get_or_try_init(|| client.connector.connect(&client.options))?;
        let mut attempts = client.retry.begin();
        let (body, time) = loop {
            let failure = match self.ask(http, &url).await {
                Ok(answer) => break answer,
                Err(failure) => failure,
            };
            let pause = if failure.passing {
                attempts.next_pause(None)
            } else {
                None
            };
            let Some(pause) = pause else {
                return Err(failure.error);
            };
            tracing::debug!(error = %failure.error, ?pause, "a list of uploads is asked for again");
            tokio::time::sleep(pause).await;
        };
        match quick_xml::de::from_reader(&*body) {
            Ok(page) => Ok((page, time)),
            Err(error) => Err(Error::NotSupported {
                source: format!("the answer is not a list of uploads: {error}").into(),
            }),
        }
    }

    async fn ask(&self, http: &HttpClient, url: &Url) -> Result<(Bytes, DateTime<Utc>), Failure> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = url.as_str().parse().map_err(|error| generic(Box::new(error)))?;
        self.authorizer.authorize(&mut request).await?;
        let answer = http.execute(request).await.map_err(Failure::of)?;
        let status = answer.status();
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        let time = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        let mut body = BytesMut::new();
        let mut chunks = answer.into_body().bytes_stream();
        while let Some(chunk) = chunks.try_next().await.map_err(Failure::of)? {
            if body.len() + chunk.len() > ANSWER_LIMIT {
                return Err(generic(format!("the answer has more than {ANSWER_LIMIT} bytes")).into());
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok((body.freeze(), time.map_or_else(Utc::now, |time| time.to_utc())));
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
        let (path, source) = (url.path().to_owned(), format!("{status}: {text}").into());
        let error = match status.as_u16() {
            400 | 405 | 501 => Error::NotSupported { source },
            401 => Error::Unauthenticated { path, source },
            403 => Error::PermissionDenied { path, source },
            404 => Error::NotFound { path, source },
            _ => generic(source),
        };
        let passing = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
        Err(Failure { error, passing })
    }
}

fn query(prefix: &str, after: Option<&Marker>) -> String {
    let encoded = |text| utf8_percent_encode(text, IN_QUERY);
    let mut query = format!("uploads=&prefix={}", encoded(prefix));
    if let Some((key, id)) = after {
        query.push_str(&format!("&key-marker={}", encoded(key)));
        if !id.is_empty() {
            query.push_str(&format!("&upload-id-marker={}", encoded(id)));
        }
    }
    query
}

impl Page {
    /// The beginning of the next one; none after the last.
    fn next(&mut self, before: Option<&Marker>) -> Result<Option<Marker>> {
        if !self.is_truncated {
            return Ok(None);
        }
        let id = self.next_upload_id_marker.take().unwrap_or_default();
        let next = self.next_key_marker.take().map(|key| (key, id));
        match next {
            Some(next) if !next.0.is_empty() && before != Some(&next) => Ok(Some(next)),
            // Asked again, it would say the same for ever.
            _ => Err(generic(
                "the list of uploads is cut off, and does not say where it continues",
            )),
        }
    }
}

#[async_trait]
impl<S: MultipartStore, A: Authorize> PendingUploads for XmlUploads<S, A> {
    fn list(&self, folder: &Path) -> BoxStream<'_, Result<Vec<PendingUpload>>> {
        let prefix = match folder.as_ref() {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        // The marker of the page that is to come, if one is.
        let start = Some((prefix, None::<Marker>));
        stream::try_unfold(start, move |at| async move {
            let Some((prefix, marker)) = at else {
                return Ok(None);
            };
            let (mut page, seen) = self.page(&prefix, marker.as_ref()).await?;
            let next = page.next(marker.as_ref())?;
            let uploads = page.uploads.into_iter().map(|entry| PendingUpload {
                key: entry.key,
                id: entry.upload_id,
                begun: entry.initiated,
                touched: entry.initiated,
                seen,
                bytes: None,
            });
            Ok(Some((uploads.collect(), next.map(|next| (prefix, Some(next))))))
        })
        .boxed()
    }

    async fn discard(&self, upload: &PendingUpload, older_than: TimeDelta) -> Result<bool> {
        // The store tells only when it was begun, which does not change.
        if upload.age() < older_than {
            return Ok(false);
        }
        let path = crate::key::path(&upload.key);
        self.store.abort_multipart(&path, &upload.id).await.map(|()| true)
    }

    fn permission(&self) -> Option<&'static str> {
        Some(self.permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <ListMultipartUploadsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
        <Bucket>b</Bucket><KeyMarker/><NextKeyMarker>p/&lt;a b&gt;+&amp;</NextKeyMarker>\
        <NextUploadIdMarker>2</NextUploadIdMarker><MaxUploads>2</MaxUploads><IsTruncated>true</IsTruncated>\
        <Upload><Key>p/a</Key><UploadId>1</UploadId><Owner><ID>o</ID></Owner>\
        <Initiated>2026-11-19T10:00:00.000Z</Initiated></Upload><Prefix>p/</Prefix>\
        <Upload><Key>p/&lt;a b&gt;+&amp;</Key><UploadId>2</UploadId><Initiated>2026-11-19T10:00:01Z</Initiated></Upload>\
        </ListMultipartUploadsResult>";

    fn parse(text: &str) -> std::result::Result<Page, quick_xml::DeError> {
        quick_xml::de::from_reader(text.as_bytes())
    }

    #[test]
    fn a_page_leads_to_the_next_one() {
        let mut page = parse(PAGE).expect("a page");
        let keys: Vec<_> = page.uploads.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["p/a", "p/<a b>+&"]);
        assert_eq!(page.uploads[0].initiated.to_rfc3339(), "2026-11-19T10:00:00+00:00");
        let next = page.next(None).expect("goes on").expect("a marker");
        assert_eq!(next, ("p/<a b>+&".to_owned(), "2".to_owned()));
        assert_eq!(
            query("p/", Some(&next)),
            "uploads=&prefix=p%2F&key-marker=p%2F%3Ca%20b%3E%2B%26&upload-id-marker=2"
        );
        // The same once more would never end.
        assert!(parse(PAGE).expect("a page").next(Some(&next)).is_err());
        let last = "<ListMultipartUploadsResult><Bucket>b</Bucket><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
        let mut last = parse(last).expect("a page");
        assert!(last.uploads.is_empty() && last.next(Some(&next)).expect("an end").is_none());
    }

    #[test]
    fn a_list_of_objects_is_no_list_of_uploads() {
        let objects = "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated></ListBucketResult>";
        assert!(parse(objects).is_err());
        assert!(parse("welcome").is_err() && parse("").is_err());
    }
}
