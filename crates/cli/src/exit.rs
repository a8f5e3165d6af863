//! Messages and exit codes. For PostgreSQL an exit code of `restore_command` from 1 to 125 means "not there": recovery may end,
//! and the server may accept writes. A higher one stops the server.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use walarchive_core::check::CheckStatus;
use walarchive_core::repository::drills::DrillStatus;
use walarchive_core::{Error, Result, StorageError, printable, verify};

use crate::repository::data_dir::{has_history_itself, is_standby};

/// `wal-fetch`: the archive does not have the file.
pub const NOT_FOUND: u8 = 74;
/// The archive could not be reached, or its object is damaged. For `wal-fetch`, every other failure too.
pub const FATAL: u8 = 200;
/// Refused or failed, with no meaning of its own.
pub const FAILED: u8 = 1;
/// The command line is wrong. For the verbs that verify: they could not.
pub const USAGE: u8 = 2;

/// Print an error as the server would.
pub fn print(error: &Error) {
    // It may repeat the text of a store, or the name of an object.
    eprintln!("walarchive: error: {}", printable::lines(&error.to_string()));
    if let Some(detail) = error.detail() {
        eprintln!("DETAIL:  {}", printable::lines(&detail));
    }
    if let Some(hint) = error.hint() {
        eprintln!("HINT:  {}", printable::lines(&hint));
    }
}

/// A mistyped `restore_command` must not end recovery early, so everything that may have been meant as `wal-fetch` is fatal.
pub fn of_usage(error: &clap::Error, command: &clap::Command, arguments: &[OsString]) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return ExitCode::SUCCESS;
    }
    // A wal-fetch with a mistake in it is a mistyped restore_command, too.
    let is_fetch = |verb: &OsString| verb == "wal-fetch";
    let known = |verb: &OsString| verb == "help" || (!is_fetch(verb) && command.find_subcommand(verb).is_some());
    // restore_command always has a verb.
    let no_verb = matches!(
        error.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    );
    let verb = verb(arguments.iter().skip(1));
    let is_other = match verb {
        None => no_verb,
        Some(verb) => known(verb),
    };
    ExitCode::from(if is_other { USAGE } else { FATAL })
}

/// `backup-fetch` without a backup. Only when the settings are known, it is known that none of them names one.
pub fn of_unnamed_backup(mut command: clap::Command) -> ExitCode {
    let says = "no backup is named: give a name, LATEST or --target-user-data JSON";
    // If it cannot be printed, the exit code still tells.
    let _ = command.error(ErrorKind::MissingRequiredArgument, says).print();
    ExitCode::from(USAGE)
}

/// The first argument that is neither a flag nor the value of a global one.
fn verb<'a>(mut arguments: impl Iterator<Item = &'a OsString>) -> Option<&'a OsString> {
    while let Some(argument) = arguments.next() {
        if argument == "--config" || argument == "--envdir" {
            arguments.next();
        } else if !argument.as_encoded_bytes().starts_with(b"-") {
            return Some(argument);
        }
    }
    None
}

/// For `wal-fetch`. A missing file is an ordinary answer, not an error: recovery asks for the next segment until there is none.
pub fn of_wal_fetch(result: Result<()>, name: &str, path: &Path) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    if let Error::Storage(StorageError::NotFound { object }) = &error {
        eprintln!("walarchive: \"{object}\" is not in the archive");
        return ExitCode::from(NOT_FOUND);
    }
    print(&error);
    if has_history_itself(name, path) {
        eprintln!("walarchive: note: recovery is over: the server goes on without \"{name}\" from the archive");
        return ExitCode::from(FAILED);
    }
    // A standby asks again, and tries streaming in between.
    let goes_on_trying = error.may_pass() && is_standby(path);
    ExitCode::from(if goes_on_trying { FAILED } else { FATAL })
}

/// For `backup-fetch`.
pub fn of_restore(result: Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    print(&error);
    let archive =
        error.is_unreachable() || error.is_content() || matches!(error, Error::Storage(StorageError::NotFound { .. }));
    ExitCode::from(if archive { FATAL } else { FAILED })
}

/// For `restore-test`. Only a drill that was made says something of the backup.
pub fn of_drill(result: Result<DrillStatus>) -> ExitCode {
    match result {
        Ok(DrillStatus::Failed) => ExitCode::from(FAILED),
        Ok(DrillStatus::Ok | DrillStatus::Skipped) => ExitCode::SUCCESS,
        Err(error) => {
            print(&error);
            ExitCode::from(FATAL)
        }
    }
}

/// For `check`: the codes that monitoring systems expect of their plug-ins.
pub fn of_check(result: Result<CheckStatus>) -> ExitCode {
    match result {
        Ok(CheckStatus::Ok) => ExitCode::SUCCESS,
        Ok(CheckStatus::Warning) => ExitCode::from(1),
        Ok(CheckStatus::Failed) => ExitCode::from(2),
        Err(error) => {
            print(&error);
            ExitCode::from(2)
        }
    }
}

/// For `delete`, which may have done only some of it.
pub fn of_delete(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        print(&error);
        ExitCode::from(FAILED)
    })
}

/// For `wal-verify` and `backup-verify`. A warning is not a failure: WAL that waits will be archived.
pub fn of_verify(result: Result<verify::VerifyStatus>) -> ExitCode {
    match result {
        Ok(verify::VerifyStatus::Ok | verify::VerifyStatus::Warning) => ExitCode::SUCCESS,
        Ok(verify::VerifyStatus::Failure) => ExitCode::from(FAILED),
        Err(error) => {
            print(&error);
            ExitCode::from(USAGE)
        }
    }
}

/// For verbs whose exit code says no more than "failed".
pub fn of_plain(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&error);
            ExitCode::from(FAILED)
        }
    }
}
