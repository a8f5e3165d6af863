//! `wal-fetch`.

mod args;
mod end;
mod prefetcher;
mod round;
mod segment;
mod share;
mod tail;
mod wait;
mod wanted;

use std::path::Path;
use std::time::{Duration, Instant};

use walarchive_core::archive;
use walarchive_core::archive::prefetch::{Spool, Taken};
use walarchive_core::control_file::ControlFile;
use walarchive_core::printable::{self, is_same_but_for_numbers};
use walarchive_core::recovery_state::is_in_recovery;
use walarchive_core::wal::{Segment, WalFileName};
use walarchive_core::{Error, Result, StorageError};
use walarchive_storage::Store;

use crate::repository::Settings;
use crate::repository::data_dir::{
    data_dir_beside, has_history_itself, is_standby, running_postmaster, running_server,
};
use crate::repository::writer::writer;

use round::Round;

pub use args::WalFetch;
pub use prefetcher::{is_prefetcher, run as run_prefetcher};

/// How long a store may not move while a standby waits for it: PostgreSQL asks again some seconds later, and tries to stream
/// meanwhile.
const PATIENCE_OF_STANDBY: Duration = Duration::from_secs(10);

/// The recovery of a primary waits longer, in rounds: after each the server's log says why.
const ROUND: Duration = Duration::from_secs(10);

/// A store that answers with an error is asked again in a round.
const PATIENCE_IN_ROUND: Duration = Duration::from_secs(5);

/// Between two rounds.
const PAUSE: Duration = Duration::from_secs(1);

/// A call that the spool could not serve.
#[derive(Debug)]
pub struct Call {
    name: WalFileName,
    settings: Settings,
    spool: Option<Spool>,
    round: Option<Round>,
    /// The timeline that recovery follows, which has left the one of the segment.
    followed: Option<u32>,
    /// Whoever fetches ahead did not find the segment.
    expects_absence: bool,
}

/// Take the file from the spool, if it was fetched ahead. This comes before threads and the store are made, and is all that most
/// calls need. None: done.
pub fn from_spool(args: &WalFetch) -> Result<Option<Call>> {
    let name: WalFileName = args.name.parse().map_err(|_| {
        Error::config(
            format!("\"{}\" is not the name of a WAL file", args.name.escape_debug()),
            "Give the name that the server passes as %f, as in restore_command = 'walarchive wal-fetch %f \"%p\"'.",
        )
    })?;
    let settings = args.settings()?;
    if matches!(name, WalFileName::History(_)) {
        tidy(args, &settings);
    }
    if args.is_beyond(&name) {
        return Err(StorageError::NotFound {
            object: args.name.clone(),
        }
        .into());
    }
    let spool = spool(args, &settings);
    let round = Round::of(&args.path, &settings);
    let mut followed = None;
    if let (WalFileName::Segment(segment), Some(round)) = (name, &round) {
        if round.is_of_standby {
            round.check(segment)?;
        }
        followed = round
            .follows(segment)
            .filter(|followed| !share::is_known_whole(segment, *followed, &args.path));
    }
    let mut expects_absence = false;
    match (name, &spool) {
        (WalFileName::Segment(segment), Some(spool)) if followed.is_none() => match take(spool, segment, &args.path) {
            Taken::Served => return Ok(None),
            // Where whoever fetches ahead waits for long, too.
            Taken::GivenUp | Taken::Underway => expects_absence = true,
            Taken::Missing | Taken::Damaged(_) => expects_absence = spool.was_missing(segment),
        },
        (WalFileName::History(_), Some(spool)) => begin(spool, &args.path),
        _ => {}
    }
    Ok(Some(Call {
        name,
        settings,
        spool,
        round,
        followed,
        expects_absence,
    }))
}

/// The spool of the server that calls this program, if it recovers and segments are to be fetched ahead.
fn spool(args: &WalFetch, settings: &Settings) -> Option<Spool> {
    let data_dir = data_dir_beside(&args.path).filter(|data_dir| is_in_recovery(data_dir))?;
    running_postmaster(&data_dir)?;
    let is_wanted = args.ahead(settings) > 0;
    is_wanted
        .then(|| Spool::beside(&args.path, &settings.storage))
        .flatten()
}

/// At its end recovery asks for history files. If a prefetcher was killed just before, nobody else removes what it left.
fn tidy(args: &WalFetch, settings: &Settings) {
    let spool = Spool::beside(&args.path, &settings.storage);
    if let Some(spool) = spool {
        spool.remove_unused();
    }
}

/// Recovery asks for a history file first. What it will ask for then is fetched meanwhile.
fn begin(spool: &Spool, path: &Path) {
    let server = data_dir_beside(path).and_then(|data_dir| Some((running_server(&data_dir)?, data_dir)));
    if let Some((server, data_dir)) = server
        && spool.note_begin(&data_dir, server)
    {
        prefetcher::start(spool, server.pid);
    }
}

/// A failure of the spool never is one of the call.
fn take(spool: &Spool, segment: Segment, path: &Path) -> Taken {
    let data_dir = data_dir_beside(path);
    let server = data_dir.as_deref().and_then(running_server);
    let control = data_dir.and_then(|data_dir| ControlFile::read(&data_dir).ok());
    if let (Some(control), Some(server)) = (&control, server)
        && spool.take_again(segment, server, path, control.system_identifier)
    {
        tracing::info!(name = %segment, "had been fetched before");
        return Taken::Served;
    }
    if let Err(error) = spool.note(segment) {
        eprintln!("walarchive: warning: {error}: WAL is not fetched ahead of recovery");
    }
    let Some(control) = control else { return Taken::Missing };
    let taken = spool.take_when_there(segment, path, Some(control.system_identifier));
    match &taken {
        Taken::Served => {
            if let Some(server) = server {
                spool.note_served(segment, server, path);
            }
            tracing::info!(name = %segment, "had been fetched ahead");
        }
        Taken::Damaged(reason) => eprintln!(
            "walarchive: warning: \"{segment}\", which was fetched ahead, cannot be used and is fetched again: {reason}"
        ),
        Taken::Missing | Taken::Underway | Taken::GivenUp => {}
    }
    taken
}

/// Fetch one WAL file.
pub async fn run(args: &WalFetch, call: &Call) -> Result<()> {
    let name = call.name;
    // A standby asks again. The recovery of a primary would end with a failure.
    let may_fail = is_standby(&args.path) || has_history_itself(&args.name, &args.path);
    // PostgreSQL asks for it when a standby of the first timeline is promoted. No server has ever written one.
    if may_fail && name == WalFileName::History(1) {
        return Err(StorageError::NotFound {
            object: args.name.clone(),
        }
        .into());
    }
    let mut storage = call.settings.storage.clone();
    let store = match may_fail {
        true => {
            // A promotion waits for some of these calls, one after the other.
            storage.request_timeout = storage.request_timeout.min(PATIENCE_OF_STANDBY);
            storage.patience = Duration::ZERO;
            Store::open(&storage)?
        }
        false => {
            storage.request_timeout = storage.request_timeout.min(ROUND);
            storage.patience = PATIENCE_IN_ROUND.min(Duration::from_secs(args.patience.into()));
            Store::open_settled(&storage).await?
        }
    };
    note_recovery(&store, &args.path).await;
    let patience = match may_fail {
        true => Duration::ZERO,
        false => Duration::from_secs(args.patience.into()),
    };
    let result = patiently(&args.name, patience, async || fetch(args, call, &store).await).await;
    if let (WalFileName::Segment(segment), Some(round)) = (name, &call.round) {
        match &result {
            Ok(true) => round.got(segment),
            Ok(false) | Err(Error::Storage(StorageError::NotFound { .. })) => {}
            Err(_) if round.is_of_standby => round.tell_failed(segment)?,
            Err(_) => {}
        }
    }
    result.map(|_| ())
}

/// Once more after each failure that may pass, until patience ends.
async fn patiently<T>(name: &str, patience: Duration, fetch: impl AsyncFn() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let mut said: Option<(Instant, String)> = None;
    loop {
        let error = match fetch().await {
            Err(error) if error.is_transient() => error,
            result => return result,
        };
        let left = patience.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(error);
        }
        let detail = error.detail().map_or_else(String::new, |detail| format!(" ({detail})"));
        let text = format!("{error}{detail}");
        if said
            .as_ref()
            .is_none_or(|(at, said)| at.elapsed() >= ROUND || !is_same_but_for_numbers(said, &text))
        {
            eprintln!(
                "walarchive: warning: recovery waits for \"{name}\", for up to {} s more: {}",
                left.as_secs().max(1),
                printable::lines(&text)
            );
            said = Some((Instant::now(), text));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// True: there will be no more of the file.
async fn fetch(args: &WalFetch, call: &Call, store: &Store) -> Result<bool> {
    if let WalFileName::Segment(segment) = call.name {
        return segment::fetch(args, call, store, segment).await;
    }
    let fetched = archive::fetch(store, &call.name, &args.path, call.settings.reads_first).await?;
    tracing::info!(name = %call.name, bytes = fetched.file_bytes, "fetched");
    Ok(true)
}

/// From now on somebody fetches ahead, if nobody does yet.
pub fn hand_over(args: &WalFetch, call: &Call) {
    let postmaster = data_dir_beside(&args.path).and_then(|data_dir| running_postmaster(&data_dir));
    if let (WalFileName::Segment(_), Some(spool), Some(postmaster)) = (call.name, &call.spool, postmaster) {
        prefetcher::start(spool, postmaster);
    }
}

/// Note that the server is a standby: without the module nobody else does, and its promotion could not be told from a copy that
/// was started. A failure here does not end the fetch.
async fn note_recovery(store: &Store, path: &Path) {
    let Some(data_dir) = data_dir_beside(path).filter(|data_dir| is_in_recovery(data_dir)) else {
        return;
    };
    if let Err(error) = writer(store, &data_dir, 0).note_recovery().await {
        tracing::warn!(%error, "could not note in the data directory that the server is a standby");
    }
}
