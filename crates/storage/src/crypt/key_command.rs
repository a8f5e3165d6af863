//! A program that prints keys: of a vault, or of a service that keeps keys.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{Error, Result};

/// How long the program may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// How long it may take to vanish after it was killed.
const VANISHING: Duration = Duration::from_secs(1);

/// How often it is looked after.
const TICK: Duration = Duration::from_millis(5);

/// The most that it may print, in bytes: as much as a key file may have.
const LIMIT: usize = 1 << 20;

/// Run the program, which is the first word, with the other words for arguments, and return what it prints. No shell comes
/// between. It has the environment of this process, an empty standard input, signals as a new process has them, and a process
/// group of its own, which is killed at the deadline. What it prints is in no message. It has ended when its process has, whatever
/// that has left running.
pub(super) fn run(command: &[String], deadline: Duration) -> Result<Zeroizing<Vec<u8>>> {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let start = Instant::now();
    let (mut child, mut pipe) = spawn(command).map_err(|error| {
        Error::config(
            format!("could not run key command \"{program}\": {error}"),
            "Correct the name of the program, or install it where the user of the process can run it. It is run without a shell.",
        )
    })?;
    // With all its room from the beginning: it must not move and leave a copy.
    let mut output = Zeroizing::new(Vec::with_capacity(LIMIT + 1));
    loop {
        // In this order, so that all that it has printed is read.
        let end = child.end();
        read(&mut pipe, &mut output).map_err(|error| failed(program, &error.to_string()))?;
        match end {
            Some(WaitStatus::Exited(_, 0)) => return Ok(output),
            Some(WaitStatus::Exited(_, code)) => {
                return Err(failed(program, &format!("it ended with exit code {code}")));
            }
            Some(WaitStatus::Signaled(_, signal, _)) => {
                return Err(failed(
                    program,
                    &format!("it was terminated by signal {}", signal as i32),
                ));
            }
            Some(_) => return Err(failed(program, "its exit code is not known")),
            None if start.elapsed() >= deadline => {
                return Err(failed(
                    program,
                    &format!("it did not end within {} s", deadline.as_secs()),
                ));
            }
            None => std::thread::sleep(TICK),
        }
    }
}

fn failed(program: &str, why: &str) -> Error {
    Error::config(
        format!("key command \"{program}\" gave no key: {why}"),
        "Run it by hand as the user of the process. It prints what a key file has, and ends with exit code 0.",
    )
}

/// A process that does not outlive this value, unless it has ended well.
struct Child {
    pid: Pid,
    has_ended: bool,
}

impl Child {
    /// How it has ended, if it has.
    fn end(&mut self) -> Option<WaitStatus> {
        let status = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return None,
            // Somebody else has seen its end.
            Err(_) => WaitStatus::StillAlive,
            Ok(status) => status,
        };
        self.has_ended = true;
        Some(status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // It may be over just now.
        let _ = killpg(self.pid, Signal::SIGKILL);
        let start = Instant::now();
        while self.end().is_none() && start.elapsed() < VANISHING {
            std::thread::sleep(TICK);
        }
    }
}

/// Start the program. `Command` of the standard library would leave it the signals that are blocked in this thread, as all are in
/// the threads of a server, so that nothing but SIGKILL ended it.
fn spawn(command: &[String]) -> io::Result<(Child, PipeReader)> {
    let words = command.iter().map(|word| CString::new(word.as_str()));
    let words = words.collect::<Result<Vec<_>, _>>().map_err(io::Error::from)?;
    let program = words.first().ok_or(io::ErrorKind::NotFound)?;
    let (pipe, output) = io::pipe()?;
    let nothing = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let mut files = PosixSpawnFileActions::init()?;
    for (number, file) in [
        (1, output.as_raw_fd()),
        (0, nothing.as_raw_fd()),
        (2, nothing.as_raw_fd()),
    ] {
        files.add_dup2(file, number)?;
    }
    // A server has sockets and files open that are not closed by themselves.
    for open in open_files()?.into_iter().filter(|open| *open > 2) {
        files.add_close(open)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
    )?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_sigmask(&SigSet::empty())?;
    let environment = environment();
    let spawned = posix_spawnp(program, &files, &attributes, &words, &environment);
    // WAL-G's variables may hold keys.
    for variable in environment {
        variable.into_bytes().zeroize();
    }
    let child = Child {
        pid: spawned?,
        has_ended: false,
    };
    drop(output);
    let flags = fcntl(&pipe, FcntlArg::F_GETFL)?;
    fcntl(
        &pipe,
        FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK),
    )?;
    Ok((child, pipe))
}

/// The descriptors of this process. One that is closed meanwhile is closed in the child once more, which is no error.
fn open_files() -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.collect())
}

fn environment() -> Vec<CString> {
    let variables = std::env::vars_os().map(|(name, value)| {
        let mut variable = Vec::with_capacity(name.len() + value.len() + 2);
        variable.extend_from_slice(name.as_encoded_bytes());
        variable.push(b'=');
        let value = Zeroizing::new(value.into_vec());
        variable.extend_from_slice(&value);
        variable
    });
    // None has a zero byte in it, since the system has them with one at the end.
    variables.filter_map(|variable| CString::new(variable).ok()).collect()
}

/// Read what is there.
fn read(pipe: &mut PipeReader, output: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = Zeroizing::new([0; 4096]);
    loop {
        match pipe.read(&mut buffer[..]) {
            Ok(0) => return Ok(()),
            Ok(bytes) if output.len() + bytes > LIMIT => {
                return Err(io::Error::other(format!("it printed more than {LIMIT} bytes")));
            }
            Ok(bytes) => output.extend_from_slice(&buffer[..bytes]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
