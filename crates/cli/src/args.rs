//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use walarchive_core::Result;
use walarchive_core::restore::{
    LinkMap, Owner, RecoveryMode, RecoveryTarget, RestoreMode, RestoreOptions, RestoreTarget, TablespaceMap,
    TargetAction, TargetTimeline,
};

use crate::backup_mark::BackupMark;
use crate::backup_verify::BackupVerify;
use crate::delete::Delete;
use crate::settings::Sources;
use crate::take_over::TakeOver;
use crate::wal_verify::WalVerify;

/// Fetch what the walarchive extension (or WAL-G) archived, and restore base backups.
#[derive(Debug, Parser)]
#[command(name = "walarchive", version, arg_required_else_help = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Where WAL-G's settings stand beside the environment.
    #[command(flatten)]
    pub sources: Sources,
    /// Say more on stderr; RUST_LOG selects in detail.
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch one WAL file from the archive: restore_command = 'walarchive wal-fetch %f "%p"'.
    ///
    /// Exit codes: 0 done; 74 the file is not in the archive; 200 the archive could not be asked, or what it gave is
    /// damaged or encrypted (1 where a standby has to go on trying).
    WalFetch(WalFetch),
    /// Put one WAL file into the archive.
    ///
    /// Exit codes: 0 it is there; 1 it is not; 2 usage.
    WalPush(WalPush),
    /// List the base backups, oldest first.
    BackupList(BackupList),
    /// Show what is archived of each timeline, and what is missing.
    WalShow(Show),
    /// Show from when to when the cluster can be restored.
    RecoveryWindows(Show),
    /// Verify the WAL of the repository: are all segments there (integrity), is its timeline the server's (timeline), and is
    /// what lies in it what its names say (content)?
    ///
    /// Exit codes: 0 OK or WARNING; 1 FAILURE; 2 it could not be verified.
    WalVerify(WalVerify),
    /// Read base backups to their end: every tar, every file against the manifest, every page checksum.
    ///
    /// Exit codes: 0 OK or WARNING; 1 FAILURE; 2 it could not be verified.
    BackupVerify(BackupVerify),
    /// Restore a base backup into an empty directory, and prepare recovery.
    ///
    /// Exit codes: 0 done; 1 refused; 2 usage; 200 the archive could not be asked, or what it gave is damaged or encrypted.
    /// With --verify-only as backup-verify: 0 it can be restored; 1 it is damaged; 2 it could not be verified, as when it is
    /// encrypted.
    BackupFetch(Box<BackupFetch>),
    /// Keep a backup for good, whatever retention says; or no longer. A delta's ancestors are marked with it.
    BackupMark(BackupMark),
    /// Delete backups and WAL. Without --confirm: show what would be deleted, and why.
    ///
    /// Exit codes: 0 done; 1 refused, or not all of it was done; 2 usage.
    Delete(Delete),
    /// Let the server of a data directory write into the repository, whoever did before.
    TakeOver(TakeOver),
    /// Try all that archiving and restoring need of the store, and look at what lies in it. Leaves nothing behind.
    ///
    /// Exit codes tell the worst: 0 ok; 1 warning; 2 failed.
    Check(Check),
}

/// Where the repository is. What is not given is looked for in WALARCHIVE_STORAGE, WALARCHIVE_STORAGE_OPTIONS and
/// WALARCHIVE_CREDENTIALS_FILE, then in WAL-G's variables, then in the data directory's configuration files.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Storage {
    /// The repository: s3://, gs://, az:// or swift://bucket/prefix, sftp://user@host/path or file:///path.
    #[arg(long = "storage", value_name = "URL")]
    pub url: Option<String>,
    /// An option of the store, for example aws_endpoint=https://host. May be repeated.
    #[arg(long = "storage-option", value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// A file with the store's credentials, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
}

/// `wal-fetch`.
#[derive(Debug, clap::Args)]
pub struct WalFetch {
    /// The name of the WAL file (%f).
    pub name: String,
    /// Where to put it (%p).
    pub path: PathBuf,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// `wal-push`.
#[derive(Debug, clap::Args)]
pub struct WalPush {
    /// The WAL file (%p).
    pub path: PathBuf,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// `backup-list`.
#[derive(Debug, clap::Args)]
pub struct BackupList {
    /// Print a JSON array, with the field names of WAL-G's detailed list.
    #[arg(long)]
    pub json: bool,
    /// Show the host, the data directory, the version and the user data too.
    #[arg(long)]
    pub detail: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// `wal-show` and `recovery-windows`.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// `check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Print a JSON array.
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// `backup-fetch`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("target"))]
pub struct BackupFetch {
    /// The data directory to make; it must be empty or absent, unless --delta is given.
    pub directory: PathBuf,
    /// A backup's name, or LATEST: the newest one that ends before the target.
    pub backup: String,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
    /// Recover to a time with its offset from UTC, for example "2026-11-20 10:00:00+00".
    #[arg(long, value_name = "TIME", group = "target", value_parser = by(RestoreTarget::time))]
    target_time: Option<RestoreTarget>,
    /// Recover to a position in the WAL, for example 16/B374D848.
    #[arg(long, value_name = "LSN", group = "target", value_parser = by(|text| text.parse().map(RestoreTarget::Lsn)))]
    target_lsn: Option<RestoreTarget>,
    /// Recover to a restore point of pg_create_restore_point().
    #[arg(long, value_name = "NAME", group = "target", value_parser = by(RestoreTarget::name))]
    target_name: Option<RestoreTarget>,
    /// Recover to a transaction.
    #[arg(long, value_name = "XID", group = "target")]
    target_xid: Option<u64>,
    /// Stop as soon as the backup is consistent.
    #[arg(long, group = "target")]
    target_immediate: bool,
    /// Stop just before the target, not just after it.
    #[arg(long, requires = "target", conflicts_with_all = ["target_immediate", "target_name"])]
    target_exclusive: bool,
    /// Recover along a timeline: latest, current or its number.
    #[arg(long, value_name = "TIMELINE", default_value = "latest", value_parser = by(|text| text.parse::<TargetTimeline>()))]
    target_timeline: TargetTimeline,
    /// What the server does at the target.
    #[arg(long, value_name = "ACTION", requires = "target", value_enum)]
    target_action: Option<Action>,
    /// Put a tablespace elsewhere; OLD is its directory or OID. May be repeated.
    #[arg(long, value_name = "OLD=NEW", value_parser = by(|text| {
        TablespaceMap::default().add(text).map(|()| text.to_owned())
    }))]
    tablespace_map: Vec<String>,
    /// Put tablespaces into DIR/<oid>, but for those that --tablespace-map puts elsewhere.
    #[arg(long, value_name = "DIR")]
    tablespace_map_all: Option<PathBuf>,
    /// Put tablespaces where they were, as the repository says, but for those that --tablespace-map puts elsewhere. Never into a
    /// directory of the system, and for root only where the user of --owner could make them.
    #[arg(long, conflicts_with = "tablespace_map_all")]
    tablespace_map_original: bool,
    /// Write the configuration files that lay outside of the original's data directory, as on Debian, into DIR.
    #[arg(long, value_name = "DIR", conflicts_with = "verify_only")]
    pub config_dir: Option<PathBuf>,
    /// Put pg_wal into this directory, which must be empty or absent, and a link to it into the data directory, as initdb does.
    #[arg(long, value_name = "DIR", conflicts_with = "verify_only")]
    waldir: Option<PathBuf>,
    /// Make a symbolic link of the original a link again, to NEW, which must be empty or absent; OLD is its path in the data directory
    /// (pg_xact, base/5, postgresql.conf) or where it led. May be repeated.
    #[arg(long, value_name = "OLD=NEW", conflicts_with = "verify_only", value_parser = by(|text| {
        LinkMap::default().add(text).map(|()| text.to_owned())
    }))]
    link: Vec<String>,
    /// Restore into a directory of the same cluster, or go on with a restore that was interrupted: files that are as in the
    /// backup are kept, the others fetched, and what is not in the backup is removed, pg_wal included.
    #[arg(long, conflicts_with = "verify_only")]
    delta: bool,
    /// Read and check all that a restore would take, and write nothing. The directory is not looked at.
    #[arg(long, conflicts_with_all = ["dry_run", "owner", "archive_off"])]
    pub verify_only: bool,
    /// Restore the content of these databases only, by name (where the backup knows it) or OID; the server's own databases
    /// always come back. Of the others, relations come back as files of zeros: drop these databases. May be repeated.
    #[arg(long, value_name = "DATABASE", value_delimiter = ',')]
    restore_only: Vec<String>,
    /// Give the files to a user and group, by name or number. Only for root, to whom they belong otherwise.
    #[arg(long, value_name = "USER[:GROUP]", value_parser = by(|text| text.parse::<Owner>()))]
    pub owner: Option<Owner>,
    /// Write archive_mode = off, for a copy that must not archive into the repository of the original.
    #[arg(long)]
    archive_off: bool,
    /// Let the restored server write into the repository at once, instead of the one that does now. Without this it waits until
    /// that one has given no sign of life for a while.
    #[arg(long, conflicts_with_all = ["verify_only", "archive_off", "standby"])]
    pub take_over: bool,
    /// Restore though WAL is missing that recovery needs to get to its target: it will end there.
    #[arg(long, conflicts_with_all = ["no_recovery", "verify_only"])]
    allow_gap: bool,
    /// Do not look beforehand whether there is enough room.
    #[arg(long)]
    no_space_check: bool,
    /// Write no recovery settings.
    #[arg(long, conflicts_with_all = ["standby", "target", "target_timeline"])]
    no_recovery: bool,
    /// Prepare a standby (standby.signal) that follows the archive.
    #[arg(long)]
    standby: bool,
    /// Tars to unpack at a time; by default one a processor, up to 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: Option<u16>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// No progress bar and no summary.
    #[arg(short, long)]
    pub quiet: bool,
}

/// `recovery_target_action`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Wait, readable, for somebody to decide.
    Pause,
    /// Accept writes, on a new timeline.
    Promote,
    /// Stop.
    Shutdown,
}

impl BackupFetch {
    /// The recovery target that the flags name.
    pub fn target(&self) -> RecoveryTarget {
        let given = [&self.target_time, &self.target_lsn, &self.target_name];
        let target = given.into_iter().flatten().next().cloned();
        let target = target.or_else(|| self.target_xid.map(RestoreTarget::Xid));
        let immediate = self.target_immediate.then_some(RestoreTarget::Immediate);
        RecoveryTarget {
            target: target.or(immediate).unwrap_or_default(),
            inclusive: !self.target_exclusive,
            timeline: self.target_timeline,
            action: match self.target_action {
                None | Some(Action::Pause) => TargetAction::Pause,
                Some(Action::Promote) => TargetAction::Promote,
                Some(Action::Shutdown) => TargetAction::Shutdown,
            },
        }
    }

    /// Will the restored server archive nothing?
    pub fn archives_never(&self) -> bool {
        self.archive_off
    }

    /// Which signal file to write, if any.
    pub fn mode(&self) -> Option<RecoveryMode> {
        match (self.no_recovery, self.standby) {
            (true, _) => None,
            (false, true) => Some(RecoveryMode::Standby),
            (false, false) => Some(RecoveryMode::Recovery),
        }
    }

    /// The options without the recovery settings, which need the storage.
    pub fn options(&self) -> Result<RestoreOptions> {
        let mut tablespace_map = TablespaceMap::default();
        self.tablespace_map
            .iter()
            .try_for_each(|text| tablespace_map.add(text))?;
        if let Some(directory) = &self.tablespace_map_all {
            tablespace_map.put_all(directory)?;
        }
        if self.tablespace_map_original {
            tablespace_map.accept_originals();
        }
        let mut links = LinkMap::default();
        self.link.iter().try_for_each(|text| links.add(text))?;
        let default = RestoreOptions::default();
        Ok(RestoreOptions {
            tablespace_map,
            wal_directory: self.waldir.clone(),
            links,
            concurrency: self.concurrency.map_or(default.concurrency, usize::from),
            recovery: None,
            archive_off: self.archive_off,
            allow_gap: self.allow_gap,
            mode: match (self.delta, self.verify_only) {
                (true, _) => RestoreMode::Delta,
                (false, true) => RestoreMode::VerifyOnly,
                (false, false) => RestoreMode::Fresh,
            },
            owner: self.owner,
            check_space: !self.no_space_check,
            databases: self.restore_only.clone(),
        })
    }
}

/// A parser for clap that keeps the hint.
fn by<T>(parse: impl Fn(&str) -> Result<T> + Clone) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        parse(text).map_err(|error| match error.hint() {
            Some(hint) => format!("{error}\nHINT:  {hint}"),
            None => error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
