//! The server at the other end of a connection.

use walarchive_client::replication::{self, Identity};
use walarchive_client::{Session, slot};
use walarchive_core::archive::received::Branch;
use walarchive_core::wal::TimelineHistory;
use walarchive_core::{Error, Lsn, Result};

/// A session, and where its server is.
#[derive(Debug)]
pub struct Server {
    pub session: Session,
    pub version_num: u32,
    pub system_identifier: u64,
    /// How far its WAL is there, when it was asked.
    pub position: Lsn,
    pub branch: Branch,
}

impl Server {
    /// Ask it. It must have the system identifier that is given.
    pub async fn ask(mut session: Session, expected: Option<u64>) -> Result<Self> {
        let Identity {
            system_identifier,
            timeline,
            position,
        } = replication::identify(&mut session).await?;
        if expected.is_some_and(|expected| expected != system_identifier) {
            return Err(Error::refused(
                format!(
                    "the server at {} is of another cluster than the one before: its system identifier is {system_identifier}",
                    session.server()
                ),
                "Check PGHOST, PGPORT or the service that name the server.",
            ));
        }
        let size = replication::segment_size(&mut session).await?;
        let history = match timeline {
            1 => None,
            _ => history(&mut session, timeline).await?,
        };
        Ok(Server {
            version_num: replication::version_num(&session)?,
            system_identifier,
            position,
            branch: Branch::new(timeline, history, size),
            session,
        })
    }
}

async fn history(session: &mut Session, timeline: u32) -> Result<Option<TimelineHistory>> {
    let Some(content) = slot::timeline_history(session, timeline).await? else {
        return Ok(None);
    };
    let parsed = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&content));
    parsed.map(Some).ok_or_else(|| {
        Error::refused(
            format!("the server's history of timeline {timeline} is not understood"),
            "Look at the file of that timeline in the server's pg_wal; its name ends in .history.",
        )
    })
}
