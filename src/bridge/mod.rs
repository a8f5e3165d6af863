//! Between PostgreSQL's main thread and tokio's threads: one runtime and one store per process, plain data in, plain data out.
//!
//! tokio's threads block all signals and never call PostgreSQL. They wake the main thread through a socket. Their log lines reach
//! the server's log when the main thread drains them.

mod log;
mod run;
mod threads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use walarchive_core::Error;
use walarchive_core::archive::Archive;
use walarchive_core::data_dir::STANDBY_SIGNAL;
use walarchive_core::lease::{Situation, Writer};
use walarchive_storage::crypt::Keyring;
use walarchive_storage::{Brake, Store};

use crate::guc::{self, ArchiveSettings};
use crate::pg;

pub use log::drain;
pub use run::{Begun, Bridge, Flow, run};
pub use threads::{compress_apart, hurry};

/// Holds back the transfers of this process that can wait, so that WAL goes first.
pub fn brake() -> &'static Brake {
    static BRAKE: OnceCell<Brake> = OnceCell::new();
    BRAKE.get_or_init(Brake::default)
}

/// Does this process do the work of hours?
static PATIENT: AtomicBool = AtomicBool::new(false);

/// From now on this process does the work of hours, and has more patience with a store than an archiver has: it asks all the time
/// whether it may still write, and an outage must not end the work because of that. What `archive` has found is not asked again.
pub fn be_patient(settings: &ArchiveSettings, archive: &Archive) -> Result<Arc<Archive>, Error> {
    PATIENT.store(true, Ordering::Relaxed);
    let patient = Arc::new(archive.through(Store::open(&settings.storage.for_backup())?));
    *CURRENT.lock() = Some((basis(settings), Arc::clone(&patient)));
    Ok(patient)
}

/// The archive of this process, with what it was opened for.
static CURRENT: Mutex<Option<(Basis, Arc<Archive>)>> = Mutex::new(None);

/// The generation of the settings, and the time of the reload from which the keys are: what the same files and the same program
/// hold may have changed by the next one. Without keys it does not count.
type Basis = (u64, i64);

/// The reload from which the keys are, in a process that looks whether they have changed. In others each reload counts.
static KEYS: Mutex<Option<i64>> = Mutex::new(None);

fn basis(settings: &ArchiveSettings) -> Basis {
    let has_keys = settings.storage.encryption.names_a_key();
    let keys = || KEYS.lock().unwrap_or_else(pg::server::reload_time);
    (settings.generation(), if has_keys { keys() } else { 0 })
}

/// This process looks whether the keys have changed, and they have with the reload at this time, or may have.
pub fn keys_changed(reload: i64) {
    *KEYS.lock() = Some(reload);
}

/// The keys of the archive of this process, if it is the one that the settings name and has some.
pub fn keyring() -> Option<Keyring> {
    let basis = basis(&ArchiveSettings::current().ok()?);
    let current = CURRENT.lock();
    let (_, archive) = current.as_ref().filter(|(of, _)| *of == basis)?;
    let keyring = archive.store().keyring();
    (!keyring.is_empty()).then(|| keyring.clone())
}

/// Tell whoever writes of this process that the server was promoted, if it was. To be called now and then while uploads run.
pub fn note_situation() {
    let archive = CURRENT.lock().as_ref().map(|(_, archive)| Arc::clone(archive));
    if let Some(writer) = archive.as_ref().and_then(|archive| archive.writer()) {
        writer.set_situation(situation());
    }
}

/// The archive that the settings name. Opened once and kept as long as the settings are the same.
pub fn archive(settings: &ArchiveSettings) -> Result<Arc<Archive>, Error> {
    let mut current = CURRENT.lock();
    let basis = basis(settings);
    match &*current {
        Some((of, archive)) if *of == basis => {
            // Since the last call the server may have been promoted.
            if let Some(writer) = archive.writer() {
                writer.set_situation(situation());
            }
            Ok(Arc::clone(archive))
        }
        _ => {
            let store = match PATIENT.load(Ordering::Relaxed) {
                true => Store::open(&settings.storage.for_backup())?,
                false => Store::open(&settings.storage)?,
            };
            let writer = Writer::new(store.clone(), pg::server::data_directory(), situation());
            let archive = Archive::new(store, pg::server::identity(), settings.compression);
            let archive = archive.with_writer(writer);
            let archive = Arc::new(match threads::current() {
                Some(threads) => archive.with_threads(threads),
                None => archive,
            });
            *current = Some((basis, Arc::clone(&archive)));
            Ok(archive)
        }
    }
}

/// Another store for the same repository. It refuses changes that this server may not make now.
pub fn writable(archive: &Archive, store: Store) -> Store {
    match archive.writer() {
        Some(writer) => writer.fenced(&store),
        None => store,
    }
}

/// The state of the server, as far as it decides who may write into the repository.
pub fn situation() -> Situation {
    let in_recovery = pg::server::in_recovery();
    Situation {
        in_recovery,
        is_standby: in_recovery && pg::server::data_directory().join(STANDBY_SIGNAL).exists(),
        timeline: pg::server::wal_position().0,
        interval: guc::lease_interval(),
    }
}
