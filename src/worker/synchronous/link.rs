//! The connection to this server's own WAL sender: it tells how far the WAL is, and is told how far the store is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use walarchive_client::{Flushed, Mode, Params, Session, WalPiece, WalStream, replication};
use walarchive_core::archive::tail::Position;
use walarchive_core::{Error, Lsn, Result};

use super::shared::Shared;

/// After a failure the next attempt comes so much later, and each time twice as late.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The server is told how far the store is at least so often, as a standby tells it. Soon after the beginning much more often: it does
/// not listen before it has sent what it has, and does not say when.
const REPORT: Duration = Duration::from_secs(10);
const FIRST_REPORT: Duration = Duration::from_millis(10);

/// Where the server is.
pub(super) struct Door {
    pub(super) params: Params,
    pub(super) system_identifier: u64,
}

/// Be connected, until it is over.
pub(super) async fn stay(door: Door, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            stream = Box::pin(begin(&door, &shared)) => match stream {
                Ok((stream, timeline)) => Box::pin(follow(stream, timeline, &shared)).await,
                Err(error) => Err(error),
            },
            () = shared.over() => Ok(()),
        };
        let Err(error) = ended else { return };
        shared.disconnected(&error);
        if begun.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = sleep(pause) => pause = (2 * pause).min(LONGEST_PAUSE),
            () = shared.retry() => pause = FIRST_PAUSE,
            () = shared.over() => return,
        }
    }
}

/// Connect to this server, and to no other. Returns the timeline, too.
async fn begin(door: &Door, shared: &Shared) -> Result<(WalStream, u32)> {
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
    // What is before needs not be sent: only how far it goes is of interest.
    let stream = WalStream::begin(session, None, identity.position, identity.timeline).await?;
    shared.connected(Position {
        timeline: identity.timeline,
        flushed: identity.position,
    });
    Ok((stream, identity.timeline))
}

/// Tell what is stored, until it is over.
async fn follow(mut stream: WalStream, timeline: u32, shared: &Shared) -> Result<()> {
    let mut reported = None;
    let mut pause = FIRST_REPORT;
    let mut due = Instant::now() + pause;
    loop {
        let report = shared.report();
        if reported != Some(report) {
            stream.report(told(report)).await?;
            reported = Some(report);
        }
        tokio::select! {
            piece = stream.next() => match piece? {
                WalPiece::Wal(start, bytes) => {
                    let flushed = Lsn(start.0 + bytes.len() as u64);
                    shared.received(Position { timeline, flushed });
                }
                WalPiece::Alive { wants_report: true } => reported = None,
                WalPiece::Alive { wants_report: false } => {}
                WalPiece::EndOfTimeline => return Err(Error::server("the server's timeline has ended", "See the server's log.")),
            },
            () = shared.news() => {}
            () = shared.over() => {
                stream.leave().await;
                return Ok(());
            }
            () = sleep_until(due) => {
                reported = None;
                pause = (2 * pause).min(REPORT);
                due = Instant::now() + pause;
            }
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
