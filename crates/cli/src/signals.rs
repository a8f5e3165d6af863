//! Ctrl-C and the like: the work ends, and leaves things in order.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use walarchive_core::{Error, Result};

/// A token that is cancelled by the first of SIGINT, SIGTERM and SIGHUP. `then` tells the user what happens. The second one ends this
/// program at once, and leaves things as they are.
pub fn cancelled_by_signals(then: &'static str) -> Result<CancellationToken> {
    let catch = |kind| signal(kind).map_err(|error| Error::io("catch signals in", "/proc/self", error));
    let mut signals = [
        catch(SignalKind::interrupt())?,
        catch(SignalKind::terminate())?,
        catch(SignalKind::hangup())?,
    ];
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        next(&mut signals).await;
        eprintln!("walarchive: {then}; once more ends at once");
        cancelled.cancel();
        next(&mut signals).await;
        std::process::exit(130);
    });
    Ok(token)
}

async fn next(signals: &mut [Signal; 3]) {
    let [interrupt, terminate, hangup] = signals;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// The work, or [`Error::Cancelled`] as soon as the token is. The work is dropped then.
pub async fn unless<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        done = work => done,
    }
}
