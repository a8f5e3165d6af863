//! The prefetcher: looks what recovery asked for last, fetches what comes next, removes what was not wanted.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use walarchive_storage::Store;

use super::depth::{Came, Depth};
use super::looks::Looks;
use super::part::Stop;
use super::road::Road;
use super::room;
use super::spool::{Asked, Spool};
use crate::archive::fetch::{self, Formats};
use crate::blocking::blocking;
use crate::codec::Format;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::printable::is_same_but_for_numbers;
use crate::repository::cluster::ClusterIdentity;
use crate::wal::{Segment, WalFileName};

/// Between two looks, by how long ago recovery asked for something.
const AT_ONCE: Duration = Duration::from_millis(4);
const OFTEN: Duration = Duration::from_millis(15);
const SOMETIMES: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(1);
const HURRY: Duration = Duration::from_millis(500);
const BUSY: Duration = Duration::from_secs(3);
const QUIET: Duration = Duration::from_secs(60);

/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// More downloads at a time do not make it faster, but take memory.
const MOST_DOWNLOADS: usize = 8;

/// How the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Situation {
    /// It recovers; all WAL before that place has been replayed, if it is known.
    Recovering(Option<Lsn>),
    /// It does not recover any more: the spool goes.
    Over,
    /// Somebody else fetches ahead from now on.
    Relieved,
}

/// Why a prefetcher ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Recovery is over.
    Over,
    /// Somebody else goes on.
    Relieved,
    /// Recovery has asked for nothing for long.
    Idle,
    /// Recovery reads another repository.
    OtherRepository,
    /// The WAL is encrypted, and only `wal-fetch` can have the key.
    NoKey,
}

/// Fetches ahead of one server's recovery.
#[derive(Debug)]
pub struct Prefetcher {
    /// From where.
    pub store: Store,
    /// To where. The caller has claimed it.
    pub spool: Spool,
    /// The format in which an object is looked for first.
    pub reads_first: Format,
    /// The server's cluster.
    pub identity: ClusterIdentity,
    /// Segments to have ahead at most.
    pub most: usize,
    /// End when recovery has asked for nothing for so long.
    pub idle_limit: Option<Duration>,
    /// What recovery has asked for already. An older note does not count.
    pub asked: Option<Segment>,
}

impl Prefetcher {
    /// Work as long as `look` says that the server recovers. `arrived` makes recovery ask again, when a segment has come that it was
    /// told is not there; none if nobody can: then such a segment is not looked for.
    pub async fn run(self, mut look: impl FnMut() -> Situation, arrived: Option<impl Fn()>) -> Ended {
        let mut run = Run::new(self, arrived.is_some());
        let ended = loop {
            let replayed = match look() {
                Situation::Recovering(replayed) => replayed,
                Situation::Over => break Ended::Over,
                Situation::Relieved => break Ended::Relieved,
            };
            if let Some(ended) = run.turn(replayed) {
                break ended;
            }
            let pause = run.pause();
            tokio::select! {
                Some(done) = run.downloads.join_next() => {
                    if let (true, Some(arrived)) = (run.collect(done), &arrived) {
                        arrived();
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        };
        run.stop();
        match ended {
            Ended::Over => run.with.spool.remove(),
            Ended::Relieved => {}
            Ended::Idle | Ended::OtherRepository | Ended::NoKey => run.with.spool.retain(|_| false),
        }
        ended
    }
}

/// The note that is there at the start may be of an earlier recovery, unless it was written a moment ago.
fn is_stale(note: &Asked) -> bool {
    note.at.elapsed().is_ok_and(|age| age > BUSY)
}

/// A download that has ended: found or not.
type Done = (Segment, Duration, Result<bool>);

struct Run {
    with: Prefetcher,
    most: usize,
    road: Road,
    depth: Depth,
    /// The segment that recovery asked for last, and the note of it.
    asked: Option<Segment>,
    note: Option<Asked>,
    /// Since when recovery has asked for nothing new.
    since: Instant,
    downloads: JoinSet<Done>,
    underway: BTreeSet<Segment>,
    whole: BTreeSet<Segment>,
    /// The archive did not have it: neither what comes after it.
    absent: Option<Segment>,
    failed: Option<Failed>,
    looks: Looks,
    /// This one seems to be encrypted, and there is no key.
    sealed: Option<Segment>,
    /// It is not the only one.
    lacks_key: bool,
    stop: Stop,
}

struct Failed {
    until: Instant,
    pause: Duration,
    said: String,
}

/// Downloads go on to write on threads of their own, until they see that.
impl Drop for Run {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Run {
    fn stop(&mut self) {
        self.stop.set();
        self.downloads.abort_all();
    }

    fn new(with: Prefetcher, looks_for_awaited: bool) -> Self {
        let most = room::segments(with.most, with.identity.segment_size);
        let wal_directory = with.spool.directory().parent().unwrap_or(Path::new(".")).to_owned();
        // What a process left that was killed, and other repositories' segments.
        with.spool.retain(|_| true);
        Run {
            most,
            road: Road::new(wal_directory, with.identity.segment_size),
            depth: Depth::new(most),
            asked: with.asked,
            note: with.spool.asked().filter(is_stale),
            since: Instant::now(),
            downloads: JoinSet::new(),
            underway: BTreeSet::new(),
            whole: with.spool.segments().into_iter().collect(),
            absent: None,
            failed: None,
            looks: Looks::new(looks_for_awaited, Instant::now()),
            sealed: None,
            lacks_key: false,
            stop: Stop::default(),
            with,
        }
    }

    /// Look what recovery asks for, and begin downloads.
    fn turn(&mut self, replayed: Option<Lsn>) -> Option<Ended> {
        let note = self.with.spool.asked();
        if note != self.note {
            self.note = note;
            if let Some(note) = note {
                if !note.is_of_this_repository {
                    return Some(Ended::OtherRepository);
                }
                self.asked_for(note.segment);
            }
        }
        if self.lacks_key {
            return Some(Ended::NoKey);
        }
        if let Some(replayed) = replayed {
            self.drop_replayed(replayed);
        }
        let is_idle = |limit: Duration| self.quiet() > limit && self.downloads.is_empty();
        if self.with.idle_limit.is_some_and(is_idle) {
            return Some(Ended::Idle);
        }
        if let Some(asked) = self.asked {
            self.begin_downloads(asked);
        }
        None
    }

    /// For how long recovery has asked for nothing.
    fn quiet(&self) -> Duration {
        let noted = self
            .note
            .and_then(|note| SystemTime::now().duration_since(note.at).ok());
        noted.map_or(self.since.elapsed(), |noted| noted.min(self.since.elapsed()))
    }

    fn pause(&self) -> Duration {
        match self.quiet() {
            quiet if quiet < HURRY => AT_ONCE,
            quiet if quiet < BUSY => OFTEN,
            quiet if quiet < QUIET => SOMETIMES,
            _ => SELDOM,
        }
    }

    fn asked_for(&mut self, segment: Segment) {
        if self.asked == Some(segment) {
            return;
        }
        let came = match self.whole.remove(&segment) {
            true => Came::InTime,
            false => Came::Late,
        };
        self.depth.asked(self.since.elapsed(), came);
        self.since = Instant::now();
        self.asked = Some(segment);
        self.absent = None;
        self.looks.begin(Instant::now());
        self.leave_out();
    }

    /// May recovery still ask for it?
    fn is_wanted(&self, found: Segment) -> bool {
        let Some(asked) = self.asked else { return true };
        let number = |segment: Segment| segment.number(self.with.identity.segment_size);
        let window = number(asked) + 1..=number(asked) + self.most as u64;
        let is_next = window.contains(&number(found)) && found.timeline >= asked.timeline;
        // Recovery may come back to an older timeline for the segment that it asks for, and for no later one.
        is_next || number(found) == number(asked)
    }

    /// Remove what recovery does not ask for any more.
    fn leave_out(&mut self) {
        let mut whole = std::mem::take(&mut self.whole);
        whole.retain(|found| self.is_wanted(*found));
        self.whole = whole;
        self.with.spool.retain(|found| self.is_wanted(found));
    }

    /// WAL that came by streaming is not asked for any more.
    fn drop_replayed(&mut self, replayed: Lsn) {
        let size = self.with.identity.segment_size;
        let is_replayed = |segment: &Segment| segment.start(size).0 + size.bytes() <= replayed.0;
        if self.whole.iter().any(is_replayed) {
            self.whole.retain(|segment| !is_replayed(segment));
            self.with.spool.retain(|segment| !is_replayed(&segment));
        }
    }

    fn begin_downloads(&mut self, asked: Segment) {
        if self.failed.as_ref().is_some_and(|failed| failed.until > Instant::now()) {
            return;
        }
        let most_downloads = self.depth.downloads().min(MOST_DOWNLOADS);
        let awaited = self.awaited(asked).into_iter();
        for segment in awaited.chain(self.road.after(asked, self.depth.segments())) {
            let is_full = self.whole.len() + self.underway.len() >= self.most;
            if self.absent == Some(segment) || self.underway.len() >= most_downloads || is_full {
                return;
            }
            if self.whole.contains(&segment) || self.underway.contains(&segment) {
                continue;
            }
            let (directory, size) = (self.with.spool.directory(), self.with.identity.segment_size);
            if let Some(free) = room::lacking(directory, self.underway.len() + 1, size) {
                let said = format!("only {free} bytes are free in \"{}\"", directory.display());
                self.fail(said);
                return;
            }
            self.begin(segment);
        }
    }

    /// What recovery has asked for, if it was told that it is not there, and it is time to look again.
    fn awaited(&mut self, asked: Segment) -> Option<Segment> {
        let now = Instant::now();
        let is_here = self.whole.contains(&asked) || self.underway.contains(&asked);
        if is_here || !self.looks.are_due(now) || !self.with.spool.is_told_absent(asked) {
            return None;
        }
        self.looks.look(now);
        Some(asked)
    }

    fn begin(&mut self, segment: Segment) {
        self.underway.insert(segment);
        let (store, spool, stop) = (self.with.store.clone(), self.with.spool.clone(), self.stop.clone());
        let identity = self.with.identity;
        let formats = match self.asked == Some(segment) {
            // It is looked for again and again. Recovery itself looks for it in all formats when it asks.
            true => Formats::Only(self.with.reads_first),
            false => Formats::From(self.with.reads_first),
        };
        self.downloads.spawn(async move {
            let begun = Instant::now();
            let result = download(&store, &spool, segment, formats, identity, &stop).await;
            (segment, begun.elapsed(), result)
        });
    }

    /// True if it is what recovery waits for.
    fn collect(&mut self, done: Result<Done, tokio::task::JoinError>) -> bool {
        let Ok((segment, took, result)) = done else {
            // It panicked. Which one it was is not told.
            self.underway.clear();
            self.downloads.abort_all();
            self.fail("a download was ended by a defect".to_owned());
            return false;
        };
        self.underway.remove(&segment);
        let is_awaited = self.asked == Some(segment);
        let asks_for_a_key = result.as_ref().is_err_and(Error::asks_for_a_key) && self.with.store.keyring().is_empty();
        // One may be damaged.
        let is_second = asks_for_a_key && self.sealed.replace(segment).is_some_and(|first| first != segment);
        match result {
            Ok(true) => {
                self.whole.insert(segment);
                self.depth.fetched(took);
                self.failed = None;
                // It was on its way when recovery turned to something else.
                if !self.is_wanted(segment) {
                    self.leave_out();
                }
                return is_awaited;
            }
            Ok(false) if is_awaited => {}
            // Somebody with the key must be able to fetch ahead instead.
            Err(_) if is_second => self.lacks_key = true,
            // It is reported when recovery asks for it.
            Err(error) if error.is_content() && is_awaited => self.looks.rest(Instant::now() + LONGEST_PAUSE),
            Ok(false) => self.note_absent(segment),
            Err(error) if error.is_content() => self.note_absent(segment),
            Err(error) => {
                let detail = error.detail().map_or_else(String::new, |detail| format!(" ({detail})"));
                self.fail(format!("{error}{detail}"));
            }
        }
        false
    }

    fn note_absent(&mut self, segment: Segment) {
        let number = |segment: &Segment| segment.number(self.with.identity.segment_size);
        // What was absent of another timeline says nothing: the road has turned away from it.
        let is_news = |absent: Segment| absent.timeline != segment.timeline || number(&segment) < number(&absent);
        if self.absent.is_none_or(is_news) {
            self.with.spool.note_missing(segment);
            self.absent = Some(segment);
        }
    }

    /// Pause. What was said before is not said again.
    fn fail(&mut self, said: String) {
        let before = self.failed.take();
        let pause = before
            .as_ref()
            .map_or(FIRST_PAUSE, |failed| (failed.pause * 2).min(LONGEST_PAUSE));
        if before.is_none_or(|failed| !is_same_but_for_numbers(&failed.said, &said)) {
            tracing::info!("WAL is not fetched ahead of recovery for now: {said}");
        }
        self.failed = Some(Failed {
            until: Instant::now() + pause,
            pause,
            said,
        });
    }
}

async fn download(
    store: &Store,
    spool: &Spool,
    segment: Segment,
    formats: Formats,
    identity: ClusterIdentity,
    stop: &Stop,
) -> Result<bool> {
    let (size, system_identifier) = (identity.segment_size, identity.system_identifier);
    let part = spool.begin(segment, size, stop)?;
    let place = spool.directory().to_owned();
    let name = WalFileName::Segment(segment);
    let Some(part) = fetch::fetch_into(store, &name, formats, system_identifier, part, place.clone()).await? else {
        return Ok(false);
    };
    blocking(move || part.finish().map_err(|error| Error::io("write", place, error))).await?;
    Ok(true)
}
