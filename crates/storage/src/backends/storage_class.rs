//! A store whose objects are all written with one storage class (Azure calls it an access tier).

use async_trait::async_trait;
use object_store::path::Path;
use object_store::{
    Attribute, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::layer::{Layer, Layered};

/// The class belongs into the requests that create an object and into no other, so a header of the client's will not do.
#[derive(Debug)]
pub(crate) struct StorageClass<T> {
    inner: T,
    class: String,
}

impl<T> StorageClass<T> {
    /// A store in front of `inner`.
    pub fn over(inner: T, class: String) -> Layered<Self> {
        Layered(StorageClass { inner, class })
    }
}

#[async_trait]
impl<T: ObjectStore> Layer for StorageClass<T> {
    type Inner = T;

    fn inner(&self) -> &T {
        &self.inner
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        opts.attributes
            .insert(Attribute::StorageClass, self.class.clone().into());
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        mut opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        opts.attributes
            .insert(Attribute::StorageClass, self.class.clone().into());
        self.inner.put_multipart_opts(location, opts).await
    }
}
