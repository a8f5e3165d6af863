//! Runs core's futures while the main thread stays with PostgreSQL.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::SigSet;
use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use super::log;
use crate::pg::latch;

/// Threads that poll futures. The work that takes time runs on tokio's blocking threads, as many as there are tasks.
const POLLING_THREADS: usize = 2;

/// The runtime of this process, and the socket that its threads use to wake the main thread.
pub struct Bridge {
    runtime: Runtime,
    wake: UnixStream,
    woken: UnixStream,
}

impl Bridge {
    /// The bridge of this process. Never call this in the postmaster: threads do not survive a fork.
    pub fn get() -> &'static Bridge {
        static BRIDGE: OnceCell<Bridge> = OnceCell::new();
        BRIDGE.get_or_init(|| {
            log::install();
            Bridge::start().unwrap_or_else(|error| panic!("could not start walarchive's threads: {error}"))
        })
    }

    fn start() -> std::io::Result<Bridge> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        // PostgreSQL's signals must reach the main thread. A thread inherits the mask of the one that starts it; those that
        // tokio starts later, from its own threads, block for themselves.
        let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(POLLING_THREADS)
            .thread_name("walarchive")
            .enable_all()
            .on_thread_start(|| {
                // It cannot fail with a valid argument.
                let _ = SigSet::all().thread_block();
            })
            .build();
        before.thread_set_mask()?;
        Ok(Bridge {
            runtime: runtime?,
            wake,
            woken,
        })
    }

    /// Start a task. Its end wakes the main thread.
    pub fn spawn<T: Send + 'static>(
        &'static self,
        work: impl Future<Output = T> + Send + 'static,
        done: impl FnOnce(T) + Send + 'static,
    ) -> AbortHandle {
        let task = self.runtime.spawn(async move {
            // The waiting thread must also wake if the work panics.
            let _wake = WakeOnDrop(self);
            done(work.await);
        });
        task.abort_handle()
    }

    /// Start work that blocks. Its end wakes the main thread.
    pub fn spawn_blocking(&'static self, work: impl FnOnce() + Send + 'static) {
        self.runtime.spawn_blocking(move || {
            let _wake = WakeOnDrop(self);
            work();
        });
    }

    /// Wait on the main thread until a task has ended, the latch is set, or the time is up.
    pub fn wait(&self, timeout: Option<Duration>) {
        latch::wait(Some(self.woken.as_fd()), timeout);
        let mut buffer = [0; 64];
        // Read until it would block. The bytes mean nothing.
        while matches!((&self.woken).read(&mut buffer), Ok(bytes) if bytes > 0) {}
        log::drain();
    }

    /// Wake the main thread. Any thread may.
    pub fn wake(&self) {
        // A full socket has enough bytes to wake the reader.
        let _ = (&self.wake).write(&[1]);
    }
}

struct WakeOnDrop(&'static Bridge);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// Go on waiting?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Yes.
    Wait,
    /// No: abort the work.
    Stop,
}

/// Run a future to its end while the main thread waits. `each` is called after each wake-up. It may raise an ERROR, which aborts the
/// work. Returns none if `each` stopped it.
pub fn run<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
    wake_every: Option<Duration>,
    mut each: impl FnMut() -> Flow,
) -> Option<T> {
    let bridge = Bridge::get();
    let (sender, mut receiver) = oneshot::channel();
    let task = bridge.spawn(work, move |result| {
        // This fails if nobody waits for the result any more.
        let _ = sender.send(result);
    });
    let _abort = AbortOnDrop(task);
    loop {
        match receiver.try_recv() {
            Ok(result) => {
                log::drain();
                return Some(result);
            }
            Err(oneshot::error::TryRecvError::Empty) => {}
            Err(oneshot::error::TryRecvError::Closed) => panic!("a task of walarchive ended without a result"),
        }
        if each() == Flow::Stop {
            return None;
        }
        bridge.wait(wake_every);
    }
}

/// Work that goes on while the main thread does something else. It ends when this is dropped.
pub struct Begun<T>(JoinHandle<T>);

impl<T: Send + 'static> Begun<T> {
    /// Start it.
    pub fn start(work: impl Future<Output = T> + Send + 'static) -> Self {
        Begun(Bridge::get().runtime.spawn(work))
    }

    /// Its result. None if the runtime ends.
    pub async fn outcome(mut self) -> Option<T> {
        match (&mut self.0).await {
            Ok(result) => Some(result),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => None,
            },
        }
    }
}

impl<T> Drop for Begun<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
