use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;

use crate::process::{kill_pid, listening};
use crate::s3::free_port;
use crate::wait::{PATIENCE, wait_until};

/// Makes the command that runs a server on a port.
type MakeCommand = Box<dyn Fn(u16) -> Command + Send + Sync>;

/// A server program on a loopback port. It is killed when dropped.
pub(crate) struct Server {
    name: &'static str,
    log: PathBuf,
    port: u16,
    command: MakeCommand,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// Starts one on a free port, and waits until it listens.
    #[track_caller]
    pub(crate) fn start(
        name: &'static str,
        log: PathBuf,
        command: impl Fn(u16) -> Command + Send + Sync + 'static,
    ) -> Server {
        let mut server = Server {
            name,
            log,
            port: 0,
            command: Box::new(command),
            child: Mutex::default(),
        };
        // Another test can take the port between our look and the server's start: then try the next one.
        for _ in 0..10 {
            server.port = free_port();
            if server.try_start() {
                return server;
            }
        }
        panic!("{name} did not start; see {}", server.log.display());
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server: connections are refused from now on.
    pub(crate) fn stop(&self) {
        if let Some(mut child) = self.child().take() {
            child.kill().expect("could not kill a server");
            child.wait().expect("could not wait for a server");
        }
    }

    /// Tells the server to end, and waits until it has: it saves what it holds.
    #[track_caller]
    pub(crate) fn end(&self) {
        if let Some(mut child) = self.child().take() {
            kill_pid(child.id() as i32, Signal::SIGTERM);
            wait_until(&format!("{} ends", self.name), PATIENCE, || {
                !matches!(child.try_wait(), Ok(None))
            });
        }
    }

    /// Starts it again on the same port.
    #[track_caller]
    pub(crate) fn start_again(&self) {
        assert!(self.child().is_none(), "{} was not stopped", self.name);
        assert!(
            self.try_start(),
            "{} did not start again on port {}; see {}",
            self.name,
            self.port,
            self.log.display()
        );
    }

    /// Starts the server and waits until it listens; false if it ends instead.
    fn try_start(&self) -> bool {
        let log = std::fs::File::create(&self.log).expect("could not create a server's log");
        let mut command = (self.command)(self.port);
        command
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("could not duplicate a descriptor"))
            .stdout(log);
        let child = listening(&mut command, self.port, self.name);
        let listens = child.is_some();
        *self.child() = child;
        listens
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
