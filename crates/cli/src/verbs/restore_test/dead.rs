//! A server whose starter is gone.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use walarchive_core::data_dir::POSTMASTER_PID;
use walarchive_core::{Error, Result};

/// The postmaster itself ends its children within some seconds.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

/// The postmaster that runs on a data directory. Its number may belong to another process by now: the working directory of a
/// postmaster is its data directory.
pub fn postmaster(data: &Path) -> Option<i32> {
    let text = fs::read_to_string(data.join(POSTMASTER_PID)).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let at_work_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (at_work_in == fs::canonicalize(data).ok()?).then_some(pid)
}

/// End the server on a data directory, if there is one, as after a crash: nobody needs what it has.
pub async fn stop(data: &Path) -> Result<()> {
    let begun = Instant::now();
    let mut told = None;
    while let Some(pid) = postmaster(data) {
        let signal = match begun.elapsed() > PATIENCE {
            true => Signal::SIGKILL,
            false => Signal::SIGQUIT,
        };
        if told != Some(signal) {
            // If it is gone by now, that is what was wanted.
            let _ = kill(Pid::from_raw(pid), signal);
            told = Some(signal);
        }
        if begun.elapsed() > 2 * PATIENCE {
            return Err(Error::refused(
                format!("the server on directory \"{}\" does not end", data.display()),
                "Look why its process hangs, and stop it.",
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
