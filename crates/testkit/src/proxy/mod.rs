//! A proxy on loopback that misbehaves on request.

mod connection;
mod fault;
mod http;
mod link;
mod tunnel;

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

pub use fault::{Fault, StatusFault};
use socket2::SockRef;

use crate::wait::{PATIENCE, wait_until};

/// Stands before a server on loopback, records what is asked of it, and shows the faults that a test wants to see. Without
/// faults it passes everything on. Signatures stay valid: what is forwarded is what came, byte by byte, unless a header is to
/// be stripped.
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
    listener: Mutex<Option<Listener>>,
}

/// A request that the proxy saw, whether it passed it on or not.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// When its head had come.
    pub at: Instant,
    /// Bytes of its body that were passed on so far.
    pub carried: u64,
    /// The status of the server's answer, once it is there.
    pub status: Option<u16>,
    /// When all of the answer was passed on. None if the connection broke before that.
    pub answered: Option<Instant>,
    number: usize,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

impl Seen {
    /// The value of a header, whose name is given in lower case. Credentials are not recorded.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

struct Listener {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

/// Bytes that the kernel may hold for a connection before the proxy reads them.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Bytes that are sent at once, as on a link of Ethernet: by those of loopback, 64 kB, the kernel reckons how much it buffers.
const SEGMENT: u32 = 1400;

/// State that all connections share.
#[derive(Default)]
struct Shared {
    upstream: u16,
    /// Does it not read what it passes on?
    opaque: bool,
    faults: Mutex<Vec<Fault>>,
    /// How often they were set.
    set: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    /// How many requests there ever were.
    numbers: AtomicUsize,
    /// Of the connections that are open, to close them; those that ended are removed by their threads.
    open: Mutex<Vec<(u64, TcpStream)>>,
    stopped: AtomicBool,
    /// To the server, and to the clients.
    links: [link::Link; 2],
    /// Bytes of bodies of requests that were passed on.
    carried: AtomicU64,
    /// Bytes of answers that were passed on.
    delivered: AtomicU64,
    /// Requests that have a body.
    senders: AtomicUsize,
    /// The requests whose connection broke by a fault.
    broken: AtomicUsize,
}

fn small_buffer(listener: &TcpListener) {
    let socket = SockRef::from(listener);
    let set = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    set.and_then(|()| socket.set_tcp_mss(SEGMENT))
        .expect("could not set an option of a socket");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultProxy {
    /// Starts one, without faults, before the server on this loopback port.
    #[track_caller]
    pub fn start(upstream_port: u16) -> FaultProxy {
        Self::before(upstream_port, false)
    }

    /// The same before a server that does not speak HTTP. It knows no requests, so only faults of connections show.
    #[track_caller]
    pub fn tunnel(upstream_port: u16) -> FaultProxy {
        Self::before(upstream_port, true)
    }

    #[track_caller]
    fn before(upstream_port: u16, opaque: bool) -> FaultProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port on loopback");
        // Bytes that are here have not passed the link yet: the kernel would take megabytes. Its connections inherit it.
        small_buffer(&listener);
        let port = listener.local_addr().expect("a listener without an address").port();
        let shared = Arc::new(Shared {
            upstream: upstream_port,
            opaque,
            ..Shared::default()
        });
        let listener = Listener::start(listener, &shared);
        FaultProxy {
            port,
            shared,
            listener: Mutex::new(Some(listener)),
        }
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value for walarchive.storage_options to reach an S3 server through the proxy.
    pub fn options(&self) -> String {
        format!(
            "aws_endpoint=http://127.0.0.1:{},aws_region=us-east-1,allow_http=true",
            self.port
        )
    }

    /// Shows these faults from now on, and no others. A request that has begun sees those that concern the transfer.
    #[track_caller]
    pub fn set(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults: Vec<_> = faults.into_iter().collect();
        let refuse = faults.iter().any(|fault| matches!(fault, Fault::Refuse));
        *lock(&self.shared.faults) = faults;
        self.shared.set.fetch_add(1, Ordering::Relaxed);
        let mut listener = lock(&self.listener);
        if refuse {
            if let Some(listener) = listener.take() {
                listener.stop(self.port);
            }
            self.shared.close_all();
        } else if listener.is_none() {
            let mut bound = None;
            wait_until("the proxy has its port back", PATIENCE, || {
                bound = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).ok();
                bound.iter().for_each(small_buffer);
                bound.is_some()
            });
            *listener = bound.map(|bound| Listener::start(bound, &self.shared));
        }
    }

    /// No faults any more.
    #[track_caller]
    pub fn heal(&self) {
        self.set([]);
    }

    /// All requests so far, in the order in which their heads came.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How many requests there were so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// Bytes of requests that were passed on so far; all that clients sent, where it does not read them.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }

    /// Bytes of answers that were passed on so far, with their heads.
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// How many connections broke in the middle of a request so far, by [`Fault::ResetEvery`] or [`Fault::BreakEvery`].
    pub fn broken(&self) -> usize {
        self.shared.broken.load(Ordering::Relaxed)
    }

    /// Counts from zero again.
    pub fn forget(&self) {
        self.shared.broken.store(0, Ordering::Relaxed);
        lock(&self.shared.seen).clear();
        self.shared.carried.store(0, Ordering::Relaxed);
        self.shared.delivered.store(0, Ordering::Relaxed);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        if let Some(listener) = lock(&self.listener).take() {
            listener.stop(self.port);
        }
        self.shared.close_all();
    }
}

impl Listener {
    fn start(listener: TcpListener, shared: &Arc<Shared>) -> Listener {
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(shared), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for (id, stream) in (0..).zip(listener.incoming()) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(handle) = stream.try_clone() else { continue };
                lock(&shared.open).push((id, handle));
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A connection that breaks is what tests are made of; nobody is to be told.
                    let _ = match shared.opaque {
                        true => tunnel::serve(&shared, &stream),
                        false => connection::serve(&shared, &stream),
                    };
                    let _ = stream.shutdown(Shutdown::Both);
                    lock(&shared.open).retain(|(other, _)| *other != id);
                });
            }
        });
        Listener { thread, stop }
    }

    /// From now on connections are refused.
    fn stop(self, port: u16) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let _ = self.thread.join();
    }
}

impl Shared {
    fn close_all(&self) {
        for (_, stream) in lock(&self.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
