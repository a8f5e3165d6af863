//! The settings, and one snapshot of them in core's plain terms.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pgrx::guc::{GucSetting, PostgresGucEnum};
use walarchive_core::archive::prefetch::DEFAULT_SEGMENTS;
use walarchive_core::backup::OnChecksumFailure;
use walarchive_core::backup::delta::{Origin, WantedParent};
use walarchive_core::codec::Compression as CoreCompression;
use walarchive_core::formats::manifest::ChecksumAlgorithm;
use walarchive_core::retention::Policy;
use walarchive_core::schedule::Schedule;
use walarchive_core::server_config::encryption::{self, EncryptionSettings};
use walarchive_core::{Error, wal_g};
use walarchive_storage::crypt::EncryptionConfig;
use walarchive_storage::{StorageConfig, StorageOptions, Store};

mod define;

pub use define::define;

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
    #[name = c"brotli"]
    Brotli,
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
static ENCRYPTION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"none"));
static ENCRYPTION_KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ENCRYPTION_KEY_COMMAND: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ENCRYPTION_ACCEPT_PLAIN: GucSetting<bool> = GucSetting::<bool>::new(false);
static ENCRYPT_METADATA: GucSetting<bool> = GucSetting::<bool>::new(false);
static COMPRESSION: GucSetting<Compression> = GucSetting::<Compression>::new(Compression::Zstd);
static COMPRESSION_LEVEL: GucSetting<i32> = GucSetting::<i32>::new(1);
static COMPRESSION_THREADS: GucSetting<i32> = GucSetting::<i32>::new(0);
static UPLOAD_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(8);
static ARCHIVE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60);
static SHUTDOWN_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(20);
static PREFETCH: GucSetting<i32> = GucSetting::<i32>::new(DEFAULT_SEGMENTS as i32);
static TAIL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(0);
static LEASE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(30);
static KEEP_UNARCHIVED: GucSetting<bool> = GucSetting::<bool>::new(true);
static KEEP_UNARCHIVED_LIMIT: GucSetting<i32> = GucSetting::<i32>::new(10 << 10);
static SYNCHRONOUS: GucSetting<bool> = GucSetting::<bool>::new(false);
static SYNCHRONOUS_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(0);
static SYNCHRONOUS_CONNINFO: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
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
static DRILL_SCHEDULE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static DRILL_DIRECTORY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static DRILL_SQL_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static DRILL_SQL_ROLE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static RETENTION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// The settings that the archive needs: a snapshot, valid until the next reload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArchiveSettings {
    /// Where.
    pub storage: StorageConfig,
    /// How.
    pub compression: CoreCompression,
}

impl ArchiveSettings {
    /// The present settings of this process. An error if the storage is not set or not valid.
    pub fn current() -> Result<Self, Error> {
        let (url, options) = (text(&STORAGE), text(&STORAGE_OPTIONS));
        not_rejected(STORAGE_NAME, url.trim().is_empty())?;
        not_rejected(STORAGE_OPTIONS_NAME, options.trim().is_empty())?;
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
        storage.encryption = encryption()?;
        // One attempt must leave time for another one before the archiver gives up.
        storage.request_timeout = archive_timeout() / 2;
        storage.patience = storage.request_timeout;
        let method = match COMPRESSION.get() {
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Lzma => "lzma",
            Compression::Brotli => "brotli",
            Compression::None => "none",
        };
        Ok(ArchiveSettings {
            storage,
            compression: CoreCompression::new(method, COMPRESSION_LEVEL.get())?,
        })
    }

    /// The same for a process that is going to write. It is refused if the server's environment asks for encryption, and its
    /// settings do not.
    pub fn for_writing() -> Result<Self, Error> {
        refuse_plain_text()?;
        Self::current()
    }

    /// A number that is the same in every process with the same settings.
    pub fn generation(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// An error if WAL-G's variables in the server's environment ask for encryption, and the server's settings do not.
pub fn refuse_plain_text() -> Result<(), Error> {
    match encryption() {
        // What is wrong with them is told where they are used.
        Err(_) => Ok(()),
        Ok(encryption) if encryption.writes.is_some() => Ok(()),
        Ok(_) => wal_g::refuse_plain_text(std::env::vars_os()),
    }
}

/// The settings of encryption. Relative paths are those of the data directory, where every process of the server is at work.
fn encryption() -> Result<EncryptionConfig, Error> {
    let (method, key_file, key_command) = (
        text(&ENCRYPTION),
        text(&ENCRYPTION_KEY_FILE),
        text(&ENCRYPTION_KEY_COMMAND),
    );
    // What was meant is not known. Nothing is stored in plain text because of that.
    not_rejected(ENCRYPTION_NAME, method == encryption::NONE)?;
    not_rejected(ENCRYPTION_KEY_FILE_NAME, key_file.is_empty())?;
    not_rejected(ENCRYPTION_KEY_COMMAND_NAME, key_command.is_empty())?;
    EncryptionSettings {
        method: Some(method),
        key_file: Some(key_file),
        key_command: Some(key_command),
        accept_plain: ENCRYPTION_ACCEPT_PLAIN.get(),
        metadata: ENCRYPT_METADATA.get(),
        directory: PathBuf::new(),
    }
    .config()
}

/// The files of `walarchive.encryption_key_file`.
pub fn encryption_key_files() -> Vec<PathBuf> {
    // The check hook refuses everything else.
    encryption::key_files(&text(&ENCRYPTION_KEY_FILE)).unwrap_or_default()
}

const ENCRYPTION_NAME: &str = "walarchive.encryption";
const ENCRYPTION_KEY_FILE_NAME: &str = "walarchive.encryption_key_file";
const ENCRYPTION_KEY_COMMAND_NAME: &str = "walarchive.encryption_key_command";
/// More requests than that are of little use to anybody.
const SHORTEST_TAIL_INTERVAL_MS: i32 = 200;

const STORAGE_NAME: &str = "walarchive.storage";
const STORAGE_OPTIONS_NAME: &str = "walarchive.storage_options";

/// Why the values of these settings in the configuration files were refused, if they were.
static REJECTED: Mutex<BTreeMap<&'static str, String>> = Mutex::new(BTreeMap::new());

/// All settings are defined, so a new value comes from a reload.
static DEFINED: AtomicBool = AtomicBool::new(false);

/// Remember why a value in the configuration files was refused; none if it was accepted.
fn note_rejected(name: &'static str, reason: Option<String>) {
    let mut rejected = REJECTED.lock();
    // After a refusal at a reload the setting keeps its value. Options that are empty may be right; an empty storage never is.
    if reason.is_some() && name != STORAGE_NAME && DEFINED.load(Ordering::Relaxed) {
        return;
    }
    match reason {
        Some(reason) => drop(rejected.insert(name, reason)),
        None => drop(rejected.remove(name)),
    }
}

/// An error if a setting has its default because its value in the configuration files was refused.
fn not_rejected(name: &'static str, has_default: bool) -> Result<(), Error> {
    match REJECTED.lock().get(name).filter(|_| has_default) {
        None => Ok(()),
        Some(refused) => Err(Error::config(
            format!("{name} has a value that cannot be used"),
            format!("{refused} Correct it in the configuration files, and reload the configuration."),
        )),
    }
}

/// `walarchive.storage` as text, for status views. The check hook refuses a value with a secret.
pub fn storage_url() -> String {
    text(&STORAGE)
}

/// `walarchive.compression_threads`, or the number that 0 stands for.
pub fn compression_threads() -> usize {
    match usize::try_from(COMPRESSION_THREADS.get()) {
        Ok(threads @ 1..) => threads,
        // They take only time that nobody else needs. Half of the processors would take longer where nobody needs the others.
        _ => std::thread::available_parallelism().map_or(1, NonZero::get),
    }
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

/// `walarchive.tail_interval`; none when the tail is not stored.
pub fn tail_interval() -> Option<Duration> {
    let interval = u64::try_from(TAIL_INTERVAL.get()).ok().map(Duration::from_millis);
    interval.filter(|interval| !interval.is_zero())
}

/// `walarchive.lease_interval`.
pub fn lease_interval() -> Duration {
    Duration::from_secs(LEASE_INTERVAL.get().max(1) as u64)
}

/// `walarchive.prefetch`.
pub fn prefetch() -> usize {
    usize::try_from(PREFETCH.get()).unwrap_or(0)
}

/// `walarchive.keep_unarchived`.
pub fn keep_unarchived() -> bool {
    KEEP_UNARCHIVED.get()
}

/// `walarchive.keep_unarchived_limit` in bytes; none when there is no limit.
pub fn keep_unarchived_limit() -> Option<u64> {
    u64::try_from(KEEP_UNARCHIVED_LIMIT.get()).ok().map(|mb| mb << 20)
}

/// `walarchive.synchronous`.
pub fn synchronous() -> bool {
    SYNCHRONOUS.get()
}

/// `walarchive.synchronous_timeout`; none when commits wait for ever.
pub fn synchronous_timeout() -> Option<Duration> {
    let seconds = u64::try_from(SYNCHRONOUS_TIMEOUT.get()).ok()?;
    Some(Duration::from_secs(seconds)).filter(|timeout| !timeout.is_zero())
}

/// `walarchive.synchronous_conninfo`, which may hold a password.
pub fn synchronous_conninfo() -> String {
    text(&SYNCHRONOUS_CONNINFO)
}

/// `walarchive.backup_concurrency`.
pub fn backup_concurrency() -> usize {
    BACKUP_CONCURRENCY.get().max(1) as usize
}

/// `walarchive.tar_size` in bytes.
pub fn tar_bytes() -> u64 {
    TAR_SIZE.get() as u64 * 1024
}

/// `walarchive.backup_rate_limit` in bytes per second.
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

/// The kind of backup that the settings ask for.
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
    // The check hook refuses everything else.
    text(&BACKUP_SCHEDULE).parse().ok()
}

/// `walarchive.backup_on_standby`.
pub fn backup_on_standby() -> bool {
    BACKUP_ON_STANDBY.get()
}

/// `walarchive.drill_schedule`; none when it is empty.
pub fn drill_schedule() -> Option<Schedule> {
    // The check hook refuses everything else.
    text(&DRILL_SCHEDULE).parse().ok()
}

/// `walarchive.drill_directory`; none when it is empty.
pub fn drill_directory() -> Option<String> {
    Some(text(&DRILL_DIRECTORY)).filter(|directory| !directory.is_empty())
}

/// The same, for a drill that nobody watches: what is restored may be larger than any place for temporary files.
pub fn needed_drill_directory() -> Result<String, Error> {
    drill_directory().ok_or_else(|| {
        Error::config(
            "walarchive.drill_directory is not set",
            "Set it to a directory with room for the whole cluster, outside of all data directories, and reload.",
        )
    })
}

/// `walarchive.drill_sql_role`; none when it is empty.
pub fn drill_sql_role() -> Option<String> {
    Some(text(&DRILL_SQL_ROLE)).filter(|role| !role.is_empty())
}

/// `walarchive.drill_sql_file`; none when it is empty.
pub fn drill_sql_file() -> Option<String> {
    Some(text(&DRILL_SQL_FILE)).filter(|file| !file.is_empty())
}

/// `walarchive.retention`; none when it is empty.
pub fn retention() -> Option<String> {
    Some(text(&RETENTION)).filter(|policy| !policy.trim().is_empty())
}

/// May this be a value of `walarchive.tail_interval`?
fn check_tail_interval(value: i32) -> Result<(), Error> {
    match value {
        0 | SHORTEST_TAIL_INTERVAL_MS.. => Ok(()),
        _ => Err(Error::config(
            format!("{value} ms is too short"),
            "Set it to 0, which turns it off, or to 200 ms to 1 h.",
        )),
    }
}

/// May this be a value of `walarchive.storage`? An empty one means that it is not set.
fn check_storage(value: &str) -> Result<(), Error> {
    if value.trim().is_empty() {
        Ok(())
    } else {
        Ok(Store::check_url(value)?)
    }
}

/// May this be a value of `walarchive.storage_options`?
fn check_storage_options(value: &str) -> Result<(), Error> {
    value.parse::<StorageOptions>()?;
    Ok(())
}

/// May this be a value of `walarchive.encryption`?
fn check_encryption(value: &str) -> Result<(), Error> {
    encryption::method(value).map(|_| ())
}

/// May this be a value of `walarchive.encryption_key_file`? Whether the files are there is seen when a key is needed.
fn check_key_file(value: &str) -> Result<(), Error> {
    encryption::key_files(value).map(|_| ())
}

/// May this be a value of `walarchive.encryption_key_command`?
fn check_key_command(value: &str) -> Result<(), Error> {
    encryption::words(value).map(|_| ())
}

/// May this be a value of `walarchive.synchronous_conninfo`?
fn check_conninfo(value: &str) -> Result<(), Error> {
    walarchive_client::check_conninfo(value)
}

/// May this be a value of `walarchive.backup_schedule` or `walarchive.drill_schedule`?
fn check_schedule(value: &str) -> Result<(), Error> {
    if value.trim().is_empty() {
        Ok(())
    } else {
        value.parse::<Schedule>().map(|_| ())
    }
}

/// May this be a value of `walarchive.retention`?
fn check_retention(value: &str) -> Result<(), Error> {
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
