//! For tests: a store in memory. Requests fail when they are told to, and others do something in between.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// The kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// An object is written.
    Put,
    /// Of an object or of its size only.
    Get,
    /// An object is removed.
    Delete,
    /// The objects below a prefix are listed.
    List,
}

/// The fate of a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// It is done.
    Pass,
    /// It is not done, and fails in a way that may pass.
    Fail,
    /// It is done, and the answer is lost.
    Lose,
    /// It is done, and then somebody writes these objects, or removes those without a content.
    Then(Vec<(String, Option<String>)>),
}

type Rule = Box<dyn FnMut(Op, &str) -> Act + Send>;

/// The store. Clones share everything.
#[derive(Clone)]
pub struct Meddler {
    inner: Arc<InMemory>,
    rule: Arc<Mutex<Option<Rule>>>,
}

impl Meddler {
    /// Nothing is meddled with yet.
    pub fn new(inner: Arc<InMemory>) -> Self {
        Meddler {
            inner,
            rule: Arc::default(),
        }
    }

    /// From now on this decides, by the key.
    pub fn rule(&self, rule: impl FnMut(Op, &str) -> Act + Send + 'static) {
        *self.rule.lock() = Some(Box::new(rule));
    }

    /// That happens to the first such request, and nothing to any other.
    pub fn once(&self, op: Op, key: &str, act: Act) {
        let (key, mut act) = (key.to_owned(), Some(act));
        self.rule(move |asked, of| match asked == op && of == key {
            true => act.take().unwrap_or(Act::Pass),
            false => Act::Pass,
        });
    }

    fn act(&self, op: Op, key: &str) -> Act {
        match &mut *self.rule.lock() {
            Some(rule) => rule(op, key),
            None => Act::Pass,
        }
    }

    async fn ask<T>(&self, op: Op, location: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
        let act = self.act(op, location.as_ref());
        if matches!(act, Act::Fail) {
            return Err(failed());
        }
        let done = work.await?;
        match act {
            Act::Lose => return Err(failed()),
            Act::Then(changes) => {
                for (key, content) in changes {
                    match content {
                        Some(content) => drop(self.inner.put(&key.into(), content.into()).await?),
                        None => self.inner.delete(&key.into()).await?,
                    }
                }
            }
            Act::Pass | Act::Fail => {}
        }
        Ok(done)
    }
}

fn failed() -> Error {
    Error::Generic {
        store: "meddler",
        source: "the connection was lost".into(),
    }
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddler")
    }
}

impl fmt::Display for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddler")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Meddler {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.ask(Op::Put, location, self.inner.put_opts(location, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.ask(Op::Get, location, self.inner.get_opts(location, options))
            .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    let location = location?;
                    this.ask(Op::Delete, &location, this.inner.delete(&location)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.act(Op::List, prefix.map(AsRef::as_ref).unwrap_or_default()) {
            Act::Fail => futures::stream::iter([Err(failed())]).boxed(),
            _ => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
