//! A segment that is asked for.

use std::path::PathBuf;
use std::time::Duration;

use walarchive_core::Result;
use walarchive_core::archive::tail::Tail;
use walarchive_core::archive::{self, Answer, Asking, Fetched};
use walarchive_core::control_file::ControlFile;
use walarchive_core::recovery_state::is_in_recovery;
use walarchive_core::wal::{Segment, WalFileName};
use walarchive_core::{Error, StorageError};
use walarchive_storage::Store;

use super::round::Round;
use super::{Call, WalFetch};
use crate::repository::data_dir::{data_dir_beside, running_server};

/// Looking for a hole takes no longer. The promotion of a standby waits for it.
const LOOK: Duration = Duration::from_secs(300);
const LOOK_OF_STANDBY: Duration = Duration::from_secs(30);

/// What came of one attempt to fetch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The server has all of it.
    Whole(Fetched),
    /// The server has its beginning. There may be more later.
    Part,
    /// What was there is not there any more, as something else has taken its place. That is to be looked for.
    Moved,
}

/// The segment, where it is, and for whom.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub args: &'a WalFetch,
    pub call: &'a Call,
    pub store: &'a Store,
    pub segment: Segment,
    /// No more bytes of it are given out: the rest is not of the timeline that recovery follows.
    pub most: u64,
}

impl Wanted<'_> {
    /// The server that asks, if it recovers.
    pub fn round(&self) -> Option<&Round> {
        self.call.round.as_ref()
    }

    /// Its data directory, if it is one whose server recovers or will.
    pub fn recovering(&self) -> Option<PathBuf> {
        data_dir_beside(&self.args.path).filter(|data_dir| is_in_recovery(data_dir))
    }

    /// Fetch the segment if it is there whole, as far as it is given out. Else it is said what the tail has.
    pub async fn ask(&self) -> Result<Answer> {
        let (path, first) = (&self.args.path, self.call.settings.reads_first);
        let asking = Asking {
            first,
            most: self.most,
            behind: self.asks_for_the_end().then(|| self.longest_look()),
            expects_absence: self.call.expects_absence,
        };
        let answer = archive::fetch_segment(self.store, self.segment, path, asking).await?;
        if self.most == u64::MAX || matches!(answer, Answer::Fetched(_)) {
            return Ok(answer);
        }
        // At the promotion the server archives under this name what it has of it, and that is all before the fork.
        let partial = WalFileName::Partial(self.segment);
        match archive::fetch_part(self.store, &partial, path, first, self.most).await {
            Err(Error::Storage(StorageError::NotFound { .. })) => Ok(answer),
            partial => partial.map(Answer::Fetched),
        }
    }

    /// The server has got all of it.
    pub fn note_served(&self) {
        let server = self.recovering().as_deref().and_then(running_server);
        if let (Some(spool), Some(server)) = (&self.call.spool, server) {
            spool.note_served(self.segment, server, &self.args.path);
        }
    }

    /// Is it to be known what comes after the segment, if it is not there? A standby is told what the last listing said.
    fn asks_for_the_end(&self) -> bool {
        let is_known = |round: &Round| round.is_of_standby && round.known(self.segment).is_some();
        !self.args.allow_gap && self.recovering().is_some() && !self.round().is_some_and(is_known)
    }

    /// Looking for a hole takes no longer.
    pub fn longest_look(&self) -> Duration {
        match self.round().is_some_and(|round| round.is_of_standby) {
            true => LOOK_OF_STANDBY,
            false => LOOK,
        }
    }

    /// Fetch it if it is there in the usual format. One request tells that. What comes after a fork is of the other timeline, and is not
    /// waited for on this one.
    pub async fn ask_usual(&self) -> Result<Option<Fetched>> {
        if self.most != u64::MAX {
            return Ok(None);
        }
        let (name, first) = (WalFileName::Segment(self.segment), self.call.settings.reads_first);
        archive::fetch_in(self.store, &name, &self.args.path, first).await
    }

    /// Has the tail all that is given out? Only of a server that recovers it is known how much that is.
    pub fn is_complete(&self, tail: &Tail) -> bool {
        let control = self.recovering().and_then(|data_dir| ControlFile::read(&data_dir).ok());
        let Some((control, cover)) = control.zip(tail.cover.as_ref()) else {
            return false;
        };
        cover.end() >= control.segment_size.bytes().min(self.most)
    }
}
