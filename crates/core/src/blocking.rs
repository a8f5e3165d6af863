//! Work that blocks, from where nothing may.

use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Run on a thread that may block. A panic there is a panic here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    outcome(tokio::task::spawn_blocking(work)).await
}

/// The outcome of such work. A panic there is a panic here.
pub(crate) async fn outcome<T>(work: JoinHandle<Result<T>>) -> Result<T> {
    match work.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled),
        },
    }
}
