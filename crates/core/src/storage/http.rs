//! What all stores that speak HTTP have in common: deadlines and retries of our own, not a library's defaults.

use std::time::Duration;

use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use crate::config::StorageConfig;

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// When a request is tried again. Refusals are not.
pub(super) fn retries(config: &StorageConfig) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: (config.patience / 10).max(Duration::from_secs(1)),
            base: 2.0,
        },
        // An archiver has better to do than to wait here: it comes again, and says meanwhile what is wrong.
        max_retries: if config.patience > config.request_timeout {
            20
        } else {
            3
        },
        retry_timeout: config.patience,
    }
}

/// How long an attempt may take.
pub(super) fn client_options(config: &StorageConfig) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(config.request_timeout)
        .with_connect_timeout(CONNECT_TIMEOUT)
}
