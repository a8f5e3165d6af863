//! WAL that no archiver asks for. A standby keeps what the archive does not have. When it is promoted it archives that, because the
//! dead primary cannot.
//!
//! The files go straight into the archive, beside the archiver, and `archive_status` stays as PostgreSQL has left it. If they were
//! marked as ready again, the archiver would take them first, and one of them that cannot be archived would hold up everything that
//! is written after the promotion. What is to be done is found again from the archive and from `pg_wal` after each start.

mod promoted;
mod standby;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use walarchive_core::archive::backfill::{Backlog, Followed, Line, Wanted};
use walarchive_core::archive::{Archive, Pushed};
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::lease::Situation;
use walarchive_core::{Error, Lsn, Result};
use walarchive_storage::Brake;

use super::keep::Keep;
use crate::bridge::{self, Bridge};
use crate::error;
use crate::guc::{self, ArchiveSettings};
use crate::pg::server;
use crate::pg::slot::{self, Slot};
use crate::shmem::{ARCHIVING, Backfill as Shown, Failure, Stage, Text};

/// After a failure the next attempt comes so much later, and each time twice as late.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How often a server that is about to replay WAL is looked at.
const SOON: Duration = Duration::from_millis(500);

/// How often it is looked at how much is kept.
const LIMIT: Duration = Duration::from_secs(5);

/// May the link be used?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Yes.
    Free,
    /// WAL that is written now waits for it.
    Needed,
}

/// What the server is, as far as this goes.
enum Role {
    /// WAL of this server is not archived by this library, or by itself in recovery, too.
    Other,
    /// Recovery after a crash or to a point in time, or settings that cannot be used: nothing new is begun.
    Unknown(Option<Error>),
    Standby(Arc<Archive>),
    Primary(Arc<Archive>),
}

/// How far a primary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Looking,
    Archiving,
    Over,
}

/// The result of a task.
enum News {
    Kept(Result<(Line, Lsn, Followed)>),
    Found(Result<(Line, Backlog)>),
    Stored(Wanted, Result<Pushed>),
}

pub(super) struct Backfill {
    keep: Keep,
    pg_wal: PathBuf,
    phase: Phase,
    /// This process has seen the server in recovery, so it has seen the promotion.
    was_in_recovery: bool,
    /// As it was at the last turn.
    in_recovery: bool,
    /// When there is something to do again, if nothing happens before.
    again: Instant,
    /// When the archive is asked again.
    due: Instant,
    pause: Duration,
    looking: Option<AbortHandle>,
    /// What a standby knows of the archive.
    followed: Followed,
    line: Option<Line>,
    waiting: VecDeque<Wanted>,
    running: HashMap<Wanted, (AbortHandle, Brake)>,
    failed: Vec<Wanted>,
    /// The log was told of these.
    told: String,
    /// The log was told that there is a backlog.
    is_announced: bool,
    /// Why the archive cannot be used.
    unusable: Option<Error>,
    shown: Shown,
    sender: Sender<News>,
    news: Receiver<News>,
}

impl Backfill {
    pub(super) fn new() -> Self {
        let (sender, news) = channel();
        let pg_wal = server::data_directory().join(PG_WAL);
        Backfill {
            keep: Keep::new(pg_wal.clone()),
            pg_wal,
            phase: Phase::Looking,
            was_in_recovery: false,
            in_recovery: false,
            again: Instant::now(),
            due: Instant::now(),
            pause: FIRST_PAUSE,
            looking: None,
            followed: Followed::default(),
            line: None,
            waiting: VecDeque::new(),
            running: HashMap::new(),
            failed: Vec::new(),
            told: String::new(),
            is_announced: false,
            unusable: None,
            shown: Shown {
                archived: ARCHIVING.share().backfill.archived,
                ..Shown::NONE
            },
            sender,
            news,
        }
    }

    /// Is everything of before a promotion stored that can be? What is written now is worth little before.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// The settings have changed. Somebody may have found lost segments, and put them into `pg_wal`.
    pub(super) fn restart(&mut self) {
        (self.due, self.again) = (Instant::now(), Instant::now());
        self.followed = Followed::default();
        if self.shown.stage == Stage::Incomplete {
            self.phase = Phase::Looking;
        }
    }

    /// Do what is due. Returns when to call this again; the end of a task wakes the uploader.
    pub(super) fn turn(&mut self, bridge: &'static Bridge, link: Link) -> Duration {
        let in_recovery = server::in_recovery();
        let (timeline, position) = server::wal_position();
        let situation = bridge::situation();
        // Before anything else: it may be promoted as soon as it is consistent.
        self.was_in_recovery |= situation.in_recovery && situation.is_standby && !is_other(&situation);
        // The server reads its slots before it replays anything.
        if position == 0 {
            return SOON;
        }
        if situation.in_recovery != in_recovery {
            // Promoted just now: the timeline may be the one before.
            return SOON;
        }
        let now = Instant::now();
        // A task sends its result before it ends. One that has ended without a result has panicked.
        let ended = self.running.iter().filter(|(_, (task, _))| task.is_finished());
        let ended: Vec<Wanted> = ended.map(|(wanted, _)| *wanted).collect();
        let mut news: Vec<News> = self.news.try_iter().collect();
        let told = |ended: &Wanted| {
            let of = |news: &News| matches!(news, News::Stored(wanted, _) if wanted == ended);
            news.iter().any(of)
        };
        let panicked: Vec<Wanted> = ended.into_iter().filter(|ended| !told(ended)).collect();
        for wanted in panicked {
            news.push(News::Stored(wanted, Err(crashed(&wanted))));
        }
        let is_idle = news.is_empty() && self.running.is_empty() && in_recovery == self.in_recovery;
        if is_idle && now < self.again {
            return self.again - now;
        }
        if self.in_recovery && !in_recovery {
            // What a standby has put off is not put off by a primary.
            self.due = now;
        }
        self.in_recovery = in_recovery;
        self.looking.take_if(|task| task.is_finished());
        let position = Lsn(position);
        self.unusable = None;
        let again = match role(&situation) {
            Role::Unknown(error) => self.on_unknown(error, timeline, position),
            Role::Other => {
                self.stop();
                self.keep_nothing();
                guc::lease_interval()
            }
            Role::Standby(archive) => {
                self.phase = Phase::Looking;
                self.on_standby(bridge, archive, news, timeline, position)
            }
            Role::Primary(archive) => self.on_primary(bridge, archive, news, timeline, position, link),
        };
        self.shown.waiting = (self.waiting.len() + self.running.len() + self.failed.len()) as u64;
        ARCHIVING.exclusive().backfill = self.shown();
        self.again = Instant::now() + again;
        again
    }

    /// What was kept is kept, as long as there is room.
    fn on_unknown(&mut self, error: Option<Error>, timeline: u32, position: Lsn) -> Duration {
        self.stop();
        if self.phase == Phase::Archiving {
            (self.phase, self.due) = (Phase::Looking, Instant::now());
        }
        if !guc::keep_unarchived() {
            self.keep_nothing();
        }
        if slot::look() == Slot::Missing {
            return guc::lease_interval();
        }
        self.unusable = error;
        self.keep.limit(timeline, position);
        guc::lease_interval().min(LIMIT)
    }

    fn keep_nothing(&mut self) {
        self.keep.end();
        self.show_kept(None);
        self.shown.error = Text::EMPTY;
    }

    /// With the reason why WAL is not archived, or why it is not kept.
    fn shown(&self) -> Shown {
        let trouble = self.unusable.as_ref().or(self.keep.trouble());
        match trouble.filter(|_| self.shown.error.as_str().is_empty()) {
            Some(trouble) => Shown {
                error: Text::new(&trouble.to_string()),
                ..self.shown
            },
            None => self.shown,
        }
    }

    /// From where on WAL is kept because the archive does not have it.
    fn show_kept(&mut self, kept: Option<(Lsn, String)>) {
        let (lsn, name) = kept.unwrap_or((Lsn(0), String::new()));
        (self.shown.kept_lsn, self.shown.kept_from) = (lsn.0, Text::new(&name));
    }

    /// End all tasks.
    fn stop(&mut self) {
        self.looking.take().inspect(AbortHandle::abort);
        self.running.drain().for_each(|(_, (task, _))| task.abort());
        self.waiting.clear();
        self.failed.clear();
    }

    /// Log an error once a minute, until it is over.
    fn tell_trouble(&mut self, trouble: Option<&Error>) {
        let message = trouble.map(ToString::to_string).unwrap_or_default();
        self.shown.error = Text::new(&message);
        if let Some(error) = trouble {
            let context = match self.was_in_recovery && server::in_recovery() {
                true => "could not find out which WAL is archived",
                false => "could not archive WAL of before the promotion",
            };
            error::warn(context, &Failure::from(error));
        }
    }
}

impl Drop for Backfill {
    fn drop(&mut self) {
        self.stop();
    }
}

fn crashed(wanted: &Wanted) -> Error {
    Error::defect(format!("the upload of \"{}\" ended without a result", wanted.name()))
}

/// See [`Role::Other`].
fn is_other(situation: &Situation) -> bool {
    let mode = server::archive_mode();
    mode == "off" || (mode == "always" && situation.in_recovery) || !server::is_archive_library()
}

fn role(situation: &Situation) -> Role {
    if is_other(situation) {
        return Role::Other;
    }
    // After a crash of a server that was promoted, its slot must stay.
    if situation.in_recovery && !situation.is_standby {
        return Role::Unknown(None);
    }
    let archive = ArchiveSettings::for_writing().and_then(|settings| bridge::archive(&settings));
    match (archive, situation.in_recovery) {
        (Err(error), _) => Role::Unknown(Some(error)),
        (Ok(archive), true) => Role::Standby(archive),
        (Ok(archive), false) => Role::Primary(archive),
    }
}
