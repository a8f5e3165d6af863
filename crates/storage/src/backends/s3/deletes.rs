//! Deletion: many objects with one request while the server takes such a request, and one after the other from then on. Some
//! servers do not know it (`POST ?delete`), and some users may not send it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{Error, ObjectStore, Result};
use once_cell::sync::OnceCell;
use parking_lot::Mutex;

use crate::backends::layer::{Layer, Layered};
use crate::errors::reason;

/// The most objects that one request may delete, by the protocol.
const MANY: usize = 1000;

/// The answers to a request that a server does not know, or a user may not send.
const REFUSALS: [&str; 4] = [
    "403 Forbidden",
    "501 Not Implemented",
    "405 Method Not Allowed",
    "400 Bad Request",
];

/// The buckets where this process was refused, by endpoint and name.
static REFUSING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The store, with deletions that find their way.
pub(super) struct Deletes(Arc<Inner>);

struct Inner {
    store: AmazonS3,
    bucket: String,
    /// For the store below, which is made when it is wanted.
    builder: AmazonS3Builder,
    one_by_one: OnceCell<AmazonS3>,
}

impl Deletes {
    /// A store in front of `store`, which `builder` has made; `bucket` tells it from others.
    pub(super) fn over(store: AmazonS3, builder: AmazonS3Builder, bucket: String) -> Layered<Self> {
        Layered(Deletes(Arc::new(Inner {
            store,
            bucket,
            builder,
            one_by_one: OnceCell::new(),
        })))
    }
}

impl Inner {
    fn is_refusing(&self) -> bool {
        REFUSING.lock().contains(&self.bucket)
    }

    fn one_by_one(&self, keys: Vec<Path>) -> BoxStream<'static, Result<Path>> {
        let make = || self.builder.clone().with_disable_bulk_delete(true).build();
        match self.one_by_one.get_or_try_init(make) {
            Ok(store) => store.delete_stream(stream::iter(keys.into_iter().map(Ok)).boxed()),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn delete(self: Arc<Self>, keys: Vec<Path>) -> BoxStream<'static, Result<Path>> {
        if self.is_refusing() {
            return self.one_by_one(keys);
        }
        let all = stream::iter(keys.clone().into_iter().map(Ok)).boxed();
        let done: Vec<_> = self.store.delete_stream(all).collect().await;
        // A request that failed as a whole has one answer for all of its objects.
        let refused = match done.as_slice() {
            [Err(error)] => REFUSALS.iter().any(|mark| reason(error).contains(mark)),
            _ => false,
        };
        let Some((first, rest)) = keys.split_first().filter(|_| refused) else {
            return stream::iter(done).boxed();
        };
        let one: Vec<_> = self.one_by_one(vec![first.clone()]).collect().await;
        if !one
            .iter()
            .all(|answer| matches!(answer, Ok(_) | Err(Error::NotFound { .. })))
        {
            return stream::iter(one).boxed();
        }
        if REFUSING.lock().insert(self.bucket.clone()) {
            tracing::info!(
                "the store refuses to delete many objects with one request; from now on each is deleted by itself"
            );
        }
        stream::iter(one).chain(self.one_by_one(rest.to_vec())).boxed()
    }
}

/// Without the builder, which holds secrets.
impl fmt::Debug for Deletes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deletes")
            .field("bucket", &self.0.bucket)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Layer for Deletes {
    type Inner = AmazonS3;

    fn inner(&self) -> &AmazonS3 {
        &self.0.store
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = self.0.clone();
        locations
            .chunks(MANY)
            .then(move |chunk| {
                let inner = inner.clone();
                async move {
                    match chunk.into_iter().collect::<Result<Vec<_>>>() {
                        Ok(keys) => inner.delete(keys).await,
                        Err(error) => stream::iter([Err(error)]).boxed(),
                    }
                }
            })
            .flatten()
            .boxed()
    }
}
