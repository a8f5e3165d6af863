//! The command line.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::repository::Sources;
use crate::verbs::about::{Completion, Daemon};
use crate::verbs::backup_fetch::BackupFetch;
use crate::verbs::backup_list::BackupList;
use crate::verbs::backup_mark::BackupMark;
use crate::verbs::backup_push::BackupPush;
use crate::verbs::backup_verify::BackupVerify;
use crate::verbs::catchup::{CatchupFetch, CatchupList, CatchupPush};
use crate::verbs::check::Check;
use crate::verbs::copy::Copy;
use crate::verbs::delete::Delete;
use crate::verbs::encryption::{EncryptionDisable, EncryptionRotate};
use crate::verbs::restore_points::RestorePoints;
use crate::verbs::restore_test::RestoreTest;
use crate::verbs::st::StorageTools;
use crate::verbs::take_over::TakeOver;
use crate::verbs::wal_fetch::WalFetch;
use crate::verbs::wal_push::WalPush;
use crate::verbs::wal_receive::WalReceive;
use crate::verbs::wal_restore::WalRestore;
use crate::verbs::wal_show::{RecoveryWindows, WalShow};
use crate::verbs::wal_verify::WalVerify;

/// Fetch WAL, restore base backups, and look after a repository of the walarchive extension or of WAL-G.
#[derive(Debug, Parser)]
#[command(name = "walarchive", version, arg_required_else_help = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where WAL-G's settings are, besides the environment.
    #[command(flatten)]
    pub sources: Sources,
    /// Print more on stderr. RUST_LOG selects in detail what is printed.
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

impl Args {
    /// Those of a command line, without settings of WAL-G in it.
    pub fn of_call(arguments: &[OsString]) -> Result<Self, clap::Error> {
        // Recovery makes nearly all calls. All verbs with their flags take longer to put together than a segment takes from the spool.
        let of_recovery = arguments
            .iter()
            .any(|argument| argument == "wal-fetch")
            .then(|| FetchArgs::try_parse_from(arguments));
        match of_recovery {
            Some(Ok(FetchArgs {
                command,
                sources,
                verbose,
            })) => {
                let FetchCommand::WalFetch(fetch) = command;
                Ok(Args {
                    command: Command::WalFetch(fetch),
                    sources,
                    verbose,
                })
            }
            // Whatever this is, it is told with all verbs in view.
            _ => Args::try_parse_from(arguments),
        }
    }
}

/// The same command line with one verb.
#[derive(Debug, Parser)]
#[command(name = "walarchive", version)]
struct FetchArgs {
    #[command(subcommand)]
    command: FetchCommand,
    #[command(flatten)]
    sources: Sources,
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum FetchCommand {
    WalFetch(WalFetch),
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch one WAL file from the archive: restore_command = 'walarchive wal-fetch %f "%p"'.
    ///
    /// Exit codes: 0 done; 74 the file is not in the archive; 200 the archive could not be reached, or its file is damaged
    /// or encrypted (1 if a standby has to go on trying).
    WalFetch(WalFetch),
    /// Put one WAL file into the archive.
    ///
    /// Exit codes: 0 the file is in the archive; 1 it is not; 2 usage.
    WalPush(WalPush),
    /// Receive WAL from a server by the replication protocol, and archive it, until a signal ends it.
    ///
    /// The server is found as libpq finds it: PGHOST, PGPORT, PGUSER, PGPASSWORD, ~/.pgpass, PGSERVICE, PGSSLMODE and so on.
    ///
    /// Exit codes: 0 ended by a signal; 1 it cannot go on; 2 usage.
    WalReceive(WalReceive),
    /// Take a base backup, and print its name.
    ///
    /// The server is found as libpq finds it: PGHOST, PGPORT, PGUSER, PGPASSWORD, ~/.pgpass, PGSERVICE, PGSSLMODE and so on.
    ///
    /// Exit codes: 0 the backup is complete; 1 it is not, and nothing of it is listed; 2 usage.
    BackupPush(Box<BackupPush>),
    /// Fetch the WAL that pg_rewind needs into the pg_wal of the data directory that it is to rewind.
    ///
    /// Exit codes: 0 done; 1 failed; 2 usage.
    WalRestore(WalRestore),
    /// List the base backups, oldest first.
    BackupList(BackupList),
    /// Show the WAL that is archived of each timeline, and what is missing.
    WalShow(WalShow),
    /// Show the times to which the cluster can be restored.
    RecoveryWindows(RecoveryWindows),
    /// Show the restore points, and some of the commits, to which the cluster can be restored.
    RestorePoints(RestorePoints),
    /// Verify the WAL of the repository.
    ///
    /// integrity: is every segment there? timeline: is its timeline the server's? content: do the segments hold the right
    /// WAL?
    ///
    /// Exit codes: 0 OK or WARNING; 1 FAILURE; 2 it could not be verified.
    WalVerify(WalVerify),
    /// Read all of a base backup: every tar, every file against the manifest, every page checksum.
    ///
    /// Exit codes: 0 OK or WARNING; 1 FAILURE; 2 it could not be verified.
    BackupVerify(BackupVerify),
    /// Restore a base backup into an empty directory, and prepare recovery.
    ///
    /// Exit codes: 0 done; 1 refused; 2 usage; 200 the archive could not be reached, or the backup is damaged or encrypted.
    /// With --verify-only as backup-verify: 0 it can be restored; 1 it is damaged; 2 it could not be verified, for example
    /// because it is encrypted.
    BackupFetch(Box<BackupFetch>),
    /// Restore a backup into a directory of its own, recover, check everything, and remove it again.
    ///
    /// The result is kept in the repository: walarchive_backups.proven tells when a backup was restored last.
    ///
    /// Exit codes: 0 the backup is proven; 1 it is not, or refused; 2 usage; 200 the archive could not be reached.
    RestoreTest(Box<RestoreTest>),
    /// Mark a backup as permanent, so that nothing deletes it; or as impermanent again.
    ///
    /// The backups that a delta backup is based on are marked with it.
    BackupMark(BackupMark),
    /// Delete backups and WAL, or show what would be deleted, and why.
    ///
    /// Without --confirm nothing is deleted.
    ///
    /// Exit codes: 0 done; 1 refused, or not all of it was done; 2 usage.
    Delete(Delete),
    /// On the primary: store the pages that a standby lacks which has fallen behind, and print the name of the backup.
    ///
    /// The server is found as libpq finds it.
    ///
    /// Exit codes: 0 the backup is complete; 1 it is not, and nothing of it is listed; 2 usage.
    CatchupPush(Box<CatchupPush>),
    /// List the backups of catchup-push, oldest first.
    CatchupList(CatchupList),
    /// On the standby: put what catchup-push has stored over the stopped data directory.
    ///
    /// Only the server's data is changed; configuration and logs stay. After an interruption run it again.
    ///
    /// Exit codes: 0 done; 1 refused; 2 usage; 200 the archive could not be reached, or the backup is damaged or encrypted.
    CatchupFetch(Box<CatchupFetch>),
    /// Copy backups and their WAL to another storage, as they are. Run it again to go on after an interruption.
    ///
    /// Nothing is overwritten there. Each object is read there and compared; of a backup its sentinel comes last. The storage
    /// must be empty, or belong to the same cluster.
    ///
    /// Exit codes: 0 done; 1 refused, or not all of it was done; 2 usage.
    Copy(Copy),
    /// List, read, write and delete single objects of the repository. Be careful.
    ///
    /// Exit codes: 0 done; 1 refused or failed; 2 usage.
    St(StorageTools),
    /// Let the server of a data directory write into the repository in place of any other.
    TakeOver(TakeOver),
    /// Let new objects of an encrypted repository be plain text.
    ///
    /// Exit codes: 0 done; 1 refused or failed; 2 usage.
    EncryptionDisable(EncryptionDisable),
    /// Encrypt again, with the key for new objects, what is under another key; give that one as well, after the new one.
    ///
    /// Each object is replaced in one step, after all of the old one has proved right. After an interruption run it again.
    ///
    /// Exit codes: 0 done; 1 refused, or not all of it was done; 2 usage.
    EncryptionRotate(EncryptionRotate),
    /// Try everything that archiving and restoring need, and check what is in the repository. Leaves nothing behind.
    ///
    /// The exit code is that of the worst result: 0 ok; 1 warning; 2 failed.
    Check(Check),
    /// Print the flags of all verbs, and the variables that have an effect.
    Flags,
    /// Print the completion of commands for a shell.
    Completion(Completion),
    /// Say why there is no daemon.
    Daemon(Daemon),
}

#[cfg(test)]
mod tests {
    use walarchive_core::restore::{RecoveryTarget, RestoreTarget, TargetAction, TargetTimeline};

    use super::*;
    use crate::repository::CommandLine;

    fn parse(args: &str) -> Result<RecoveryTarget, String> {
        let args = ["walarchive", "backup-fetch", "/d", "LATEST"]
            .into_iter()
            .chain(args.split(' ').filter(|arg| !arg.is_empty()));
        match Args::try_parse_from(args).map_err(|error| error.to_string())?.command {
            Command::BackupFetch(fetch) => Ok(fetch.target()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn targets_exclude_each_other() {
        assert_eq!(parse("").expect("parsed"), RecoveryTarget::default());
        let target =
            parse("--target-xid 7 --target-exclusive --target-action promote --target-timeline 2").expect("parsed");
        assert_eq!(target.target, RestoreTarget::Xid(7));
        assert!(
            !target.inclusive && target.action == TargetAction::Promote && target.timeline == TargetTimeline::Number(2)
        );
        assert_eq!(
            parse("--target-immediate").expect("parsed").target,
            RestoreTarget::Immediate
        );
        assert!(parse("--delta --restore-only a,b --owner 0:0 --archive-off --tablespace-map-all /x").is_ok());
        assert!(parse("--no-recovery").is_ok() && parse("--standby --target-timeline 3").is_ok());
        for args in [
            "--target-xid 7 --target-lsn 0/1",
            "--target-immediate --target-name x",
            "--target-immediate --target-exclusive",
            "--target-exclusive",
            "--target-action promote",
            "--target-action wait",
            "--no-recovery --target-xid 7",
            "--no-recovery --standby",
            "--no-recovery --target-timeline 2",
            "--target-time 2026-11-20T10:00:00",
            "--target-lsn 7",
            "--target-timeline newest",
            "--concurrency 0",
            "--delta --verify-only",
            "--verify-only --dry-run",
            "--owner nobody-has-this-name",
        ] {
            assert!(parse(args).is_err(), "{args}");
        }
        assert!(
            parse("--target-time 2026-11-20")
                .expect_err("refused")
                .contains("HINT:  Write it like")
        );
    }

    #[test]
    fn no_flag_of_a_verb_is_taken_for_a_setting_of_wal_g() {
        fn look(command: &clap::Command) {
            for long in command.get_arguments().filter_map(|argument| argument.get_long()) {
                let line = CommandLine::of(["w".to_owned(), format!("--{long}"), "x".to_owned()].map(OsString::from));
                assert!(line.settings.is_empty(), "{long}");
            }
            command.get_subcommands().for_each(look);
        }
        look(&<Args as clap::CommandFactory>::command());
    }
}
