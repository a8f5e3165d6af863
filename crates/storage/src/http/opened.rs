//! The work at each new connection.

use once_cell::sync::OnceCell;
use tower::util::MapResponseLayer;

static HOOK: OnceCell<fn()> = OnceCell::new();

/// Do this after each connection that a store opens, before anything is sent through it. Neither the HTTP client nor the SSH
/// library lets its sockets be seen, so whoever may look for them among the files of the process sets their options here. The
/// first call counts.
pub fn on_connection(hook: fn()) {
    let _ = HOOK.set(hook);
}

/// A connection was opened.
pub(crate) fn opened<T>(connection: T) -> T {
    if let Some(hook) = HOOK.get() {
        hook();
    }
    connection
}

/// For the builder of an HTTP client.
pub(super) fn layer<T>() -> MapResponseLayer<fn(T) -> T> {
    MapResponseLayer::new(opened)
}
