//! The `walarchive` binary: fetch and push WAL files; list, verify, mark, delete and restore base backups; check the store.
//! A thin layer over `walarchive-core`; it needs no server.

mod args;
mod exit;
mod listing;
mod log;
mod parse;
mod print;
mod progress;
mod repository;
mod signals;
mod verbs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::CommandFactory;
use walarchive_core::{Error, Result};

use args::{Args, Command};
use repository::CommandLine;
use verbs::wal_fetch::WalFetch;
use verbs::{
    about, backup_fetch, backup_list, backup_mark, backup_push, backup_verify, catchup, check, copy, delete,
    encryption, restore_points, restore_test, st, take_over, wal_fetch, wal_push, wal_receive, wal_restore, wal_show,
    wal_verify,
};

fn main() -> ExitCode {
    let code = start();
    match wal_fetch::is_prefetcher(std::env::args_os()) {
        // Nobody waits for it but a server that is the first process of a container, which takes any other end for a crash.
        true => ExitCode::SUCCESS,
        false => code,
    }
}

fn start() -> ExitCode {
    let line = CommandLine::of_process();
    let args = match Args::of_call(&line.arguments) {
        Ok(args) => args,
        Err(error) => {
            // If it cannot be printed, the exit code still tells.
            let _ = error.print();
            return exit::of_usage(&error, &Args::command(), &line.arguments);
        }
    };
    log::start(args.verbose);
    // Rust's own exit code after a panic is 101, which PostgreSQL would take for "the file is not in the archive".
    catch_unwind(AssertUnwindSafe(|| run(args, line))).unwrap_or(ExitCode::from(exit::FATAL))
}

fn run(args: Args, line: CommandLine) -> ExitCode {
    // The settings of WAL-G's files become part of the environment, and everything else is looked up there.
    let ready = args.sources.adopt(line).map(|flags| {
        repository::remember_flags(flags);
        repository::remark();
    });
    match args.command {
        Command::WalFetch(args) => {
            if args.prefetcher {
                return exit::of_plain(ready.and_then(|()| wal_fetch::run_prefetcher(&args)));
            }
            exit::of_wal_fetch(ready.and_then(|()| fetch_wal(&args)), &args.name, &args.path)
        }
        Command::WalPush(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::One, wal_push::run(&args))))
        }
        Command::WalReceive(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, wal_receive::run(&args))))
        }
        Command::WalRestore(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, wal_restore::run(&args))))
        }
        Command::BackupList(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, backup_list::run(&args))))
        }
        Command::WalShow(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, wal_show::run(&args))))
        }
        Command::RecoveryWindows(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, wal_show::windows(&args))))
        }
        Command::RestorePoints(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, restore_points::run(&args))))
        }
        Command::BackupPush(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, backup_push::run(&args))))
        }
        Command::BackupMark(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, backup_mark::run(&args))))
        }
        Command::Delete(args) => {
            exit::of_delete(ready.and_then(|()| within_runtime(Threads::Many, delete::run(&args))))
        }
        Command::CatchupPush(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, catchup::push(&args))))
        }
        Command::CatchupList(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, catchup::list(&args))))
        }
        Command::CatchupFetch(args) => {
            exit::of_restore(ready.and_then(|()| within_runtime(Threads::Many, catchup::fetch(&args))))
        }
        Command::Copy(args) => exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, copy::run(&args)))),
        Command::St(args) => exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, st::run(&args)))),
        // These need no settings.
        Command::Flags => exit::of_plain(about::flags(&Args::command())),
        Command::Completion(args) => exit::of_plain(about::complete(&args, Args::command())),
        Command::Daemon(args) => exit::of_plain(about::daemon(&args)),
        Command::TakeOver(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, take_over::run(&args))))
        }
        Command::EncryptionDisable(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, encryption::disable(&args))))
        }
        Command::EncryptionRotate(args) => {
            exit::of_plain(ready.and_then(|()| within_runtime(Threads::Many, encryption::rotate(&args))))
        }
        Command::Check(args) => exit::of_check(ready.and_then(|()| within_runtime(Threads::Many, check::run(&args)))),
        Command::WalVerify(args) => {
            exit::of_verify(ready.and_then(|()| within_runtime(Threads::Many, wal_verify::run(&args))))
        }
        Command::BackupVerify(args) => {
            exit::of_verify(ready.and_then(|()| within_runtime(Threads::Many, backup_verify::run(&args))))
        }
        Command::RestoreTest(args) => {
            exit::of_drill(ready.and_then(|()| within_runtime(Threads::Many, restore_test::run(&args))))
        }
        Command::BackupFetch(args) if ready.is_ok() && !args.names_backup() => exit::of_unnamed_backup(Args::command()),
        Command::BackupFetch(args) if args.verify_only => {
            exit::of_verify(ready.and_then(|()| within_runtime(Threads::Many, backup_fetch::verify(&args))))
        }
        Command::BackupFetch(args) => {
            exit::of_restore(ready.and_then(|()| within_runtime(Threads::Many, backup_fetch::run(&args))))
        }
    }
}

fn fetch_wal(args: &WalFetch) -> Result<()> {
    let Some(call) = wal_fetch::from_spool(args)? else {
        return Ok(());
    };
    within_runtime(Threads::One, wal_fetch::run(args, &call))?;
    wal_fetch::hand_over(args, &call);
    Ok(())
}

/// The threads of the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Threads {
    /// Enough for one WAL file, and it starts faster.
    One,
    Many,
}

fn within_runtime<T>(threads: Threads, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut builder = match threads {
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
        Threads::One => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Error::io("start threads in", "/proc/self", error))?;
    runtime.block_on(work)
}
