//! The restored server: on a socket that only this user reaches, apart from everything else.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use walarchive_core::data_dir::POSTMASTER_PID;
use walarchive_core::{Error, Result};

use super::programs::Programs;
use super::scratch::Scratch;

const LOOK: Duration = Duration::from_millis(50);

/// An orderly end writes a checkpoint.
const STOPPING: Duration = Duration::from_secs(300);

/// The postmaster ends its children within some seconds.
const ENDING: Duration = Duration::from_secs(20);

/// So much of a log is shown.
const SHOWN: u64 = 4096;

/// What a server does without unless somebody asks for it: libraries may start jobs, and a drill is not to take the machine's
/// memory.
const USUAL: [&str; 8] = [
    "shared_preload_libraries=",
    "session_preload_libraries=",
    "local_preload_libraries=",
    "shared_buffers=128MB",
    "huge_pages=try",
    "autovacuum=off",
    // The original's may fill the disk; the largest segments demand so much.
    "max_wal_size=2GB",
    "min_wal_size=2GB",
];

/// Nothing goes out of this server: no WAL, no connection, no command that the original's configuration names.
const APART: [&str; 16] = [
    "archive_command=",
    "archive_mode=off",
    "cluster_name=",
    "event_source=PostgreSQL",
    "external_pid_file=",
    // What the original had of max_connections and the like is no concern of a recovery that nobody looks into.
    "hot_standby=off",
    "lc_messages=C",
    "listen_addresses=",
    "log_destination=stderr",
    "log_min_messages=warning",
    "logging_collector=off",
    "port=5432",
    "restart_after_crash=off",
    "ssl=off",
    "synchronous_standby_names=",
    "unix_socket_group=",
];

/// The same, with settings that came with a major version, or went.
const APART_SINCE: [(u32, u32, &str); 11] = [
    (10, u32::MAX, "max_logical_replication_workers=0"),
    (12, u32::MAX, "archive_cleanup_command="),
    (12, u32::MAX, "primary_conninfo="),
    (12, u32::MAX, "recovery_end_command="),
    (15, u32::MAX, "archive_library="),
    (9, 14, "stats_temp_directory=pg_stat_tmp"),
    (12, 15, "promote_trigger_file="),
    (12, u32::MAX, "recovery_min_apply_delay=0"),
    (9, 12, "wal_keep_segments=0"),
    (13, u32::MAX, "wal_keep_size=0"),
    (17, u32::MAX, "event_triggers=off"),
];

/// The configuration of a backup that has none, as on Debian.
const MINIMAL: &str = "max_connections = 20\nmax_prepared_transactions = 1000\nmax_locks_per_transaction = 256\n";

/// The first line of its log says how the original was ended, before anything is recovered.
const BEGUN: &str = "database system was ";

/// What ends a server though nothing is wrong with the backup. The WAL was read beforehand, so that a segment which cannot be fetched
/// is a trouble of the store.
const TROUBLES: [&str; 9] = [
    "could not restore file",
    "No space left on device",
    "Disk quota exceeded",
    "Cannot allocate memory",
    "out of memory",
    "was terminated by signal 9",
    "received smart shutdown request",
    "received fast shutdown request",
    "received immediate shutdown request",
];

/// A log is searched so far.
const SEARCHED: u64 = 1 << 20;

/// The server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pid: i32,
    major: u32,
    programs: Programs,
    scratch: Paths,
}

#[derive(Debug)]
struct Paths {
    data: std::path::PathBuf,
    socket: std::path::PathBuf,
    log: std::path::PathBuf,
}

impl Server {
    /// Start it. It recovers by itself.
    pub fn start(programs: &Programs, scratch: &Scratch, major: u32, settings: &[String]) -> Result<Self> {
        let paths = Paths {
            data: scratch.data(),
            socket: scratch.socket(),
            log: scratch.file("server.log"),
        };
        let (hba, ident) = (scratch.file("pg_hba.conf"), scratch.file("pg_ident.conf"));
        write(&hba, "local all all trust\n")?;
        write(&ident, "")?;
        let mut own = vec![
            format!("data_directory={}", paths.data.display()),
            format!("hba_file={}", hba.display()),
            format!("ident_file={}", ident.display()),
            format!("unix_socket_directories={}", paths.socket.display()),
        ];
        if !paths.data.join("postgresql.conf").exists() {
            let minimal = scratch.file("postgresql.conf");
            write(&minimal, MINIMAL)?;
            own.push(format!("config_file={}", minimal.display()));
        }
        let of_version = APART_SINCE
            .iter()
            .filter(|(first, last, _)| (*first..=*last).contains(&major))
            .map(|(_, _, setting)| *setting);
        // A later one counts.
        let all = USUAL
            .into_iter()
            .chain(settings.iter().map(String::as_str))
            .chain(APART)
            .chain(of_version)
            .chain(own.iter().map(String::as_str));
        let mut command = programs.command("postgres");
        command.arg("-D").arg(&paths.data);
        for setting in all {
            command.args(["-c", setting]);
        }
        let log = File::create(&paths.log).map_err(|error| Error::io("create", &paths.log, error))?;
        let copy = log
            .try_clone()
            .map_err(|error| Error::io("create", &paths.log, error))?;
        // In a group of its own, Ctrl-C reaches this program only, which ends the server in order.
        command.stdout(copy).stderr(log).process_group(0).kill_on_drop(false);
        let child = command
            .spawn()
            .map_err(|error| Error::io("run", programs.path("postgres"), error))?;
        Ok(Server {
            pid: child.id().map_or(0, u32::cast_signed),
            child,
            major,
            programs: programs.clone(),
            scratch: paths,
        })
    }

    /// Wait until recovery is over. Returns the end of the log if the server ends instead.
    pub async fn wait_recovered(&mut self) -> Result<(), String> {
        loop {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return Err(tail(&self.scratch.log));
            }
            if self.is_ready().await {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn is_ready(&self) -> bool {
        // Before 10 the file does not tell.
        if self.major < 10 {
            let mut command = self.client("pg_isready", None);
            return command.output().await.is_ok_and(|output| output.status.success());
        }
        let text = fs::read_to_string(self.scratch.data.join(POSTMASTER_PID)).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(&self.pid.to_string()) && lines.nth(6) == Some("ready")
    }

    /// A client program with the arguments that lead to this server.
    pub fn client(&self, program: &str, role: Option<&str>) -> tokio::process::Command {
        let mut command = self.programs.command(program);
        command.arg("-h").arg(&self.scratch.socket).args(["-p", "5432"]);
        if let Some(role) = role {
            command.args(["-U", role]);
        }
        command
    }

    /// Its major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The directory of its socket.
    pub fn socket(&self) -> &Path {
        &self.scratch.socket
    }

    /// Does it run?
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// It has ended before the end of recovery: was that because of this machine, or the store? `log` is the end of its log.
    pub fn trouble(&self, log: &str) -> Option<Error> {
        trouble(&head(&self.scratch.log), log)
    }

    /// Has recovery stopped at its target? Before PostgreSQL 13 a server that does not come to it becomes a primary at the end of the
    /// WAL, and says nothing.
    pub fn has_stopped_at_target(&self) -> bool {
        const STOPPED: &[u8] = b"recovery stopping ";
        let Ok(log) = File::open(&self.scratch.log) else {
            return false;
        };
        let mut lines = BufReader::new(log).split(b'\n').map_while(std::io::Result::ok);
        lines.any(|line| line.windows(STOPPED.len()).any(|part| part == STOPPED))
    }

    /// Where its log is.
    pub fn log_file(&self) -> &Path {
        &self.scratch.log
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.scratch.log)
    }

    /// End it in order. An error if it does not end so.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGINT);
        match tokio::time::timeout(STOPPING, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            _ => {
                self.end().await;
                Err(Error::refused(
                    "the restored server did not end in order",
                    format!("The end of its log: {}", self.log()),
                ))
            }
        }
    }

    /// End it as after a crash.
    pub async fn end(&mut self) {
        let begun = Instant::now();
        self.signal(Signal::SIGQUIT);
        while begun.elapsed() < ENDING {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        // Its children notice, and end.
        let _ = self.child.kill().await;
    }

    fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            // If it is gone by now, that is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Error::io("write", path, error))
}

fn trouble(head: &str, log: &str) -> Option<Error> {
    let hint = format!("The end of its log: {log}");
    if !head.contains(BEGUN) {
        return Some(Error::refused("the restored server could not be started", hint));
    }
    let is_trouble = TROUBLES.iter().any(|trouble| log.contains(trouble));
    is_trouble.then(|| Error::refused("the restored server was stopped before the end of recovery", hint))
}

/// The first lines of a file.
fn head(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(SEARCHED).read_to_end(&mut bytes));
    String::from_utf8_lossy(read.map_or(&[], |_| &bytes)).into_owned()
}

/// The last lines of a file.
pub fn tail(path: &Path) -> String {
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut bytes = Vec::new();
        file.take(SHOWN).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    String::from_utf8_lossy(&read.unwrap_or_default()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::trouble;

    #[test]
    fn the_log_tells_whether_the_backup_is_to_blame() {
        let begun = "LOG:  database system was interrupted; last known up at 2026-11-20 10:00:00 UTC\n";
        let said = |head: &str, log: &str| trouble(head, log).map(|error| error.to_string());
        let unstarted = said(
            "",
            "FATAL:  could not map anonymous shared memory: Cannot allocate memory",
        );
        assert!(unstarted.is_some_and(|text| text.contains("could not be started")));
        for log in [
            "FATAL:  could not restore file \"000000010000000000000005\" from archive: child process exited with exit code 200",
            "PANIC:  could not write to file \"pg_wal/xlogtemp.9\": No space left on device",
            "LOG:  startup process (PID 9) was terminated by signal 9: Killed",
        ] {
            assert!(
                said(begun, log).is_some_and(|text| text.contains("was stopped")),
                "{log}"
            );
        }
        for log in [
            "FATAL:  recovery ended before configured recovery target was reached",
            "PANIC:  WAL contains references to invalid pages",
            "FATAL:  WAL ends before end of online backup",
        ] {
            assert_eq!(said(begun, log), None, "{log}");
        }
    }
}
