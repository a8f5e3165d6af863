//! Helpers for an archive module's callbacks on the C side: they keep errors in, and pass strings in both directions.

use std::ffi::{CStr, c_char};
use std::panic::UnwindSafe;

use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

/// Run a callback so that neither a panic nor a PostgreSQL ERROR leaves it. After either, `report` gets it and the answer is false.
pub fn contained(callback: impl FnOnce() -> bool + UnwindSafe, report: fn(&CaughtError)) -> bool {
    // SAFETY: a variable of the main thread.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    let caught = |error: CaughtError| {
        report(&error);
        false
    };
    let result = PgTryBuilder::new(callback)
        .catch_others(caught)
        .catch_rust_panic(caught)
        .execute();
    // SAFETY: an ERROR may have left locks behind, and nothing aborts a transaction in the archiver. No other locks are held here.
    // The context is the one that the archiver called with.
    unsafe {
        if !result {
            pg_sys::LWLockReleaseAll();
        }
        pg_sys::MemoryContextSwitchTo(context);
    }
    result
}

/// The name of the file that the archiver asks for.
///
/// # Safety
/// `file` is a C string that outlives the call.
pub unsafe fn file_name(file: *const c_char) -> String {
    // SAFETY: as the caller vouches.
    unsafe { CStr::from_ptr(file) }.to_string_lossy().into_owned()
}

/// A segment that is complete may not be marked as ready, after a crash or on a full disk. Mark it now, as PostgreSQL itself does when it
/// would remove it. One that is marked in whatever way stays so.
pub fn mark_as_ready(segment: &str) {
    unsafe extern "C-unwind" {
        fn XLogArchiveCheckDone(xlog: *const c_char) -> bool;
    }
    let Ok(segment) = std::ffi::CString::new(segment) else {
        return;
    };
    // SAFETY: a C string that outlives the call; the main thread of a process that is attached to shared memory. An ERROR becomes a panic.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| XLogArchiveCheckDone(segment.as_ptr())) };
}

/// Tell the archiver why nothing can be archived: `arch_module_check_errdetail()`, which is a macro in C.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn set_errdetail(reason: &str) {
    unsafe extern "C-unwind" {
        static mut arch_module_check_errdetail_string: *mut c_char;
    }
    let reason = std::ffi::CString::new(reason).unwrap_or_default();
    // SAFETY: the archiver takes the string when its callback returns; format_elog_string makes a copy that lives longer.
    unsafe {
        pg_sys::pre_format_elog_string(0, std::ptr::null());
        arch_module_check_errdetail_string = pg_sys::format_elog_string(c"%s".as_ptr(), reason.as_ptr());
    }
}

/// PostgreSQL before 17 has no place for a reason.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub fn set_errdetail(_reason: &str) {}
