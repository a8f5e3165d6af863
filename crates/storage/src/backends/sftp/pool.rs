//! The few connections that all operations of a store share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use object_store::path::Path;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::config::Settings;
use super::connect;
use super::failure::Failure;
use super::retry;
use super::session::Session;
use crate::odd::Odd;
use crate::renewal::Followed;
use crate::transfer::retry::Attempts;

/// Each has a process on the server, and one that flushes a file answers nobody in the meantime.
const CONNECTIONS: usize = 4;

/// Temporary files of failed writes that are remembered; more are left to listings.
const LEFTOVERS: usize = 1000;

pub(super) struct Pool {
    /// As they were when the store was opened.
    pub settings: Arc<Settings>,
    /// Names that listings pass over.
    pub odd: Arc<Odd>,
    /// With the credentials as their files have them now.
    followed: Arc<Followed<Settings>>,
    /// The server has let us in.
    was_in: AtomicBool,
    state: Mutex<State>,
    /// Held while a connection is being made, so that many who need one do not make one each.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    sessions: Vec<Arc<Session>>,
    /// The last failure to connect, and when it came.
    failed: Option<(Instant, Failure)>,
    leftovers: Vec<String>,
}

impl Pool {
    pub(super) fn new(followed: Arc<Followed<Settings>>, odd: Arc<Odd>) -> Self {
        Pool {
            settings: followed.in_use(),
            odd,
            followed,
            was_in: AtomicBool::new(false),
            state: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// The attempts of one operation begin.
    pub(super) fn begin(&self) -> Attempts {
        self.settings.retry.begin()
    }

    /// The name on the server of an object, or of a folder. Keys are the names that files have, as in a local directory.
    pub(super) fn path(&self, key: &str) -> String {
        match (self.settings.root.as_str(), key) {
            (root, "") => root.to_owned(),
            ("/", key) => format!("/{key}"),
            (root, key) => format!("{root}/{key}"),
        }
    }

    pub(super) fn path_of(&self, location: &Path) -> String {
        self.path(location.as_ref())
    }

    /// Runs the work on a connection, and once more on another when that was lost. The work is told whether an attempt
    /// before it may have succeeded without our hearing of it.
    pub(super) async fn run<T, F>(&self, work: impl Fn(Arc<Session>, bool) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = self.begin();
        let mut again = false;
        loop {
            let attempt = async {
                let session = self.session().await?;
                let unsure = std::mem::replace(&mut again, true);
                work(session, unsure).await
            };
            match attempt.await {
                Err(failure) if self.may_pass(&failure) && retry::again(&mut attempts, &failure).await => {
                    tracing::debug!(%failure, "trying again to reach the SFTP server");
                }
                result => return result,
            }
        }
    }

    /// A client that was let in before waits for those who are replacing the keys.
    fn may_pass(&self, failure: &Failure) -> bool {
        let is_refusal = matches!(failure, Failure::Refused(_) | Failure::NoCredentials(_));
        failure.is_transient() || (is_refusal && self.was_in.load(Ordering::Relaxed))
    }

    /// A new connection, with credentials that are read again when they are refused.
    async fn connect(&self) -> Result<Session, Failure> {
        let settings = self.followed.get();
        let result = match connect::connect(&settings).await {
            Err(failure @ (Failure::Refused(_) | Failure::NoCredentials(_))) => {
                let now = self.followed.again();
                if now.proves_the_same_as(&settings) {
                    return Err(failure);
                }
                connect::connect(&now).await
            }
            result => result,
        };
        if result.is_ok() {
            self.was_in.store(true, Ordering::Relaxed);
        }
        result
    }

    /// A connection that works, as far as we know, and has the least to do.
    pub(super) async fn session(self: &Pool) -> Result<Arc<Session>, Failure> {
        let asked = Instant::now();
        let idle = |(session, users): (Arc<Session>, usize)| (users == 0).then_some(session);
        let best = self.best();
        if let Some(session) = best.clone().and_then(idle) {
            return Ok(session);
        }
        let full = self.state.lock().sessions.len() >= CONNECTIONS;
        let _connecting = match (best, self.connecting.try_lock()) {
            (Some((session, _)), _) if full => return Ok(session),
            (Some((session, _)), Err(_)) => return Ok(session),
            (_, Ok(guard)) => guard,
            (None, Err(_)) => {
                let guard = self.connecting.lock().await;
                if let Some((session, _)) = self.best() {
                    return Ok(session);
                }
                match &self.state.lock().failed {
                    Some((when, failure)) if *when >= asked => return Err(failure.clone()),
                    _ => guard,
                }
            }
        };
        match self.connect().await {
            Ok(session) => {
                let session = Arc::new(session);
                let leftovers = {
                    let mut state = self.state.lock();
                    state.sessions.push(session.clone());
                    state.failed = None;
                    std::mem::take(&mut state.leftovers)
                };
                sweep(&session, leftovers);
                Ok(session)
            }
            Err(failure) => {
                self.state.lock().failed = Some((Instant::now(), failure.clone()));
                // One that is busy is better than none.
                self.best().map(|(session, _)| session).ok_or(failure)
            }
        }
    }

    /// The connection that has the least to do, and how many use it.
    fn best(&self) -> Option<(Arc<Session>, usize)> {
        let mut state = self.state.lock();
        state.sessions.retain(|session| !session.is_closed());
        let best = state.sessions.iter().min_by_key(|session| Arc::strong_count(session))?;
        Some((best.clone(), Arc::strong_count(best) - 2))
    }

    /// Remove a file when there is an occasion, now if possible.
    pub(super) fn remove_some_time(&self, path: String) {
        let session = self.best().map(|(session, _)| session);
        match session {
            Some(session) if tokio::runtime::Handle::try_current().is_ok() => sweep(&session, vec![path]),
            _ => {
                let leftovers = &mut self.state.lock().leftovers;
                if leftovers.len() < LEFTOVERS {
                    leftovers.push(path);
                }
            }
        }
    }
}

fn sweep(session: &Arc<Session>, leftovers: Vec<String>) {
    if leftovers.is_empty() {
        return;
    }
    let session = session.clone();
    tokio::spawn(async move {
        for path in leftovers {
            if let Err(failure) = session.remove(&path).await
                && !matches!(failure, Failure::NotFound)
            {
                tracing::debug!(path, %failure, "could not remove a temporary file on the SFTP server");
            }
        }
    });
}
