//! The objects of a container, page by page.

use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::client::{Call, Client};
use super::exchange::Failure;
use super::multipart::SEGMENTS;

/// The page size that every Swift allows: its own limit is 10 000, but a server may be set to less.
pub(super) const PAGE: usize = 1000;

/// An entry of a listing: an object, or what objects further down have in common.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Folder {
        subdir: String,
    },
    Object {
        name: String,
        bytes: u64,
        hash: Option<String>,
        last_modified: String,
        slo_etag: Option<String>,
    },
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Entry::Folder { subdir } => subdir,
            Entry::Object { name, .. } => name,
        }
    }
}

/// A row of a listing.
#[derive(Debug)]
pub(super) enum Found {
    Object(ObjectMeta),
    Folder(Path),
}

/// How far down a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Only what is directly below the prefix; a folder there is one row.
    One,
    All,
}

#[derive(Debug, Clone)]
pub(super) struct Listing {
    client: Arc<Client>,
    /// With a slash at its end, unless it is empty.
    prefix: String,
    depth: Depth,
    page: usize,
    /// The last name that was seen; empty at the beginning.
    marker: String,
}

impl Listing {
    pub(super) fn new(client: Arc<Client>, prefix: Option<&Path>, depth: Depth, page: usize) -> Self {
        let prefix = match prefix.map_or("", Path::as_ref) {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        Listing {
            client,
            prefix,
            depth,
            page,
            marker: String::new(),
        }
    }

    /// Only what comes after this name.
    pub(super) fn after(self, offset: &Path) -> Self {
        Listing {
            marker: offset.as_ref().to_owned(),
            ..self
        }
    }

    pub(super) fn stream(self) -> BoxStream<'static, object_store::Result<Found>> {
        let path = self.prefix.clone();
        stream::try_unfold(Some(self), |listing| async {
            let Some(mut listing) = listing else { return Ok(None) };
            let page = listing.page().await?;
            let Some(last) = page.last() else { return Ok(None) };
            // A server may give less than a page has room for: only an empty one is the end.
            listing.marker = last.name().to_owned();
            let found: Vec<_> = page.into_iter().filter_map(|entry| listing.found(entry)).collect();
            Ok(Some((stream::iter(found.into_iter().map(Ok)), Some(listing))))
        })
        .try_flatten()
        .map_err(move |failure: Failure| failure.about(&path))
        .boxed()
    }

    async fn page(&self) -> Result<Vec<Entry>, Failure> {
        let mut call = Call::new(Method::GET, "")
            .query("format", "json")
            .query("limit", &self.page.to_string())
            .query("prefix", &self.prefix)
            .query("marker", &self.marker);
        if self.depth == Depth::One {
            call = call.query("delimiter", "/");
        }
        let answer = self.client.ask(call).await?;
        // An empty success of another kind is no list.
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(Vec::new());
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            let container = self.client.container();
            Failure::new(format!(
                "the listing of the container \"{container}\" cannot be read: {error}"
            ))
        })
    }

    /// None for a row that is not to be seen.
    fn found(&self, entry: Entry) -> Option<Found> {
        if entry.name().starts_with(SEGMENTS) && !self.prefix.starts_with(SEGMENTS) {
            return None;
        }
        let name = match &entry {
            Entry::Folder { subdir } => subdir.strip_suffix('/')?,
            Entry::Object { name, .. } => name,
        };
        // Names that other programs gave, like the "folder/" of a dashboard, have no key that would lead back to them.
        let location = Path::parse(name).ok().filter(|path| path.as_ref() == name);
        let Some(location) = location else {
            // As browsers of stores make them, for folders.
            let is_folder = |folder: &str| Path::parse(folder).is_ok_and(|path| path.as_ref() == folder);
            if !name.strip_suffix('/').is_some_and(is_folder) {
                self.client.pass_over(entry.name());
            }
            return None;
        };
        let Entry::Object {
            bytes,
            hash,
            last_modified,
            slo_etag,
            ..
        } = entry
        else {
            return Some(Found::Folder(location));
        };
        Some(Found::Object(ObjectMeta {
            location,
            last_modified: time(&last_modified),
            size: bytes,
            e_tag: slo_etag.or(hash).map(|tag| tag.trim_matches('"').to_owned()),
            version: None,
        }))
    }
}

impl Client {
    /// Does the listing of the container have this object?
    pub(super) async fn is_listed(&self, object: &str) -> Result<bool, Failure> {
        // Of the names that begin so, this one is the first.
        let call = Call::new(Method::GET, "")
            .query("format", "json")
            .query("limit", "1")
            .query("prefix", object);
        let answer = self.ask(call).await?;
        if answer.body.is_empty() {
            return Ok(false);
        }
        let found: Vec<Entry> = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::new(format!("the listing of an object cannot be read: {error}")))?;
        Ok(found.iter().any(|entry| entry.name() == object))
    }
}

/// Listings tell times without a zone, which is UTC.
fn time(text: &str) -> DateTime<Utc> {
    let text = text.trim_end_matches('Z');
    NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").map_or(DateTime::UNIX_EPOCH, |time| time.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(
            time("2026-11-21T06:34:25.123456").timestamp_micros(),
            1_795_242_865_123_456
        );
        assert_eq!(time("2026-11-21T06:34:25.123456Z"), time("2026-11-21T06:34:25.123456"));
    }
}
