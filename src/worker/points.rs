//! The index of restore points: what was archived is looked through, slowly, beside the uploads.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::points::{self, Local};
use walarchive_core::{Error, Result};

use crate::bridge::{self, Bridge};
use crate::guc::ArchiveSettings;
use crate::pg::server;

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// So many segments are worth an object at once.
const MANY: usize = 64;

/// Fewer wait for so long before they are read.
const WAITING: Duration = Duration::from_secs(600);

/// What one piece of work knows at its end.
type Ended = Result<Local>;

pub(super) struct Indexer {
    pg_wal: PathBuf,
    local: Local,
    looked: Instant,
    written: Instant,
    running: Option<AbortHandle>,
    sender: Sender<Ended>,
    ended: Receiver<Ended>,
    /// The settings that it was made with.
    generation: u64,
}

impl Indexer {
    pub(super) fn new() -> Self {
        let (sender, ended) = channel();
        Indexer {
            pg_wal: server::data_directory().join(PG_WAL),
            local: Local::default(),
            looked: Instant::now(),
            written: Instant::now(),
            running: None,
            sender,
            ended,
            generation: 0,
        }
    }

    /// Look whether there is something to note.
    pub(super) fn turn(&mut self, bridge: &'static Bridge) {
        match self.ended.try_recv() {
            Ok(Ok(local)) => {
                self.local = local;
                self.written = Instant::now();
            }
            // The WAL tells the same, and another look comes.
            Ok(Err(error)) => tracing::debug!(%error, "could not write the index of WAL"),
            Err(_) => {}
        }
        if self.running.as_ref().is_some_and(|task| !task.is_finished()) || self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        if server::in_recovery() || !server::is_archive_library() {
            return;
        }
        if let Err(error) = self.begin(bridge) {
            tracing::debug!(%error, "could not look for WAL to be noted");
        }
    }

    fn begin(&mut self, bridge: &'static Bridge) -> Result<(), Error> {
        let settings = ArchiveSettings::for_writing()?;
        if self.generation != settings.generation() {
            // Another repository, perhaps.
            self.generation = settings.generation();
            self.local = Local::default();
        }
        let news = self.local.news(&self.pg_wal)?;
        if news.is_empty() || (news.len() < MANY && self.written.elapsed() < WAITING) {
            return Ok(());
        }
        let archive = bridge::archive(&settings)?;
        let (local, pg_wal, identity) = (self.local.clone(), self.pg_wal.clone(), server::identity());
        let sender = self.sender.clone();
        let work = async move {
            let notes = match archive.writer() {
                Some(writer) => writer.fenced_notes(archive.store()),
                None => archive.store().clone(),
            };
            points::index(&notes, &pg_wal, &identity, local, news).await
        };
        self.running = Some(bridge.spawn(work, move |ended| {
            // The uploader has ended if nobody listens.
            let _ = sender.send(ended);
        }));
        Ok(())
    }
}
