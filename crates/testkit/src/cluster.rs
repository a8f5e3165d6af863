use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::builder::{Builder, CONF, append_settings};
use crate::pg::Pg;
use crate::process::{children, is_alive, is_stopped, kill_pid};
use crate::wait::{PATIENCE, wait_until};

/// A database cluster of the test's own, with its server, which may be running or not.
///
/// It listens on a Unix socket in the test's directory only. Dropping it stops the server at once; when the test
/// panicked, the end of the server's log is printed.
pub struct Cluster {
    pg: Pg,
    name: String,
    datadir: PathBuf,
    socket_dir: PathBuf,
    port: u16,
    env: Vec<(String, String)>,
    server_args: Vec<String>,
    log_path: PathBuf,
    postmaster: Mutex<Option<Child>>,
}

/// How [`Cluster::stop`] stops a server, as `pg_ctl stop -m` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Wait for all clients to leave.
    Smart,
    /// Disconnect the clients, write a shutdown checkpoint.
    Fast,
    /// Like a crash; recovery follows at the next start.
    Immediate,
}

impl Cluster {
    /// Begins the description of a cluster: its data directory will be `dir/name`, its log `dir/name.log`.
    pub fn builder(dir: &Path, name: &str) -> Builder {
        Builder::new(dir, name)
    }

    pub(crate) fn new(from: Builder, datadir: PathBuf, port: u16) -> Cluster {
        Cluster {
            log_path: from.base.join(format!("{}.log", from.name)),
            pg: from.pg,
            name: from.name,
            datadir,
            socket_dir: from.base,
            port,
            env: from.env,
            server_args: from.server_args,
            postmaster: Mutex::new(None),
        }
    }

    /// The PostgreSQL that it runs on.
    pub fn pg(&self) -> &Pg {
        &self.pg
    }

    /// The data directory.
    pub fn datadir(&self) -> &Path {
        &self.datadir
    }

    /// The directory of its socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The port, which is a part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id. Panics when the server does not run.
    #[track_caller]
    pub fn postmaster_pid(&self) -> i32 {
        self.child()
            .as_ref()
            .unwrap_or_else(|| panic!("{} does not run", self.name))
            .id() as i32
    }

    /// Starts the server, which must not be running, and waits until it accepts connections. Panics if it ends instead.
    #[track_caller]
    pub fn start_again(&self) {
        if let Err(log) = self.try_start() {
            panic!("{} did not start:\n{log}", self.name);
        }
    }

    /// Like [`Cluster::start_again`], for a start that may fail: the error is what the server logged meanwhile.
    #[track_caller]
    pub fn try_start(&self) -> Result<(), String> {
        let mark = self.log_mark();
        self.spawn_server();
        let mut ended = false;
        self.wait_until("the server accepts connections", 5 * PATIENCE, || {
            ended = !self.is_running();
            ended || self.accepts_connections()
        });
        if ended { Err(self.log_since(mark)) } else { Ok(()) }
    }

    /// Starts the server and does not wait for anything.
    #[track_caller]
    pub fn spawn_server(&self) {
        assert!(!self.is_running(), "{} is running already", self.name);
        let mut child = self.child();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log_path)
            .expect("could not open the log");
        let mut command = self.pg.program("postgres");
        command
            .arg("-D")
            .arg(&self.datadir)
            .envs(self.env.iter().map(|(k, v)| (k, v)));
        // Settings of this server go here: the data directory may be another cluster's, restored.
        command.args(["-c", "listen_addresses=", "-c", "logging_collector=off"]);
        command.args(["-c", &format!("port={}", self.port)]);
        command.args(["-c", &format!("unix_socket_directories={}", self.socket_dir.display())]);
        command.args(&self.server_args);
        // In a process group of its own, Ctrl-C at the terminal ends the tests, and they end the server.
        command.process_group(0).stdin(std::process::Stdio::null());
        command
            .stderr(log.try_clone().expect("could not duplicate the log's descriptor"))
            .stdout(log);
        *child = Some(
            command
                .spawn()
                .unwrap_or_else(|e| panic!("could not start {}: {e}", self.name)),
        );
    }

    /// Whether the postmaster lives.
    pub fn is_running(&self) -> bool {
        let mut child = self.child();
        let running = child
            .as_mut()
            .is_some_and(|c| c.try_wait().expect("could not ask for a child's state").is_none());
        if !running {
            *child = None;
        }
        running
    }

    /// Whether the server says, in postmaster.pid, that clients may come: also true of a hot standby.
    pub fn accepts_connections(&self) -> bool {
        if !self.pg.tells_when_it_is_ready() {
            return self.is_running() && self.try_psql("SELECT 1").is_ok();
        }
        let Some(pid) = self.child().as_ref().map(|c| c.id().to_string()) else {
            return false;
        };
        let Ok(file) = fs::read_to_string(self.datadir.join("postmaster.pid")) else {
            return false;
        };
        let mut lines = file.lines().map(str::trim);
        // A file that a killed server left bears another process id.
        lines.next() == Some(pid.as_str()) && lines.nth(6) == Some("ready")
    }

    /// Stops the server and waits until it has ended.
    #[track_caller]
    pub fn stop(&self, mode: StopMode) {
        self.begin_stop(mode);
        self.wait_stopped(PATIENCE);
    }

    /// Asks the server to stop, and does not wait.
    #[track_caller]
    pub fn begin_stop(&self, mode: StopMode) {
        let signal = match mode {
            StopMode::Smart => Signal::SIGTERM,
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        };
        kill_pid(self.postmaster_pid(), signal);
    }

    /// Waits until the server has ended by itself or by [`Cluster::begin_stop`].
    #[track_caller]
    pub fn wait_stopped(&self, deadline: Duration) {
        self.wait_until("the server has ended", deadline, || !self.is_running());
    }

    /// Stops the server in mode fast and starts it again.
    #[track_caller]
    pub fn restart(&self) {
        self.stop(StopMode::Fast);
        self.start_again();
    }

    /// Kills the postmaster with SIGKILL and waits until its children, who must notice by themselves, are gone.
    #[track_caller]
    pub fn kill9(&self) {
        let postmaster = self.postmaster_pid();
        let orphans = self.freeze(postmaster);
        kill_pid(postmaster, Signal::SIGKILL);
        self.wait_stopped(PATIENCE);
        self.wait_gone(&orphans);
    }

    /// Kills the server's processes with SIGKILL, all of them and at once, as when the machine loses its power. None need run.
    #[track_caller]
    pub fn vanish(&self) {
        if !self.is_running() {
            return;
        }
        let postmaster = self.postmaster_pid();
        let children = self.freeze(postmaster);
        for (pid, _) in &children {
            kill_pid(*pid, Signal::SIGKILL);
        }
        kill_pid(postmaster, Signal::SIGKILL);
        self.wait_stopped(PATIENCE);
        self.wait_gone(&children);
    }

    /// Stops the postmaster, which forks no child from then on, and returns its children.
    #[track_caller]
    fn freeze(&self, postmaster: i32) -> Vec<(i32, String)> {
        kill_pid(postmaster, Signal::SIGSTOP);
        self.wait_until("the postmaster has stopped", PATIENCE, || is_stopped(postmaster));
        children(postmaster)
    }

    #[track_caller]
    fn wait_gone(&self, processes: &[(i32, String)]) {
        let what = format!("the children of the killed postmaster are gone: {processes:?}");
        self.wait_until(&what, PATIENCE, || !processes.iter().any(|(pid, _)| is_alive(*pid)));
    }

    /// The server processes whose title, after `postgres: `, begins so: `archiver`, `walarchive`, `checkpointer`.
    #[track_caller]
    pub fn pids_of(&self, title: &str) -> Vec<i32> {
        let all = children(self.postmaster_pid());
        let own = |found: &String| {
            found
                .strip_prefix("postgres: ")
                .is_some_and(|rest| rest.starts_with(title))
        };
        all.into_iter()
            .filter(|(_, found)| own(found))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// One such process, if there is any.
    #[track_caller]
    pub fn pid_of(&self, title: &str) -> Option<i32> {
        self.pids_of(title).first().copied()
    }

    /// Waits until there is such a process, other than the `not` one (which was killed, say). An archiver that dies within
    /// ten seconds of its start is not replaced before these are over.
    #[track_caller]
    pub fn wait_pid_of(&self, title: &str, not: Option<i32>) -> i32 {
        let mut pid = None;
        let socket = self.socket_dir.join(format!(".s.PGSQL.{}", self.port));
        self.wait_until(&format!("there is a process {title}"), PATIENCE, || {
            // The postmaster thinks of a child that it could not start at once when a client comes, or after a minute.
            let _ = UnixStream::connect(&socket);
            pid = self.pids_of(title).into_iter().find(|&found| Some(found) != not);
            pid.is_some()
        });
        pid.unwrap_or_default()
    }

    /// Appends a line to postgresql.conf. It counts from the next [`Cluster::reload`] or start on.
    pub fn set(&self, name: &str, value: &str) {
        append_settings(&self.datadir.join(CONF), [(name, value)]);
    }

    /// All that the server has logged, from its first start on.
    pub fn log(&self) -> String {
        self.log_since(0)
    }

    /// The present end of the log, for [`Cluster::log_since`] and [`Cluster::wait_log_since`].
    pub fn log_mark(&self) -> usize {
        fs::metadata(&self.log_path).map_or(0, |m| m.len() as usize)
    }

    /// The log after a mark.
    pub fn log_since(&self, mark: usize) -> String {
        let log = fs::read(&self.log_path).unwrap_or_default();
        String::from_utf8_lossy(log.get(mark..).unwrap_or_default()).into_owned()
    }

    /// Waits until the log holds `pattern`, literally.
    #[track_caller]
    pub fn wait_log(&self, pattern: &str, deadline: Duration) {
        self.wait_log_since(0, pattern, deadline);
    }

    /// Waits until the log holds `pattern`, literally, after a mark.
    #[track_caller]
    pub fn wait_log_since(&self, mark: usize, pattern: &str, deadline: Duration) {
        self.wait_until(&format!("{pattern:?} is logged"), deadline, || {
            self.log_since(mark).contains(pattern)
        });
    }

    /// Like [`wait_until()`], telling which cluster it was about.
    #[track_caller]
    pub fn wait_until(&self, what: &str, deadline: Duration, condition: impl FnMut() -> bool) {
        wait_until(&format!("{what} ({})", self.name), deadline, condition);
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that panicked elsewhere still wants its server stopped.
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("=== the end of {}", self.log_path.display());
            eprintln!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        let Some(mut child) = self.child().take() else { return };
        let pid = child.id() as i32;
        // The postmaster itself kills, after five seconds, a child that ignores this.
        kill_pid(pid, Signal::SIGQUIT);
        let start = std::time::Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(20) {
                let orphans = children(pid);
                let _ = child.kill();
                orphans
                    .into_iter()
                    .for_each(|(orphan, _)| kill_pid(orphan, Signal::SIGKILL));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
