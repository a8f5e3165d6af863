//! The slot that keeps WAL until it is archived.
//!
//! Of the ways to keep a segment on a standby this one costs least. A standby with `archive_mode = on` removes segments whatever
//! `archive_status` says of them. A link to a segment does not keep its content, since the server writes into the same file again
//! under another name, and a copy costs as much as the WAL. A physical slot costs nothing but the WAL that it keeps, the server
//! heeds it in recovery and after the promotion, and it is still there after a crash.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use walarchive_core::archive::backfill::{self, Line};
use walarchive_core::{Error, Lsn};

use crate::error;
use crate::guc;
use crate::pg::slot::{self, Slot};
use crate::pg::{CaughtError, server};
use crate::shmem::Failure;

/// So many slots are left to others.
const LEFT_TO_OTHERS: usize = 1;

/// A slot that nobody uses for longer may be given up: see `idle_replication_slot_timeout`.
const USE: Duration = Duration::from_secs(20);

pub(super) struct Keep {
    pg_wal: PathBuf,
    /// Why there is no slot, or it cannot be moved.
    trouble: Option<Error>,
    /// The log was told of this last.
    told: String,
    is_over_limit: bool,
    is_short_of_room: bool,
    /// There was a slot.
    had: bool,
    used: Instant,
}

impl Keep {
    pub(super) fn new(pg_wal: PathBuf) -> Self {
        Keep {
            pg_wal,
            trouble: None,
            told: String::new(),
            is_over_limit: false,
            is_short_of_room: false,
            had: false,
            used: Instant::now(),
        }
    }

    /// Why WAL is not kept as it should be.
    pub(super) fn trouble(&self) -> Option<&Error> {
        self.trouble.as_ref()
    }

    /// Make the slot if there is none. Returns from where on it keeps WAL; none if it cannot be made.
    pub(super) fn begin(&mut self, timeline: u32, position: Lsn) -> Option<Lsn> {
        match slot::look() {
            Slot::Keeps(lsn) => {
                self.had = true;
                return Some(Lsn(lsn));
            }
            Slot::Foreign => {
                self.tell(Error::refused(
                    "WAL that is not archived is not kept: there is a logical slot of the name \"walarchive_unarchived\"",
                    "Drop this slot, or give it another name.",
                ));
                return None;
            }
            Slot::Missing => {}
            Slot::GivenUp => {
                log!(
                    "walarchive: the server has let go of WAL that the slot walarchive_unarchived kept, because of \
                     max_slot_wal_keep_size or idle_replication_slot_timeout"
                );
                self.done(slot::remove())?;
                self.had = false;
            }
        }
        if slot::free() <= LEFT_TO_OTHERS {
            self.tell(Error::refused(
                "WAL that is not archived is not kept: no replication slot is free",
                "Raise max_replication_slots, and restart the server. One slot is left to others.",
            ));
            return None;
        }
        let lsn = self.done(slot::create(self.back(timeline, position).0))?;
        // Once: Patroni removes it again and again, unless it is told not to.
        match std::mem::replace(&mut self.had, true) {
            true => self.tell(Error::refused(
                "somebody has removed the slot \"walarchive_unarchived\", and it was made again",
                "With Patroni name the slot in ignore_slots.",
            )),
            false => (self.trouble, self.told) = (None, String::new()),
        }
        Some(Lsn(lsn))
    }

    /// A new slot keeps what is there of older WAL, too, until it is known what is archived.
    fn back(&self, timeline: u32, position: Lsn) -> Lsn {
        let limit = guc::keep_unarchived_limit().map_or(0, |limit| position.0.saturating_sub(limit));
        self.oldest(timeline, position)
            .map_or(position, |oldest| oldest.max(Lsn(limit)))
    }

    /// The start of the oldest segment in `pg_wal`.
    fn oldest(&self, timeline: u32, position: Lsn) -> Option<Lsn> {
        let line = Line::read(&self.pg_wal, timeline, &server::identity());
        line.and_then(|line| line.oldest(position)).ok().flatten()
    }

    /// Keep WAL from here on only.
    pub(super) fn advance(&mut self, lsn: Lsn) {
        if let Slot::Keeps(before) = slot::look()
            && before < lsn.0
        {
            self.done(slot::advance(lsn.0));
        }
    }

    /// Is more than half of `walarchive.keep_unarchived_limit` kept?
    pub(super) fn is_near_limit(&self, position: Lsn) -> bool {
        match (guc::keep_unarchived_limit(), slot::look()) {
            (Some(limit), Slot::Keeps(from)) => position.0.saturating_sub(from) > limit / 2,
            _ => false,
        }
    }

    /// Let go of what is more than `walarchive.keep_unarchived_limit`, and of what the disk has no room for. What is left is kept in
    /// use.
    pub(super) fn limit(&mut self, timeline: u32, position: Lsn) {
        let Slot::Keeps(from) = slot::look() else { return };
        if self.used.elapsed() > USE {
            self.used = Instant::now();
            if self.done(slot::advance(from)).is_some() {
                self.trouble = None;
            }
        }
        if let Some(limit) = guc::keep_unarchived_limit() {
            self.limit_to(limit, Lsn(from), position);
        }
        self.limit_to_room(timeline, position);
    }

    fn limit_to(&mut self, limit: u64, from: Lsn, position: Lsn) {
        let least = position.0.saturating_sub(limit);
        if from.0 >= least {
            // After a segment was archived it is so for a moment each time.
            self.is_over_limit &= position.0 - from.0.min(position.0) > limit / 2;
            return;
        }
        if !self.is_over_limit {
            let refused = Error::refused(
                format!("more than {limit} bytes of WAL are not archived, and the oldest of them are kept no longer"),
                "Find out why the primary does not archive. Raise walarchive.keep_unarchived_limit if the disk has room.",
            );
            error::notify(&Failure::from(&refused));
        }
        self.is_over_limit = true;
        self.done(slot::advance(least));
    }

    fn limit_to_room(&mut self, timeline: u32, position: Lsn) {
        let size = server::identity().segment_size;
        let (Some(lacking), Slot::Keeps(from)) = (backfill::lacking(&self.pg_wal, size), slot::look()) else {
            self.is_short_of_room = false;
            return;
        };
        // What was let go is there until the next checkpoint. The segment that is being written is there in any case.
        let let_go = self
            .oldest(timeline, position)
            .map_or(0, |oldest| from.saturating_sub(oldest.0));
        let present = position.0 - position.0 % size.bytes();
        let least = from.saturating_add(lacking.saturating_sub(let_go)).min(present);
        if least <= from {
            return;
        }
        if !std::mem::replace(&mut self.is_short_of_room, true) {
            let refused = Error::refused(
                "the disk of pg_wal is nearly full, and the oldest WAL that is not archived is kept no longer",
                "Find out why the primary does not archive, and make room on the disk of pg_wal.",
            );
            error::notify(&Failure::from(&refused));
        }
        self.done(slot::advance(least));
    }

    /// Nothing is kept any more. Tries again each time until the slot is gone.
    pub(super) fn end(&mut self) {
        (self.is_over_limit, self.is_short_of_room, self.had) = (false, false, false);
        let removed = match slot::look() {
            Slot::Keeps(_) | Slot::GivenUp => self.done(slot::remove()),
            Slot::Missing | Slot::Foreign => Some(()),
        };
        if removed.is_some() {
            self.trouble = None;
        }
    }

    fn done<T>(&mut self, result: Result<T, Box<CaughtError>>) -> Option<T> {
        result
            .map_err(|caught| {
                self.tell(Error::server(
                    format!(
                        "WAL that is not archived is not kept as it should be: {}",
                        Failure::from(&*caught).message.as_str()
                    ),
                    "Look at the slot \"walarchive_unarchived\" in pg_replication_slots.",
                ));
            })
            .ok()
    }

    /// Log trouble once.
    fn tell(&mut self, trouble: Error) {
        let message = trouble.to_string();
        if message != self.told {
            error::notify(&Failure::from(&trouble));
        }
        self.told = message;
        self.trouble = Some(trouble);
    }
}
