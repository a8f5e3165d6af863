//! Keys of objects.

use object_store::path::Path;

/// The key as it is: an object of a listing must be found under its name, whoever wrote it. `Path::from` would encode a `%`
/// again; it remains for names that cannot be a path, such as one with `..` in it.
pub(crate) fn path(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}
