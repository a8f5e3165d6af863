//! The upload worker's loop: take what the archiver asks for, look ahead, upload many at once, say what became of it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::task::AbortHandle;
use walarchive_core::archive::{Archive, Pushed};
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Result};

use super::ahead::Ahead;
use super::lease::Keeper;
use crate::bridge::{self, Bridge};
use crate::error;
use crate::guc::{self, ArchiveSettings};
use crate::pg::{process, server};
use crate::shmem::{ARCHIVING, Ahead as Room, Failure, Text};

/// How often the worker looks around with nothing to do.
const IDLE: Duration = Duration::from_secs(10);

/// A file that is no longer being uploaded.
struct Finished {
    name: WalFileName,
    generation: u64,
    result: Result<Pushed>,
}

pub(super) struct Uploader {
    bridge: &'static Bridge,
    directory: PathBuf,
    ahead: Ahead,
    lease: Keeper,
    running: HashMap<WalFileName, AbortHandle>,
    sender: Sender<Finished>,
    finished: Receiver<Finished>,
}

impl Uploader {
    pub(super) fn new() -> Self {
        let (sender, finished) = channel();
        Uploader {
            bridge: Bridge::get(),
            directory: server::data_directory().join("pg_wal"),
            ahead: Ahead::new(),
            lease: Keeper::new(),
            running: HashMap::new(),
            sender,
            finished,
        }
    }

    /// Work until the server tells the worker to end.
    pub(super) fn run(&mut self) {
        while !process::shutdown_requested() {
            if process::reload_requested() {
                process::reload_configuration();
                self.ahead.restart();
                self.lease.restart();
            }
            self.collect();
            self.take_requests();
            if let Err(error) = self.look_ahead() {
                error::warn("could not look ahead for WAL files", &Failure::from(&error));
                self.ahead.failed();
            }
            let wake_in = self
                .ahead
                .resumes_in()
                .unwrap_or(IDLE)
                .clamp(Duration::from_millis(10), IDLE);
            let lease_in = self.lease.turn(self.bridge);
            self.bridge.wait(Some(wake_in.min(lease_in)));
        }
        // The archiver uploads again what was under way; an object that was written all the same has the same content.
        for task in self.running.values() {
            task.abort();
        }
    }

    /// Tell the queue, and the archiver, what has become of uploads.
    fn collect(&mut self) {
        // A task that is over says so before it is over; one that does not has panicked.
        let over: Vec<_> = self
            .running
            .iter()
            .filter(|(_, task)| task.is_finished())
            .map(|(name, _)| *name)
            .collect();
        let mut finished: Vec<Finished> = self.finished.try_iter().collect();
        for name in over {
            if !finished.iter().any(|finished| finished.name == name) {
                finished.push(Finished {
                    name,
                    generation: 0,
                    result: Err(crashed(&name)),
                });
            }
        }
        let mut archiver = None;
        for Finished {
            name,
            generation,
            result,
        } in finished
        {
            self.running.remove(&name);
            let file = Text::new(&name.to_string());
            let failure = result.as_ref().err().map(Failure::from);
            let told = {
                let mut archiving = ARCHIVING.exclusive();
                archiver = Some(archiving.archiver);
                match (&result, &failure) {
                    (Ok(pushed), _) => {
                        archiving
                            .queue
                            .finish(&file, generation, pushed.fingerprint.to_numbers());
                        archiving.counters.bytes_in += pushed.file_bytes;
                        archiving.counters.bytes_out += if pushed.already_there { 0 } else { pushed.stored_bytes };
                        true
                    }
                    (Err(_), Some(failure)) => {
                        archiving.note_failure(failure);
                        archiving.queue.fail(&file, *failure)
                    }
                    (Err(_), None) => true,
                }
            };
            match failure {
                None => self.ahead.succeeded(),
                Some(failure) => {
                    self.ahead.failed();
                    if !told {
                        error::warn(&format!("could not upload \"{name}\" ahead of the archiver"), &failure);
                    }
                }
            }
        }
        if let Some(archiver) = archiver {
            archiver.set();
        }
    }

    /// What the archiver waits for comes first, whatever else is under way.
    fn take_requests(&mut self) {
        loop {
            let request = ARCHIVING.exclusive().queue.take_request();
            let Some(file) = request else { return };
            self.ahead.expect_more();
            match (file.as_str().parse::<WalFileName>(), ArchiveSettings::current()) {
                (Ok(name), Ok(settings)) => self.upload(name, &settings),
                (Err(error), _) | (_, Err(error)) => {
                    let failure = Failure::from(&error);
                    let archiver = {
                        let mut archiving = ARCHIVING.exclusive();
                        archiving.note_failure(&failure);
                        archiving.queue.fail(&file, failure);
                        archiving.archiver
                    };
                    archiver.set();
                }
            }
        }
    }

    fn look_ahead(&mut self) -> Result<()> {
        // Without an archiver that calls this library, nobody has asked for these files.
        if server::archive_mode() == "off" || !server::is_archive_library() {
            return Ok(());
        }
        // So it is while the server recovers: whether it may write is not known before.
        if server::in_recovery() && server::archive_mode() != "always" {
            return Ok(());
        }
        // The archiver says what is wrong with the settings.
        let Ok(settings) = ArchiveSettings::current() else {
            return Ok(());
        };
        while self.running.len() < guc::upload_concurrency() {
            let Some(name) = self.ahead.next()? else { break };
            let file = Text::new(&name.to_string());
            let room = ARCHIVING.exclusive().queue.look_ahead(&file);
            match room {
                Room::Taken => self.upload(name, &settings),
                Room::Known => {}
                Room::Full => {
                    self.ahead.put_back(name);
                    self.forget_stale();
                    break;
                }
            }
        }
        Ok(())
    }

    /// A file that left `archive_status` by another way (another archive library took over for a while) would keep its room
    /// for ever.
    fn forget_stale(&mut self) {
        let uploaded: Vec<_> = ARCHIVING.share().queue.uploaded().collect();
        for file in uploaded.iter().filter(|file| !self.ahead.is_ready(file.as_str())) {
            ARCHIVING.exclusive().queue.forget(file);
        }
    }

    fn upload(&mut self, name: WalFileName, settings: &ArchiveSettings) {
        let (generation, sender, directory) = (settings.generation(), self.sender.clone(), self.directory.clone());
        let archive = bridge::archive(settings);
        let deadline = guc::archive_timeout();
        let work = async move { push(archive, directory, name, deadline).await };
        let task = self.bridge.spawn(work, move |result| {
            // The loop has ended if nobody takes it.
            let _ = sender.send(Finished {
                name,
                generation,
                result,
            });
        });
        self.running.insert(name, task);
    }
}

fn crashed(name: &WalFileName) -> Error {
    let reason = std::io::Error::other("the upload ended without a result; the server's log may tell why");
    Error::io("upload", name.to_string(), reason)
}

async fn push(
    archive: Result<Arc<Archive>>,
    directory: PathBuf,
    name: WalFileName,
    deadline: Duration,
) -> Result<Pushed> {
    let archive = archive?;
    match tokio::time::timeout(deadline, archive.push(&directory, &name)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(Error::Timeout {
            operation: "write",
            object: archive.store().object_url(&name.to_string()),
            deadline,
        }),
    }
}
