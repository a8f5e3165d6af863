//! Physical replication slots, and the history of a timeline, by the replication protocol.

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::Message;
use walarchive_core::{Error, Lsn, Result};

use crate::error::{Failure, NO_FILE, NO_OBJECT, OBJECT_EXISTS};
use crate::replication::version_num;
use crate::{Params, Session, escape_identifier, escape_literal, server};

/// A slot as the server knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// There is none of that name.
    Missing,
    /// WAL from there on is kept for it; none if it keeps nothing, as a slot does that was never used.
    There(Option<Lsn>),
    /// It is there, or not: the role may not see it.
    Unknown,
}

/// Look at a slot. Servers before 15 tell it by SQL only, for which another connection is made.
pub async fn read(session: &mut Session, params: &Params, name: &str) -> Result<Slot> {
    let what = "show its replication slot";
    let row = if version_num(session)? >= 150_000 {
        let sql = format!("READ_REPLICATION_SLOT {}", escape_identifier(name));
        // A slot that is missing is a row of nulls.
        session.query(what, &sql).await?.into_iter().next()
    } else {
        // At the same server: the parameters may name several.
        let mut sql_session = match session.door().enter_any(params).await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::debug!(%error, "no SQL can be run on the server");
                return Ok(Slot::Unknown);
            }
        };
        server::prepare(&mut sql_session).await?;
        let sql = format!(
            "SELECT slot_type, restart_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            escape_literal(name)
        );
        sql_session.query(what, &sql).await?.into_iter().next()
    };
    let Some(row) = row.filter(|row| row.get(0).is_some()) else {
        return Ok(Slot::Missing);
    };
    if row.text(0) != "physical" {
        return Err(Error::refused(
            format!("replication slot \"{name}\" is not a physical one"),
            "Give the name of another slot, by --slot or WALG_SLOTNAME.",
        ));
    }
    let kept = row.get(1).map(|_| row.parse(1)).transpose()?;
    Ok(Slot::There(kept))
}

/// Make a slot that keeps WAL from now on. Returns false if there is one of that name.
pub async fn create(session: &mut Session, name: &str) -> Result<bool> {
    let reserve = match version_num(session)? {
        150_000.. => "PHYSICAL (RESERVE_WAL)",
        _ => "PHYSICAL RESERVE_WAL",
    };
    let sql = format!("CREATE_REPLICATION_SLOT {} {reserve}", escape_identifier(name));
    match session.command(&sql).await {
        Ok(()) => Ok(true),
        Err(Failure::Server(notice)) if notice.code == OBJECT_EXISTS => Ok(false),
        Err(failure) => Err(failure.into_error("make a replication slot")),
    }
}

/// Remove a slot, which nobody may be using. Returns false if there is none of that name.
pub async fn remove(session: &mut Session, name: &str) -> Result<bool> {
    let sql = format!("DROP_REPLICATION_SLOT {}", escape_identifier(name));
    match session.command(&sql).await {
        Ok(()) => Ok(true),
        Err(Failure::Server(notice)) if notice.code == NO_OBJECT => Ok(false),
        Err(failure) => Err(failure.into_error("remove the replication slot")),
    }
}

/// The content of a timeline's history file, byte for byte; none if the server has no such file.
pub async fn timeline_history(session: &mut Session, timeline: u32) -> Result<Option<Bytes>> {
    let lost = |_| Error::defect("the server's answer to TIMELINE_HISTORY is not understood");
    session.send_query(&format!("TIMELINE_HISTORY {timeline}")).await?;
    let mut content = None;
    loop {
        match session.answered().await {
            Ok(Some(Message::DataRow(body))) => {
                let range = body.ranges().nth(1).map_err(lost)?.flatten();
                content = range.map(|range| body.buffer_bytes().slice(range));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(content),
            Err(Failure::Server(notice)) if notice.code == NO_FILE => return Ok(None),
            Err(failure) => return Err(failure.into_error("send the history of its timeline")),
        }
    }
}
