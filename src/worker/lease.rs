//! The uploader keeps the lease: it renews it every `walarchive.lease_interval`, or looks at the lease of the other server.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use tokio::task::AbortHandle;
use walarchive_core::{Error, Result};

use crate::bridge::{self, Bridge};
use crate::guc::{self, ArchiveSettings};
use crate::pg::server;

pub(super) struct Keeper {
    due: Instant,
    running: Option<AbortHandle>,
    sender: Sender<Result<bool>>,
    finished: Receiver<Result<bool>>,
    /// Was the lease held at the last turn?
    held: Option<bool>,
    /// The error that the log was told last.
    trouble: Option<String>,
}

impl Keeper {
    pub(super) fn new() -> Self {
        let (sender, finished) = channel();
        Keeper {
            due: Instant::now(),
            running: None,
            sender,
            finished,
            held: None,
            trouble: None,
        }
    }

    /// The interval may have changed. Other servers must learn that before they count by the old one.
    pub(super) fn restart(&mut self) {
        self.due = Instant::now();
    }

    /// Do what is due. Returns when to call this again, and whether this server has come to hold the lease since the last call.
    pub(super) fn turn(&mut self, bridge: &'static Bridge) -> (Duration, bool) {
        let mut gained = false;
        while let Ok(result) = self.finished.try_recv() {
            self.running = None;
            let held = match &result {
                Ok(held) => Some(*held),
                Err(Error::NotWriter { .. }) => Some(false),
                // It is not known.
                Err(_) => self.held,
            };
            gained |= self.held == Some(false) && held == Some(true);
            self.held = held;
            self.tell(result);
        }
        // A task that has ended without a result has panicked.
        self.running.take_if(|task| task.is_finished());
        let (now, interval) = (Instant::now(), guc::lease_interval());
        if self.running.is_some() {
            // Its end wakes the uploader.
            return (interval, gained);
        }
        if now >= self.due {
            self.due = now + interval;
            self.running = self.start(bridge);
        }
        (self.due.saturating_duration_since(now), gained)
    }

    fn start(&self, bridge: &'static Bridge) -> Option<AbortHandle> {
        let in_recovery = server::in_recovery();
        if server::archive_mode() == "off" && !in_recovery {
            return None;
        }
        // The archiver reports wrong settings, and that nothing may be stored in plain text. The lease is renewed even then: it
        // contains no data of the cluster, and a copy of this server must see that this server lives.
        let may_take = ArchiveSettings::for_writing().is_ok();
        let archive = ArchiveSettings::current()
            .and_then(|settings| bridge::archive(&settings))
            .ok()?;
        let sender = self.sender.clone();
        let work = async move {
            match archive.writer() {
                Some(writer) if in_recovery => writer.note_recovery().await.map(|()| false),
                Some(writer) if may_take || writer.status()?.state == "held" => {
                    writer.tick().await?;
                    writer.holds()
                }
                Some(_) | None => Ok(false),
            }
        };
        Some(bridge.spawn(work, move |result| {
            // This fails if the loop has ended.
            let _ = sender.send(result);
        }))
    }

    /// Log an error once, until it is over. The archiver reports each time that another server writes.
    fn tell(&mut self, result: Result<bool>) {
        match result {
            Ok(_) | Err(Error::NotWriter { .. }) => {
                if self.trouble.take().is_some() {
                    log!("walarchive: the lease of the repository is renewed again");
                }
            }
            Err(error) => {
                let message = error.to_string();
                if self.trouble.as_ref() != Some(&message) {
                    log!("walarchive: could not renew the lease of the repository: {message}");
                }
                self.trouble = Some(message);
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(task) = &self.running {
            task.abort();
        }
    }
}
