//! The flags of `backup-fetch`.

use std::io::Read;
use std::path::PathBuf;

use clap::ValueEnum;
use walarchive_core::restore::{
    LinkMap, Look, Mask, Owner, RecoveryMode, RecoveryTarget, RestoreMode, RestoreOptions, TablespaceMap, TargetAction,
};
use walarchive_core::{Error, Result};

use crate::parse::by;
use crate::repository::{Storage, TARGET_USER_DATA};
use crate::verbs::target::Target;

/// The largest restore specification that is read, in bytes.
const SPECIFICATION_LIMIT: u64 = 16 << 20;

/// `backup-fetch`.
#[derive(Debug, clap::Args)]
pub struct BackupFetch {
    /// The data directory to create. It must be empty or absent, unless --delta is given.
    pub directory: PathBuf,
    /// The name of a backup, or LATEST for the newest one that ends before the target.
    #[arg(conflicts_with = "target_user_data")]
    pub backup: Option<String>,
    /// The backup with this user data, which is JSON, in place of its name. WALG_FETCH_TARGET_USER_DATA does the same.
    #[arg(long, value_name = "JSON")]
    target_user_data: Option<String>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub to: Target,
    /// Stop just before the target, not just after it.
    #[arg(long, requires = "target", conflicts_with_all = ["target_immediate", "target_name"])]
    target_exclusive: bool,
    /// Set what the server does at the target.
    #[arg(long, value_name = "ACTION", requires = "target", value_enum)]
    target_action: Option<Action>,
    /// Put a tablespace elsewhere; OLD is its directory or OID. May be repeated.
    #[arg(long, value_name = "OLD=NEW", value_parser = by(|text| {
        TablespaceMap::default().add(text).map(|()| text.to_owned())
    }))]
    tablespace_map: Vec<String>,
    /// Put tablespaces into DIR/<oid>, except those that --tablespace-map puts elsewhere.
    #[arg(long, value_name = "DIR")]
    tablespace_map_all: Option<PathBuf>,
    /// Put tablespaces where the repository says they were, except those that --tablespace-map puts elsewhere. Never into a
    /// directory of the system, and for root only where the user of --owner could create them.
    #[arg(long, conflicts_with = "tablespace_map_all")]
    tablespace_map_original: bool,
    /// Write into DIR the configuration files that were outside of the original's data directory, as on Debian.
    #[arg(long, value_name = "DIR", conflicts_with = "verify_only")]
    pub config_dir: Option<PathBuf>,
    /// Put pg_wal into this directory, which must be empty or absent, with a link in the data directory, as initdb does.
    #[arg(long, value_name = "DIR", conflicts_with = "verify_only")]
    waldir: Option<PathBuf>,
    /// Make a symbolic link of the original a link again, to NEW, which must be empty or absent; OLD is its path in the data directory
    /// (pg_xact, base/5, postgresql.conf) or where it led. May be repeated.
    #[arg(long, value_name = "OLD=NEW", conflicts_with = "verify_only", value_parser = by(|text| {
        LinkMap::default().add(text).map(|()| text.to_owned())
    }))]
    link: Vec<String>,
    /// Restore into a directory of the same cluster, or go on with a restore that was interrupted. Files that are as in the
    /// backup are kept, and others are fetched. Everything that is not in the backup is removed, pg_wal included.
    #[arg(long, conflicts_with = "verify_only")]
    delta: bool,
    /// Read and check everything that a restore would use, and write nothing. The directory does not matter.
    #[arg(long, conflicts_with_all = ["plan", "owner", "archive_off"])]
    pub verify_only: bool,
    /// Restore the content of these databases only, by name (if the backup has it) or OID, or of tables, as DATABASE/TABLE or
    /// DATABASE/SCHEMA.TABLE, if the backup has their names. The server's own databases are always restored. The relations of
    /// other databases, and other tables, become files of zeros: drop them. May be repeated.
    #[arg(long, value_name = "DATABASE[/TABLE]", value_delimiter = ',')]
    pub restore_only: Vec<String>,
    /// Restore only the files whose path below the directory is like this pattern of a shell, for example 'base/16384/*'. No
    /// recovery settings are written; no server starts on the directory, unless all files come.
    #[arg(long, value_name = "PATTERN", value_parser = by(Mask::parse),
        conflicts_with_all = ["delta", "restore_only", "target", "standby", "config_dir", "take_over", "archive_off"])]
    pub mask: Option<Mask>,
    /// A file with WAL-G's restore specification, JSON that says where each tablespace goes.
    #[arg(long, value_name = "FILE")]
    restore_spec: Option<PathBuf>,
    /// Of WAL-G: a delta is always restored so that each file is written once.
    #[arg(long)]
    reverse_unpack: bool,
    /// Accepted, as WAL-G has it: tars that are not needed are never fetched.
    #[arg(long)]
    skip_redundant_tars: bool,
    /// Give the files to a user and group, by name or number. Only for root; without it they belong to root.
    #[arg(long, value_name = "USER[:GROUP]", value_parser = by(|text| text.parse::<Owner>()))]
    pub owner: Option<Owner>,
    /// Write archive_mode = off, for a copy that must not archive into the repository of the original.
    #[arg(long)]
    archive_off: bool,
    /// Let the restored server write into the repository at once, in place of the current writer. Without this flag it waits
    /// until that one has not renewed its lease for four intervals.
    #[arg(long, conflicts_with_all = ["verify_only", "archive_off", "standby"])]
    pub take_over: bool,
    /// Restore even if WAL before the target is missing. Recovery ends at the gap.
    #[arg(long, conflicts_with_all = ["no_recovery", "verify_only"])]
    pub allow_gap: bool,
    /// Do not check the free space beforehand.
    #[arg(long)]
    no_space_check: bool,
    /// Write no recovery settings.
    #[arg(long, conflicts_with_all = ["standby", "target", "target_timeline"])]
    no_recovery: bool,
    /// Prepare a standby (standby.signal) that follows the archive.
    #[arg(long)]
    standby: bool,
    /// How many tars to unpack at once; by default one per processor, at most 4.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: Option<u16>,
    /// Print the plan, and do nothing: the backup, the WAL that recovery will read, what is missing, and how long it will take.
    #[arg(long, visible_alias = "dry-run")]
    pub plan: bool,
    /// Print the plan as JSON.
    #[arg(long, requires = "plan")]
    pub json: bool,
    /// No progress bar and no summary.
    #[arg(short, long)]
    pub quiet: bool,
}

/// `recovery_target_action`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Pause, and accept read-only connections.
    Pause,
    /// Accept writes on a new timeline.
    Promote,
    /// Stop.
    Shutdown,
}

impl BackupFetch {
    /// The user data that names the backup: that of the flag, or where no name is given that of the environment.
    pub fn user_data(&self) -> Option<String> {
        let of_environment = || std::env::var(TARGET_USER_DATA).ok().filter(|data| !data.is_empty());
        match (&self.target_user_data, &self.backup) {
            (Some(data), _) => Some(data.clone()),
            (None, Some(_)) => None,
            (None, None) => of_environment(),
        }
    }

    /// Call this when the settings of files are in the environment.
    pub fn names_backup(&self) -> bool {
        self.backup.is_some() || self.user_data().is_some()
    }

    /// The recovery target that the flags name.
    pub fn target(&self) -> RecoveryTarget {
        RecoveryTarget {
            target: self.to.point(),
            inclusive: !self.target_exclusive,
            timeline: self.to.timeline(),
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
        match (self.no_recovery || self.mask.is_some(), self.standby) {
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
        if let Some(file) = &self.restore_spec {
            let read = std::fs::File::open(file).and_then(|opened| {
                let mut text = String::new();
                opened.take(SPECIFICATION_LIMIT).read_to_string(&mut text).map(|_| text)
            });
            let text = read.map_err(|error| Error::io("read", file, error))?;
            tablespace_map.add_specification(&text, &self.directory)?;
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
            look: Look::Bounded,
            // A plan shows what is missing, and is refused then.
            allow_gap: self.allow_gap || self.plan,
            mode: match (self.delta, self.verify_only) {
                (true, _) => RestoreMode::Delta,
                (false, true) => RestoreMode::VerifyOnly,
                (false, false) => RestoreMode::Fresh,
            },
            owner: self.owner,
            check_space: !self.no_space_check,
            space_hint: None,
            databases: self.restore_only.clone(),
            mask: self.mask.clone(),
        })
    }
}
