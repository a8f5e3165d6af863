//! Online backups with the functions of PostgreSQL that its replication protocol uses, too. There is no SQL, so the owner of a
//! database cannot replace a function, an operator or a setting.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use walarchive_core::Error;
use walarchive_core::backup::Database;

use super::process;

/// The server is in backup mode, until [`stop`](Self::stop) or the end of this process.
pub struct OnlineBackup {
    /// The start of the WAL that the backup needs.
    pub start_lsn: u64,
    /// The timeline of its first checkpoint.
    pub timeline: u32,
    tablespace_map: Vec<u8>,
    #[cfg(feature = "pg15")]
    label: std::ffi::CString,
    #[cfg(not(feature = "pg15"))]
    state: Box<pg_sys::BackupState>,
}

/// The results of the end of a backup.
pub struct Stopped {
    /// Recovery must replay WAL up to here before the copy is consistent.
    pub stop_lsn: u64,
    /// The timeline at the end. On a standby that of the minimum recovery point, which may be 0.
    pub timeline: u32,
    /// The contents of `backup_label`.
    pub backup_label: String,
    /// The contents of `tablespace_map`; empty without tablespaces.
    pub tablespace_map: String,
}

impl OnlineBackup {
    /// Enter backup mode, with an immediate checkpoint. This process must not have a database.
    pub fn start(label: &CStr) -> OnlineBackup {
        // This leaves backup mode if the process ends before the backup does. It takes effect once per process.
        // SAFETY: registers a callback of the server's own.
        unsafe { pg_sys::register_persistent_abort_backup_handler() };
        // The transaction owns what is allocated, and its end or its abort releases locks and memory.
        process::transaction(|| {
            // SAFETY: the arguments live until the call returns; where null is passed, the server allows it.
            unsafe {
                let map = pg_sys::makeStringInfo();
                let backup = Self::start_in_transaction(label, map);
                OnlineBackup {
                    tablespace_map: bytes((*map).data),
                    ..backup
                }
            }
        })
    }

    #[cfg(feature = "pg15")]
    unsafe fn start_in_transaction(label: &CStr, map: pg_sys::StringInfo) -> OnlineBackup {
        let mut timeline = 0;
        // SAFETY: as the caller says; `text` is a C string of the server's, copied at once.
        unsafe {
            let text = pg_sys::makeStringInfo();
            let start_lsn =
                pg_sys::do_pg_backup_start(label.as_ptr(), true, &raw mut timeline, text, std::ptr::null_mut(), map);
            OnlineBackup {
                start_lsn,
                timeline,
                tablespace_map: Vec::new(),
                label: CStr::from_ptr((*text).data).to_owned(),
            }
        }
    }

    #[cfg(not(feature = "pg15"))]
    unsafe fn start_in_transaction(label: &CStr, map: pg_sys::StringInfo) -> OnlineBackup {
        let mut state = Box::<pg_sys::BackupState>::default();
        // SAFETY: as the caller says; the state is this process's own, and stays where it is.
        unsafe { pg_sys::do_pg_backup_start(label.as_ptr(), true, std::ptr::null_mut(), &raw mut *state, map) };
        OnlineBackup {
            start_lsn: state.startpoint,
            timeline: state.starttli,
            tablespace_map: Vec::new(),
            state,
        }
    }

    /// Leave backup mode, without waiting for the archive. PostgreSQL raises an ERROR if the standby was promoted during the backup.
    pub fn stop(self) -> Result<Stopped, Error> {
        let (stop_lsn, timeline, label, map) = process::transaction(|| self.stop_in_transaction());
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| {
                Error::refused(
                    "the location of a tablespace is not UTF-8",
                    "Give its directory a name in UTF-8. A backup cannot describe another one.",
                )
            })
        };
        Ok(Stopped {
            stop_lsn,
            timeline,
            backup_label: text(label)?,
            tablespace_map: text(map)?,
        })
    }

    #[cfg(feature = "pg15")]
    fn stop_in_transaction(self) -> (u64, u32, Vec<u8>, Vec<u8>) {
        let mut timeline = 0;
        // The server takes the label as a C string that is not const, though it does not change it.
        let label = self.label.into_raw();
        // SAFETY: a C string that is owned again after the call, and a variable of this function.
        let (stop_lsn, label) = unsafe {
            let stop_lsn = pg_sys::do_pg_backup_stop(label, false, &raw mut timeline);
            (stop_lsn, std::ffi::CString::from_raw(label))
        };
        (stop_lsn, timeline, label.into_bytes(), self.tablespace_map)
    }

    #[cfg(not(feature = "pg15"))]
    fn stop_in_transaction(mut self) -> (u64, u32, Vec<u8>, Vec<u8>) {
        let state = &raw mut *self.state;
        // SAFETY: the state is the one with which the backup was started; the text is a C string of the server's, copied at
        // once.
        unsafe {
            pg_sys::do_pg_backup_stop(state, false);
            let label = bytes(pg_sys::build_backup_content(state, false));
            ((*state).stoppoint, (*state).stoptli, label, self.tablespace_map)
        }
    }
}

/// # Safety
/// A C string.
unsafe fn bytes(text: *const c_char) -> Vec<u8> {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes().to_vec()
}

/// The `xmax` of a snapshot that is taken now, with its epoch. Do not call this in a transaction.
pub fn next_transaction_id() -> u64 {
    process::transaction(|| {
        // SAFETY: both read shared memory; the snapshot is static, or lives as long as the transaction.
        let (next, xmax) = unsafe {
            let snapshot = pg_sys::GetTransactionSnapshot();
            (pg_sys::ReadNextFullTransactionId().value, (*snapshot).xmax)
        };
        // The last ID of that number before, or at, the next one.
        let xmax = u64::from(u32::from(xmax));
        let full = (next & !u64::from(u32::MAX)) | xmax;
        if full <= next {
            full
        } else {
            full.saturating_sub(1 << 32)
        }
    })
}

/// The value of `datconnlimit` after a `DROP DATABASE` that was interrupted. Headers before the minor versions of 2023 do not have a name for it.
const INVALID: i32 = -2;

/// The databases as they are now, from the shared catalog, as autovacuum's launcher reads it.
pub fn databases() -> Vec<Database> {
    process::transaction(|| {
        let mut databases = Vec::new();
        // SAFETY: the relation is locked while it is scanned, and its tuples have the struct of its catalog.
        unsafe {
            // So that VACUUM removes nothing that this scan may see.
            pg_sys::GetTransactionSnapshot();
            let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
            let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
            loop {
                let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if tuple.is_null() {
                    break;
                }
                let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
                databases.push(Database {
                    oid: u32::from((*row).oid),
                    tablespace: u32::from((*row).dattablespace),
                    name: bytes((&raw const (*row).datname.data).cast()),
                    is_valid: (*row).datconnlimit != INVALID,
                    allows_connections: (*row).datallowconn,
                });
            }
            pg_sys::heap_endscan(scan);
            pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        }
        databases
    })
}
