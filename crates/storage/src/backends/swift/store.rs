//! Swift as object_store sees it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, Extensions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, RenameTargetMode, Result,
};
use reqwest::{Method, StatusCode};

use super::body::download;
use super::client::{Call, Client};
use super::exchange::{Answer, Failure};
use super::listing::{Depth, Found, Listing, PAGE};
use super::multipart::{MANIFEST_SEGMENTS, Upload};
use super::uploads::Orphans;
use crate::odd::Odd;
use crate::transfer::parts::PART_BYTES;

const DELETIONS_AT_A_TIME: usize = 10;

/// A container.
#[derive(Debug)]
pub(super) struct SwiftStore {
    client: Arc<Client>,
    /// Entries of a page of a listing.
    pub(super) page: usize,
    /// Segments that one manifest lists.
    pub(super) manifest_segments: usize,
}

impl SwiftStore {
    pub(super) fn new(client: Client) -> Self {
        SwiftStore {
            client: Arc::new(client),
            page: PAGE,
            manifest_segments: MANIFEST_SEGMENTS,
        }
    }

    /// Names that listings passed over.
    pub(super) fn odd(&self) -> Arc<Odd> {
        self.client.odd()
    }

    /// The uploads that left segments.
    pub(super) fn orphans(&self) -> Orphans {
        Orphans::of(self.client.clone())
    }

    fn listing(&self, prefix: Option<&Path>, depth: Depth) -> Listing {
        Listing::new(self.client.clone(), prefix, depth, self.page)
    }

    async fn copied(&self, call: Call<'_>, from: &Path, to: &Path) -> Result<()> {
        let copied = self.client.replace(to.as_ref(), call).await;
        copied.map(|_| ()).map_err(|failure| failure.about(from.as_ref()))
    }

    /// The server's own copy knows no condition on the target: it takes one as meant for the source. So a small object
    /// comes here and goes back, and for a large one there is no way.
    async fn copied_by_us(&self, from: &Path, to: &Path) -> Result<()> {
        let found = self.get_opts(from, GetOptions::new()).await?;
        if found.meta.size > PART_BYTES {
            return Err(unsupported("a copy of a large object that must not be there yet"));
        }
        let content = found.bytes().await?;
        self.put_opts(to, content.into(), PutMode::Create.into())
            .await
            .map(|_| ())
    }
}

impl fmt::Display for SwiftStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Swift({})", self.client.container())
    }
}

/// The answer to a write.
pub(super) fn put_result(answer: &Answer) -> PutResult {
    PutResult {
        e_tag: answer.header("etag").map(unquoted),
        version: None,
        extensions: Extensions::default(),
    }
}

/// Tags come with quotes for large objects and without for others; here they have none.
pub(super) fn unquoted(tag: &str) -> String {
    tag.trim_matches('"').to_owned()
}

/// The headers' description of an object.
fn meta(location: &Path, answer: &Answer, size: u64) -> ObjectMeta {
    // The other header has whole seconds, and would differ from a listing.
    let exact = answer.header("x-timestamp").and_then(|text| {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let micros: i64 = format!("{fraction:0<6.6}").parse().ok()?;
        DateTime::from_timestamp_micros(seconds.parse::<i64>().ok()?.checked_mul(1_000_000)? + micros)
    });
    let last_modified = exact.or_else(|| {
        let text = answer.header("last-modified")?;
        Some(DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc))
    });
    ObjectMeta {
        location: location.clone(),
        last_modified: last_modified.unwrap_or(DateTime::UNIX_EPOCH),
        size,
        e_tag: answer.header("etag").map(unquoted),
        version: None,
    }
}

/// The size of the object, and the part of it that the answer holds.
fn extent(answer: &Answer, wanted: Option<&GetRange>) -> Result<(u64, Range<u64>), Failure> {
    let odd = || Failure::new("Swift did not say which part of which size it sends");
    if answer.status == StatusCode::PARTIAL_CONTENT {
        // "bytes 0-99/1000"
        let text = answer
            .header("content-range")
            .and_then(|text| text.strip_prefix("bytes "));
        let (range, size) = text.and_then(|text| text.split_once('/')).ok_or_else(odd)?;
        let (first, last) = range.split_once('-').ok_or_else(odd)?;
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| odd());
        let (first, last, size) = (number(first)?, number(last)?, number(size)?);
        return if first <= last && last < size {
            Ok((size, first..last + 1))
        } else {
            Err(odd())
        };
    }
    let size = answer
        .header("content-length")
        .and_then(|text| text.parse().ok())
        .ok_or_else(odd)?;
    if wanted.is_some() && size > 0 {
        return Err(Failure::new("Swift sent the whole object where a part was asked for"));
    }
    Ok((size, 0..size))
}

fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn unsupported(what: &str) -> Error {
    Error::NotImplemented {
        operation: what.to_owned(),
        implementer: "Swift".to_owned(),
    }
}

/// Only a request with a condition is answered so: there was something already.
fn exists(failure: Failure, path: &Path) -> Error {
    match failure.about(path.as_ref()) {
        Error::Precondition { path, source } => Error::AlreadyExists { path, source },
        error => error,
    }
}

#[async_trait]
impl ObjectStore for SwiftStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !options.attributes.is_empty() {
            return Err(unsupported("put_opts with attributes"));
        }
        let call = Call::new(Method::PUT, location.as_ref())
            .header("content-type", "application/octet-stream")
            .body(payload.into());
        let answer = match options.mode {
            PutMode::Overwrite => self.client.replace(location.as_ref(), call).await,
            PutMode::Create => {
                let answer = self.client.ask(call.header("if-none-match", "*")).await;
                return answer
                    .map(|answer| put_result(&answer))
                    .map_err(|failure| exists(failure, location));
            }
            PutMode::Update(_) => return Err(unsupported("put_opts with an update")),
        };
        answer
            .map(|answer| put_result(&answer))
            .map_err(|failure| failure.about(location.as_ref()))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !options.attributes.is_empty() {
            return Err(unsupported("put_multipart_opts with attributes"));
        }
        let upload = Upload::new(self.client.clone(), location.as_ref(), self.manifest_segments);
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(unsupported("get_opts with a version"));
        }
        let failed = |failure: Failure| failure.about(location.as_ref());
        let method = if options.head { Method::HEAD } else { Method::GET };
        let mut call = Call::new(method, location.as_ref()).streamed();
        if let Some(range) = &options.range {
            range
                .is_valid()
                .map_err(|error| failed(Failure::new(error.to_string())))?;
            call = call.header("range", &range.to_string());
        }
        for (name, tag) in [
            ("if-match", &options.if_match),
            ("if-none-match", &options.if_none_match),
        ] {
            if let Some(tag) = tag {
                call = call.header(name, tag);
            }
        }
        if let Some(time) = options.if_modified_since {
            call = call.header("if-modified-since", &http_date(time));
        }
        if let Some(time) = options.if_unmodified_since {
            call = call.header("if-unmodified-since", &http_date(time));
        }
        let mut answer = self.client.ask(call).await.map_err(failed)?;
        let wanted = options.range.as_ref().filter(|_| !options.head);
        let (size, range) = extent(&answer, wanted).map_err(failed)?;
        let meta = meta(location, &answer, size);
        let payload = match answer.unread.take().filter(|_| !options.head) {
            Some(response) => {
                let (object, e_tag) = (location.to_string(), meta.e_tag.clone());
                download(self.client.clone(), object, e_tag, response, range.clone())
            }
            None => futures::stream::empty().boxed(),
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Default::default(),
            extensions: Extensions::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let client = self.client.clone();
        locations
            .map(move |location| {
                let client = client.clone();
                async move {
                    let location = location?;
                    let removed = client.remove(location.as_ref()).await;
                    removed.map_err(|failure| failure.about(location.as_ref()))?;
                    Ok(location)
                }
            })
            .buffered(DELETIONS_AT_A_TIME)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        objects(self.listing(prefix, Depth::All))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        objects(self.listing(prefix, Depth::All).after(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut result = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
            extensions: Extensions::default(),
        };
        let mut found = self.listing(prefix, Depth::One).stream();
        while let Some(found) = found.try_next().await? {
            match found {
                Found::Object(meta) => result.objects.push(meta),
                Found::Folder(path) => result.common_prefixes.push(path),
            }
        }
        Ok(result)
    }

    /// The copy of a large object is one object without segments, so that each can be deleted without the other; the
    /// server does that up to its limit for one object, 5 GB.
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        if options.mode == CopyMode::Create {
            return self.copied_by_us(from, to).await;
        }
        // It takes as long as a transfer; how large the object is, the server knows.
        let call = self.client.copy_call(from.as_ref(), to.as_ref());
        self.copied(call.extra(self.client.time_for(1 << 30)), from, to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let failed = |failure: Failure| failure.about(from.as_ref());
        if options.target_mode == RenameTargetMode::Create {
            self.copied_by_us(from, to).await?;
            return self.client.remove(from.as_ref()).await.map_err(failed);
        }
        // Not with the segments where they are: below another object's name they would be taken for abandoned.
        self.copy_opts(from, to, CopyOptions::new()).await?;
        self.client.remove(from.as_ref()).await.map_err(failed)
    }
}

fn objects(listing: Listing) -> BoxStream<'static, Result<ObjectMeta>> {
    listing
        .stream()
        .try_filter_map(|found| {
            future::ready(Ok(match found {
                Found::Object(meta) => Some(meta),
                Found::Folder(_) => None,
            }))
        })
        .boxed()
}
