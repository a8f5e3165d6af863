use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::process::kill_pid;
use crate::wait::{PATIENCE, wait_until};

/// The output of a program that ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; None if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Standard output, without the white space at its end.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Whether the program exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output of a program that must have succeeded; panics with its standard error otherwise.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(
            self.success(),
            "exit code {:?}, signal {:?}: {}{}",
            self.code,
            self.signal,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

/// Runs a program to its end without any input. Panics if it cannot be started or takes longer than ten minutes.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    Background::spawn(command, None).wait(5 * PATIENCE)
}

/// A program that runs beside the test. Dropping it kills it.
pub struct Background {
    name: String,
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    status: Option<ExitStatus>,
}

impl Background {
    /// Starts a program, writing `input` to its standard input first.
    #[track_caller]
    pub fn spawn(command: &mut Command, input: Option<&str>) -> Background {
        let name = format!("{command:?}");
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("could not run {name}: {e}"));
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // A program that ended early closes the pipe; its exit code tells the story better than our error.
            let _ = stdin.write_all(input.as_bytes());
        }
        Background {
            name,
            child,
            stdout,
            stderr,
            status: None,
        }
    }

    /// The process id of the program itself (of `psql`, not of its backend).
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .expect("could not ask for the state of a child process");
        }
        self.status.is_none()
    }

    /// Panics with what it has said if it has ended.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if !self.is_running() {
            let said = self.stderr.take().and_then(|reader| reader.join().ok());
            panic!("{} has ended: {}", self.name, said.unwrap_or_default());
        }
    }

    /// Interrupts it as Ctrl-C does: psql asks the server to cancel the statement, and goes on to report that.
    pub fn cancel(&self) {
        kill_pid(self.pid(), Signal::SIGINT);
    }

    /// Kills it at once, so that the server sees its client vanish.
    pub fn kill(&self) {
        kill_pid(self.pid(), Signal::SIGKILL);
    }

    /// Waits for its end. Panics, after killing it, if it does not come by `deadline`.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Output {
        let what = format!("this program has ended: {}", self.name);
        wait_until(&what, deadline, || !self.is_running());
        let status = self.status.take();
        let text = |reader: Option<JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
        Output {
            code: status.and_then(|s| s.code()),
            signal: status.and_then(|s| s.signal()),
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // After wait() the status has been collected, and std does nothing in kill() then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end in a thread of its own, so that a full pipe never stops the program.
fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    })
}
