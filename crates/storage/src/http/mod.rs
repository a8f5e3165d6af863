//! Common parts of all stores that speak HTTP: deadlines and retries of our own, not a library's defaults.
//!
//! | what | how long |
//! |---|---|
//! | connect | [`CONNECT_TIMEOUT`] |
//! | an attempt, until the answer begins | no pause longer than `request_timeout` in which the network takes nothing, for more than 64 kB half a minute; after the last byte also the time in which buffers drain |
//! | the answer's body | no pause longer than [`IDLE_TIMEOUT`] or `request_timeout` |
//! | attempts and the pauses between them | none begins after `patience`, unless the last one took longer than that and moved something |
//! | an operation of [`Store`](crate::Store) | no pause longer than `request_timeout` and `patience` in which nothing moves |

mod addresses;
mod answer;
pub(super) mod bounds;
pub(crate) mod certificates;
mod client;
mod incoming;
mod listing;
mod opened;
mod outgoing;
pub(super) mod pool;
pub(super) mod redirect;
mod retry_after;
mod service;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use rustls::pki_types::CertificateDer;

use self::pool::Pool;
use crate::config::StorageConfig;
use crate::url::place;
pub(super) use answer::Stalled;
pub(super) use opened::keep_little_unsent;
pub(super) use outgoing::{Outgoing, STALLED, Sending, Unanswered};
pub(super) use service::{Connector, NoAnswer};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest pause within the body of an answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The base of an exponential backoff. object_store takes a random pause between the first one and `base` times the last
/// one, which grows only if the base is above e.
const BACKOFF_BASE: f64 = 4.0;

/// The archiver has better to do than to wait here: it comes again, and says in the meantime what is wrong.
const SHORT_RETRIES: usize = 3;

/// Never reached: a backup tries again until its patience ends.
const LONG_RETRIES: usize = 10_000;

/// When a request is tried again. Refusals are not.
pub(super) fn retries(config: &StorageConfig) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: (config.patience / 10).clamp(Duration::from_secs(1), Duration::from_secs(30)),
            base: BACKOFF_BASE,
        },
        max_retries: if config.patience > config.request_timeout {
            LONG_RETRIES
        } else {
            SHORT_RETRIES
        },
        retry_timeout: config.patience,
    }
}

/// To be used together with a [`connector`], which has the deadlines of requests.
pub(super) fn client_options(config: &StorageConfig) -> ClientOptions {
    // The timeout of reqwest covers the whole transfer, however large it is.
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(config.request_timeout.min(CONNECT_TIMEOUT))
}

/// The way to the network: no attempt waits where nothing moves, `Retry-After` is honoured, and what can be repeated is.
pub(super) fn connector(config: &StorageConfig) -> Connector {
    Connector {
        request_timeout: config.request_timeout,
        idle_timeout: config.request_timeout.min(IDLE_TIMEOUT),
        patience: config.patience,
        trusted: Vec::new(),
        place: place(&config.url),
        odd: Arc::default(),
    }
}

/// The connections of a store that is spoken to without object_store, by the same rules.
pub(super) fn pool(
    config: &StorageConfig,
    options: &ClientOptions,
    trusted: &[CertificateDer<'static>],
) -> object_store::Result<Pool> {
    client::pool(options, trusted, config.request_timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archiver_gives_up_early_and_a_backup_late() {
        let config = StorageConfig::new("s3://bucket/prefix");
        let (short, long) = (retries(&config), retries(&config.for_backup()));
        assert_eq!(short.max_retries, SHORT_RETRIES);
        assert_eq!(long.max_retries, LONG_RETRIES);
        assert!(long.retry_timeout >= Duration::from_secs(600));
        assert!(short.backoff.base > std::f64::consts::E, "the pauses do not grow");
    }
}
