//! Large objects: segments and the manifest that lists them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{MultipartUpload, PutPayload, PutResult, UploadPart};
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::exchange::Failure;
use super::store::{put_result, unquoted};

/// The container of segments.
pub(super) const SEGMENTS: &str = ".walarchive-segments/";
/// The header of an object that tells which upload made it.
pub(super) const UPLOAD_HEADER: &str = "x-object-meta-walarchive-upload";
/// How many segments a manifest may list, unless a server is set otherwise: Swift's default. More of them are listed by
/// manifests that are segments themselves.
pub(super) const MANIFEST_SEGMENTS: usize = 1000;

/// The server looks at each segment when it gets a manifest.
const TIME_PER_SEGMENT: Duration = Duration::from_millis(200);
const DELETIONS_AT_A_TIME: usize = 8;

/// A name of an object that nobody else will use, below the place for segments.
pub(super) fn unique(object: &str) -> String {
    format!("{SEGMENTS}{object}/{:032x}", rand::random::<u128>())
}

#[derive(Debug, Clone)]
struct Segment {
    name: String,
    e_tag: String,
    size: u64,
}

#[derive(Debug)]
pub(super) struct Upload {
    client: Arc<Client>,
    object: String,
    folder: String,
    /// None for those that are not there yet.
    segments: Arc<Mutex<Vec<Option<Segment>>>>,
    /// The manifests that are segments.
    inner: usize,
    manifest_segments: usize,
    /// The manifest was sent, so the object may be there even if we did not hear of it.
    sent: bool,
}

impl Upload {
    pub(super) fn new(client: Arc<Client>, object: &str, manifest_segments: usize) -> Self {
        Upload {
            client,
            object: object.to_owned(),
            folder: unique(object),
            segments: Arc::default(),
            inner: 0,
            manifest_segments,
            sent: false,
        }
    }

    async fn finish(&mut self) -> Result<PutResult, Failure> {
        let segments: Option<Vec<Segment>> = self.segments.lock().iter().cloned().collect();
        let segments = segments.ok_or_else(|| Failure::new("not all parts of the object were stored"))?;
        // Swift takes no manifest of nothing.
        let mut segments: Vec<_> = segments.into_iter().filter(|segment| segment.size > 0).collect();
        if segments.is_empty() {
            let call = Call::new(Method::PUT, &self.object);
            return self
                .client
                .replace(&self.object, call)
                .await
                .map(|answer| put_result(&answer));
        }
        let count = segments.len();
        while segments.len() > self.manifest_segments {
            let mut outer = Vec::new();
            for chunk in segments.chunks(self.manifest_segments) {
                outer.push(self.inner_manifest(chunk).await?);
            }
            segments = outer;
        }
        let manifest = self.manifest(&segments);
        let id = self.folder.rsplit('/').next().unwrap_or_default();
        let call = manifest_call(&self.object, manifest, count).header(UPLOAD_HEADER, id);
        self.sent = true;
        self.client
            .replace(&self.object, call)
            .await
            .map(|answer| put_result(&answer))
    }

    async fn inner_manifest(&mut self, segments: &[Segment]) -> Result<Segment, Failure> {
        let name = format!("{}/manifest-{:06}", self.folder, self.inner);
        self.inner += 1;
        let call = manifest_call(&name, self.manifest(segments), segments.len());
        let answer = self.client.ask(call).await?;
        Ok(Segment {
            e_tag: unquoted(answer.header("etag").unwrap_or_default()),
            size: segments.iter().map(|segment| segment.size).sum(),
            name,
        })
    }

    fn manifest(&self, segments: &[Segment]) -> Bytes {
        let container = self.client.container();
        let entry = |segment: &Segment| {
            json!({
                "path": format!("/{container}/{}", segment.name),
                "etag": segment.e_tag,
                "size_bytes": segment.size,
            })
        };
        Value::from(segments.iter().map(entry).collect::<Vec<_>>())
            .to_string()
            .into()
    }

    async fn give_up(&mut self) -> Result<(), Failure> {
        // An object that lists our segments must not be left without them: it goes with them.
        if self.sent
            && self
                .client
                .upload_of(&self.object)
                .await?
                .is_some_and(|id| self.folder.ends_with(&id))
        {
            return self.client.remove(&self.object).await;
        }
        // A segment whose upload was cut off may be there.
        let segments = (0..self.segments.lock().len()).map(|index| segment_name(&self.folder, index));
        let manifests = (0..self.inner).map(|index| format!("{}/manifest-{index:06}", self.folder));
        let names: Vec<_> = segments.chain(manifests).collect();
        let client = &self.client;
        stream::iter(names)
            .map(|name| async move {
                match client.ask(Call::new(Method::DELETE, &name)).await {
                    Err(failure) if failure.status != Some(StatusCode::NOT_FOUND) => Err(failure),
                    _ => Ok(()),
                }
            })
            .buffer_unordered(DELETIONS_AT_A_TIME)
            .try_collect()
            .await
    }
}

fn segment_name(folder: &str, index: usize) -> String {
    format!("{folder}/{index:08}")
}

fn manifest_call(object: &str, manifest: Bytes, segments: usize) -> Call<'_> {
    Call::new(Method::PUT, object)
        .query("multipart-manifest", "put")
        .header("content-type", "application/octet-stream")
        .body(manifest)
        .extra(TIME_PER_SEGMENT * u32::try_from(segments).unwrap_or(u32::MAX))
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let index = {
            let mut segments = self.segments.lock();
            segments.push(None);
            segments.len() - 1
        };
        let (client, segments, object) = (self.client.clone(), self.segments.clone(), self.object.clone());
        let name = segment_name(&self.folder, index);
        Box::pin(async move {
            let size = data.content_length() as u64;
            // No manifest may list an empty segment, and what none lists would stay for ever.
            if size == 0 {
                segments.lock()[index] = Some(Segment {
                    name,
                    e_tag: String::new(),
                    size,
                });
                return Ok(());
            }
            let call = Call::new(Method::PUT, &name)
                .header("content-type", "application/octet-stream")
                .body(data.into());
            let answer = client.ask(call).await.map_err(|failure| failure.about(&object))?;
            let e_tag = unquoted(answer.header("etag").unwrap_or_default());
            segments.lock()[index] = Some(Segment { name, e_tag, size });
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let finished = self.finish().await;
        finished.map_err(|failure| failure.about(&self.object))
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        let given_up = self.give_up().await;
        given_up.map_err(|failure| failure.about(&self.object))
    }
}
