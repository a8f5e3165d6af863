use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User, geteuid};

use crate::wait::{PATIENCE, wait_until};

/// The user as whom servers run: `postgres` when we are root, None when we can run them ourselves.
pub(crate) fn server_user() -> Option<(Uid, Gid)> {
    static USER: OnceLock<Option<(Uid, Gid)>> = OnceLock::new();
    *USER.get_or_init(|| {
        geteuid().is_root().then(|| {
            let user = User::from_name("postgres").expect("could not read the list of users");
            let user = user.expect("the tests run as root, and there is no user postgres to run servers as");
            (user.uid, user.gid)
        })
    })
}

/// A command that runs as the server's user, in an environment that holds nothing of the caller's.
pub(crate) fn server_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    // Root's current directory is likely closed to postgres.
    command.current_dir("/").env_clear().env("LC_ALL", "C").env("TZ", "UTC");
    if let Some((uid, gid)) = server_user() {
        // std drops root's supplementary groups when it changes the user.
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    command
}

/// Sends a signal to one process. That the process is gone already is no failure, since a test cannot know.
pub fn kill_pid(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(e) => panic!("could not send {signal} to process {pid}: {e}"),
    }
}

/// Whether a process runs. One that ended and was not waited for yet counts as gone.
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| !has_ended(pid, state))
}

/// A process looks dead when its first thread has ended. As long as another thread runs, such as one that the kernel still writes
/// a file for, its memory is there, and no server starts in the same directory.
fn has_ended(pid: i32, state: char) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    matches!(state, 'Z' | 'X') && threads() <= 1
}

/// Has SIGSTOP reached the process? It may be in the middle of a fork when the signal is sent.
pub(crate) fn is_stopped(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| matches!(state, 'T' | 'Z' | 'X'))
}

/// The state letter and the parent of a process.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The running children of a process: their ids and titles, as in `postgres: archiver last was 00000001…`.
pub(crate) fn children(parent: i32) -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").expect("could not read /proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| stat(pid).is_some_and(|(state, ppid)| ppid == parent && !has_ended(pid, state)))
        .filter_map(|pid| {
            let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let title = String::from_utf8_lossy(&title).replace('\0', " ").trim().to_owned();
            Some((pid, title))
        })
        .collect()
}

/// Start a server and wait until it listens on the port. None: it has ended instead.
pub(crate) fn listening(command: &mut Command, port: u16, name: &str) -> Option<Child> {
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("could not start {:?}: {e}", command.get_program()));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut ended = false;
    wait_until(&format!("{name} listens"), PATIENCE, || {
        ended = !matches!(child.try_wait(), Ok(None));
        ended || TcpStream::connect(address).is_ok()
    });
    // Another server may listen that took the port, while ours is about to end.
    (!ended).then_some(child)
}
