//! The archive module's C interface: PostgreSQL 15 fills a struct that it passes in, later majors get a pointer to a constant
//! one, with a state argument and a startup callback.

use std::ffi::c_char;
use std::panic::UnwindSafe;

use super::module;
use crate::pg::archiver;

fn contained(callback: impl FnOnce() -> bool + UnwindSafe) -> bool {
    archiver::contained(callback, module::report_unexpected)
}

fn check() -> bool {
    contained(|| match module::check_configured() {
        Ok(()) => true,
        Err(reason) => {
            archiver::set_errdetail(&reason);
            false
        }
    })
}

/// # Safety
/// `file` is a C string that outlives the call.
unsafe fn archive(file: *const c_char) -> bool {
    // SAFETY: as the caller vouches.
    let file = unsafe { archiver::file_name(file) };
    contained(move || module::archive_file(&file))
}

fn end() {
    contained(|| {
        module::shutdown();
        true
    });
}

#[cfg(feature = "pg15")]
mod entry {
    use super::*;
    use pgrx::pg_sys::ArchiveModuleCallbacks;

    unsafe extern "C-unwind" fn check_configured() -> bool {
        check()
    }

    unsafe extern "C-unwind" fn archive_file(file: *const c_char, _path: *const c_char) -> bool {
        // SAFETY: the archiver's string outlives the call.
        unsafe { archive(file) }
    }

    unsafe extern "C-unwind" fn shutdown() {
        end();
    }

    /// The entry point of PostgreSQL 15.
    ///
    /// # Safety
    /// To be called by the archiver, with a struct to fill.
    #[unsafe(no_mangle)]
    pub unsafe extern "C-unwind" fn _PG_archive_module_init(callbacks: *mut ArchiveModuleCallbacks) {
        let filled = ArchiveModuleCallbacks {
            check_configured_cb: Some(check_configured),
            archive_file_cb: Some(archive_file),
            shutdown_cb: Some(shutdown),
        };
        // SAFETY: the archiver passes a struct of its own.
        unsafe { callbacks.write(filled) };
    }
}

#[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
mod entry {
    use super::*;
    use std::ffi::c_void;

    /// `ArchiveModuleState` of `archive/archive_module.h`.
    #[repr(C)]
    pub struct ArchiveModuleState {
        private_data: *mut c_void,
    }

    /// `ArchiveModuleCallbacks` of `archive/archive_module.h`, 16 and later.
    #[repr(C)]
    pub struct ArchiveModuleCallbacks {
        startup: Option<unsafe extern "C-unwind" fn(*mut ArchiveModuleState)>,
        check_configured: Option<unsafe extern "C-unwind" fn(*mut ArchiveModuleState) -> bool>,
        archive_file:
            Option<unsafe extern "C-unwind" fn(*mut ArchiveModuleState, *const c_char, *const c_char) -> bool>,
        shutdown: Option<unsafe extern "C-unwind" fn(*mut ArchiveModuleState)>,
    }

    unsafe extern "C-unwind" fn startup(_state: *mut ArchiveModuleState) {
        contained(|| {
            module::startup();
            true
        });
    }

    unsafe extern "C-unwind" fn check_configured(_state: *mut ArchiveModuleState) -> bool {
        check()
    }

    unsafe extern "C-unwind" fn archive_file(
        _state: *mut ArchiveModuleState,
        file: *const c_char,
        _path: *const c_char,
    ) -> bool {
        // SAFETY: the archiver's string outlives the call.
        unsafe { archive(file) }
    }

    unsafe extern "C-unwind" fn shutdown(_state: *mut ArchiveModuleState) {
        end();
    }

    static CALLBACKS: ArchiveModuleCallbacks = ArchiveModuleCallbacks {
        startup: Some(startup),
        check_configured: Some(check_configured),
        archive_file: Some(archive_file),
        shutdown: Some(shutdown),
    };

    /// The entry point of PostgreSQL 16 and later.
    ///
    /// # Safety
    /// To be called by the archiver.
    #[unsafe(no_mangle)]
    pub unsafe extern "C-unwind" fn _PG_archive_module_init() -> *const ArchiveModuleCallbacks {
        &raw const CALLBACKS
    }
}
