//! Segments whose upload never became an object, or whose object is another upload's by now.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, Result};
use reqwest::{Method, StatusCode};

use super::client::{Call, Client};
use super::exchange::{Answer, Failure};
use super::listing::{Depth, Found, Listing, PAGE};
use super::multipart::{SEGMENTS, UPLOAD_HEADER};
use super::replace::REPLACED;
use crate::pending::{PendingUpload, PendingUploads};

const REQUESTS_AT_A_TIME: usize = 8;

/// Those of a container.
pub(super) struct Orphans {
    pub(super) client: Arc<Client>,
}

/// An object's state, from its own servers.
enum Holder {
    /// This upload made it; none if it was not uploaded in parts.
    Upload(Option<String>),
    Missing,
}

impl Orphans {
    pub(super) fn of(client: Arc<Client>) -> Self {
        Orphans { client }
    }

    fn segments(&self, below: &str) -> BoxStream<'static, Result<Found>> {
        let folder = crate::key::path(&format!("{SEGMENTS}{below}"));
        Listing::new(self.client.clone(), Some(&folder), Depth::All, PAGE).stream()
    }

    /// The present, by the clock of the server.
    async fn now(&self) -> Result<DateTime<Utc>, Failure> {
        let answer = self.client.ask(Call::new(Method::HEAD, "")).await?;
        Ok(time_of(&answer))
    }

    /// The latest version on its servers: one of them may have been away, and not know of the newest upload.
    async fn owner(&self, object: &str) -> Result<Holder, Failure> {
        let call = Call::new(Method::HEAD, object).header("x-newest", "true");
        match self.client.ask(call).await {
            Ok(answer) => Ok(Holder::Upload(answer.header(UPLOAD_HEADER).map(str::to_owned))),
            Err(failure) if failure.status == Some(StatusCode::NOT_FOUND) => Ok(Holder::Missing),
            Err(failure) => Err(failure),
        }
    }

    async fn is_pending(&self, upload: &PendingUpload) -> Result<bool, Failure> {
        // The manifest of an object that was about to be written over belongs to none.
        if upload.id.ends_with(REPLACED) {
            return Ok(true);
        }
        Ok(!matches!(self.owner(&upload.key).await?, Holder::Upload(Some(id)) if id == upload.id))
    }

    /// The same just before its segments go. That the object is not there must be said by its own servers and by the listing.
    async fn is_orphaned(&self, upload: &PendingUpload) -> Result<bool, Failure> {
        if upload.id.ends_with(REPLACED) {
            return Ok(true);
        }
        match self.owner(&upload.key).await? {
            Holder::Upload(id) => Ok(id.as_deref() != Some(&*upload.id)),
            Holder::Missing => Ok(!self.client.is_listed(&upload.key).await?),
        }
    }

    async fn remove(&self, name: &str) -> Result<(), Failure> {
        // Without what a manifest lists: of an object that was about to be written over, all may be in use.
        match self.client.ask(Call::new(Method::DELETE, name)).await {
            Err(failure) if failure.status != Some(StatusCode::NOT_FOUND) => Err(failure),
            _ => Ok(()),
        }
    }
}

fn time_of(answer: &Answer) -> DateTime<Utc> {
    let date = answer
        .header("date")
        .and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    date.map_or_else(Utc::now, |date| date.to_utc())
}

/// The object and the upload that a segment's name tells, if it is the name of one.
fn parse(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(SEGMENTS)?;
    let (folder, file) = rest.rsplit_once('/')?;
    if is_id(file.strip_suffix(REPLACED).unwrap_or_default()) {
        return Some((folder, file));
    }
    let digits = file.strip_prefix("manifest-").unwrap_or(file);
    let (object, id) = folder.rsplit_once('/')?;
    let is_segment = digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_segment && is_id(id)).then_some((object, id))
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Segments of one upload after the other, as a listing has them.
#[derive(Default)]
struct Groups {
    last: Option<PendingUpload>,
}

impl Groups {
    /// Returns the upload before, if this segment is one of another.
    fn add(&mut self, segment: &ObjectMeta, seen: DateTime<Utc>) -> Option<PendingUpload> {
        let (key, id) = parse(segment.location.as_ref())?;
        let (time, bytes) = (segment.last_modified, segment.size);
        match &mut self.last {
            Some(last) if last.key == key && last.id == id => {
                last.begun = last.begun.min(time);
                last.touched = last.touched.max(time);
                last.bytes = last.bytes.map(|sum| sum.saturating_add(bytes));
                None
            }
            last => last.replace(PendingUpload {
                key: key.to_owned(),
                id: id.to_owned(),
                begun: time,
                touched: time,
                seen,
                bytes: Some(bytes),
            }),
        }
    }
}

#[async_trait]
impl PendingUploads for Orphans {
    fn list(&self, folder: &Path) -> BoxStream<'_, Result<Vec<PendingUpload>>> {
        let path = folder.to_string();
        let chunks = self.segments(folder.as_ref()).ready_chunks(PAGE);
        stream::try_unfold(
            (Some(chunks), Groups::default(), None),
            move |(chunks, mut groups, seen)| {
                let path = path.clone();
                async move {
                    let failed = |failure: Failure| failure.about(&path);
                    let Some(mut chunks) = chunks else {
                        return Ok(None);
                    };
                    let seen = match seen {
                        Some(seen) => seen,
                        None => self.now().await.map_err(failed)?,
                    };
                    let mut uploads = Vec::new();
                    let chunk = chunks.next().await;
                    let at_end = chunk.is_none();
                    for found in chunk.into_iter().flatten() {
                        if let Found::Object(segment) = found? {
                            uploads.extend(groups.add(&segment, seen));
                        }
                    }
                    if at_end {
                        uploads.extend(groups.last.take());
                    }
                    let asked = stream::iter(uploads).map(|upload| async move {
                        let pending = self.is_pending(&upload).await?;
                        Ok::<_, Failure>(pending.then_some(upload))
                    });
                    let page = asked
                        .buffer_unordered(REQUESTS_AT_A_TIME)
                        .try_filter_map(async |found| Ok(found));
                    let page: Vec<_> = page.try_collect().await.map_err(failed)?;
                    Ok(Some((page, ((!at_end).then_some(chunks), groups, Some(seen)))))
                }
            },
        )
        .boxed()
    }

    async fn discard(&self, upload: &PendingUpload, older_than: TimeDelta) -> Result<bool> {
        let failed = |failure: Failure| failure.about(&upload.key);
        let mut names = Vec::new();
        let mut touched = upload.touched;
        if upload.id.ends_with(REPLACED) {
            names.push(format!("{SEGMENTS}{}/{}", upload.key, upload.id));
        } else {
            let mut segments = self.segments(&format!("{}/{}", upload.key, upload.id));
            while let Some(found) = segments.try_next().await? {
                if let Found::Object(segment) = found {
                    touched = touched.max(segment.last_modified);
                    names.push(segment.location.into());
                }
            }
        }
        let now = self.now().await.map_err(failed)?;
        let age = (now - touched).max(TimeDelta::zero());
        if age < older_than || !self.is_orphaned(upload).await.map_err(failed)? {
            return Ok(false);
        }
        let removed = stream::iter(names).map(|name: String| async move { self.remove(&name).await });
        removed
            .buffer_unordered(REQUESTS_AT_A_TIME)
            .try_collect::<()>()
            .await
            .map_err(failed)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_segments_name_tells_its_object_and_its_upload() {
        for (file, id) in [
            (format!("{ID}/00000000"), ID.to_owned()),
            (format!("{ID}/manifest-000001"), ID.to_owned()),
            (format!("{ID}.replaced"), format!("{ID}.replaced")),
        ] {
            let name = format!("{SEGMENTS}p q/wal_005/a/{file}");
            assert_eq!(parse(&name), Some(("p q/wal_005/a", &*id)), "{name}");
        }
        for name in [
            format!("{SEGMENTS}p/a/{ID}"),
            format!("{SEGMENTS}p/a/{ID}/notes"),
            format!("{SEGMENTS}p/a/{}/00000000", &ID[1..]),
            format!("{SEGMENTS}{ID}/00000000"),
            format!("p/a/{ID}/00000000"),
            format!("{SEGMENTS}p/a/x.replaced"),
        ] {
            assert_eq!(parse(&name), None, "{name}");
        }
    }

    #[test]
    fn segments_of_one_upload_are_one() {
        let time = |second| DateTime::from_timestamp(second, 0).expect("a time");
        let segment = |file: &str, second| ObjectMeta {
            location: crate::key::path(&format!("{SEGMENTS}a/{file}")),
            last_modified: time(second),
            size: 10,
            e_tag: None,
            version: None,
        };
        let other = ID.replace('0', "1");
        let mut groups = Groups::default();
        assert_eq!(groups.add(&segment(&format!("{ID}/00000000"), 7), time(100)), None);
        assert_eq!(groups.add(&segment(&format!("{ID}/00000001"), 3), time(100)), None);
        assert_eq!(groups.add(&segment("something else", 5), time(100)), None);
        let first = groups
            .add(&segment(&format!("{other}/00000000"), 5), time(100))
            .expect("one");
        assert_eq!((&*first.key, &*first.id, first.bytes), ("a", ID, Some(20)));
        assert_eq!((first.begun, first.age().num_seconds()), (time(3), 93));
        assert_eq!(groups.last.take().map(|last| last.id), Some(other));
    }
}
