//! How much of an answer is read whole. Bytes beyond that were not asked for.

use object_store::GetOptions;
use object_store::client::HttpRequest;
use url::form_urlencoded;

/// Of an error: more than any store says, in bytes. The rest is cut off, as the status says the main thing.
pub(crate) const ERROR_BYTES: usize = 64 << 10;
/// Of a page of a listing, in bytes. The largest are Azure's, of 5000 objects.
pub(crate) const PAGE_BYTES: usize = 16 << 20;
/// The limit for an answer about a thousand objects that were to be deleted, in bytes.
const DELETED_BYTES: usize = 4 << 20;
/// Of anything else, in bytes: tokens, credentials, the answer to a write.
const OTHER_BYTES: usize = 1 << 20;

/// Marks the requests whose body is the content of an object, which is handed on as it comes.
#[derive(Debug, Clone, Copy)]
struct Content;

/// The same options, for who looks at how much comes.
pub(crate) fn content(mut options: GetOptions) -> GetOptions {
    options.extensions.insert(Content);
    options
}

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The content of an object.
    Content,
    /// A page of a listing of objects.
    Objects,
    /// An answer about objects that were to be deleted.
    Deleted,
    /// Anything else, of so many bytes at most.
    Whole(usize),
}

impl Kind {
    pub(super) fn of(request: &HttpRequest) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let has = |name: &str, wanted: Option<&str>| {
            form_urlencoded::parse(query.as_bytes())
                .any(|(key, value)| key == name && wanted.is_none_or(|wanted| value == wanted))
        };
        match request.method().as_str() {
            "GET" if request.extensions().get::<Content>().is_some() => Kind::Content,
            "GET" if has("list-type", None) || has("comp", Some("list")) => Kind::Objects,
            "GET" if has("uploads", None) => Kind::Whole(PAGE_BYTES),
            "POST" if has("delete", None) => Kind::Deleted,
            _ => Kind::Whole(OTHER_BYTES),
        }
    }

    /// Of a success, in bytes.
    pub(super) fn limit(self) -> usize {
        match self {
            Kind::Content | Kind::Objects => PAGE_BYTES,
            Kind::Deleted => DELETED_BYTES,
            Kind::Whole(limit) => limit,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the store answered with more than {0} bytes, too many for such an answer")]
pub(crate) struct TooMuch(pub(crate) usize);
