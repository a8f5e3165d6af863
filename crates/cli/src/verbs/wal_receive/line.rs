//! The line to the server: it is connected, asked where it is, followed from timeline to timeline, and connected again when it is
//! lost.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walarchive_client::slot::Slot;
use walarchive_client::{Mode, Params, Session, WalStream, slot};
use walarchive_core::archive::received::{Received, Spool, Stored};
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Lsn, Result, printable};
use walarchive_storage::Store;

use super::gap::{Skip, oldest_kept};
use super::queue::Queue;
use super::server::Server;
use super::stream::{End, Receiving};
use crate::signals::unless;

/// After a failure the server is tried again after this, and then later and later.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// A failure that stays the same is told again after this.
const TOLD_AGAIN: Duration = Duration::from_secs(600);

/// See the module.
pub struct Line {
    params: Params,
    slot: Option<String>,
    allow_gap: bool,
    store: Store,
    queue: Queue,
    /// A signal came, or the task that stores has ended.
    cancel: CancellationToken,
    /// Timelines whose history files were handed over.
    histories: HashSet<u32>,
    /// Where the last stream began, and on which timeline. Once there is one, a server that fails is waited for.
    begun: Option<(u32, Lsn)>,
    /// The server no longer has what comes next, and that is allowed.
    skip: Skip,
    /// The last failure that was told, and when.
    told: Option<(String, Instant)>,
    pause: Duration,
}

impl Line {
    pub fn new(
        params: Params,
        slot: Option<String>,
        allow_gap: bool,
        store: Store,
        queue: Queue,
        cancel: CancellationToken,
    ) -> Self {
        Line {
            params,
            slot,
            allow_gap,
            store,
            queue,
            cancel,
            histories: HashSet::new(),
            begun: None,
            skip: Skip::No,
            told: None,
            pause: FIRST_PAUSE,
        }
    }

    /// What was received.
    pub fn into_queue(self) -> Queue {
        self.queue
    }

    /// Receive until a signal comes, or something fails that waiting does not change.
    pub async fn run(&mut self, first: Server) -> Result<()> {
        let cluster = first.system_identifier;
        let mut server = Some(first);
        loop {
            let connected = match server.take() {
                Some(server) => Ok(server),
                None => self.connect(cluster).await,
            };
            let ended = match connected {
                Ok(server) => Box::pin(self.follow(server)).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(Followed::Done) => return Ok(()),
                Ok(Followed::Onto(next)) => server = Some(*next),
                Ok(Followed::Blocked) => {
                    eprintln!("walarchive: warning: the store takes nothing; no more WAL is received until it does");
                    let cancel = self.cancel.clone();
                    // If the task has ended, the next look at it tells why.
                    unless(&cancel, async { Ok(self.queue.has_room().await) }).await?;
                }
                Err(error) => self.wait(error).await?,
            }
        }
    }

    async fn connect(&self, cluster: u64) -> Result<Server> {
        let connected = async {
            let session = Session::connect(&self.params, Mode::Replication).await?;
            Server::ask(session, Some(cluster)).await
        };
        unless(&self.cancel, connected).await
    }

    /// After a failure, wait before the next attempt; or return it, if another attempt is of no use.
    async fn wait(&mut self, error: Error) -> Result<()> {
        if self.begun.is_none() || !matches!(error, Error::Server { .. }) {
            return Err(error);
        }
        let text = error.to_string();
        let is_known = |(told, at): &(String, Instant)| *told == text && at.elapsed() < TOLD_AGAIN;
        if !self.told.as_ref().is_some_and(is_known) {
            eprintln!("walarchive: warning: {}", printable::lines(&text));
            eprintln!("walarchive: note: trying again until it works");
            self.told = Some((text, Instant::now()));
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        unless(&self.cancel, async {
            tokio::time::sleep(pause).await;
            Ok(())
        })
        .await
    }

    /// Receive from a server until the stream ends.
    async fn follow(&mut self, mut server: Server) -> Result<Followed> {
        let cancel = self.cancel.clone();
        if !unless(&cancel, self.hand_over_histories(&mut server)).await? {
            return Ok(Followed::Done);
        }
        let start = unless(&cancel, self.start(&mut server)).await?;
        self.queue.rewind(start);
        let mut spool = Spool::new(server.branch.clone(), start);
        let timeline = spool.segment().timeline;
        let at = server.session.server().to_owned();
        self.begun = Some((timeline, start));
        let begun = WalStream::begin(server.session, self.slot.as_deref(), start, timeline);
        let mut stream = unless(&cancel, begun).await?;
        let mut receiving = Receiving::new(&mut stream, &mut spool, &mut self.queue, &cancel);
        let ended = Box::pin(receiving.run()).await;
        let has_received = spool.position() > start;
        if has_received || ended.is_ok() {
            self.is_well();
        }
        match ended {
            Ok(End::Timeline) => {
                let next = async {
                    let session = stream.finish().await?;
                    Server::ask(session, Some(server.system_identifier)).await
                };
                Ok(Followed::Onto(Box::new(unless(&cancel, next).await?)))
            }
            Ok(end) => {
                stream.leave().await;
                match end {
                    End::Cancelled => Err(Error::Cancelled),
                    End::Blocked => Ok(Followed::Blocked),
                    End::ServerStops => Err(Error::server(
                        format!("the server at {at} stops"),
                        "Nothing is lost: it goes on when the server is back.",
                    )),
                    _ => Ok(Followed::Done),
                }
            }
            Err(error @ Error::Refused { .. }) if self.allow_gap && !has_received => {
                let Some(next) = self.skip.next(start) else {
                    return Err(error);
                };
                eprintln!("walarchive: warning: {}", printable::lines(&error.to_string()));
                self.skip = next;
                Ok(Followed::Onto(Box::new(self.connect(server.system_identifier).await?)))
            }
            Err(error) => Err(error),
        }
    }

    fn is_well(&mut self) {
        self.skip = Skip::No;
        self.pause = FIRST_PAUSE;
        self.told = None;
    }

    /// The history files of the server's timelines come before WAL of these. False: the task that stores has ended.
    async fn hand_over_histories(&mut self, server: &mut Server) -> Result<bool> {
        let timelines: Vec<u32> = server.branch.with_history().collect();
        for timeline in timelines {
            if self.histories.contains(&timeline) {
                continue;
            }
            if let Some(content) = slot::timeline_history(&mut server.session, timeline).await? {
                let mut file = Received::with(WalFileName::History(timeline), &content)?;
                while let Some(back) = self.queue.push(file) {
                    file = back;
                    if !self.queue.has_room().await {
                        return Ok(false);
                    }
                }
            }
            self.histories.insert(timeline);
        }
        Ok(true)
    }

    /// The segment with which the stream begins.
    async fn start(&mut self, server: &mut Server) -> Result<Lsn> {
        let kept = self.slot_position(server).await?;
        let branch = &server.branch;
        let here = branch.segment_start(server.position);
        let kept = kept.map(|kept| branch.segment_start(kept).min(here));
        let sure = |gone| kept.filter(|kept| *kept > gone).unwrap_or(here);
        let start = match (self.skip, self.reached()) {
            (Skip::ToOldest { gone }, _) => self.behind_gap(server, gone, sure(gone)).await?,
            (Skip::ToNewest { gone }, _) => sure(gone),
            (Skip::No, Some((timeline, end))) => branch
                .after(timeline, end)
                .ok_or_else(|| other_history(server, timeline))?,
            (Skip::No, None) => {
                let stored = Stored::look(&self.store, branch).await?.end();
                match (stored, kept) {
                    (Some(stored), Some(kept)) => stored.min(kept),
                    (Some(stored), None) => stored.min(here),
                    (None, kept) => kept.unwrap_or(here),
                }
            }
        };
        eprintln!(
            "walarchive: note: receiving WAL from {start} on, timeline {}, of the server at {}",
            branch.segment_at(start).timeline,
            printable::line(server.session.server())
        );
        Ok(start)
    }

    /// The first segment that the server still has and the repository lacks. The server has removed that of `gone`, and has that
    /// of `there`.
    async fn behind_gap(&mut self, server: &Server, mut gone: Lsn, there: Lsn) -> Result<Lsn> {
        let oldest = oldest_kept(&self.params, server, &mut gone, there).await;
        // If the server is lost meanwhile, it need not be asked for all of that again.
        self.skip = Skip::ToOldest { gone };
        let stored = Stored::look(&self.store, &server.branch).await?;
        Ok(stored.missing_from(oldest?).min(there))
    }

    /// Up to where this program has whole segments, since it began.
    fn reached(&self) -> Option<(u32, Lsn)> {
        let last = self.queue.last();
        // A stream begins anew where one timeline leaves another, or after a gap.
        match (last, self.begun) {
            (Some((of_file, end)), Some((of_stream, start))) if of_file == of_stream => Some((of_file, end.max(start))),
            (_, Some(begun)) => Some(begun),
            (last, None) => last,
        }
    }

    /// From where on the server keeps WAL for the slot, which is made if it is missing.
    async fn slot_position(&mut self, server: &mut Server) -> Result<Option<Lsn>> {
        let Some(name) = &self.slot else { return Ok(None) };
        let found = slot::read(&mut server.session, &self.params, name).await?;
        if let Slot::There(kept) = found {
            if kept.is_none() {
                eprintln!(
                    "walarchive: note: the server keeps no WAL for replication slot \"{name}\" yet, or no more: what follows the \
                     end of the repository is asked for, or else what comes from now on"
                );
            }
            return Ok(kept);
        }
        match slot::create(&mut server.session, name).await? {
            true => eprintln!("walarchive: note: replication slot \"{name}\" is made"),
            false => eprintln!(
                "walarchive: warning: nobody can tell what the server keeps for replication slot \"{name}\": what is not \
                 in the repository yet is received from the end of the repository on, or else from now on\n\
                 HINT:  Let the role connect to a database, too."
            ),
        }
        Ok(None)
    }
}

/// How following a server has ended.
enum Followed {
    /// All is done, or the task that stores tells why not.
    Done,
    /// It goes on with another timeline, or another position.
    Onto(Box<Server>),
    /// The store takes nothing.
    Blocked,
}

fn other_history(server: &Server, timeline: u32) -> Error {
    Error::server(
        format!(
            "the server at {} is on timeline {}, and not all of timeline {timeline}, which was received before, is in its history",
            server.session.server(),
            server.branch.timeline()
        ),
        "It may be an old primary. Connect to the server that took its place.",
    )
}
