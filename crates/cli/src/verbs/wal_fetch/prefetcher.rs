//! A process that fetches ahead of recovery where the server has no worker for that. `wal-fetch` starts it, and nobody waits for it: it
//! ends by itself when recovery is over or asks for nothing, when the server is gone, and when the server's worker comes.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use walarchive_core::archive::identity_of;
use walarchive_core::archive::prefetch::{Prefetcher, Situation, Spool};
use walarchive_core::recovery_state::is_in_recovery;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use super::args::WalFetch;
use crate::repository::data_dir::{data_dir_beside, running_postmaster};

/// It ends when recovery has asked for nothing for so long. A standby that waits for WAL asks every 5 seconds.
const IDLE: Duration = Duration::from_secs(15);

/// How often it looks whether the server still recovers.
const LOOK: Duration = Duration::from_millis(200);

/// One that could not do its work is not started again sooner.
const AGAIN: Duration = Duration::from_secs(5);

/// In a container the server may be the first process. It then becomes the parent of each process whose parent has ended, and takes
/// one that ended by a signal for a crash of its own: it would restart.
const FIRST_PROCESS: i32 = 1;

const VERB: &str = "wal-fetch";
const FLAG: &str = "--prefetcher";

/// Start it, if nobody fetches ahead. A failure only means that nothing comes ahead.
pub fn start(spool: &Spool, postmaster: i32) {
    if postmaster == FIRST_PROCESS {
        return;
    }
    if spool.has_prefetcher() || spool.last_claim().is_some_and(|ago| ago < AGAIN) {
        return;
    }
    let started = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(with_flag(std::env::args_os().skip(1)))
            // The server's log waits for the end of all that write to it.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The server signals the whole group of its startup process.
            .process_group(0)
            .spawn()
    });
    if let Err(error) = started {
        eprintln!("walarchive: warning: WAL is not fetched ahead of recovery: {error}");
    }
}

/// The flag comes right behind the verb: further behind it may be taken for a path.
fn with_flag(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let verb = args.iter().position(|arg| arg == VERB);
    args.insert(verb.map_or(args.len(), |verb| verb + 1), FLAG.into());
    args
}

/// Is this such a process? Asked before the arguments are read, which may be wrong.
pub fn is_prefetcher(args: impl Iterator<Item = OsString>) -> bool {
    args.skip_while(|arg| arg != VERB).nth(1).is_some_and(|arg| arg == FLAG)
}

/// Be that process.
pub fn run(args: &WalFetch) -> Result<()> {
    close_inherited();
    let no_server = || Error::refused("no server recovers here", "wal-fetch starts this process by itself.");
    let data_dir = data_dir_beside(&args.path).ok_or_else(no_server)?;
    let postmaster = running_postmaster(&data_dir).ok_or_else(no_server)?;
    let settings = args.settings()?;
    let spool = Spool::beside(&args.path, &settings.storage).ok_or_else(no_server)?;
    let Some(_claim) = spool.claim() else {
        return Ok(());
    };
    let prefetcher = Prefetcher {
        store: Store::open(&settings.storage)?,
        spool: spool.clone(),
        reads_first: settings.reads_first,
        identity: identity_of(&args.path)?,
        most: args.ahead(&settings),
        idle_limit: Some(IDLE),
        // Recovery may have asked for a history file only.
        asked: args.name.parse().ok(),
    };
    let mut last: Option<(Instant, Situation)> = None;
    let look = move || match last {
        Some((at, situation)) if at.elapsed() < LOOK => situation,
        _ => {
            let situation = match running_postmaster(&data_dir) {
                // The server was started again. The spool is the new one's.
                Some(other) if other != postmaster => Situation::Relieved,
                Some(_) if is_in_recovery(&data_dir) => match spool.has_worker() {
                    true => Situation::Relieved,
                    false => Situation::Recovering(None),
                },
                _ => Situation::Over,
            };
            last = Some((Instant::now(), situation));
            situation
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("start threads in", "/proc/self", error))?;
    // Recovery cannot be woken from here.
    runtime.block_on(prefetcher.run(look, None::<fn()>));
    // Downloads on other threads end by themselves, or with this process.
    runtime.shutdown_background();
    Ok(())
}

/// The server's descriptors: pipes that others wait for the end of, files and sockets.
fn close_inherited() {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // The one of the listing itself is closed already.
        let _ = nix::unistd::close(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_taken_for_no_path() {
        let args = |text: &str| -> Vec<OsString> { text.split(' ').map(OsString::from).collect() };
        let given = args("--config f wal-fetch --storage s -- NAME PATH");
        assert!(!is_prefetcher(given.iter().cloned()));
        let called = with_flag(given.into_iter());
        assert_eq!(
            called,
            args("--config f wal-fetch --prefetcher --storage s -- NAME PATH")
        );
        assert!(is_prefetcher(called.into_iter()));
    }
}
