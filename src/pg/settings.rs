//! Check hooks of settings: from C values to a Rust function and back.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ops::RangeInclusive;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use walarchive_core::Error;

/// Define a string setting that is read again on reload, with a check hook that [`check_hook`] defines.
pub fn define_checked_string(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    check: pg_sys::GucStringCheckHook,
) {
    define_string(name, short, long, setting, check, GucFlags::default());
}

/// The same for one that only a superuser, or a role that may read all settings, can see.
pub fn define_hidden_string(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    check: pg_sys::GucStringCheckHook,
) {
    define_string(name, short, long, setting, check, GucFlags::SUPERUSER_ONLY);
}

fn define_string(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    check: pg_sys::GucStringCheckHook,
    flags: GucFlags,
) {
    let context = GucContext::Sighup;
    // SAFETY: the hooks below have the signature that PostgreSQL calls, and touch nothing but their arguments.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(name, short, long, setting, context, flags, check, None, None);
    }
}

/// Define a number that is read again on reload, with a check hook that [`check_int_hook`] defines.
pub fn define_checked_int(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<i32>,
    range: RangeInclusive<i32>,
    flags: GucFlags,
    check: pg_sys::GucIntCheckHook,
) {
    let (least, most) = range.into_inner();
    let context = GucContext::Sighup;
    // SAFETY: the hook has the signature that PostgreSQL calls, and touches nothing but its arguments.
    unsafe {
        GucRegistry::define_int_guc_with_hooks(
            name, short, long, setting, least, most, context, flags, check, None, None,
        );
    }
}

/// Call this after all settings are defined. PostgreSQL then warns of any other setting with this prefix: it is misspelt.
pub fn reserve_prefix() {
    // SAFETY: called by _PG_init; a C string.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"walarchive".as_ptr()) };
}

/// Run `check` over the new value; a refusal becomes a message with DETAIL and HINT.
///
/// # Safety
/// `newval` must be what PostgreSQL hands to a check hook.
pub unsafe fn check(name: &str, newval: *mut *mut c_char, check: fn(&str) -> Result<(), Error>) -> bool {
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
    accept(name, refused)
}

/// The same for a number.
///
/// # Safety
/// `newval` must be what PostgreSQL hands to a check hook.
pub unsafe fn check_int(name: &str, newval: *mut c_int, check: fn(i32) -> Result<(), Error>) -> bool {
    // SAFETY: the caller's promise.
    let value = unsafe { newval.as_ref().copied() };
    accept(name, value.map_or(Ok(()), check))
}

/// Is the value accepted? If not, PostgreSQL is told why.
fn accept(name: &str, checked: Result<(), Error>) -> bool {
    let Err(error) = checked else { return true };
    let copy = |text: String| CString::new(super::text::message(&text)).unwrap_or_default();
    // PostgreSQL's own message repeats the value, which may be a credential that was put into the wrong place.
    let message = copy(format!("invalid value for parameter \"{name}\""));
    let detail = copy(sentence(error.to_string()));
    let hint = copy(error.hint().unwrap_or_default());
    // SAFETY: format_elog_string copies into ErrorContext, where PostgreSQL expects these strings; both are C strings.
    unsafe {
        pg_sys::pre_format_elog_string(0, std::ptr::null());
        pg_sys::GUC_check_errmsg_string = pg_sys::format_elog_string(c"%s".as_ptr(), message.as_ptr());
        pg_sys::GUC_check_errdetail_string = pg_sys::format_elog_string(c"%s".as_ptr(), detail.as_ptr());
        pg_sys::GUC_check_errhint_string = pg_sys::format_elog_string(c"%s".as_ptr(), hint.as_ptr());
    }
    false
}

/// Remember why a value of the configuration files was refused just now: PostgreSQL starts without it.
pub fn note(
    name: &'static str,
    accepted: bool,
    source: pg_sys::GucSource::Type,
    remember: fn(&'static str, Option<String>),
) {
    // ALTER SYSTEM, which runs in a transaction, sets nothing if it is refused.
    // SAFETY: reads a state of the process.
    if source > pg_sys::GucSource::PGC_S_GLOBAL || unsafe { pg_sys::IsTransactionState() } {
        return;
    }
    let refusal = || {
        // SAFETY: set by check just now, as it has refused; a C string.
        let detail = unsafe {
            pg_sys::GUC_check_errdetail_string
                .as_ref()
                .map(|first| CStr::from_ptr(first))
        };
        detail.map_or_else(String::new, |detail| detail.to_string_lossy().into_owned())
    };
    remember(name, (!accepted).then(refusal));
}

/// A message as a DETAIL line: a sentence.
fn sentence(message: String) -> String {
    let mut letters = message.chars();
    match letters.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), letters.as_str()),
        None => message,
    }
}

/// Defines the check hook of a string setting: `hook: "name of the setting", check`. With `=> remember` this function is told why a
/// value in the configuration files was refused.
macro_rules! check_hook {
    ($hook:ident: $name:expr, $check:path $(=> $remember:path)?) => {
        /// A check hook.
        ///
        /// # Safety
        /// To be called by PostgreSQL.
        #[pgrx::pg_guard]
        unsafe extern "C-unwind" fn $hook(
            newval: *mut *mut std::ffi::c_char,
            _extra: *mut *mut std::ffi::c_void,
            _source: pgrx::pg_sys::GucSource::Type,
        ) -> bool {
            // SAFETY: PostgreSQL's call.
            let accepted = unsafe { $crate::pg::settings::check($name, newval, $check) };
            $($crate::pg::settings::note($name, accepted, _source, $remember);)?
            accepted
        }
    };
}

/// Defines the check hook of a number: `hook: "name of the setting", check`.
macro_rules! check_int_hook {
    ($hook:ident: $name:expr, $check:path) => {
        /// A check hook.
        ///
        /// # Safety
        /// To be called by PostgreSQL.
        #[pgrx::pg_guard]
        unsafe extern "C-unwind" fn $hook(
            newval: *mut std::ffi::c_int,
            _extra: *mut *mut std::ffi::c_void,
            _source: pgrx::pg_sys::GucSource::Type,
        ) -> bool {
            // SAFETY: PostgreSQL's call.
            unsafe { $crate::pg::settings::check_int($name, newval, $check) }
        }
    };
}

pub(crate) use {check_hook, check_int_hook};
