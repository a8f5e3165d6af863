//! For tests: a store in memory that does not keep the promise of a create-only write.

use std::fmt;

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The fate of a create-only write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// It overwrites.
    Overwrites,
    /// It is refused, as S3 servers do that do not know the header.
    Refused,
    /// It is refused with a status that may mean anything.
    Bad,
}

/// The store.
#[derive(Debug)]
pub struct Pretender {
    inner: InMemory,
    create: Create,
}

impl Pretender {
    /// An empty one.
    pub fn new(create: Create) -> Self {
        Pretender {
            inner: InMemory::new(),
            create,
        }
    }
}

impl fmt::Display for Pretender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pretender({:?})", self.create)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Pretender {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if options.mode == PutMode::Create {
            match self.create {
                Create::Overwrites => options.mode = PutMode::Overwrite,
                Create::Bad => {
                    return Err(object_store::Error::Generic {
                        store: "pretender",
                        source: "Server returned non-2xx status code: 400 Bad Request: <Code>InvalidArgument</Code>"
                            .into(),
                    });
                }
                Create::Refused => {
                    return Err(object_store::Error::Generic {
                        store: "pretender",
                        source: "Server returned non-2xx status code: 501 Not Implemented".into(),
                    });
                }
            }
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
