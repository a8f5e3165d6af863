//! Ctrl-C and the like: the work ends, and leaves things in order.

use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use walarchive_core::{Error, Result};

/// A token that is cancelled by the first of SIGINT, SIGTERM and SIGHUP. `then` tells the user what happens. The second one ends this
/// program at once, and leaves things as they are. SIGHUP stays ignored if it is, as under nohup.
pub fn cancelled_by_signals(then: &'static str) -> Result<CancellationToken> {
    let catch = |kind| signal(kind).map_err(|error| Error::io("catch signals in", "/proc/self", error));
    let mut signals = vec![catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?];
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !ignores_hangup(&status) {
        signals.push(catch(SignalKind::hangup())?);
    }
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

async fn next(signals: &mut [Signal]) {
    std::future::poll_fn(
        |context| match signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        },
    )
    .await;
}

/// Does that content of `/proc/self/status` say that SIGHUP is ignored?
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (SignalKind::hangup().as_raw_value() - 1) != 0)
}

/// The work, or [`Error::Cancelled`] as soon as the token is. The work is dropped then.
pub async fn unless<T>(cancel: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        done = work => done,
    }
}

#[cfg(test)]
mod tests {
    use super::ignores_hangup;

    #[test]
    fn sighup_is_the_first_bit_of_what_is_ignored() {
        let status = |mask: &str| format!("SigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n");
        assert!(ignores_hangup(&status("0000000000001001")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup(""));
    }
}
