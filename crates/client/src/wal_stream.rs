//! The stream of WAL that a server sends to a standby, and the reports that it wants back.

use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};
use walarchive_core::{Error, Lsn, Result};

use crate::error::Failure;
use crate::wire::Incoming;
use crate::{Session, escape_identifier};

/// Microseconds between 1970 and 2000, from where the server counts.
const EPOCH_OFFSET_US: u128 = 946_684_800_000_000;

/// How long a report may take to be sent, and the server to begin or to end a stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// The header of a message with WAL: where it begins, where the server's WAL ends, the time.
const WAL_HEADER: usize = 24;

/// The rest of a keepalive: where the server's WAL ends, the time, whether it wants an answer.
const KEEPALIVE: usize = 17;

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalPiece {
    /// WAL from that position on.
    Wal(Lsn, Bytes),
    /// A sign of life. `wants_report`: it waits for a report.
    Alive {
        /// A report is to be sent at once.
        wants_report: bool,
    },
    /// The timeline ends, and another one goes on. [`WalStream::finish`] is next.
    EndOfTimeline,
}

/// What is received and what is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// Up to where WAL has been received.
    pub received: Lsn,
    /// Up to where it will not be asked for again: the server may remove it.
    pub flushed: Lsn,
    /// Up to where it is replayed; 0 where nothing is. Commits with `synchronous_commit = remote_apply` wait for it.
    pub applied: Lsn,
    /// The server is to give a sign of life.
    pub wants_answer: bool,
}

/// A stream that has begun.
pub struct WalStream {
    session: Session,
}

impl WalStream {
    /// Ask for the WAL of that timeline from that position on. Of a slot that has it, the server keeps what is not flushed.
    /// Errors of kind [`Error::Server`] may pass.
    pub async fn begin(mut session: Session, slot: Option<&str>, start: Lsn, timeline: u32) -> Result<Self> {
        let slot = slot.map(|name| format!("SLOT {} ", escape_identifier(name)));
        let command = format!(
            "START_REPLICATION {}PHYSICAL {start} TIMELINE {timeline}",
            slot.unwrap_or_default()
        );
        session.send_query(&command).await?;
        let mut stream = WalStream { session };
        match tokio::time::timeout(PATIENCE, stream.begun()).await {
            Ok(begun) => begun.map(|()| stream),
            Err(_elapsed) => Err(late("begin to send WAL")),
        }
    }

    async fn begun(&mut self) -> Result<()> {
        match self.message().await? {
            None => Ok(()),
            // The server has no WAL of that timeline from there on.
            Some(Message::RowDescription(_) | Message::CommandComplete(_)) => Err(Error::server(
                "the server ends the timeline where the stream was to begin",
                "See the server's log.",
            )),
            Some(_) => Err(unexpected()),
        }
    }

    /// The next message; none for the beginning of the stream. What the server says beside its answers is taken care of.
    async fn message(&mut self) -> Result<Option<Message>> {
        loop {
            let incoming = self.session.wire.next().await;
            match incoming.map_err(|error| self.session.lost_by(&error.to_string()))? {
                Incoming::CopyBoth => return Ok(None),
                Incoming::Message(Message::ErrorResponse(body)) => {
                    let notice = self.session.notice(body.fields())?;
                    return Err(Failure::Server(notice).of_stream());
                }
                Incoming::Message(Message::NoticeResponse(body)) => self.session.tell(body.fields())?,
                Incoming::Message(Message::ParameterStatus(_)) => {}
                Incoming::Message(message) => return Ok(Some(message)),
            }
        }
    }

    /// What comes next, however long that takes. The future may be dropped.
    pub async fn next(&mut self) -> Result<WalPiece> {
        match self.message().await? {
            Some(Message::CopyData(body)) => piece(body.into_bytes()),
            Some(Message::CopyDone) => Ok(WalPiece::EndOfTimeline),
            // A server that is shut down ends so.
            Some(Message::CommandComplete(_)) => Err(self.session.lost_by("the server ends")),
            _ => Err(unexpected()),
        }
    }

    /// Tell the server how far it is.
    pub async fn report(&mut self, flushed: Flushed) -> Result<()> {
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(flushed.received.0);
        body.put_u64(flushed.flushed.0);
        body.put_u64(flushed.applied.0);
        body.put_i64(now());
        body.put_u8(u8::from(flushed.wants_answer));
        self.send(|buffer| {
            CopyData::new(body)?.write(buffer);
            Ok(())
        })
        .await
    }

    /// After [`WalPiece::EndOfTimeline`]: the session can be used again.
    pub async fn finish(mut self) -> Result<Session> {
        self.send(|buffer| {
            frontend::copy_done(buffer);
            Ok(())
        })
        .await?;
        let rest = async {
            while self.session.next("end the timeline").await?.is_some() {}
            Ok(())
        };
        match tokio::time::timeout(PATIENCE, rest).await {
            Ok(ended) => ended.map(|()| self.session),
            Err(_elapsed) => Err(late("end the timeline")),
        }
    }

    /// Leave, as a client does that is done. The server need not wait for anything.
    pub async fn leave(mut self) {
        let left = self.send(|buffer| {
            frontend::copy_done(buffer);
            frontend::terminate(buffer);
            Ok(())
        });
        if let Err(error) = left.await {
            tracing::debug!(%error, "the server could not be told that the stream ends");
        }
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<()> {
        match tokio::time::timeout(PATIENCE, self.session.wire.send(write)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.session.lost_by(&error.to_string())),
            Err(_elapsed) => Err(late("take a report")),
        }
    }
}

impl std::fmt::Debug for WalStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalStream").field("session", &self.session).finish()
    }
}

fn piece(mut body: Bytes) -> Result<WalPiece> {
    match body.first() {
        Some(b'w') if body.len() > WAL_HEADER => {
            body.advance(1);
            let start = Lsn(body.get_u64());
            body.advance(WAL_HEADER - 8);
            Ok(WalPiece::Wal(start, body))
        }
        Some(b'k') if body.len() > KEEPALIVE => Ok(WalPiece::Alive {
            wants_report: body[KEEPALIVE] != 0,
        }),
        _ => Err(unexpected()),
    }
}

/// In microseconds since 2000.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros().saturating_sub(EPOCH_OFFSET_US)).unwrap_or(i64::MAX)
}

fn late(what: &str) -> Error {
    Error::server(
        format!("the server did not {what} within {} s", PATIENCE.as_secs()),
        "See the server's log, and what it is waiting for in pg_stat_activity.",
    )
}

fn unexpected() -> Error {
    Error::defect("a message of the replication stream is not understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_stream_are_read() {
        let mut wal = vec![b'w'];
        wal.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        wal.extend([0; 16]);
        wal.extend(b"abc");
        assert_eq!(
            piece(wal.into()).expect("read"),
            WalPiece::Wal(Lsn(1 << 32 | 2), Bytes::from_static(b"abc"))
        );
        let mut alive = vec![b'k'];
        alive.extend([0; 16]);
        alive.push(1);
        assert_eq!(
            piece(alive.into()).expect("read"),
            WalPiece::Alive { wants_report: true }
        );
        for short in [&b""[..], b"w", b"k\0", b"x"] {
            assert!(piece(Bytes::copy_from_slice(short)).is_err(), "{short:?}");
        }
    }
}
