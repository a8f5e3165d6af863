//! What must be known from one call to the next. Recovery asks for a segment on the newest timeline that it follows, and if it does
//! not get that, on the older ones.

use std::path::Path;
use std::time::SystemTime;

use walarchive_core::archive::prefetch::{Absence, Running, Spool};
use walarchive_core::recovery_state::{is_in_recovery, is_standby};
use walarchive_core::repository::tail::Cover;
use walarchive_core::wal::Segment;
use walarchive_core::{Error, Result};

use crate::repository::Settings;
use crate::repository::data_dir::{data_dir_beside, running_server};

/// Notes about segments that the server did not get.
#[derive(Debug)]
pub struct Round {
    spool: Spool,
    server: Running,
    /// It asks again. Another server ends its recovery.
    pub is_of_standby: bool,
}

impl Round {
    /// Of the server that wants the file, if it runs and recovers.
    pub fn of(path: &Path, settings: &Settings) -> Option<Self> {
        let data_dir = data_dir_beside(path).filter(|data_dir| is_in_recovery(data_dir))?;
        let server = running_server(&data_dir)?;
        let spool = Spool::beside(path, &settings.storage)?;
        let is_of_standby = is_standby(&data_dir);
        Some(Round {
            spool,
            server,
            is_of_standby,
        })
    }

    /// Refuse the segment of an older timeline, if the newer timeline's could not be had: it would lead away from that one.
    pub fn check(&self, segment: Segment) -> Result<()> {
        match self.spool.wanted_before(segment, self.server) {
            None => Ok(()),
            Some(wanted) => Err(Error::refused(
                format!("\"{segment}\" is not given to the standby, which needs \"{wanted}\""),
                "See above why it could not be had. The standby asks again.",
            )),
        }
    }

    /// The newest timeline that recovery follows, if it has asked for this segment there just now, and the archive ends before it.
    pub fn follows(&self, segment: Segment) -> Option<u32> {
        self.spool.ended_before(segment, self.server)
    }

    /// What a listing of the last minute said.
    pub fn known(&self, segment: Segment) -> Option<(Absence, SystemTime)> {
        self.spool.absent(segment, self.server)
    }

    /// Was it told before that it cannot have this segment? Then it has replayed all that it has.
    pub fn asks_again(&self, segment: Segment) -> bool {
        self.known(segment).is_some()
    }

    /// Does a worker of the server look for what was not there, and let the server ask again when it comes?
    pub fn has_worker(&self) -> bool {
        self.spool.has_worker()
    }

    /// It has got the segment.
    pub fn got(&self, segment: Segment) {
        self.spool.forget_absent(segment);
    }

    /// Has it all that the tail has of this segment?
    pub fn has_tail(&self, segment: Segment, cover: &Cover) -> bool {
        self.spool.is_given(segment, self.server, cover)
    }

    /// Has it got anything of the segment from the tail?
    pub fn has_any_tail(&self, segment: Segment) -> bool {
        self.spool.is_given_any(segment, self.server)
    }

    /// It has got that. Without the note it is fetched once more.
    pub fn got_tail(&self, segment: Segment, cover: &Cover) {
        if let Err(error) = self.spool.note_given(segment, self.server, cover) {
            tracing::debug!(%error, "what was fetched from the tail could not be noted");
        }
    }

    /// Has the standby what it can have of this segment, which its timeline has left within it?
    pub fn has_part(&self, segment: Segment, wal_directory: &Path) -> bool {
        self.is_of_standby
            && self.spool.is_given_in_part(segment, self.server)
            && wal_directory.join(segment.to_string()).exists()
    }

    /// Note what the server is told. Without the note recovery may follow an older timeline. A standby asks again, and must not end.
    pub fn tell(&self, segment: Segment, looked: SystemTime, absence: Absence) -> Result<()> {
        match self.spool.note_absent(segment, self.server, looked, absence) {
            Err(error) if self.is_of_standby => {
                eprintln!("walarchive: warning: {error}: recovery may follow an older timeline");
                Ok(())
            }
            noted => noted,
        }
    }

    /// The same after an error. What was known of a hole stays known.
    pub fn tell_failed(&self, segment: Segment) -> Result<()> {
        match self.known(segment) {
            Some((absence @ Absence::Hole(_), looked)) => self.tell(segment, looked, absence),
            _ => self.tell(segment, SystemTime::now(), Absence::Unclear),
        }
    }
}
