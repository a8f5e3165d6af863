//! Check hooks of string settings: from C strings to a Rust function and back.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::pg_sys;
use walarchive_core::Error;

/// Run `check` over the new value; a refusal becomes DETAIL and HINT of PostgreSQL's own message.
///
/// # Safety
/// `newval` must be what PostgreSQL hands to a check hook.
unsafe fn check(newval: *mut *mut c_char, check: fn(&str) -> Result<(), Error>) -> bool {
    // SAFETY: the caller's promise; the pointer to the string may be null.
    let value = unsafe {
        newval
            .as_ref()
            .copied()
            .filter(|value| !value.is_null())
            .map(|value| CStr::from_ptr(value))
    };
    let Some(value) = value else { return true };
    let refused = match value.to_str() {
        Ok(value) => check(value),
        Err(_) => Err(Error::config("the value is not UTF-8", "Use ASCII or UTF-8.")),
    };
    let Err(error) = refused else { return true };
    let copy = |text: String| CString::new(text).unwrap_or_default();
    let detail = copy(sentence(error.to_string()));
    let hint = copy(error.hint().unwrap_or_default());
    // SAFETY: format_elog_string copies into ErrorContext, where PostgreSQL expects these strings; both are C strings.
    unsafe {
        pg_sys::pre_format_elog_string(0, std::ptr::null());
        pg_sys::GUC_check_errdetail_string = pg_sys::format_elog_string(c"%s".as_ptr(), detail.as_ptr());
        pg_sys::GUC_check_errhint_string = pg_sys::format_elog_string(c"%s".as_ptr(), hint.as_ptr());
    }
    false
}

/// A message as a DETAIL line: a sentence.
fn sentence(message: String) -> String {
    let mut letters = message.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => message,
    }
}

/// Check hook of `walarchive.storage`.
///
/// # Safety
/// To be called by PostgreSQL.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn check_storage(
    newval: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL's call.
    unsafe { check(newval, crate::guc::check_storage) }
}

/// Check hook of `walarchive.storage_options`.
///
/// # Safety
/// To be called by PostgreSQL.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn check_storage_options(
    newval: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL's call.
    unsafe { check(newval, crate::guc::check_storage_options) }
}
