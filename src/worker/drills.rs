//! Restore drills by `walarchive.drill_schedule`. A drill is a process of its own, the program `walarchive` beside the server's: what
//! it restores and starts has nothing to do with this server, and its work has a low priority.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use nix::sys::memfd::{MFdFlags, memfd_create};
use pgrx::prelude::*;
use walarchive_core::repository::drills::{self, Drill, DrillStatus};
use walarchive_core::schedule::Schedule;
use walarchive_core::server_config::encryption;
use walarchive_core::{Error, Result, printable};

use crate::bridge::{self, Flow};
use crate::error::{self, Severity};
use crate::guc::{self, ArchiveSettings};
use crate::pg::{priority, process, server};
use crate::shmem::{Failure, LastDrill, Outcome, SCHEDULING, Text, now_us};

/// How soon the end of a drill is noticed.
const LIVENESS: Duration = Duration::from_secs(1);

/// The clock may be set, and the machine may sleep.
const RECHECK: Duration = Duration::from_secs(60);

/// How often the repository is asked what other hosts have proven.
const LOOK: Duration = Duration::from_secs(3600);

/// A server that drills nothing itself asks for the first time so long after its start, when it has better things to do.
const FIRST_LOOK: Duration = Duration::from_secs(120);

/// The longest that this may take; this process does nothing else meanwhile.
const LISTING: Duration = Duration::from_secs(120);

/// The same on a server that drills nothing itself.
const SHORT_LISTING: Duration = Duration::from_secs(10);

/// So much of a drill's output is read.
const LONGEST: u64 = 256 << 10;

/// A message of the program begins with this.
const PROGRAM: &str = "walarchive: ";

/// So many lines of its messages are logged.
const LINES: usize = 20;

pub(super) struct Drills {
    began: Instant,
    basis: Option<Schedule>,
    next: Option<DateTime<Utc>>,
    running: Option<Running>,
    looked: Option<Instant>,
    /// What the last look has failed with.
    look_failed: Option<String>,
    sweeping: Sweeping,
}

/// The removal of what drills have left that were killed, for example together with this server. Once, when this process starts.
enum Sweeping {
    /// In these directories.
    Due(Vec<PathBuf>),
    /// At work in one of them, and the others come then.
    Running(Child, Vec<PathBuf>),
    Done,
}

/// A drill, and the memory that takes its output. The drill ends in order when its standard input is closed, which happens when this
/// is dropped, and in whatever way this process ends.
struct Running {
    child: Child,
    output: File,
    messages: File,
}

impl Drills {
    pub(super) fn new() -> Self {
        Drills {
            began: Instant::now(),
            basis: None,
            next: None,
            running: None,
            looked: None,
            look_failed: None,
            sweeping: Sweeping::Due(places()),
        }
    }

    /// Do what is to be done now. Returns how long to wait.
    pub(super) fn turn(&mut self) -> Duration {
        self.learn();
        self.sweep();
        let schedule = guc::drill_schedule();
        if self.basis != schedule {
            self.next = schedule.as_ref().map(|schedule| schedule.after(Utc::now()));
            // Not only when the first one is due, which may be in a week.
            if schedule.is_some()
                && let Err(error) = guc::needed_drill_directory()
            {
                error::warn("restore drills cannot be made", &Failure::from(&error));
            }
            self.basis = schedule.clone();
        }
        let now = Utc::now();
        if let (Some(schedule), Some(due)) = (&schedule, self.next)
            && due <= now
        {
            self.next = Some(schedule.after(now));
            // A time that passes while a drill is at work is left out.
            if self.running.is_none() {
                self.start("scheduled");
            }
        }
        let wanted = std::mem::take(&mut SCHEDULING.exclusive().drill_wanted);
        if wanted && self.running.is_none() {
            self.start("requested");
        }
        self.look(schedule.is_some());
        SCHEDULING.exclusive().next_drill_us = self.next.map_or(0, |next| next.timestamp_micros());
        let is_busy = self.running.is_some() || matches!(self.sweeping, Sweeping::Running(..));
        match (is_busy, self.next) {
            (true, _) => LIVENESS,
            (false, Some(next)) => (next - Utc::now()).to_std().unwrap_or_default().min(RECHECK),
            (false, None) => RECHECK,
        }
    }

    /// Whether there is a schedule or not: the servers of dead drills would go on for ever.
    fn sweep(&mut self) {
        let mut left = match std::mem::replace(&mut self.sweeping, Sweeping::Done) {
            Sweeping::Due(left) => left,
            Sweeping::Running(mut child, left) => match child.try_wait() {
                Ok(None) => {
                    self.sweeping = Sweeping::Running(child, left);
                    return;
                }
                _ => left,
            },
            Sweeping::Done => return,
        };
        while let Some(directory) = left.pop() {
            if !has_drills(&directory) {
                continue;
            }
            match remove_dead(&directory) {
                Ok(child) => {
                    self.sweeping = Sweeping::Running(child, left);
                    return;
                }
                Err(error) => log!("walarchive: could not remove what restore drills have left: {error}"),
            }
        }
    }

    fn start(&mut self, why: &str) {
        SCHEDULING.exclusive().drill_running = true;
        match begin() {
            Ok(running) => {
                log!("walarchive: starting a {why} restore drill");
                self.running = Some(running);
            }
            Err(error) => conclude(Err(&Failure::from(&error))),
        }
    }

    /// Has the drill ended?
    fn learn(&mut self) {
        let Some(running) = &mut self.running else { return };
        if matches!(running.child.try_wait(), Ok(None)) {
            return;
        }
        let Some(mut running) = self.running.take() else { return };
        // The reason for a missing one is among the messages.
        let drill = serde_json::from_str::<Drill>(&content(&mut running.output)).ok();
        let messages = content(&mut running.messages);
        match drill {
            Some(drill) => {
                // With --quiet it has nothing else to say than warnings: that the result could not be written down, for example.
                for said in said(&messages) {
                    error::warn("restore drill", &said);
                }
                match drill.status {
                    DrillStatus::Ok => conclude(Ok(&drill)),
                    _ => conclude(Err(&failed(&drill))),
                }
            }
            None => {
                let error = Error::server("the restore drill has ended without a result", "See the DETAIL.");
                let lines: Vec<&str> = messages.lines().take(LINES).collect();
                conclude(Err(&Failure {
                    detail: Text::new(&lines.join("\n")),
                    ..Failure::from(&error)
                }));
            }
        }
    }

    /// What has been proven, here or elsewhere? A failure is no news: the drill itself reports it. One that lasts is logged once.
    fn look(&mut self, has_schedule: bool) {
        let is_early = match self.looked {
            Some(looked) => looked.elapsed() < LOOK,
            None => !has_schedule && self.began.elapsed() < FIRST_LOOK,
        };
        if is_early || (!has_schedule && ArchiveSettings::current().is_err()) {
            return;
        }
        self.looked = Some(Instant::now());
        let within = if has_schedule { LISTING } else { SHORT_LISTING };
        let failed = match newest(within) {
            Ok(newest) => {
                if let Some(newest) = newest {
                    SCHEDULING.exclusive().saw_proven(newest.timestamp_micros());
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed.as_ref().filter(|_| failed != self.look_failed) {
            log!("walarchive: could not read what restore drills have shown: {error}");
        }
        self.look_failed = failed;
    }
}

/// Where drills may have left something: in their directory, and where they were made as long as a schedule needed none.
fn places() -> Vec<PathBuf> {
    let chosen = guc::drill_directory().map(PathBuf::from);
    let mut places = vec![std::env::temp_dir()];
    places.extend(chosen.filter(|chosen| *chosen != places[0]));
    places
}

/// Is there the directory of a drill? That one is at work in it does not matter: the program looks.
fn has_drills(place: &Path) -> bool {
    let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .any(|name| name.as_encoded_bytes().starts_with(b"walarchive-drill-"))
}

fn remove_dead(directory: &Path) -> Result<Child> {
    let mut command = program();
    command
        .args(["restore-test", "--remove-dead", "--quiet", "--directory"])
        .arg(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    spawn(&mut command)
}

/// In a group of its own: what the postmaster sends to that of this process is not meant for it.
fn program() -> Command {
    let mut command = Command::new(server::program_directory().join("walarchive"));
    command.process_group(0);
    command
}

fn spawn(command: &mut Command) -> Result<Child> {
    let spawned = command.spawn();
    spawned.map_err(|error| Error::io("run", command.get_program(), error))
}

fn begin() -> Result<Running> {
    let storage = ArchiveSettings::current()?.storage;
    let directory = guc::needed_drill_directory()?;
    let failed = |error: nix::Error| Error::io("create", "memory for the output of a restore drill", error.into());
    let memory = |name| {
        memfd_create(name, MFdFlags::MFD_CLOEXEC)
            .map(File::from)
            .map_err(failed)
    };
    let (output, messages) = (memory(c"restore drill")?, memory(c"restore drill messages")?);
    let copy = |file: &File| {
        let copy = file.try_clone();
        copy.map_err(|error| Error::io("create", "memory for the output of a restore drill", error))
    };
    let mut command = program();
    command.args([
        "restore-test",
        "--with-stdin",
        "--json",
        "--quiet",
        "--directory",
        &directory,
        "--storage",
        &storage.url,
    ]);
    for pair in storage.options.pairs() {
        command.args(["--storage-option", &pair]);
    }
    if let Some(file) = &storage.credentials_file {
        command.arg("--credentials-file").arg(file);
    }
    for file in &storage.encryption.key_files {
        command.arg("--encryption-key-file").arg(file);
    }
    if !storage.encryption.key_command.is_empty() {
        let words = encryption::of_words(&storage.encryption.key_command);
        command.arg("--encryption-key-command").arg(words);
    }
    if storage.encryption.accept_plain {
        command.arg("--accept-plain");
    }
    // A drill writes down what it has shown.
    if let (true, Some(method)) = (storage.encryption.metadata, storage.encryption.writes) {
        let method = encryption::name_of(Some(method));
        command.args(["--encrypt-metadata", "--encryption", method]);
    }
    if let Some(file) = guc::drill_sql_file() {
        command.arg("--run").arg(file);
        if let Some(role) = guc::drill_sql_role() {
            command.arg("--run-as").arg(role);
        }
    }
    command
        .stdin(Stdio::piped())
        .stdout(copy(&output)?)
        .stderr(copy(&messages)?);
    let child = spawn(&mut command)?;
    // It starts with one thread, and those that it starts then have the same priority. That it is low is not a must.
    if let Err(error) = priority::lower_process(child.id()) {
        log!("walarchive: the restore drill runs with a usual priority: {error}");
    }
    Ok(Running {
        child,
        output,
        messages,
    })
}

/// The text of such a memory.
fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.take(LONGEST).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// The messages of the program, each with its DETAIL and HINT.
fn said(messages: &str) -> Vec<Failure> {
    let mut all: Vec<[String; 3]> = Vec::new();
    let mut part = 0;
    for line in messages.lines().take(LINES) {
        let mut text = line;
        for (at, mark) in [(1, "DETAIL:  "), (2, "HINT:  ")] {
            if let Some(rest) = line.strip_prefix(mark) {
                (part, text) = (at, rest);
            }
        }
        match all.last_mut() {
            Some(last) if !line.starts_with(PROGRAM) => {
                let known = &mut last[part];
                if !known.is_empty() {
                    known.push('\n');
                }
                known.push_str(&printable::line(text));
            }
            _ => {
                part = 0;
                let text = text.trim_start_matches(PROGRAM).trim_start_matches("warning: ");
                all.push([printable::line(text).into_owned(), String::new(), String::new()]);
            }
        }
    }
    let failure = |[message, detail, hint]: [String; 3]| Failure {
        sqlstate: PgSqlErrorCode::ERRCODE_WARNING as i32,
        canceled: false,
        message: Text::new(&message),
        detail: Text::new(&detail),
        hint: Text::new(&hint),
    };
    all.into_iter().map(failure).collect()
}

fn failed(drill: &Drill) -> Failure {
    let failed = drill.checks.iter().filter(|check| check.status == DrillStatus::Failed);
    let detail: Vec<String> = failed
        .map(|check| format!("{}: {}", check.check, check.detail))
        .collect();
    let error = Error::server(
        format!("backup \"{}\" failed the restore drill", drill.backup),
        "Run walarchive restore-test by hand with --keep to look at the restored server.",
    );
    Failure {
        detail: Text::new(&detail.join("\n")),
        ..Failure::from(&error)
    }
}

/// Tell the log and `walarchive_status`.
fn conclude(result: Result<&Drill, &Failure>) {
    let now = now_us();
    let last = match result {
        Ok(drill) => {
            let seconds = |seconds: Option<f64>| seconds.unwrap_or_default();
            let text = format!(
                "backup \"{}\" is proven: restored in {:.1} s, recovered in {:.1} s to LSN {}{}",
                drill.backup,
                seconds(drill.restore_seconds),
                seconds(drill.replay_seconds),
                drill.lsn.unwrap_or_default(),
                drill.left_out()
            );
            error::log_line(Severity::Log, &text);
            LastDrill {
                outcome: Outcome::Succeeded,
                error: Text::EMPTY,
                ended_us: now,
            }
        }
        Err(failure) => {
            error::warn("restore drill failed", failure);
            LastDrill {
                outcome: Outcome::Failed,
                error: failure.message,
                ended_us: now,
            }
        }
    };
    let mut scheduling = SCHEDULING.exclusive();
    scheduling.drill = last;
    scheduling.drill_running = false;
    if let Ok(drill) = result {
        scheduling.saw_proven(drill.stop_time.timestamp_micros());
    }
}

fn newest(within: Duration) -> Result<Option<DateTime<Utc>>> {
    let archive = bridge::archive(&ArchiveSettings::current()?)?;
    let work = async move {
        match tokio::time::timeout(within, drills::proven(archive.store())).await {
            Ok(proven) => Ok(proven?.into_values().max()),
            Err(_elapsed) => Err(Error::timeout("list", archive.store().url(), within)),
        }
    };
    let listed = bridge::run(work, None, || match process::shutdown_requested() {
        true => Flow::Stop,
        false => Flow::Wait,
    });
    listed.unwrap_or(Err(Error::Cancelled))
}
