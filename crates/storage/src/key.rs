//! Keys of objects.

use object_store::path::Path;

/// The key as it is: what a listing names must be found under that name, whoever wrote it. `Path::from` would encode a `%`
/// again; it remains for what cannot be a path, such as one with `..` in it.
pub(crate) fn path(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}
