//! The archive callbacks: a WAL file name in, true or false out. They return true only after the store has acknowledged the
//! file.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use walarchive_core::Error;
use walarchive_core::archive::{Fingerprint, Pushed};
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::wal::WalFileName;
use walarchive_storage::{Brake, Motion};

use super::tail;
use crate::bridge::{self, Bridge};
use crate::error::{self, Severity};
use crate::guc::{self, ArchiveSettings};
use crate::pg::latch::{self, Latch};
use crate::pg::{CaughtError, process, server};
use crate::shmem::{self, ARCHIVING, Answer, BACKUP, Failure, FileName, Phase, Text, now_us};

/// How soon the death of the uploader is noticed.
const LIVENESS: Duration = Duration::from_secs(1);

/// An uploader that was woken, and has not looked around for this long, is stuck.
const STUCK: Duration = Duration::from_secs(5);

/// An upload by the archiver itself. It goes on while the archiver does other things.
struct Own {
    file: FileName,
    generation: u64,
    numbers: shmem::FileNumbers,
    motion: Arc<Motion>,
    task: AbortHandle,
    outcome: Receiver<Result<Pushed, Error>>,
}

static OWN: Mutex<Option<Own>> = Mutex::new(None);

/// Can files be archived with the present settings? If not, the error says what is missing. The archiver asks about once a minute.
pub fn check_configured() -> Result<(), String> {
    let checked = shmem::require_preloaded()
        .and_then(|()| ArchiveSettings::for_writing())
        .map(|_| ());
    checked.map_err(|refused| {
        error::warn("WAL cannot be archived", &Failure::from(&refused));
        format!("{refused}.")
    })
}

/// The archiver has started with this library.
#[cfg(not(feature = "pg15"))]
pub fn startup() {}

/// The archiver ends, or changes to another library. It waits for nothing any more.
pub fn shutdown() {
    if shmem::require_preloaded().is_ok() {
        // If the server stops, it has written its last WAL, and no uploader is there to store that.
        tail::store_last();
        let mut archiving = ARCHIVING.exclusive();
        archiving.archiver = Latch::NONE;
    }
    bridge::drain();
}

/// Archive one file of `pg_wal`. This never raises an ERROR. After a failure there is a WARNING, the answer is false, and the
/// archiver asks again.
pub fn archive_file(file: &str) -> bool {
    let before = lease_gains();
    let archived = archive(file);
    // Waiting in here may have used up a wake-up that was meant for the archiver's own loop. After a success the loop looks
    // again anyway. After a failure it has to take its pause, unless there are new settings, or this server may write by now, or
    // there is no uploader, which may mean that the server stops: a lost wake-up would delay the shutdown by a minute.
    let is_allowed_now = lease_gains() != before;
    if archived.is_ok() || !uploader_lives() || process::reload_pending() || is_allowed_now {
        Latch::mine().set();
    }
    match archived {
        Ok(()) => true,
        // An upload that moves is not a failure. The archiver asks for the file again.
        Err(failure) if failure.sqlstate == 0 => {
            error::log_line(Severity::Log, failure.message.as_str());
            false
        }
        Err(failure) => {
            error::warn(&format!("could not archive \"{file}\""), &failure);
            false
        }
    }
}

/// How often this server has come to hold the lease.
fn lease_gains() -> u64 {
    shmem::require_preloaded().map_or(0, |()| ARCHIVING.share().lease_gains)
}

fn uploader_lives() -> bool {
    shmem::require_preloaded().is_ok() && ARCHIVING.share().uploader_pid != 0
}

/// A panic or an ERROR came out of a callback. That is a defect of this library, and must not end the archiver.
pub fn report_unexpected(caught: &CaughtError) {
    error::warn("unexpected failure in the archiver", &Failure::from(caught));
}

fn archive(file: &str) -> Result<(), Box<Failure>> {
    let noted = |refused: Error| {
        let failure = Box::new(Failure::from(&refused));
        ARCHIVING.exclusive().note_failure(&failure);
        failure
    };
    shmem::require_preloaded().map_err(|refused| Box::new(Failure::from(&refused)))?;
    let name: WalFileName = file.parse().map_err(noted)?;
    let settings = ArchiveSettings::for_writing().map_err(noted)?;
    let path = server::data_directory().join(PG_WAL).join(file);
    let numbers = Fingerprint::of(&path).map_err(noted)?.to_numbers();
    let call = Call {
        file: Text::new(file),
        generation: settings.generation(),
        numbers,
        deadline: Instant::now() + guc::archive_timeout(),
    };
    match call.ask_uploader()? {
        Asked::Done => {}
        Asked::NoUploader => call.upload_here(&name, &settings)?,
    }
    let mut archiving = ARCHIVING.exclusive();
    archiving.counters.archived += 1;
    archiving.counters.last_archived = Text::new(file);
    archiving.counters.last_archived_us = now_us();
    drop(archiving);
    // A backup may wait for this file.
    let waiting = {
        let job = BACKUP.share();
        (job.phase == Phase::WaitingForWal).then_some(job.worker)
    };
    waiting.unwrap_or(Latch::NONE).set();
    Ok(())
}

enum Asked {
    Done,
    NoUploader,
}

/// One call of the archiver.
struct Call {
    file: FileName,
    generation: u64,
    numbers: shmem::FileNumbers,
    deadline: Instant,
}

impl Call {
    /// Hand the file to the uploader, and wait until it is done. The uploader has counted its own failures.
    fn ask_uploader(&self) -> Result<Asked, Box<Failure>> {
        let asked = Instant::now();
        let mut beats = None;
        let mut sent_before = None;
        loop {
            let (answer, uploader, sent) = {
                let mut archiving = ARCHIVING.exclusive();
                archiving.archiver = Latch::mine();
                let answer = archiving.queue.ask(&self.file, self.generation, self.numbers);
                let waits = matches!(answer, Answer::Wait);
                let moves = *beats.get_or_insert(archiving.uploader_beats) != archiving.uploader_beats;
                if waits && !moves && asked.elapsed() > STUCK && archiving.uploader_pid != 0 {
                    archiving.uploader_stuck = true;
                }
                // While the settings change, the uploader may have the new ones already: it would upload to another place.
                let alone = archiving.uploader_pid == 0 || archiving.uploader_stuck || process::reload_pending();
                if alone && waits {
                    archiving.queue.withdraw(&self.file);
                    let stuck = Some(archiving.uploader_pid).filter(|_| archiving.uploader_stuck && !moves);
                    drop(archiving);
                    // The log is told once: the next call finds it so.
                    if let Some(pid) = stuck.filter(|_| asked.elapsed() > STUCK) {
                        error::notify(&stuck_uploader(pid));
                    }
                    return Ok(Asked::NoUploader);
                }
                (answer, archiving.uploader, archiving.queue.sent(&self.file))
            };
            match answer {
                Answer::Done => return Ok(Asked::Done),
                Answer::Failed(failure) => return Err(Box::new(failure)),
                Answer::Wait => {}
            }
            sent_before = sent_before.or(sent);
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || process::shutdown_requested() {
                ARCHIVING.exclusive().queue.withdraw(&self.file);
                return Err(match left.is_zero() {
                    true => self.out_of_time(sent_before, sent),
                    false => note(&Error::Cancelled),
                });
            }
            uploader.set();
            latch::wait(None, Some(left.min(LIVENESS)));
            process::check_for_interrupts();
        }
    }

    /// Upload within the archiver itself: at shutdown, because PostgreSQL ends the uploader before the last segments are archived,
    /// in the moment after a crash, and when the uploader is stuck. If the time of this call is up, the upload goes on, and the
    /// next call finds it.
    fn upload_here(&self, name: &WalFileName, settings: &ArchiveSettings) -> Result<(), Box<Failure>> {
        if let Some(refused) = self.refused_at_the_end() {
            return Err(refused);
        }
        let own = match OWN.lock().take() {
            Some(own) if self.is_of(&own) => own,
            other => {
                if let Some(other) = other {
                    other.task.abort();
                }
                self.begin(name, settings).map_err(|refused| note(&refused))?
            }
        };
        let sent_before = Some(own.motion.bytes());
        let outcome = loop {
            match own.outcome.try_recv() {
                Ok(outcome) => break outcome,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => panic!("an upload of the archiver ended without a result"),
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if let Some(refused) = self.refused_at_the_end() {
                own.task.abort();
                return Err(refused);
            }
            if left.is_zero() || process::shutdown_requested() {
                let sent = Some(own.motion.bytes());
                *OWN.lock() = Some(own);
                return Err(match left.is_zero() {
                    true => self.out_of_time(sent_before, sent),
                    false => note(&Error::Cancelled),
                });
            }
            bridge::note_situation();
            Bridge::get().wait(Some(left.min(LIVENESS)));
            // An ERROR here abandons the upload.
            process::check_for_interrupts();
        };
        bridge::drain();
        let pushed = outcome.map_err(|failed| note(&failed))?;
        if pushed.fingerprint.to_numbers() != self.numbers {
            return Err(note(&Error::io(
                "read",
                self.file.as_str(),
                std::io::Error::other("it changed while it was read"),
            )));
        }
        let mut archiving = ARCHIVING.exclusive();
        archiving.queue.acknowledge(&self.file);
        archiving.counters.bytes_in += pushed.file_bytes;
        archiving.counters.bytes_out += if pushed.already_there { 0 } else { pushed.stored_bytes };
        Ok(())
    }

    fn is_of(&self, own: &Own) -> bool {
        own.file == self.file && own.generation == self.generation && own.numbers == self.numbers
    }

    fn begin(&self, name: &WalFileName, settings: &ArchiveSettings) -> Result<Own, Error> {
        let archive = bridge::archive(settings)?;
        let directory = server::data_directory().join(PG_WAL);
        let (motion, name) = (Arc::new(Motion::default()), *name);
        let (sender, outcome) = channel();
        let noting = Arc::clone(&motion);
        let work = async move { archive.push_noting(&directory, &name, noting, Brake::default()).await };
        let task = Bridge::get().spawn(work, move |result| {
            // This fails if nobody waits for the result any more.
            let _ = sender.send(result);
        });
        Ok(Own {
            file: self.file,
            generation: self.generation,
            numbers: self.numbers,
            motion,
            task,
            outcome,
        })
    }

    /// When the server stops, the archiver does not wait without end for a store that hangs.
    fn refused_at_the_end(&self) -> Option<Box<Failure>> {
        let limit = guc::shutdown_timeout();
        let waited = ARCHIVING.share().stopping_for()?;
        (waited > limit).then(|| {
            let mut failure = Box::new(Failure::from(&Error::Cancelled));
            failure.message = Text::new("the server stops before the file is archived");
            failure.detail = Text::new(&format!(
                "No file was archived within walarchive.shutdown_timeout, {} s.",
                limit.as_secs()
            ));
            failure.hint = Text::new("The file stays in pg_wal, and is archived after the next start.");
            failure
        })
    }

    /// The time of the call is up. An upload that moves is not a failure.
    fn out_of_time(&self, before: Option<u64>, now: Option<u64>) -> Box<Failure> {
        let within = guc::archive_timeout();
        match (before, now) {
            (Some(before), Some(now)) if now > before => {
                let mut failure = Box::new(Failure::from(&Error::Cancelled));
                failure.sqlstate = 0;
                let rate = (now - before) / within.as_secs().max(1);
                failure.message = Text::new(&format!(
                    "\"{}\" is still being uploaded after {} s: {now} bytes sent, {rate} bytes per second",
                    self.file.as_str(),
                    within.as_secs()
                ));
                failure
            }
            _ => {
                let mut failure = note(&Error::timeout("archive", self.file.as_str(), within));
                if let Some(sent) = now.filter(|sent| *sent > 0) {
                    failure.detail =
                        Text::new(&format!("{sent} bytes were handed to the network. The upload goes on."));
                }
                failure
            }
        }
    }
}

fn note(failed: &Error) -> Box<Failure> {
    let failure = Box::new(Failure::from(failed));
    ARCHIVING.exclusive().note_failure(&failure);
    failure
}

fn stuck_uploader(pid: i32) -> Failure {
    let error = Error::server(
        format!(
            "the walarchive uploader (process ID {pid}) does not respond, so the archiver uploads one file at a time by itself"
        ),
        "The store is not the reason. Look at the state of that process; if it was stopped (SIGSTOP), let it go on (SIGCONT).",
    );
    Failure::from(&error)
}
