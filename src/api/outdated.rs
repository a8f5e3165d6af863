//! The C names of functions of version 0.1.0 whose rows have changed since. A database calls them if the server has the new library,
//! but ALTER EXTENSION was not run in this database: it expects rows of the old shape.
//!
//! A C name ends with the version that last changed the function's rows. Without such an ending the rows never changed, and the
//! function works in a database of any version.

use pgrx::prelude::*;
use walarchive_core::Error;

use crate::error::or_raise;

fn refuse(function: &str) {
    or_raise(Err(Error::refused(
        format!(
            "function {function} belongs to an older version of walarchive than the library, which is {}",
            env!("CARGO_PKG_VERSION")
        ),
        "Run \"ALTER EXTENSION walarchive UPDATE\" in this database.",
    )))
}

#[pg_extern(sql = false)]
fn walarchive_archiver_status() {
    refuse("walarchive_archiver_status()");
}

#[pg_extern(sql = false)]
fn walarchive_backup_list() {
    refuse("walarchive_backup_list()");
}

#[pg_extern(sql = false)]
fn walarchive_wal_show() {
    refuse("walarchive_wal_show()");
}

#[pg_extern(sql = false)]
fn walarchive_recovery_windows() {
    refuse("walarchive_recovery_windows()");
}

#[pg_extern(sql = false)]
fn walarchive_wal_verify() {
    refuse("walarchive_wal_verify(text[])");
}

#[pg_extern(sql = false)]
fn walarchive_backup_verify() {
    refuse("walarchive_backup_verify(text)");
}
