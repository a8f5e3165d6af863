//! The uploader as a synchronous standby of its own server: a commit returns when its WAL is in the store.
//!
//! It is connected to a WAL sender, as every standby is, and reports as written, flushed and replayed what is stored, so that
//! PostgreSQL's own rules say who waits for it. The stream only tells how far the WAL is: [`ship`] reads it from `pg_wal`.
//! Two tasks do that, so that a commit does not wait for this process's main thread, which shows and logs how it goes.

mod link;
mod progress;
mod shared;
mod ship;
mod tell;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use walarchive_core::archive::Archive;
use walarchive_core::archive::tail::{Position, Shipper};
use walarchive_core::data_dir::PG_WAL;
use walarchive_core::{Error, Result};

use self::link::Door;
use self::progress::Rules;
use self::shared::{Shared, Shown};
use self::tell::Teller;
use super::tail::{self, Seen};
use crate::bridge::{self, Bridge};
use crate::guc::{self, ArchiveSettings};
use crate::pg::{server, standbys};
use crate::shmem::{ARCHIVING, SyncState, Synchronous as Status, TailState, Text, now_us};

/// How often the main thread looks how it goes, and whether commits wait.
const LOOK: Duration = Duration::from_millis(500);

/// For so long the end of this process waits for that of the connection.
const FAREWELL: Duration = Duration::from_millis(200);

/// A task that has panicked is begun again so much later.
const AGAIN: Duration = Duration::from_secs(5);

/// The tasks, and what they were begun with.
struct Running {
    archive: Arc<Archive>,
    conninfo: String,
    shared: Arc<Shared>,
    begun: Instant,
    /// It ends by itself, so that the server hears of it.
    link: AbortHandle,
    store: [AbortHandle; 2],
}

impl Running {
    /// Has a task ended without being told, which it does only if it panics?
    fn has_panicked(&self) -> bool {
        self.link.is_finished() || self.store.iter().any(AbortHandle::is_finished)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.end();
        self.store.iter().for_each(AbortHandle::abort);
    }
}

pub(super) struct Synchronous {
    pg_wal: PathBuf,
    running: Option<Running>,
    teller: Teller,
    status: Status,
    /// How far the server was at a moment of which it is not known yet whether all that was written before is stored.
    seen: Option<Seen>,
    /// The last moment of which that is known: microseconds since 1970; 0 for none.
    stored_us: i64,
}

impl Synchronous {
    pub(super) fn new() -> Self {
        Synchronous {
            pg_wal: server::data_directory().join(PG_WAL),
            running: None,
            teller: Teller::default(),
            status: Status::OFF,
            seen: None,
            stored_us: 0,
        }
    }

    /// The configuration was read again, as PostgreSQL reads pg_hba.conf then.
    pub(super) fn restart(&mut self) {
        if let Some(running) = &self.running {
            running.shared.try_again();
        }
    }

    /// Is there to be one, which stores the tail then?
    pub(super) fn is_wanted(&self) -> bool {
        guc::synchronous() && !server::in_recovery() && why_impossible().is_none()
    }

    /// There is to be none, or none can be.
    pub(super) fn rest(&mut self) {
        self.running = None;
        let named = standbys::named(standbys::WALARCHIVE);
        let is_needed = !server::in_recovery() && named.by_name && !named.others_suffice;
        match why_impossible().filter(|_| guc::synchronous() && !server::in_recovery()) {
            Some(error) => self.cannot_begin(&error),
            None => {
                self.teller.rest(is_needed && standbys::commits_wait(), Instant::now());
                if self.status.state != SyncState::Off {
                    self.show(Status::OFF);
                }
            }
        }
    }

    /// This process ends. The server hears of it, if it listens.
    pub(super) fn end(&mut self, bridge: &'static Bridge) {
        let Some(running) = self.running.take() else { return };
        let (link, until) = (running.link.clone(), Instant::now() + FAREWELL);
        drop(running);
        while !link.is_finished() && Instant::now() < until {
            bridge.wait(Some(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Do what is due, if it is wanted. `may_store`: all WAL of before the promotion of this server is archived, or there is none.
    /// Returns when to call this again; what changes wakes the uploader.
    pub(super) fn turn(&mut self, bridge: &'static Bridge, may_store: bool) -> Duration {
        let seen = Seen::now();
        match self.keep_running(bridge, &seen.position) {
            Ok((shared, generation)) => {
                shared.answer(standbys::is_new_wal_sender);
                if may_store {
                    shared.let_store();
                }
                let named = standbys::named(standbys::WALARCHIVE);
                let rules = Rules {
                    timeout: guc::synchronous_timeout(),
                    others_suffice: named.others_suffice,
                };
                let commits_wait = named.counts && standbys::commits_wait();
                let shown = shared.tick(rules, commits_wait, seen.position);
                self.publish(&shared, &shown, seen, generation);
                let others = standbys::others(standbys::WALARCHIVE);
                self.teller.tell(&shown, rules, &others, commits_wait, Instant::now());
                let counted = is_counted(&shown, rules);
                let lacking = others.lacking(counted).filter(|_| named.counts);
                // What the store says may be long, and is cut off.
                let lacking = lacking.map(|names| tell::lacking(&names)).into_iter();
                let error = lacking.chain(trouble(&shown));
                self.show(Status {
                    state: shown.state,
                    lsn: shown.safe.0,
                    error: Text::new(&error.collect::<Vec<_>>().join("; ")),
                    ..self.status
                });
            }
            Err(error) => {
                self.running = None;
                self.cannot_begin(&error);
            }
        }
        LOOK
    }

    fn cannot_begin(&mut self, error: &Error) {
        self.teller.cannot_begin(error);
        self.show(Status {
            state: SyncState::Connecting,
            lsn: 0,
            error: Text::new(&error.to_string()),
            ..self.status
        });
    }

    /// The tasks, begun again if the settings are others, or one has panicked.
    fn keep_running(&mut self, bridge: &'static Bridge, position: &Position) -> Result<(Arc<Shared>, u64)> {
        let settings = ArchiveSettings::for_writing()?;
        let archive = bridge::archive(&settings)?;
        let conninfo = guc::synchronous_conninfo();
        let is_same = |running: &Running| {
            Arc::ptr_eq(&running.archive, &archive)
                && running.conninfo == conninfo
                && !(running.has_panicked() && running.begun.elapsed() > AGAIN)
        };
        if let Some(running) = self.running.as_ref().filter(|running| is_same(running)) {
            return Ok((Arc::clone(&running.shared), settings.generation()));
        }
        (self.running, self.seen) = (None, None);
        let door = Door {
            params: params(&conninfo)?,
            system_identifier: server::identity().system_identifier,
        };
        tail::prepare(position);
        let shared = Arc::new(Shared::new(bridge, *position));
        let shipper = Shipper::new(Arc::clone(&archive), self.pg_wal.clone());
        self.running = Some(Running {
            begun: Instant::now(),
            link: bridge.spawn(link::stay(door, Arc::clone(&shared)), drop),
            store: [
                bridge.spawn(ship::clean(shipper.cleaner()), drop),
                bridge.spawn(ship::store(shipper, Arc::clone(&shared)), drop),
            ],
            archive,
            conninfo,
            shared: Arc::clone(&shared),
        });
        Ok((shared, settings.generation()))
    }

    /// Show how far the tail is stored, and have the archiver go on there when the server stops.
    fn publish(&mut self, shared: &Shared, shown: &Shown, seen: Seen, generation: u64) {
        let before = *self.seen.get_or_insert(seen);
        if let Some((position, shipped)) = shared.shipped() {
            if shipped.safe >= Some(before.position.flushed) {
                self.stored_us = before.at_us;
                self.seen = Some(seen);
            }
            let at_us = self.stored_us;
            tail::publish(&Seen { position, at_us }, &shipped, generation);
        }
        if matches!(shown.state, SyncState::Waiting | SyncState::Degraded) {
            let mut archiving = ARCHIVING.exclusive();
            archiving.tail.state = TailState::Failing;
            let error = Text::new(&trouble(shown).unwrap_or_default());
            (archiving.tail.error, archiving.tail.error_us) = (error, now_us());
        }
    }

    fn show(&mut self, status: Status) {
        let since_us = match status.state {
            SyncState::Off => 0,
            state if state == self.status.state => self.status.since_us,
            _ => now_us(),
        };
        self.status = Status { since_us, ..status };
        ARCHIVING.exclusive().synchronous = self.status;
    }
}

/// Do commits have what they want of the store, now or as soon as it takes WAL? Without it they do not after the timeout, where others
/// take its place.
fn is_counted(shown: &Shown, rules: Rules) -> bool {
    shown.state != SyncState::Degraded || !rules.others_suffice
}

/// Why it is not synchronous.
fn trouble(shown: &Shown) -> Option<String> {
    let failure = match shown.state {
        SyncState::Connecting => shown.unconnected.as_ref().map(|(failure, _)| failure),
        _ => shown.refused.as_ref(),
    };
    match (failure, shown.state) {
        (Some(failure), _) => Some(tell::in_a_line(failure)),
        (None, SyncState::Waiting | SyncState::Degraded) => Some("the store has not answered yet".to_owned()),
        (None, _) => None,
    }
}

/// Why nothing is archived here, if so.
fn why_impossible() -> Option<Error> {
    let message = match (server::archive_mode().as_str(), server::is_archive_library()) {
        ("off", _) => "archive_mode is off, so that nothing is stored, and commits that need walarchive wait",
        (_, false) => {
            "archive_library is not walarchive, so that nothing is stored, and commits that need walarchive wait"
        }
        _ => return None,
    };
    let hint = "Archive by walarchive, or take it out of synchronous_standby_names.";
    Some(Error::config(message, hint))
}

/// The way to this server: as the setting says, or else by its first socket, as the operating system's user.
fn params(conninfo: &str) -> Result<walarchive_client::Params> {
    let mut params = walarchive_client::Params::of_conninfo(conninfo)?;
    if !params.names_server() {
        let port = server::setting(c"port");
        let port = port
            .parse()
            .map_err(|_| Error::defect(format!("the server's port is \"{port}\"")))?;
        params.set_server(&socket_directory(&server::setting(c"unix_socket_directories")), port);
    }
    params.set_application_name(standbys::WALARCHIVE);
    Ok(params)
}

/// The first of the list; a server without sockets is there by the network.
fn socket_directory(list: &str) -> String {
    let first = list.split(',').next().unwrap_or_default().trim().trim_matches('"');
    match first.is_empty() {
        true => "localhost".to_owned(),
        false => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::socket_directory;

    #[test]
    fn the_first_socket_is_taken() {
        for (list, first) in [
            ("/run/postgresql, /tmp", "/run/postgresql"),
            ("\"/a b\",/tmp", "/a b"),
            ("", "localhost"),
        ] {
            assert_eq!(socket_directory(list), first);
        }
    }
}
