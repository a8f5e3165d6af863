//! One WAL record (`XLogRecord` in PostgreSQL's `access/xlogrecord.h`), taken up piece by piece: it may be larger than all
//! memory that a check should use.

use chrono::{DateTime, Utc};

use super::events::{Ending, Event, Outcome, Parameters, RestorePoint, text};
use super::page::is_since_12;
use super::pages::bytes;
use crate::lsn::Lsn;

/// The bytes of a record's header.
pub(super) const HEADER_BYTES: usize = 24;

/// The place of the checksum in it: the last field.
const CHECKSUM_AT: usize = 20;

/// The largest record, in bytes (`XLogRecordMaxSize` is a little less).
pub(super) const LARGEST: u32 = 1 << 30;

/// The bytes of a record's data that are kept. Records that are looked into are shorter, up to the part that counts.
const KEPT: usize = 128;

/// The same of those of tablespaces, which have a path (`MAXPGPATH`).
const KEPT_OF_TABLESPACES: usize = 1100;

/// Resource managers.
const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;
const RM_TABLESPACE: u8 = 5;

/// Of [`RM_XLOG`], in the upper four bits of `xl_info`.
const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
const SWITCH: u8 = 0x40;
const PARAMETER_CHANGE: u8 = 0x60;
const RESTORE_POINT: u8 = 0x70;
const END_OF_RECOVERY: u8 = 0x90;

/// Of [`RM_XACT`]: `XLOG_XACT_OPMASK` and its values.
const XACT_MASK: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;

/// Of [`RM_TABLESPACE`].
const CREATE_TABLESPACE: u8 = 0x00;

/// The marks that announce the parts of a record's data: here only those that a record without blocks has.
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOPLEVEL_XID: u8 = 252;

/// A transaction that a record ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The one with this ID.
    Transaction(u32),
    /// One that was prepared. Its ID stands deep in the record.
    Prepared,
}

/// A record that was seen in part.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) start: Lsn,
    total: u32,
    seen: u32,
    header: [u8; HEADER_BYTES],
    /// Of the data so far.
    crc: u32,
    kept: Vec<u8>,
}

impl Record {
    /// A record that says it has `total` bytes, header included.
    pub(super) fn new(start: Lsn, total: u32) -> Self {
        Record {
            start,
            total,
            seen: 0,
            header: [0; HEADER_BYTES],
            crc: 0,
            kept: Vec::new(),
        }
    }

    pub(super) fn left(&self) -> u32 {
        self.total - self.seen
    }

    /// Take up the next bytes, no more than are left.
    pub(super) fn take(&mut self, mut piece: &[u8]) {
        let seen = self.seen as usize;
        self.seen += piece.len() as u32;
        if seen < HEADER_BYTES {
            let (head, rest) = piece.split_at(piece.len().min(HEADER_BYTES - seen));
            self.header[seen..seen + head.len()].copy_from_slice(head);
            piece = rest;
        }
        self.crc = crc32c::crc32c_append(self.crc, piece);
        let most = match self.manager() {
            RM_TABLESPACE => KEPT_OF_TABLESPACES,
            _ => KEPT,
        };
        let room = most - self.kept.len().min(most);
        self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    /// The beginning of the record before.
    pub(super) fn previous(&self) -> Lsn {
        Lsn(u64::from_le_bytes(bytes(&self.header, 8)))
    }

    /// Of a complete record: does its checksum hold?
    pub(super) fn is_intact(&self) -> bool {
        let expected = u32::from_le_bytes(bytes(&self.header, CHECKSUM_AT));
        crc32c::crc32c_append(self.crc, &self.header[..CHECKSUM_AT]) == expected
    }

    /// Is the rest of its segment unused?
    pub(super) fn is_switch(&self) -> bool {
        self.manager() == RM_XLOG && self.info() == SWITCH
    }

    /// Is it a checkpoint?
    pub(super) fn is_checkpoint(&self) -> bool {
        self.manager() == RM_XLOG && matches!(self.info(), CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE)
    }

    /// When the transaction that it ends did so, or the restore point that it is was made.
    pub(super) fn time(&self) -> Option<DateTime<Utc>> {
        /// 2000-01-01, where PostgreSQL's time begins, in microseconds since 1970.
        const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
        let ends = matches!(
            self.info() & XACT_MASK,
            COMMIT | ABORT | COMMIT_PREPARED | ABORT_PREPARED
        );
        let tells = match self.manager() {
            RM_XACT => ends,
            RM_XLOG => self.info() == RESTORE_POINT,
            _ => false,
        };
        let time = i64::from_le_bytes(*self.main_data().filter(|_| tells)?.first_chunk()?);
        DateTime::from_timestamp_micros(time.checked_add(POSTGRES_EPOCH_US)?)
    }

    /// The timeline that begins with it, if one does: at the end of a recovery a server writes one of two records.
    pub(super) fn timeline(&self) -> Option<u32> {
        let begins = matches!(self.info(), CHECKPOINT_SHUTDOWN | END_OF_RECOVERY);
        // In both it stands after eight bytes.
        let timeline = self
            .main_data()
            .filter(|_| self.manager() == RM_XLOG && begins)?
            .get(8..)?;
        Some(u32::from_le_bytes(*timeline.first_chunk()?))
    }

    /// Its effect, if that matters to somebody who is about to replay it; `magic` is that of its page.
    pub(super) fn event(&self, magic: u16) -> Option<Event> {
        match (self.manager(), self.info()) {
            (RM_XLOG, RESTORE_POINT) => Some(Event::RestorePoint(RestorePoint {
                name: text(self.main_data()?.get(8..)?),
                lsn: self.start,
                time: self.time(),
            })),
            (RM_XLOG, PARAMETER_CHANGE) => {
                Parameters::parse(self.main_data()?, is_since_12(magic)).map(Event::Parameters)
            }
            (RM_TABLESPACE, CREATE_TABLESPACE) => {
                let data = self.main_data()?;
                Some(Event::Tablespace {
                    oid: u32::from_le_bytes(*data.first_chunk()?),
                    location: text(data.get(4..)?),
                })
            }
            _ => None,
        }
    }

    /// The transaction that it ends, if it ends one.
    pub(super) fn ends(&self) -> Option<Ended> {
        match (self.manager(), self.info() & XACT_MASK) {
            (RM_XACT, COMMIT | ABORT) => Some(Ended::Transaction(u32::from_le_bytes(bytes(&self.header, 4)))),
            (RM_XACT, COMMIT_PREPARED | ABORT_PREPARED) => Some(Ended::Prepared),
            _ => None,
        }
    }

    /// The end of a transaction that it is, with its time.
    pub(super) fn ending(&self) -> Option<Ending> {
        let ended = self.ends()?;
        let commits = matches!(self.info() & XACT_MASK, COMMIT | COMMIT_PREPARED);
        Some(Ending {
            lsn: self.start,
            time: self.time()?,
            xid: match ended {
                Ended::Transaction(xid) => Some(xid),
                Ended::Prepared => None,
            },
            outcome: if commits { Outcome::Commit } else { Outcome::Abort },
        })
    }

    /// Could this record, which is not complete, be one that begins a timeline?
    pub(super) fn may_begin_timeline(&self) -> bool {
        /// More than either of them has, in any version.
        const MOST: u32 = 256;
        let begins = matches!(self.info(), CHECKPOINT_SHUTDOWN | END_OF_RECOVERY);
        let headless = (self.seen as usize) < HEADER_BYTES;
        self.total <= MOST && (headless || self.manager() == RM_XLOG && begins)
    }

    fn manager(&self) -> u8 {
        self.header[17]
    }

    /// The lower four bits are the same for all resource managers.
    fn info(&self) -> u8 {
        self.header[16] & 0xF0
    }

    /// The beginning of the data that are the record's own, of a record that refers to no block.
    fn main_data(&self) -> Option<&[u8]> {
        let mut rest = self.kept.as_slice();
        loop {
            let (kind, after) = rest.split_first()?;
            rest = match *kind {
                ORIGIN => after.get(2..)?,
                TOPLEVEL_XID => after.get(4..)?,
                DATA_SHORT => return after.get(1..),
                DATA_LONG => return after.get(4..),
                _ => return None,
            };
        }
    }
}
