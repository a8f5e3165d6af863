//! Clients outside of the machine that write down each commit of which the server told them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use walarchive_testkit::{Cluster, PATIENCE, Session, wait_until};

/// Between two transactions of a client: a small machine has time for more than clients.
const THINKING: Duration = Duration::from_millis(3);

/// A commit that was acknowledged. Times are those since the clients' start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Which client's.
    pub client: usize,
    /// Its number, which rises by one with each transaction that the client tries.
    pub number: usize,
    /// When the client sent it.
    pub begun: Duration,
    /// When the client heard that it is committed.
    pub acknowledged: Duration,
}

/// A client and a number.
pub type Row = (usize, usize);

impl Commit {
    /// Is it among the rows?
    pub fn is_in(&self, rows: &HashSet<Row>) -> bool {
        rows.contains(&(self.client, self.number))
    }
}

/// What a server has of the table.
#[track_caller]
pub fn rows(server: &Cluster) -> HashSet<Row> {
    let row = |row: &str| {
        let (client, number) = row.split_once('|')?;
        Some((client.parse().ok()?, number.parse().ok()?))
    };
    let rows = server.psql("SELECT client, number FROM ledger");
    let parsed = rows
        .lines()
        .map(|text| row(text).unwrap_or_else(|| panic!("{text:?} is no row")));
    parsed.collect()
}

/// Clients, each of which commits one row of the table `ledger` after the other, and connects again whenever it must.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    files: Vec<PathBuf>,
    /// When a failover was, and what survived it.
    received: Option<(Duration, HashSet<Row>)>,
}

struct Shared {
    start: Instant,
    /// The test's, so that it ends with the test, and the sessions of the clients with it.
    server: Mutex<Weak<Cluster>>,
    is_over: AtomicBool,
    /// For each client, how much it has written down.
    acknowledged: Vec<AtomicUsize>,
}

impl Clients {
    /// Makes the table.
    #[track_caller]
    pub fn prepare(server: &Cluster) {
        server.psql("CREATE TABLE ledger (client int, number int, PRIMARY KEY (client, number))");
    }

    /// Starts so many. All have committed something when this returns. Their files are in a directory.
    #[track_caller]
    pub fn start(dir: &Path, server: &Arc<Cluster>, count: usize) -> Clients {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            server: Mutex::new(Arc::downgrade(server)),
            is_over: AtomicBool::new(false),
            acknowledged: (0..count).map(|_| AtomicUsize::new(0)).collect(),
        });
        let files: Vec<_> = (0..count)
            .map(|client| dir.join(format!("acknowledged-{client}")))
            .collect();
        let thread = |(client, path): (usize, &PathBuf)| {
            let file = File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.commit(client, file))
        };
        let clients = Clients {
            threads: files.iter().enumerate().map(thread).collect(),
            shared: Arc::clone(&shared),
            files,
            received: None,
        };
        wait_until("each client has committed something", PATIENCE, || {
            shared
                .acknowledged
                .iter()
                .all(|count| count.load(Ordering::Relaxed) > 0)
        });
        clients
    }

    /// How long they have been at it.
    pub fn elapsed(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// From now on they connect to another server.
    pub fn go_to(&self, server: &Arc<Cluster>) {
        *self.shared.server() = Arc::downgrade(server);
    }

    /// Likewise, once the server before is gone. What this one did not receive from it was lost by the failover, and counts no more. No
    /// client has written to it yet.
    #[track_caller]
    pub fn fail_over_to(&mut self, server: &Arc<Cluster>) {
        self.received = Some((self.elapsed(), rows(server)));
        self.go_to(server);
    }

    /// Ends them, after their server has ended, and returns what they have written down.
    #[track_caller]
    pub fn end(mut self) -> Vec<Commit> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client has failed");
        }
        let files = self.files.iter().enumerate();
        let mut commits: Vec<Commit> = files.flat_map(|(client, path)| read(client, path)).collect();
        if let Some((time, rows)) = &self.received {
            commits.retain(|commit| commit.begun > *time || commit.is_in(rows));
        }
        commits
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn commit(&self, client: usize, mut file: File) {
        let mut number = 0;
        while let Some(mut session) = self.connect() {
            while !self.is_over() {
                // What came of one without an answer is not known: its number is used once.
                number += 1;
                let begun = self.start.elapsed();
                let insert = format!("INSERT INTO ledger VALUES ({client}, {number}) RETURNING number");
                // psql prints a row once the statement is complete, and that is after the commit.
                if session.try_ask(&insert).is_none() {
                    break;
                }
                let acknowledged = self.start.elapsed();
                writeln!(file, "{number} {} {}", begun.as_micros(), acknowledged.as_micros())
                    .expect("could not write down a commit");
                self.acknowledged[client].fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(THINKING);
            }
        }
    }

    /// A session that can write; none when the clients shall end.
    fn connect(&self) -> Option<Session> {
        let mut found = None;
        wait_until("a server takes writes, or the clients end", PATIENCE, || {
            found = self.try_connect();
            found.is_some() || self.is_over()
        });
        found
    }

    fn try_connect(&self) -> Option<Session> {
        let server = self.server().upgrade()?;
        let mut session = Session::begin_quietly(&server);
        let takes_writes = session.try_ask("SELECT pg_is_in_recovery()").as_deref() == Some("f");
        takes_writes.then_some(session)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn server(&self) -> MutexGuard<'_, Weak<Cluster>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(client: usize, path: &Path) -> Vec<Commit> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let line = |line: &str| {
        let mut numbers = line.split(' ').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        Some(Commit {
            client,
            number: next()? as usize,
            begun: Duration::from_micros(next()?),
            acknowledged: Duration::from_micros(next()?),
        })
    };
    let lines = text.lines();
    lines
        .map(|text| line(text).unwrap_or_else(|| panic!("{}: {text:?}", path.display())))
        .collect()
}
