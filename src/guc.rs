//! The settings: their definition, and one snapshot of them in core's plain terms.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use walarchive_core::backup::OnChecksumFailure;
use walarchive_core::backup::delta::{Origin, WantedParent};
use walarchive_core::codec::Compression as CoreCompression;
use walarchive_core::formats::manifest::ChecksumAlgorithm;
use walarchive_core::retention::Policy;
use walarchive_core::schedule::Schedule;
use walarchive_core::{Error, wal_g};
use walarchive_storage::Store;
use walarchive_storage::{StorageConfig, StorageOptions};

use crate::pg::settings::{check_hook, define_checked_string, reserve_prefix};
use crate::shmem::MAX_CONCURRENCY;

/// `walarchive.compression`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(missing_docs)]
pub enum Compression {
    #[name = c"zstd"]
    Zstd,
    #[name = c"lz4"]
    Lz4,
    #[name = c"lzma"]
    Lzma,
    #[name = c"none"]
    None,
}

/// `walarchive.manifest_checksums`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(missing_docs)]
pub enum ManifestChecksums {
    #[name = c"crc32c"]
    Crc32c,
    #[name = c"sha256"]
    Sha256,
}

/// `walarchive.delta_origin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(missing_docs)]
pub enum DeltaOrigin {
    #[name = c"latest"]
    Latest,
    #[name = c"latest_full"]
    LatestFull,
}

/// `walarchive.on_checksum_failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
#[allow(missing_docs)]
pub enum ChecksumFailure {
    #[name = c"warning"]
    Warning,
    #[name = c"error"]
    Error,
}

static STORAGE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static STORAGE_OPTIONS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static CREDENTIALS_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static COMPRESSION: GucSetting<Compression> = GucSetting::<Compression>::new(Compression::Zstd);
static COMPRESSION_LEVEL: GucSetting<i32> = GucSetting::<i32>::new(1);
static UPLOAD_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(8);
static ARCHIVE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60);
static SHUTDOWN_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(20);
static LEASE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(30);
static BACKUP_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(4);
static TAR_SIZE: GucSetting<i32> = GucSetting::<i32>::new(1 << 20);
static BACKUP_RATE_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(0);
static MANIFEST_CHECKSUMS: GucSetting<ManifestChecksums> =
    GucSetting::<ManifestChecksums>::new(ManifestChecksums::Crc32c);
static DELTA_MAX_STEPS: GucSetting<i32> = GucSetting::<i32>::new(0);
static DELTA_ORIGIN: GucSetting<DeltaOrigin> = GucSetting::<DeltaOrigin>::new(DeltaOrigin::Latest);
static ON_CHECKSUM_FAILURE: GucSetting<ChecksumFailure> = GucSetting::<ChecksumFailure>::new(ChecksumFailure::Warning);
static BACKUP_SCHEDULE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static BACKUP_ON_STANDBY: GucSetting<bool> = GucSetting::<bool>::new(false);
static RETENTION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// S3 takes 10 000 parts of an object, which are 80 GB. In kB.
const LARGEST_TAR_KB: i32 = 64 << 20;

/// More steps than anybody wants to restore.
const MOST_DELTA_STEPS: i32 = 1000;

/// Define all of them.
pub fn define() {
    let context = || GucContext::Sighup;
    define_checked_string(
        c"walarchive.storage",
        c"Where WAL and base backups go.",
        c"A URL: s3://, gs://, az:// or swift://bucket/prefix, sftp://user@host/path or file:///absolute/path.",
        &STORAGE,
        Some(storage_hook),
    );
    define_checked_string(
        c"walarchive.storage_options",
        c"Non-secret options of the store, as key=value pairs separated by commas or spaces.",
        c"For example aws_endpoint=https://host,aws_region=eu-central-1.",
        &STORAGE_OPTIONS,
        Some(storage_options_hook),
    );
    GucRegistry::define_string_guc(
        c"walarchive.credentials_file",
        c"A file with the store's credentials, readable by the server's user only.",
        c"It holds \"key = value\" lines; the [default] section of an AWS credentials file is one.",
        &CREDENTIALS_FILE,
        context(),
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_enum_guc(
        c"walarchive.compression",
        c"How WAL and base backups are compressed.",
        c"",
        &COMPRESSION,
        context(),
        GucFlags::default(),
    );
    let int = |name: &'static CStr,
               short: &'static CStr,
               long: &'static CStr,
               setting: &'static GucSetting<i32>,
               range: (i32, i32),
               flags| {
        GucRegistry::define_int_guc(name, short, long, setting, range.0, range.1, context(), flags);
    };
    int(
        c"walarchive.compression_level",
        c"Level of the compression, 1 (fast) to 19 (small).",
        c"lzma has levels up to 9; lz4 has none.",
        &COMPRESSION_LEVEL,
        (1, 19),
        GucFlags::default(),
    );
    int(
        c"walarchive.upload_concurrency",
        c"WAL files that are uploaded at once, ahead of the archiver.",
        c"",
        &UPLOAD_CONCURRENCY,
        (1, MAX_CONCURRENCY as i32),
        GucFlags::default(),
    );
    int(
        c"walarchive.archive_timeout",
        c"The longest that the archiver waits for one WAL file before it says so and comes again.",
        c"An upload that makes progress goes on. One that makes none for half of this time ends.",
        &ARCHIVE_TIMEOUT,
        (1, 3600),
        GucFlags::UNIT_S,
    );
    int(
        c"walarchive.shutdown_timeout",
        c"When the server stops: the longest that the archiver goes on without archiving a file.",
        c"What is left is archived after the next start.",
        &SHUTDOWN_TIMEOUT,
        (1, 3600),
        GucFlags::UNIT_S,
    );
    int(
        c"walarchive.lease_interval",
        c"How often the server that writes into the repository renews its lease there.",
        c"Another server may take over after four intervals without a renewal.",
        &LEASE_INTERVAL,
        (1, 3600),
        GucFlags::UNIT_S,
    );
    int(
        c"walarchive.backup_concurrency",
        c"Tars of a base backup that are packed and uploaded at once.",
        c"",
        &BACKUP_CONCURRENCY,
        (1, 64),
        GucFlags::default(),
    );
    int(
        c"walarchive.tar_size",
        c"Bytes of files that go into one tar of a base backup, before compression.",
        c"A larger file gets a tar of its own.",
        &TAR_SIZE,
        (1 << 10, LARGEST_TAR_KB),
        GucFlags::UNIT_KB,
    );
    int(
        c"walarchive.backup_rate_limit",
        c"The most that a base backup reads in a second; 0 is no limit.",
        c"",
        &BACKUP_RATE_LIMIT,
        (0, i32::MAX),
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_enum_guc(
        c"walarchive.manifest_checksums",
        c"Checksum algorithm of the backup manifest.",
        c"",
        &MANIFEST_CHECKSUMS,
        context(),
        GucFlags::default(),
    );
    int(
        c"walarchive.delta_max_steps",
        c"Delta backups that may follow one full backup; 0 means full backups only.",
        c"After that many, the next backup is a full one.",
        &DELTA_MAX_STEPS,
        (0, MOST_DELTA_STEPS),
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"walarchive.delta_origin",
        c"The backup that a delta backup is based on: the latest one, or the full one below it.",
        c"",
        &DELTA_ORIGIN,
        context(),
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"walarchive.on_checksum_failure",
        c"What a base backup does about a page whose data checksum is wrong.",
        c"With \"warning\" the page is backed up as it is and reported, with \"error\" the backup ends.",
        &ON_CHECKSUM_FAILURE,
        context(),
        GucFlags::default(),
    );
    define_checked_string(
        c"walarchive.backup_schedule",
        c"When base backups are taken: a cron expression, in the operating system's local time; empty for never.",
        c"For example \"0 2 * * *\" for every night at two, or @weekly. With six fields, seconds come first.",
        &BACKUP_SCHEDULE,
        Some(backup_schedule_hook),
    );
    GucRegistry::define_bool_guc(
        c"walarchive.backup_on_standby",
        c"Take scheduled backups on a standby, too.",
        c"",
        &BACKUP_ON_STANDBY,
        context(),
        GucFlags::default(),
    );
    define_checked_string(
        c"walarchive.retention",
        c"What is kept after each successful backup; the rest is deleted. Empty keeps everything.",
        c"For example \"window 14 days\", \"full 7\" or \"gfs 7,4,12,5\" (days, weeks, months, years).",
        &RETENTION,
        Some(retention_hook),
    );
    reserve_prefix();
    DEFINED.store(true, Ordering::Relaxed);
}

/// What the archive needs to know: a snapshot of the settings, valid until the next reload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArchiveSettings {
    /// Where.
    pub storage: StorageConfig,
    /// How.
    pub compression: CoreCompression,
}

impl ArchiveSettings {
    /// As the process sees them now. An error if the storage is not set or cannot be right.
    pub fn current() -> Result<Self, Error> {
        let (url, options) = (text(&STORAGE), text(&STORAGE_OPTIONS));
        not_rejected(STORAGE_NAME, &url)?;
        not_rejected(STORAGE_OPTIONS_NAME, &options)?;
        if url.trim().is_empty() {
            return Err(Error::config(
                "walarchive.storage is not set",
                "Set it to a URL, for example \"s3://bucket/prefix\" or \"file:///backup\", and reload the configuration.",
            ));
        }
        let mut storage = StorageConfig::new(url);
        storage.options = options.parse::<StorageOptions>()?;
        storage.credentials_file = Some(text(&CREDENTIALS_FILE))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        // One attempt must leave time for another one before the archiver gives up.
        storage.request_timeout = archive_timeout() / 2;
        storage.patience = storage.request_timeout;
        let method = match COMPRESSION.get() {
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Lzma => "lzma",
            Compression::None => "none",
        };
        Ok(ArchiveSettings {
            storage,
            compression: CoreCompression::new(method, COMPRESSION_LEVEL.get())?,
        })
    }

    /// The same for whoever is about to write: refused where the server's environment asks for encryption.
    pub fn for_writing() -> Result<Self, Error> {
        wal_g::refuse_plain_text(std::env::vars_os())?;
        Self::current()
    }

    /// The same in every process that has the same settings, and another one when they differ.
    pub fn generation(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// As PostgreSQL knows it.
pub const STORAGE_NAME: &str = "walarchive.storage";

/// As PostgreSQL knows it.
pub const STORAGE_OPTIONS_NAME: &str = "walarchive.storage_options";

/// Why the values of these settings in the configuration files were refused, if they were.
static REJECTED: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

/// The settings have been defined, so what comes now comes with a reload.
static DEFINED: AtomicBool = AtomicBool::new(false);

/// To be told what the check of a setting in the configuration files found; none if it may be there.
pub fn note_rejected(name: &'static str, reason: Option<String>) {
    let mut rejected = REJECTED.lock();
    // Options may be empty and right, and at a reload they stay so. An empty storage is right for nothing.
    if reason.is_some() && name != STORAGE_NAME && DEFINED.load(Ordering::Relaxed) {
        return;
    }
    match reason {
        Some(reason) => drop(rejected.insert(name, reason)),
        None => drop(rejected.remove(name)),
    }
}

/// An error if a setting has no value since the one in the configuration files was refused.
fn not_rejected(name: &'static str, value: &str) -> Result<(), Error> {
    match REJECTED.lock().get(name).filter(|_| value.trim().is_empty()) {
        None => Ok(()),
        Some(refused) => Err(Error::config(
            format!("{name} has a value that cannot be used"),
            format!("{refused} Correct it in the configuration files, and reload them."),
        )),
    }
}

/// `walarchive.storage` as text, for status views; the check hook lets no secret into it.
pub fn storage_url() -> String {
    text(&STORAGE)
}

/// `walarchive.upload_concurrency`.
pub fn upload_concurrency() -> usize {
    UPLOAD_CONCURRENCY.get().max(1) as usize
}

/// `walarchive.archive_timeout`.
pub fn archive_timeout() -> Duration {
    Duration::from_secs(ARCHIVE_TIMEOUT.get().max(1) as u64)
}

/// `walarchive.shutdown_timeout`.
pub fn shutdown_timeout() -> Duration {
    Duration::from_secs(SHUTDOWN_TIMEOUT.get().max(1) as u64)
}

/// `walarchive.lease_interval`.
pub fn lease_interval() -> Duration {
    Duration::from_secs(LEASE_INTERVAL.get().max(1) as u64)
}

/// `walarchive.backup_concurrency`.
pub fn backup_concurrency() -> usize {
    BACKUP_CONCURRENCY.get().max(1) as usize
}

/// `walarchive.tar_size` in bytes.
pub fn tar_bytes() -> u64 {
    TAR_SIZE.get() as u64 * 1024
}

/// `walarchive.backup_rate_limit` in bytes a second.
pub fn backup_rate_limit() -> Option<u64> {
    Some(BACKUP_RATE_LIMIT.get() as u64 * 1024).filter(|limit| *limit > 0)
}

/// `walarchive.manifest_checksums`.
pub fn manifest_checksums() -> ChecksumAlgorithm {
    match MANIFEST_CHECKSUMS.get() {
        ManifestChecksums::Crc32c => ChecksumAlgorithm::Crc32c,
        ManifestChecksums::Sha256 => ChecksumAlgorithm::Sha256,
    }
}

/// `walarchive.delta_max_steps`; none when no deltas are taken.
pub fn delta_max_steps() -> Option<u32> {
    u32::try_from(DELTA_MAX_STEPS.get()).ok().filter(|steps| *steps > 0)
}

/// The kind of backup that is taken if nobody says otherwise.
pub fn configured_kind() -> WantedParent {
    WantedParent::Automatic {
        max_steps: delta_max_steps().unwrap_or(0),
        origin: match DELTA_ORIGIN.get() {
            DeltaOrigin::Latest => Origin::Latest,
            DeltaOrigin::LatestFull => Origin::LatestFull,
        },
    }
}

/// `walarchive.on_checksum_failure`.
pub fn on_checksum_failure() -> OnChecksumFailure {
    match ON_CHECKSUM_FAILURE.get() {
        ChecksumFailure::Warning => OnChecksumFailure::Warning,
        ChecksumFailure::Error => OnChecksumFailure::Error,
    }
}

/// `walarchive.backup_schedule`; none when it is empty.
pub fn backup_schedule() -> Option<Schedule> {
    // The check hook lets nothing else pass.
    text(&BACKUP_SCHEDULE).parse().ok()
}

/// `walarchive.backup_on_standby`.
pub fn backup_on_standby() -> bool {
    BACKUP_ON_STANDBY.get()
}

/// `walarchive.retention`; none when it is empty.
pub fn retention() -> Option<String> {
    Some(text(&RETENTION)).filter(|policy| !policy.trim().is_empty())
}

check_hook!(storage_hook: STORAGE_NAME, check_storage => note_rejected);
check_hook!(storage_options_hook: STORAGE_OPTIONS_NAME, check_storage_options => note_rejected);
check_hook!(backup_schedule_hook: "walarchive.backup_schedule", check_backup_schedule);
check_hook!(retention_hook: "walarchive.retention", check_retention);

/// May this be a value of `walarchive.storage`? An empty one means that it is not set.
pub fn check_storage(value: &str) -> Result<(), Error> {
    if value.trim().is_empty() {
        Ok(())
    } else {
        Ok(Store::check_url(value)?)
    }
}

/// May this be a value of `walarchive.storage_options`?
pub fn check_storage_options(value: &str) -> Result<(), Error> {
    value.parse::<StorageOptions>()?;
    Ok(())
}

/// May this be a value of `walarchive.backup_schedule`?
pub fn check_backup_schedule(value: &str) -> Result<(), Error> {
    if value.trim().is_empty() {
        Ok(())
    } else {
        value.parse::<Schedule>().map(|_| ())
    }
}

/// May this be a value of `walarchive.retention`?
pub fn check_retention(value: &str) -> Result<(), Error> {
    if value.trim().is_empty() {
        Ok(())
    } else {
        value.parse::<Policy>().map(|_| ())
    }
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting
        .get()
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default()
}
