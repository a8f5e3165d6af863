//! Commands of the replication protocol: which server it is, its settings, and a base backup as a stream.

use bytes::Bytes;
use postgres_protocol::message::backend::Message;
use walarchive_core::wal::SegmentSize;
use walarchive_core::{Error, Lsn, Result};

use crate::session::Row;
use crate::{Session, escape_literal};

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Of the cluster.
    pub system_identifier: u64,
    /// The timeline that the server is on.
    pub timeline: u32,
    /// How far its WAL is written, or on a standby replayed.
    pub position: Lsn,
}

/// Ask which server it is.
pub async fn identify(session: &mut Session) -> Result<Identity> {
    let rows = session.query("say which system it is", "IDENTIFY_SYSTEM").await?;
    let row = first(&rows)?;
    Ok(Identity {
        system_identifier: row.parse(0)?,
        timeline: row.parse(1)?,
        position: row.parse(2)?,
    })
}

/// The version of the server as a number, such as 150018 or 90624, from what it reports when a connection begins.
pub fn version_num(session: &Session) -> Result<u32> {
    let text = session.parameter("server_version").unwrap_or_default();
    parse_version(text).ok_or_else(|| Error::defect(format!("the server's version is \"{}\"", text.escape_debug())))
}

fn parse_version(text: &str) -> Option<u32> {
    let number = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = number.split('.').map(|part| part.parse::<u32>().ok());
    let major = parts.next()??;
    let minor = parts.next().flatten().unwrap_or(0);
    match major {
        ..=9 => Some(major * 10_000 + minor * 100 + parts.next().flatten().unwrap_or(0)),
        _ => Some(major * 10_000 + minor),
    }
}

/// A setting; none if this role may not see it, or the server is older than 10.
pub async fn show(session: &mut Session, name: &str) -> Result<Option<String>> {
    if version_num(session)? < 100_000 {
        return Ok(None);
    }
    match session.query("show a setting", &format!("SHOW {name}")).await {
        Ok(rows) => Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned)),
        Err(error) => {
            tracing::debug!(name, %error, "the setting cannot be seen");
            Ok(None)
        }
    }
}

/// `wal_segment_size`. A server older than 10 cannot tell it, and has the default.
pub async fn segment_size(session: &mut Session) -> Result<SegmentSize> {
    let Some(text) = show(session, "wal_segment_size").await? else {
        return Ok(SegmentSize::DEFAULT);
    };
    let unknown = || Error::defect(format!("the server's wal_segment_size is \"{}\"", text.escape_debug()));
    SegmentSize::new(bytes(&text).ok_or_else(unknown)?)
}

/// A size as SHOW prints it.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let factor = match unit {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A tablespace beside the default ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID.
    pub oid: u32,
    /// Its directory on the server.
    pub location: String,
}

/// A base backup that the server sends. It must be read to its end.
pub struct BaseBackup<'a> {
    session: &'a mut Session,
    /// Where it starts.
    pub start: Lsn,
    /// The timeline of that LSN.
    pub timeline: u32,
    /// In the order of their archives; that of the data directory comes last.
    pub tablespaces: Vec<Tablespace>,
    /// About how many bytes will come.
    pub bytes: u64,
    /// From 15 on all archives come in one stream.
    in_one: bool,
    /// Archives that have begun.
    begun: usize,
}

/// A part of a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A tar begins: that of a tablespace, or of the data directory (none).
    Archive(Option<u32>),
    /// Bytes of that tar.
    Bytes(Bytes),
    /// The backup ends there.
    End(Lsn),
}

const WHAT: &str = "send a base backup";

impl<'a> BaseBackup<'a> {
    /// Begin one, with an immediate checkpoint. The server does not wait for its archiver. With `verify` it verifies page
    /// checksums, and fails at the end if one is wrong; before 11 it cannot.
    pub async fn begin(session: &'a mut Session, label: &str, verify: bool) -> Result<Self> {
        let version = version_num(session)?;
        let label = escape_literal(label);
        let in_one = version >= 150_000;
        let command = match version {
            150_000.. => format!(
                "BASE_BACKUP (LABEL {label}, PROGRESS, CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP, VERIFY_CHECKSUMS {verify})"
            ),
            110_000.. if !verify => {
                format!("BASE_BACKUP LABEL {label} PROGRESS FAST NOWAIT TABLESPACE_MAP NOVERIFY_CHECKSUMS")
            }
            _ => format!("BASE_BACKUP LABEL {label} PROGRESS FAST NOWAIT TABLESPACE_MAP"),
        };
        session.send_query(&command).await?;
        let mut backup = BaseBackup {
            session,
            start: Lsn(0),
            timeline: 0,
            tablespaces: Vec::new(),
            bytes: 0,
            in_one,
            begun: 0,
        };
        let start = backup.rows().await?;
        let row = first(&start)?;
        (backup.start, backup.timeline) = (row.parse(0)?, row.parse(1)?);
        for row in backup.rows().await? {
            // In kilobytes. The row of the data directory itself has neither OID nor location.
            backup.bytes += row.text(2).parse::<u64>().unwrap_or(0) * 1024;
            if row.get(0).is_some() {
                backup.tablespaces.push(Tablespace {
                    oid: row.parse(0)?,
                    location: row.text(1).to_owned(),
                });
            }
        }
        Ok(backup)
    }

    /// The rows of one result set.
    async fn rows(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        loop {
            match self.session.next(WHAT).await? {
                Some(Message::RowDescription(_)) => {}
                Some(Message::DataRow(body)) => rows.push(self.session.row(&body)?),
                Some(Message::CommandComplete(_)) => return Ok(rows),
                _ => return Err(unexpected()),
            }
        }
    }

    /// The next piece. After [`Piece::End`] there is none. If the future is dropped, the session is of no more use.
    pub async fn next(&mut self) -> Result<Piece> {
        loop {
            match self.session.next(WHAT).await? {
                Some(Message::CopyOutResponse(_)) if self.in_one => {}
                Some(Message::CopyOutResponse(_)) => {
                    let tablespace = self.tablespaces.get(self.begun).map(|tablespace| tablespace.oid);
                    self.begun += 1;
                    return Ok(Piece::Archive(tablespace));
                }
                Some(Message::CopyData(body)) if self.in_one => {
                    if let Some(piece) = in_one(body.into_bytes())? {
                        return Ok(piece);
                    }
                }
                Some(Message::CopyData(body)) => return Ok(Piece::Bytes(body.into_bytes())),
                Some(Message::CopyDone | Message::RowDescription(_)) => {}
                Some(Message::DataRow(body)) => {
                    let row = self.session.row(&body)?;
                    let (end, timeline): (Lsn, u32) = (row.parse(0)?, row.parse(1)?);
                    // Only then it is certain that the server is content.
                    while self.session.next(WHAT).await?.is_some() {}
                    if timeline != self.timeline {
                        return Err(Error::refused(
                            format!(
                                "the backup started on timeline {} and ended on timeline {timeline}",
                                self.timeline
                            ),
                            "The primary was replaced during the backup. Take another backup.",
                        ));
                    }
                    return Ok(Piece::End(end));
                }
                Some(Message::CommandComplete(_)) => {}
                _ => return Err(unexpected()),
            }
        }
    }
}

/// A message of the stream of 15 and later. None if it tells nothing that is needed.
fn in_one(bytes: Bytes) -> Result<Option<Piece>> {
    match bytes.first() {
        Some(b'n') => {
            let name = bytes[1..].split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name);
            let tablespace = match name.strip_suffix(".tar") {
                Some("base") => None,
                Some(oid) => Some(oid.parse().map_err(|_| unexpected())?),
                None => return Err(unexpected()),
            };
            Ok(Some(Piece::Archive(tablespace)))
        }
        Some(b'd') => Ok(Some(Piece::Bytes(bytes.slice(1..)))),
        Some(b'p' | b'm') => Ok(None),
        _ => Err(unexpected()),
    }
}

fn first(rows: &[Row]) -> Result<&Row> {
    rows.first().ok_or_else(unexpected)
}

fn unexpected() -> Error {
    Error::defect("the server's answer to a replication command is not understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        for (text, number) in [
            ("15.20 (Debian 15.20-0+deb12u1)", Some(150_020)),
            ("9.6.24", Some(90_624)),
            ("10.23", Some(100_023)),
            ("18beta1", Some(180_000)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(parse_version(text), number, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("16MB"), Some(16 << 20));
        assert_eq!(bytes("1GB"), Some(1 << 30));
        assert_eq!(bytes("16"), None);
        assert_eq!(bytes("x"), None);
    }

    #[test]
    fn archives_are_named() {
        let piece = |bytes: &'static [u8]| in_one(Bytes::from_static(bytes));
        assert_eq!(piece(b"nbase.tar\0\0").expect("read"), Some(Piece::Archive(None)));
        assert_eq!(
            piece(b"n16385.tar\0/ts\0").expect("read"),
            Some(Piece::Archive(Some(16385)))
        );
        assert_eq!(
            piece(b"dab").expect("read"),
            Some(Piece::Bytes(Bytes::from_static(b"ab")))
        );
        assert_eq!(piece(b"p\0\0\0\0\0\0\0\x01").expect("read"), None);
        assert!(piece(b"n../x\0\0").is_err() && piece(b"").is_err());
    }
}
