//! One stream: WAL comes and goes into the queue, and the server is told how far it is. It is told each second, also while the
//! store is slow and nothing more is taken, so that no `wal_sender_timeout` ends it.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use walarchive_client::{Flushed, WalPiece, WalStream};
use walarchive_core::archive::received::{Received, Spool};
use walarchive_core::{Error, Lsn, Result};

use super::queue::Queue;

/// The time between two reports.
const REPORT: Duration = Duration::from_secs(1);

/// After so long without a word of the server's it is asked for one, and after so long it is lost.
const QUIET: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(60);

/// If no bytes move to the store for so long, the connection is given up: a server that is to stop would wait for it, and `pg_ctl`
/// waits for a minute.
const BLOCKED: Duration = Duration::from_secs(30);

/// A server that is to stop asks for reports one after the other, as soon as it has the last one, until all its WAL is flushed. That
/// of the segment which has begun will not be. A running server asks no sooner than after half of wal_sender_timeout.
const AT_ONCE: Duration = Duration::from_millis(200);
const ASKED_AT_ONCE: u32 = 3;

/// Why a stream has ended, if it was no failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A signal came.
    Cancelled,
    /// The server goes on with another timeline.
    Timeline,
    /// The server is about to stop.
    ServerStops,
    /// The store takes nothing.
    Blocked,
    /// The task that stores has ended.
    StoringEnded,
}

/// One stream.
pub struct Receiving<'a> {
    pub stream: &'a mut WalStream,
    pub spool: &'a mut Spool,
    pub queue: &'a mut Queue,
    pub cancel: &'a CancellationToken,
    tick: Interval,
    reported: Instant,
    heard: Instant,
    asked_at_once: u32,
}

impl<'a> Receiving<'a> {
    pub fn new(
        stream: &'a mut WalStream,
        spool: &'a mut Spool,
        queue: &'a mut Queue,
        cancel: &'a CancellationToken,
    ) -> Self {
        let mut tick = interval(REPORT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        Receiving {
            stream,
            spool,
            queue,
            cancel,
            tick,
            reported: now,
            heard: now,
            asked_at_once: 0,
        }
    }

    /// Receive until it ends.
    pub async fn run(&mut self) -> Result<End> {
        loop {
            let piece = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Ok(End::Cancelled),
                going = self.queue.moved() => match going {
                    true => None,
                    false => return Ok(End::StoringEnded),
                },
                _ = self.tick.tick() => None,
                piece = self.stream.next() => Some(piece?),
            };
            let end = match piece {
                None => self.report().await.map(|()| None)?,
                Some(piece) => {
                    self.heard = Instant::now();
                    self.take(piece).await?
                }
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    async fn take(&mut self, piece: WalPiece) -> Result<Option<End>> {
        match piece {
            WalPiece::EndOfTimeline => Ok(Some(End::Timeline)),
            WalPiece::Alive { wants_report: false } => Ok(None),
            WalPiece::Alive { wants_report: true } => {
                self.asked_at_once = match self.reported.elapsed() < AT_ONCE {
                    true => self.asked_at_once + 1,
                    false => 0,
                };
                if self.asked_at_once >= ASKED_AT_ONCE {
                    return Ok(Some(End::ServerStops));
                }
                self.report().await.map(|()| None)
            }
            WalPiece::Wal(start, _) if start != self.spool.position() => Err(Error::defect(format!(
                "the server sent WAL from {start} on, and {} was next",
                self.spool.position()
            ))),
            WalPiece::Wal(_, bytes) => self.take_wal(bytes).await,
        }
    }

    async fn take_wal(&mut self, mut bytes: Bytes) -> Result<Option<End>> {
        self.asked_at_once = 0;
        while !bytes.is_empty() {
            let (taken, whole) = self.spool.take(&bytes)?;
            bytes = bytes.split_off(taken);
            if let Some(file) = whole
                && let Some(end) = self.hand_over(file).await?
            {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Into the queue, as soon as that has room.
    async fn hand_over(&mut self, file: Received) -> Result<Option<End>> {
        let until = Instant::now() + BLOCKED;
        let mut file = file;
        loop {
            match self.queue.push(file) {
                None => break,
                Some(back) => file = back,
            }
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    self.queue.hold(file);
                    return Ok(Some(End::Cancelled));
                }
                going = self.queue.has_room() => if !going { return Ok(Some(End::StoringEnded)) },
                _ = self.tick.tick() => {
                    if Instant::now() > until && !self.queue.gets_on(BLOCKED) {
                        return Ok(Some(End::Blocked));
                    }
                    self.report().await?;
                }
            }
        }
        // Nobody listened meanwhile.
        self.heard = Instant::now();
        Ok(None)
    }

    async fn report(&mut self) -> Result<()> {
        let quiet = self.heard.elapsed();
        if quiet > SILENCE {
            return Err(Error::server(
                format!("the server has sent nothing for {} s", quiet.as_secs()),
                "Check the network, and whether the server runs.",
            ));
        }
        let received = self.spool.position();
        let flushed = Flushed {
            received,
            flushed: self.queue.flushed().min(received),
            // Nothing is replayed here.
            applied: Lsn(0),
            wants_answer: quiet > QUIET,
        };
        self.stream.report(flushed).await?;
        self.reported = Instant::now();
        Ok(())
    }
}
