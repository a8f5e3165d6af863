//! After WAL that the server has removed: which is the oldest that it has?

use std::time::Duration;

use walarchive_client::{Mode, Params, Session, WalPiece, WalStream};
use walarchive_core::{Error, Lsn, Result};

use super::server::Server;

/// How long the server may take to send the first WAL, or to say that it has none.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a stream begins that may leave WAL out. Both know of WAL that is gone: the start of a segment that the server has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// Nothing is left out.
    No,
    /// With the oldest that the server has and the repository lacks.
    ToOldest { gone: Lsn },
    /// That was removed in the meantime: with what the server is sure to have.
    ToNewest { gone: Lsn },
}

impl Skip {
    /// The next attempt after the server refused to begin there; none if there is no other.
    pub fn next(self, gone: Lsn) -> Option<Skip> {
        match self {
            Skip::No => Some(Skip::ToOldest { gone }),
            Skip::ToOldest { .. } => Some(Skip::ToNewest { gone }),
            Skip::ToNewest { .. } => None,
        }
    }
}

/// The start of the oldest segment that the server has, which has that of `there`. It has removed that of `gone`, which is moved up
/// to the newest one that is found missing. Each step halves what is in between, by a stream of its own.
pub async fn oldest_kept(params: &Params, server: &Server, gone: &mut Lsn, mut there: Lsn) -> Result<Lsn> {
    let size = server.branch.segment_size().bytes();
    loop {
        let segments = there.0.saturating_sub(gone.0) / size;
        if segments <= 1 {
            return Ok(there);
        }
        let middle = Lsn(gone.0 + segments / 2 * size);
        match keeps(params, server, middle).await? {
            true => there = middle,
            false => *gone = middle,
        }
    }
}

async fn keeps(params: &Params, server: &Server, start: Lsn) -> Result<bool> {
    let session = Session::connect(params, Mode::Replication).await?;
    let session = Server::ask(session, Some(server.system_identifier)).await?.session;
    let timeline = server.branch.segment_at(start).timeline;
    let sent = async {
        let mut stream = WalStream::begin(session, None, start, timeline).await?;
        while matches!(stream.next().await?, WalPiece::Alive { .. }) {}
        stream.leave().await;
        Ok(true)
    };
    match tokio::time::timeout(PATIENCE, sent).await {
        Ok(Err(Error::Refused { .. })) => Ok(false),
        Ok(sent) => sent,
        Err(_elapsed) => Err(Error::server(
            format!("the server did not send WAL within {} s", PATIENCE.as_secs()),
            "See the server's log, and what it is waiting for in pg_stat_activity.",
        )),
    }
}
