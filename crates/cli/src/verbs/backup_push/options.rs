//! The request: the command line, then WAL-G's variables, then the defaults.

use std::time::Duration;

use walarchive_core::backup::delta::{Origin, WantedParent};
use walarchive_core::backup::{BackupOptions, BackupRequest, Catchup, ConfigurationFiles};
use walarchive_core::codec::Compression;
use walarchive_core::formats::UserData;
use walarchive_core::repository::inventory;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use super::args::{BackupPush, parse_time};
use super::report::Archiving;

/// The longest wait for the WAL of a backup, unless told otherwise.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The same where the server archives nothing, and another program has to.
const ARCHIVE_TIMEOUT_WITHOUT_ARCHIVER: Duration = Duration::from_secs(300);

/// Each tar that is packed at a time takes some 40 MB of memory.
const MOST_AT_A_TIME: u64 = 64;

/// The environment, or what a test puts in its place. Empty values count as unset.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Full or delta, unless a delta from user data is asked for.
    pub parent: WantedParent,
    /// A delta based on the backup with this.
    pub parent_with: Option<UserData>,
    /// Never deleted by retention.
    pub permanent: bool,
    /// To be attached.
    pub user_data: Option<UserData>,
    /// Have a server that sends its files verify them.
    pub verify: bool,
    /// How it is copied; without the compression.
    pub options: BackupOptions,
    archive_timeout: Option<Duration>,
    /// It brings a standby up.
    catchup: Option<Catchup>,
}

impl Wanted {
    /// The values of the command line and of this process's environment.
    pub fn of(args: &BackupPush) -> Result<Self> {
        Self::of_environment(args, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of_environment(args: &BackupPush, environment: Environment<'_>) -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            environment(name)
                .map(|value| value.trim().parse::<u64>().map_err(|_| not_a(name, "a whole number")))
                .transpose()
        };
        let is_set =
            |name: &str| environment(name).is_some_and(|value| ["true", "1", "t", "on"].contains(&value.as_str()));
        let without_metadata = args.without_files_metadata || is_set("WALG_WITHOUT_FILES_METADATA");
        // The flags exclude each other, and come before the variables.
        let named = args.full || args.delta_from_name.is_some() || args.delta_from_user_data.is_some();
        let variable = |name: &str| environment(name).filter(|_| !named);
        let name = args
            .delta_from_name
            .clone()
            .or_else(|| variable("WALG_DELTA_FROM_NAME"));
        let parent_with = args
            .delta_from_user_data
            .clone()
            .or_else(|| variable("WALG_DELTA_FROM_USER_DATA"));
        let max_steps = number("WALG_DELTA_MAX_STEPS")?.unwrap_or(0);
        let parent = match name {
            _ if args.full => WantedParent::Full,
            Some(name) => WantedParent::Named(name),
            None => WantedParent::Automatic {
                max_steps: u32::try_from(max_steps).unwrap_or(u32::MAX),
                origin: origin(environment)?,
            },
        };
        if without_metadata && (matches!(parent, WantedParent::Named(_)) || parent_with.is_some()) {
            return Err(Error::config(
                "a delta backup cannot be taken without files metadata",
                "Leave --without-files-metadata away, or take a full backup.",
            ));
        }
        let at_a_time = match number("WALG_UPLOAD_DISK_CONCURRENCY")? {
            None => number("WALG_UPLOAD_CONCURRENCY")?,
            some => some,
        };
        let user_data = args
            .add_user_data
            .clone()
            .or_else(|| environment("WALG_SENTINEL_USER_DATA"));
        let mut options = BackupOptions {
            rate_limit: number("WALG_DISK_RATE_LIMIT")?,
            network_rate_limit: number("WALG_NETWORK_RATE_LIMIT")?,
            files_metadata: !without_metadata,
            all_corrupt_pages: args.store_all_corrupt || is_set("WALG_STORE_ALL_CORRUPT_BLOCKS"),
            ..BackupOptions::default()
        };
        if let Some(count) = at_a_time {
            options.concurrency = usize::try_from(count.clamp(1, MOST_AT_A_TIME)).unwrap_or(1);
        }
        if let Some(bytes) = number("WALG_TAR_SIZE_THRESHOLD")? {
            options.tar_bytes = bytes.max(1);
        }
        let timeout = match args.archive_timeout {
            None => environment("WALG_STOP_BACKUP_TIMEOUT")
                .map(|value| parse_time(&value).map_err(|_| not_a("WALG_STOP_BACKUP_TIMEOUT", "a time such as 10m")))
                .transpose()?,
            some => some,
        };
        Ok(Wanted {
            parent: if without_metadata { WantedParent::Full } else { parent },
            parent_with: parent_with.as_deref().map(json),
            permanent: args.permanent,
            user_data: user_data.as_deref().map(json),
            verify: args.verify || is_set("WALG_VERIFY_PAGE_CHECKSUMS"),
            options,
            archive_timeout: timeout,
            catchup: None,
        })
    }

    /// The same for a standby that has this already.
    pub fn for_standby(mut self, catchup: Catchup) -> Self {
        self.catchup = Some(catchup);
        // Only they tell which files have only some pages.
        self.options.files_metadata = true;
        self
    }

    /// Is the backup of no use before its WAL is in the archive? A standby can get it from the primary.
    pub fn needs_archive(&self, archiving: &Archiving) -> bool {
        self.catchup.is_none() || archiving.archives()
    }

    /// Is the parent to be looked up in the repository?
    pub fn asks_by_user_data(&self) -> bool {
        self.parent_with.is_some()
    }

    /// A full backup or a delta, as the settings say, with that attached.
    #[cfg(test)]
    pub(super) fn for_test(options: BackupOptions, user_data: Option<UserData>) -> Self {
        Wanted {
            parent: WantedParent::Full,
            parent_with: None,
            permanent: false,
            user_data,
            verify: false,
            options,
            archive_timeout: None,
            catchup: None,
        }
    }

    /// How it is copied, with that compression.
    pub fn options(&self, compression: Compression) -> BackupOptions {
        BackupOptions {
            compression,
            ..self.options.clone()
        }
    }

    /// How long to wait for the WAL, whether the server archives or not.
    pub fn archive_timeout(&self, archives: bool) -> Duration {
        self.archive_timeout.unwrap_or(match archives {
            true => ARCHIVE_TIMEOUT,
            false => ARCHIVE_TIMEOUT_WITHOUT_ARCHIVER,
        })
    }

    /// Put what the user attaches into a request that is known up to where it starts.
    pub fn adorn(&self, request: &mut BackupRequest) -> Result<()> {
        request.permanent = self.permanent;
        request.user_data = self.user_data.clone();
        let Some(catchup) = &self.catchup else { return Ok(()) };
        if catchup.since > request.start_lsn {
            return Err(Error::refused(
                format!(
                    "this server has come to LSN {} only, and not to {}",
                    request.start_lsn, catchup.since
                ),
                "Give the REDO location of the standby's latest checkpoint, and take the backup from the server that it follows.",
            ));
        }
        request.catchup = Some(catchup.clone());
        // The standby has its own.
        request.configuration = ConfigurationFiles::default();
        Ok(())
    }

    /// The parent, looked up by what is attached to it if that is what was given.
    pub async fn parent(&self, store: &Store) -> Result<WantedParent> {
        let Some(data) = &self.parent_with else {
            return Ok(self.parent.clone());
        };
        let value = data.to_value();
        let inventory = inventory::of_backups(store).await?;
        let with = |attached: &Option<UserData>| attached.as_ref().is_some_and(|attached| attached.to_value() == value);
        let mut found = inventory
            .backups
            .iter()
            .filter(|backup| with(&backup.metadata.user_data));
        match (found.next(), found.next()) {
            (Some(backup), None) => Ok(WantedParent::Named(backup.name.clone())),
            (None, _) => Err(Error::NoBackup {
                message: format!("no backup has the user data {data}"),
                hint: "See walarchive backup-list --detail.".to_owned(),
            }),
            (Some(first), Some(second)) => Err(Error::NoBackup {
                message: format!(
                    "several backups have the user data {data}, \"{}\" and \"{}\" among them",
                    first.name, second.name
                ),
                hint: "Name one by --delta-from-name.".to_owned(),
            }),
        }
    }
}

fn origin(environment: Environment<'_>) -> Result<Origin> {
    match environment("WALG_DELTA_ORIGIN").as_deref() {
        None | Some("LATEST") => Ok(Origin::Latest),
        Some("LATEST_FULL") => Ok(Origin::LatestFull),
        Some(_) => Err(not_a("WALG_DELTA_ORIGIN", "LATEST or LATEST_FULL")),
    }
}

/// JSON, or else a text, which WAL-G takes, too.
fn json(text: &str) -> UserData {
    UserData::of_text(text).unwrap_or_else(|| UserData::from(serde_json::Value::String(text.to_owned())))
}

fn not_a(name: &str, what: &str) -> Error {
    Error::config(format!("the variable {name} is not {what}"), "Correct it, or unset it.")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        push: BackupPush,
    }

    fn wanted(args: &str, variables: &[(&str, &str)]) -> Result<Wanted, String> {
        let args = ["x"].into_iter().chain(args.split(' ').filter(|arg| !arg.is_empty()));
        let line = Line::try_parse_from(args).map_err(|error| error.to_string())?;
        let environment = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Wanted::of_environment(&line.push, &environment).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_come_before_variables() {
        let steps = [("WALG_DELTA_MAX_STEPS", "5"), ("WALG_DELTA_ORIGIN", "LATEST_FULL")];
        let automatic = WantedParent::Automatic {
            max_steps: 5,
            origin: Origin::LatestFull,
        };
        assert_eq!(wanted("/d", &steps).expect("wanted").parent, automatic);
        assert_eq!(wanted("-f", &steps).expect("wanted").parent, WantedParent::Full);
        let named = [("WALG_DELTA_FROM_NAME", "env")];
        let by_name = |name: &str| WantedParent::Named(name.to_owned());
        assert_eq!(wanted("", &named).expect("wanted").parent, by_name("env"));
        assert_eq!(wanted("--full", &named).expect("wanted").parent, WantedParent::Full);
        assert_eq!(
            wanted("--delta-from-name flag", &named).expect("wanted").parent,
            by_name("flag")
        );
        let without = wanted("--without-files-metadata", &steps).expect("wanted");
        assert!(without.parent == WantedParent::Full && !without.options.files_metadata);
        for wrong in [
            "--full --delta-from-name x",
            "--without-files-metadata --delta-from-name x",
        ] {
            assert!(wanted(wrong, &[]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_of_wal_g_count() {
        let found = wanted(
            "-p -v -s -r -c -b --add-user-data {\"a\":1}",
            &[
                ("WALG_UPLOAD_CONCURRENCY", "16"),
                ("WALG_UPLOAD_DISK_CONCURRENCY", "2"),
                ("WALG_TAR_SIZE_THRESHOLD", "1000"),
                ("WALG_DISK_RATE_LIMIT", "7"),
                ("WALG_NETWORK_RATE_LIMIT", "8"),
                ("WALG_SENTINEL_USER_DATA", "\"other\""),
                ("WALG_STOP_BACKUP_TIMEOUT", "10m"),
            ],
        );
        let found = found.expect("wanted");
        assert!(found.permanent && found.options.all_corrupt_pages);
        assert_eq!((found.options.concurrency, found.options.tar_bytes), (2, 1000));
        assert_eq!(
            (found.options.rate_limit, found.options.network_rate_limit),
            (Some(7), Some(8))
        );
        assert_eq!(found.user_data.as_ref().map(UserData::as_str), Some("{\"a\":1}"));
        assert_eq!(found.archive_timeout(true), Duration::from_secs(600));
        let text = wanted("", &[("WALG_SENTINEL_USER_DATA", "just text")]).expect("wanted");
        assert_eq!(text.user_data.as_ref().map(UserData::as_str), Some("\"just text\""));
        assert_eq!(text.archive_timeout(false), Duration::from_secs(300));
        for (name, value) in [
            ("WALG_DELTA_MAX_STEPS", "x"),
            ("WALG_DELTA_ORIGIN", "x"),
            ("WALG_STOP_BACKUP_TIMEOUT", "x"),
        ] {
            assert!(wanted("", &[(name, value)]).is_err(), "{name}");
        }
    }
}
