//! The physical replication slot that keeps WAL. Nobody streams from it: this process moves it.

use std::ffi::CStr;

use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

/// Its name.
pub const NAME: &CStr = c"walarchive_unarchived";

/// What there is under this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// None.
    Missing,
    /// It keeps WAL from this LSN on.
    Keeps(u64),
    /// It keeps nothing: the server has given it up because of `max_slot_wal_keep_size` or `idle_replication_slot_timeout`.
    GivenUp,
    /// Somebody has made a logical slot of this name, which is none of ours.
    Foreign,
}

/// Look at it. Call this only when the server has read its slots from disk: when it replays WAL, or later.
pub fn look() -> Slot {
    // SAFETY: the name is a C string. The entry is in shared memory, which is always mapped; its fields are read as the server's
    // own progress reports read them, and 8 aligned bytes are never seen half written.
    unsafe {
        let slot = pg_sys::SearchNamedReplicationSlot(NAME.as_ptr(), true);
        if slot.is_null() {
            return Slot::Missing;
        }
        let data = &raw const (*slot).data;
        if (*data).database != pg_sys::Oid::INVALID {
            return Slot::Foreign;
        }
        match (&raw const (*data).restart_lsn).read_volatile() {
            0 => Slot::GivenUp,
            _ if is_invalid(data) => Slot::GivenUp,
            lsn => Slot::Keeps(lsn),
        }
    }
}

/// # Safety
/// The data of a slot.
#[cfg(feature = "pg15")]
unsafe fn is_invalid(data: *const pg_sys::ReplicationSlotPersistentData) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { (*data).invalidated_at != 0 }
}

/// # Safety
/// The data of a slot.
#[cfg(not(feature = "pg15"))]
unsafe fn is_invalid(data: *const pg_sys::ReplicationSlotPersistentData) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { (*data).invalidated != pg_sys::ReplicationSlotInvalidationCause::RS_INVAL_NONE }
}

/// How many more slots the server has room for.
pub fn free() -> usize {
    // SAFETY: set at the server's start; the name is a variable of this function. Nothing is raised.
    unsafe {
        let all = pg_sys::max_replication_slots.max(0);
        let mut name = pg_sys::NameData::default();
        (0..all)
            .filter(|index| !pg_sys::ReplicationSlotName(*index, &raw mut name))
            .count()
    }
}

/// Make it, so that it keeps all WAL that recovery after a crash would need, all that comes, and what is still there from `back` on.
/// Returns from where on.
pub fn create(back: u64) -> Result<u64, Box<CaughtError>> {
    contained(move || {
        // SAFETY: the calls of pg_create_physical_replication_slot(), in its order, by a process that has no slot.
        unsafe {
            let persistent = pg_sys::ReplicationSlotPersistency::RS_PERSISTENT;
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            pg_sys::ReplicationSlotCreate(NAME.as_ptr(), false, persistent, false);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            pg_sys::ReplicationSlotCreate(NAME.as_ptr(), false, persistent, false, false, false);
            pg_sys::ReplicationSlotReserveWal();
            set_back(back);
            pg_sys::ReplicationSlotMarkDirty();
            pg_sys::ReplicationSlotSave();
            let lsn = (*pg_sys::MyReplicationSlot).data.restart_lsn;
            pg_sys::ReplicationSlotRelease();
            lsn
        }
    })
}

/// Have the slot of this process keep older WAL, too, as far as it is not removed or about to be.
///
/// # Safety
/// This process has a slot, and has just made it.
unsafe fn set_back(back: u64) {
    // SAFETY: as in `advance`. The server notes the number of a segment before it removes any up to that.
    unsafe {
        let restart_lsn = &raw mut (*pg_sys::MyReplicationSlot).data.restart_lsn;
        let reserved = restart_lsn.read_volatile();
        let bytes = pg_sys::wal_segment_size.max(1) as u64;
        let mut from = back;
        loop {
            let there = pg_sys::XLogGetLastRemovedSegno()
                .saturating_add(1)
                .saturating_mul(bytes);
            from = from.max(there);
            let wanted = from.min(reserved);
            if restart_lsn.read_volatile() == wanted {
                return;
            }
            restart_lsn.write_volatile(wanted);
            pg_sys::ReplicationSlotsComputeRequiredLSN();
        }
    }
}

/// Have it keep WAL from here on only. It never moves back. The next checkpoint writes that to disk, before it removes anything.
pub fn advance(lsn: u64) -> Result<(), Box<CaughtError>> {
    contained(|| {
        // SAFETY: what pg_replication_slot_advance() does with a physical slot. The slot is this process's own from the first call
        // to the last, so nobody else changes the LSN, and others see its 8 aligned bytes before or after.
        unsafe {
            #[cfg(not(feature = "pg18"))]
            pg_sys::ReplicationSlotAcquire(NAME.as_ptr(), true);
            #[cfg(feature = "pg18")]
            pg_sys::ReplicationSlotAcquire(NAME.as_ptr(), true, true);
            let restart_lsn = &raw mut (*pg_sys::MyReplicationSlot).data.restart_lsn;
            let before = restart_lsn.read_volatile();
            if before != 0 && before < lsn {
                restart_lsn.write_volatile(lsn);
                pg_sys::ReplicationSlotMarkDirty();
                pg_sys::ReplicationSlotsComputeRequiredLSN();
            }
            pg_sys::ReplicationSlotRelease();
        }
    })
}

/// Remove it.
pub fn remove() -> Result<(), Box<CaughtError>> {
    contained(|| {
        // SAFETY: the name is a C string, and this process has no slot.
        unsafe { pg_sys::ReplicationSlotDrop(NAME.as_ptr(), true) };
        // Otherwise the server keeps what it kept until another slot moves.
        // SAFETY: reads and writes shared memory under the server's own locks.
        unsafe { pg_sys::ReplicationSlotsComputeRequiredLSN() };
    })
}

/// Run it so that an ERROR of the server comes back as a value, and leaves no lock and no slot behind in this process, which has no
/// transaction that would release them.
fn contained<T>(work: impl FnOnce() -> T + std::panic::UnwindSafe) -> Result<T, Box<CaughtError>> {
    // SAFETY: a variable of the main thread.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    let result = PgTryBuilder::new(move || Ok(work()))
        .catch_others(|error| Err(Box::new(error)))
        .catch_rust_panic(|error| Err(Box::new(error)))
        .execute();
    if result.is_err() {
        // SAFETY: as an archive module or a background worker of the server's own does after an ERROR.
        unsafe {
            pg_sys::LWLockReleaseAll();
            if !(&raw const pg_sys::MyReplicationSlot).read().is_null() {
                pg_sys::ReplicationSlotRelease();
            }
            pg_sys::MemoryContextSwitchTo(context);
        }
    }
    result
}
