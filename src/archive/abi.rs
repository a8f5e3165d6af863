//! The archive module's C interface: PostgreSQL 15 fills a struct that it passes in, later majors get a pointer to a constant
//! one, with a state argument and a startup callback.

use std::ffi::{CStr, c_char};

use super::module;

/// Run a callback so that neither a panic nor a PostgreSQL ERROR leaves it. After either the answer is false.
fn contained(callback: impl FnOnce() -> bool + std::panic::UnwindSafe) -> bool {
    use pgrx::pg_sys;
    // SAFETY: a variable of the main thread.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    let result = pgrx::PgTryBuilder::new(callback)
        .catch_others(|error| {
            module::report_unexpected(&error);
            false
        })
        .catch_rust_panic(|error| {
            module::report_unexpected(&error);
            false
        })
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

fn file_name(file: *const c_char) -> String {
    // SAFETY: the archiver passes a C string that outlives the call.
    unsafe { CStr::from_ptr(file) }.to_string_lossy().into_owned()
}

#[cfg(feature = "pg15")]
mod entry {
    use super::*;
    use pgrx::pg_sys::ArchiveModuleCallbacks;

    unsafe extern "C-unwind" fn check_configured() -> bool {
        contained(|| module::check_configured().is_ok())
    }

    unsafe extern "C-unwind" fn archive_file(file: *const c_char, _path: *const c_char) -> bool {
        let file = file_name(file);
        contained(move || module::archive_file(&file))
    }

    unsafe extern "C-unwind" fn shutdown() {
        contained(|| {
            module::shutdown();
            true
        });
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
        contained(|| match module::check_configured() {
            Ok(()) => true,
            Err(_reason) => {
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                set_errdetail(&_reason);
                false
            }
        })
    }

    /// `arch_module_check_errdetail()`, which is a macro in C.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    fn set_errdetail(reason: &str) {
        unsafe extern "C-unwind" {
            static mut arch_module_check_errdetail_string: *mut c_char;
        }
        let reason = std::ffi::CString::new(reason).unwrap_or_default();
        // SAFETY: the archiver takes the string when this callback returns; format_elog_string makes a copy that lives longer.
        unsafe {
            pgrx::pg_sys::pre_format_elog_string(0, std::ptr::null());
            arch_module_check_errdetail_string = pgrx::pg_sys::format_elog_string(c"%s".as_ptr(), reason.as_ptr());
        }
    }

    unsafe extern "C-unwind" fn archive_file(
        _state: *mut ArchiveModuleState,
        file: *const c_char,
        _path: *const c_char,
    ) -> bool {
        let file = file_name(file);
        contained(move || module::archive_file(&file))
    }

    unsafe extern "C-unwind" fn shutdown(_state: *mut ArchiveModuleState) {
        contained(|| {
            module::shutdown();
            true
        });
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
