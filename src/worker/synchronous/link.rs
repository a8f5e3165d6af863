//! The connection to this server's own WAL sender: it tells how far the WAL is, and is told how far the store is.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval_at, sleep};
use walarchive_client::{Flushed, Mode, Params, Session, WalPiece, WalStream, replication};
use walarchive_core::archive::tail::Position;
use walarchive_core::{Error, Lsn, Result};

use super::shared::Shared;

/// After a failure the next attempt comes so much later, and each time twice as late.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The server is told how far the store is at least so often, as a standby tells it.
const REPORT: Duration = Duration::from_secs(10);

/// Where the server is.
pub(super) struct Door {
    pub(super) params: Params,
    pub(super) system_identifier: u64,
}

/// Be connected, for ever.
pub(super) async fn stay(door: Door, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let Err(error) = Box::pin(stream(&door, &shared)).await;
        shared.disconnected(&error);
        if begun.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = sleep(pause) => pause = (2 * pause).min(LONGEST_PAUSE),
            () = shared.retry() => pause = FIRST_PAUSE,
        }
    }
}

async fn stream(door: &Door, shared: &Shared) -> Result<Infallible> {
    let mut session = Session::connect(&door.params, Mode::Replication).await?;
    let pid = session.process().unwrap_or_default();
    let identity = replication::identify(&mut session).await?;
    let is_mine = identity.system_identifier == door.system_identifier;
    // A copy of this server has its system identifier, too. What another server has written says nothing about this one's WAL.
    if !is_mine || shared.is_of_this_server(pid).await != Some(true) {
        return Err(Error::config(
            format!("the server at {} is another one than this", session.server()),
            "Correct walarchive.synchronous_conninfo. It must lead to this server itself, without a connection pooler.",
        ));
    }
    let at = |flushed| Position {
        timeline: identity.timeline,
        flushed,
    };
    // What is before needs not be sent: only how far it goes is of interest.
    let mut stream = WalStream::begin(session, None, identity.position, identity.timeline).await?;
    shared.connected(at(identity.position));
    let mut reported = None;
    let mut due = interval_at(Instant::now() + REPORT, REPORT);
    loop {
        let report = shared.report();
        if reported != Some(report) {
            stream.report(told(report)).await?;
            reported = Some(report);
        }
        tokio::select! {
            piece = stream.next() => match piece? {
                WalPiece::Wal(start, bytes) => shared.received(at(Lsn(start.0 + bytes.len() as u64))),
                WalPiece::Alive { wants_report: true } => reported = None,
                WalPiece::Alive { wants_report: false } => {}
                WalPiece::EndOfTimeline => return Err(Error::server("the server's timeline has ended", "See the server's log.")),
            },
            () = shared.news() => {}
            _ = due.tick() => reported = None,
        }
    }
}

/// Whatever a commit waits for, it waits for the store.
fn told(safe: Lsn) -> Flushed {
    Flushed {
        received: safe,
        flushed: safe,
        applied: safe,
        wants_answer: false,
    }
}
