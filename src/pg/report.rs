//! Reports to client and log, in the encoding of the database. pgrx passes on UTF-8.

use std::cell::UnsafeCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null;

use parking_lot::Mutex;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, pg_guard, pg_sys};

use super::text;

unsafe extern "C-unwind" {
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlstate: c_int) -> c_int;
    fn errmsg(format: *const c_char, ...) -> c_int;
    fn errdetail(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// A message with its DETAIL and HINT, as UTF-8.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The code for the client's program.
    pub sqlstate: PgSqlErrorCode,
    /// The message.
    pub message: &'a str,
    /// The DETAIL; none if empty.
    pub detail: &'a str,
    /// The HINT; none if empty.
    pub hint: &'a str,
}

/// The texts as the server takes them.
struct Encoded {
    message: CString,
    detail: Option<CString>,
    hint: Option<CString>,
}

impl Encoded {
    fn new(report: &Report<'_>, encode: impl Fn(&str) -> Vec<u8>) -> Self {
        let encode = |text: &str| {
            let mut bytes = encode(text);
            bytes.retain(|byte| *byte != 0);
            CString::new(bytes).unwrap_or_default()
        };
        let some = |text: &str| (!text.is_empty()).then(|| encode(text));
        Encoded {
            message: encode(report.message),
            detail: some(report.detail),
            hint: some(report.hint),
        }
    }

    /// Put the texts into the report that is being built.
    fn set(&self) {
        let format = c"%s".as_ptr();
        // SAFETY: between `errstart`, or in a callback of `errfinish`; each text is a C string, which is copied.
        unsafe {
            errmsg(format, self.message.as_ptr());
            self.detail.iter().for_each(|text| {
                errdetail(format, text.as_ptr());
            });
            self.hint.iter().for_each(|text| {
                errhint(format, text.as_ptr());
            });
        }
    }
}

/// Report something that does not end the statement: a WARNING, a NOTICE or a line of the log.
pub fn emit(level: PgLogLevel, report: &Report<'_>) {
    debug_assert!(level < PgLogLevel::ERROR, "an error is raised");
    // A destructor must not raise an error about the client's encoding.
    let encoded = match std::thread::panicking() {
        true => Encoded::new(report, |text| text::ascii(text).into_bytes()),
        false => Encoded::new(report, text::message),
    };
    // SAFETY: on the main thread, as ever in this room. An error on the way to the client becomes a panic.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            if !errstart(level as c_int, null()) {
                return;
            }
            errcode(report.sqlstate as c_int);
            encoded.set();
            // Only the caller looks for interrupts.
            pg_sys::InterruptHoldoffCount += 1;
            errfinish(null(), 0, null());
            pg_sys::InterruptHoldoffCount -= 1;
        });
    }
}

/// End the statement, as an ERROR does. The stack is unwound before the server gets the error, and the panic carries UTF-8 only. So
/// the text in the database's encoding is kept aside.
pub fn raise(report: &Report<'_>) -> ! {
    let plain = Encoded::new(report, |text| text::ascii(text).into_bytes());
    let encoded = Encoded::new(report, text::message);
    if plain.message != encoded.message || plain.detail != encoded.detail || plain.hint != encoded.hint {
        exchange(Exchange {
            plain: plain.message,
            encoded,
        });
    }
    let mut raised = ErrorReport::new(report.sqlstate, text::ascii(report.message), "walarchive");
    if !report.detail.is_empty() {
        raised = raised.set_detail(text::ascii(report.detail));
    }
    if !report.hint.is_empty() {
        raised = raised.set_hint(text::ascii(report.hint));
    }
    raised.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// The texts of the error with this message.
struct Exchange {
    plain: CString,
    encoded: Encoded,
}

static NEXT: Mutex<Option<Exchange>> = Mutex::new(None);

struct Callback(UnsafeCell<pg_sys::ErrorContextCallback>);

// SAFETY: only the main thread uses it.
unsafe impl Sync for Callback {}

static CALLBACK: Callback = Callback(UnsafeCell::new(pg_sys::ErrorContextCallback {
    previous: std::ptr::null_mut(),
    callback: Some(exchange_text),
    arg: std::ptr::null_mut(),
}));

/// Let the server ask for the texts when it has the error. Code that catches an error removes this again, with all callbacks that
/// were added since.
fn exchange(next: Exchange) {
    *NEXT.lock() = Some(next);
    // SAFETY: on the main thread; the callback lives as long as the process, and is never twice in the list.
    unsafe {
        let own = CALLBACK.0.get();
        let mut each = pg_sys::error_context_stack;
        while !each.is_null() {
            if each == own {
                return;
            }
            each = (*each).previous;
        }
        (*own).previous = pg_sys::error_context_stack;
        pg_sys::error_context_stack = own;
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn exchange_text(_unused: *mut c_void) {
    // Without the lock: an error in here comes back to here, and does not unwind what it leaves.
    let Some(next) = NEXT.lock().take() else { return };
    // SAFETY: the server calls this when a report is on its stack. The copy must not be in the memory context of the report.
    let is_this = unsafe {
        let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let report = pg_sys::CopyErrorData();
        pg_sys::MemoryContextSwitchTo(before);
        let message = (*report).message;
        let is_this = !message.is_null() && CStr::from_ptr(message) == next.plain.as_c_str();
        let is_error = (*report).elevel >= PgLogLevel::ERROR as c_int;
        pg_sys::FreeErrorData(report);
        is_error && is_this
    };
    match is_this {
        true => next.encoded.set(),
        false => *NEXT.lock() = Some(next),
    }
}
