//! The definition of the settings, in groups as in the manual.

use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;

use pgrx::guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting};

use walarchive_core::archive::prefetch::MOST_SEGMENTS;

use super::{
    ARCHIVE_TIMEOUT, BACKUP_CONCURRENCY, BACKUP_ON_STANDBY, BACKUP_RATE_LIMIT, BACKUP_SCHEDULE, COMPRESSION,
    COMPRESSION_LEVEL, COMPRESSION_THREADS, CREDENTIALS_FILE, DEFINED, DELTA_MAX_STEPS, DELTA_ORIGIN, DRILL_DIRECTORY,
    DRILL_SCHEDULE, DRILL_SQL_FILE, DRILL_SQL_ROLE, ENCRYPT_METADATA, ENCRYPTION, ENCRYPTION_ACCEPT_PLAIN,
    ENCRYPTION_KEY_COMMAND, ENCRYPTION_KEY_COMMAND_NAME, ENCRYPTION_KEY_FILE, ENCRYPTION_KEY_FILE_NAME,
    ENCRYPTION_NAME, KEEP_UNARCHIVED, KEEP_UNARCHIVED_LIMIT, LEASE_INTERVAL, MANIFEST_CHECKSUMS, ON_CHECKSUM_FAILURE,
    PREFETCH, RETENTION, SHUTDOWN_TIMEOUT, STORAGE, STORAGE_NAME, STORAGE_OPTIONS, STORAGE_OPTIONS_NAME, SYNCHRONOUS,
    SYNCHRONOUS_CONNINFO, SYNCHRONOUS_TIMEOUT, TAIL_INTERVAL, TAR_SIZE, UPLOAD_CONCURRENCY, check_conninfo,
    check_encryption, check_key_command, check_key_file, check_retention, check_schedule, check_storage,
    check_storage_options, check_tail_interval, note_rejected,
};
use crate::pg::settings::{
    check_hook, check_int_hook, define_checked_int, define_checked_string, define_hidden_string, reserve_prefix,
};
use crate::shmem::MAX_CONCURRENCY;

/// S3 takes 10 000 parts of an object, which are 80 GB. In kB.
const LARGEST_TAR_KB: i32 = 64 << 20;

/// More steps make a restore too slow.
const MOST_DELTA_STEPS: i32 = 1000;

/// Define all of them.
pub fn define() {
    define_store();
    define_encryption();
    define_archiving();
    define_synchronous();
    define_recovery();
    define_backups();
    define_deltas();
    define_schedule();
    define_drills();
    reserve_prefix();
    DEFINED.store(true, Ordering::Relaxed);
}

fn define_store() {
    define_checked_string(
        c"walarchive.storage",
        c"Sets where WAL and base backups go.",
        c"A URL: s3://, gs://, az:// or swift://bucket/prefix, sftp://user@host/path or file:///absolute/path.",
        &STORAGE,
        Some(storage_hook),
    );
    define_checked_string(
        c"walarchive.storage_options",
        c"Sets options of the store, as key=value pairs separated by commas or spaces. Not for secrets.",
        c"For example aws_endpoint=https://host,aws_region=eu-central-1.",
        &STORAGE_OPTIONS,
        Some(storage_options_hook),
    );
    GucRegistry::define_string_guc(
        c"walarchive.credentials_file",
        c"Sets the file with the store's credentials, which only the server's user may read.",
        c"It contains \"key = value\" lines, like the [default] section of an AWS credentials file.",
        &CREDENTIALS_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    choice(
        c"walarchive.compression",
        c"Sets the compression of WAL and base backups.",
        c"",
        &COMPRESSION,
    );
    int(
        c"walarchive.compression_level",
        c"Sets the level of the compression, 1 (fast) to 19 (small).",
        c"lzma has levels up to 9, brotli up to 11; lz4 has none.",
        &COMPRESSION_LEVEL,
        1..=19,
        GucFlags::default(),
    );
}

fn define_encryption() {
    define_checked_string(
        c"walarchive.encryption",
        c"Sets how WAL and base backups are encrypted: none, libsodium or openpgp.",
        c"",
        &ENCRYPTION,
        Some(encryption_hook),
    );
    define_hidden_string(
        c"walarchive.encryption_key_file",
        c"Sets the files with the keys, separated by commas, which only the server's user may read.",
        c"A file has OpenPGP keys or libsodium keys. The first key for the method encrypts, and all of them decrypt.",
        &ENCRYPTION_KEY_FILE,
        Some(encryption_key_file_hook),
    );
    define_hidden_string(
        c"walarchive.encryption_key_command",
        c"Sets the program that prints the keys, and its arguments, separated by spaces.",
        c"It prints what a key file has. No shell is used.",
        &ENCRYPTION_KEY_COMMAND,
        Some(encryption_key_command_hook),
    );
    GucRegistry::define_bool_guc(
        c"walarchive.encryption_accept_plain",
        c"Reads objects that are not encrypted although there is a key: those from before encryption was turned on.",
        c"",
        &ENCRYPTION_ACCEPT_PLAIN,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"walarchive.encrypt_metadata",
        c"Encrypts what describes the backups, too: paths, names of databases, restore points.",
        c"WAL-G cannot read it then.",
        &ENCRYPT_METADATA,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

fn define_archiving() {
    int(
        c"walarchive.compression_threads",
        c"Sets how many threads compress WAL files at once; 0 is one for each processor.",
        c"They take time that nobody else needs, and hardly any other. What commits wait for does not wait for them.",
        &COMPRESSION_THREADS,
        0..=MAX_CONCURRENCY as i32,
        GucFlags::default(),
    );
    int(
        c"walarchive.upload_concurrency",
        c"Sets how many WAL files are uploaded at once, ahead of the archiver.",
        c"",
        &UPLOAD_CONCURRENCY,
        1..=MAX_CONCURRENCY as i32,
        GucFlags::default(),
    );
    int(
        c"walarchive.archive_timeout",
        c"Sets how long the archiver waits for one WAL file before it reports that and tries again.",
        c"An upload that makes progress goes on. An upload without progress for half of this time ends and is begun again.",
        &ARCHIVE_TIMEOUT,
        1..=3600,
        GucFlags::UNIT_S,
    );
    int(
        c"walarchive.shutdown_timeout",
        c"Sets how long the archiver goes on at shutdown when no file can be archived.",
        c"The files that remain are archived after the next start.",
        &SHUTDOWN_TIMEOUT,
        1..=3600,
        GucFlags::UNIT_S,
    );
    define_checked_int(
        c"walarchive.tail_interval",
        c"Sets how often new WAL of the present segment is stored; 0 leaves it until the segment is complete.",
        c"So much is lost at most with the server and its disks. At least 200 ms.",
        &TAIL_INTERVAL,
        0..=3_600_000,
        GucFlags::UNIT_MS,
        Some(tail_interval_hook),
    );
    int(
        c"walarchive.lease_interval",
        c"Sets how often the server that writes into the repository renews its lease.",
        c"Another server may take over after four intervals without a renewal.",
        &LEASE_INTERVAL,
        1..=3600,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_bool_guc(
        c"walarchive.keep_unarchived",
        c"Has a standby keep WAL until it is archived, so that it can archive it itself when it is promoted.",
        c"The replication slot \"walarchive_unarchived\" keeps it.",
        &KEEP_UNARCHIVED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    int(
        c"walarchive.keep_unarchived_limit",
        c"Sets how much WAL is kept for that at most; -1 is no limit.",
        c"",
        &KEEP_UNARCHIVED_LIMIT,
        -1..=i32::MAX,
        GucFlags::UNIT_MB,
    );
}

fn define_synchronous() {
    GucRegistry::define_bool_guc(
        c"walarchive.synchronous",
        c"Makes the store a synchronous standby: a commit returns when its WAL is stored.",
        c"Put \"walarchive\" into synchronous_standby_names, too.",
        &SYNCHRONOUS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    int(
        c"walarchive.synchronous_timeout",
        c"Sets how long commits wait for a store that takes no WAL before they do without it; 0 is for ever.",
        c"Commits that do without it can be lost with the server.",
        &SYNCHRONOUS_TIMEOUT,
        0..=86_400,
        GucFlags::UNIT_S,
    );
    define_hidden_string(
        c"walarchive.synchronous_conninfo",
        c"Sets how walarchive connects to this server itself; empty for its socket, as the operating system's user.",
        c"A connection string of libpq's, keyword = value.",
        &SYNCHRONOUS_CONNINFO,
        Some(synchronous_conninfo_hook),
    );
}

fn define_recovery() {
    int(
        c"walarchive.prefetch",
        c"Sets how many WAL segments are fetched ahead of recovery, at most; 0 fetches none.",
        c"As many are fetched as the replay needs. They wait in pg_wal.",
        &PREFETCH,
        0..=MOST_SEGMENTS as i32,
        GucFlags::default(),
    );
}

fn define_backups() {
    int(
        c"walarchive.backup_concurrency",
        c"Sets how many tars of a base backup are packed and uploaded at once.",
        c"",
        &BACKUP_CONCURRENCY,
        1..=64,
        GucFlags::default(),
    );
    int(
        c"walarchive.tar_size",
        c"Sets how much file data goes into one tar of a base backup, before compression.",
        c"A larger file gets a tar of its own.",
        &TAR_SIZE,
        1 << 10..=LARGEST_TAR_KB,
        GucFlags::UNIT_KB,
    );
    int(
        c"walarchive.backup_rate_limit",
        c"Sets the most that a base backup reads per second; 0 is no limit.",
        c"",
        &BACKUP_RATE_LIMIT,
        0..=i32::MAX,
        GucFlags::UNIT_KB,
    );
    choice(
        c"walarchive.manifest_checksums",
        c"Sets the checksum algorithm of the backup manifest.",
        c"",
        &MANIFEST_CHECKSUMS,
    );
    choice(
        c"walarchive.on_checksum_failure",
        c"Sets what a base backup does about a page whose data checksum is wrong.",
        c"With \"warning\" it takes the page as it is and reports it. With \"error\" it ends.",
        &ON_CHECKSUM_FAILURE,
    );
}

fn define_deltas() {
    int(
        c"walarchive.delta_max_steps",
        c"Sets how many delta backups follow a full backup before the next full one; 0 means full backups only.",
        c"",
        &DELTA_MAX_STEPS,
        0..=MOST_DELTA_STEPS,
        GucFlags::default(),
    );
    choice(
        c"walarchive.delta_origin",
        c"Sets the parent of delta backups: the latest backup, or the latest full one.",
        c"",
        &DELTA_ORIGIN,
    );
}

fn define_schedule() {
    define_checked_string(
        c"walarchive.backup_schedule",
        c"Sets when base backups are taken: a cron expression, in the operating system's local time; empty for never.",
        c"For example \"0 2 * * *\" for every night at two, or @weekly. With six fields, seconds come first.",
        &BACKUP_SCHEDULE,
        Some(backup_schedule_hook),
    );
    GucRegistry::define_bool_guc(
        c"walarchive.backup_on_standby",
        c"Takes scheduled backups on a standby, too.",
        c"",
        &BACKUP_ON_STANDBY,
        GucContext::Sighup,
        GucFlags::default(),
    );
    define_checked_string(
        c"walarchive.retention",
        c"Sets which backups stay after each successful one; the rest is deleted. Empty keeps everything.",
        c"For example \"window 14 days\", \"full 7\" or \"gfs 7,4,12,5\" (days, weeks, months, years).",
        &RETENTION,
        Some(retention_hook),
    );
}

fn define_drills() {
    define_checked_string(
        c"walarchive.drill_schedule",
        c"Sets when restore drills are made: a cron expression, in the operating system's local time; empty for never.",
        c"For example \"0 4 * * sun\" for Sundays at four. With six fields, seconds come first.",
        &DRILL_SCHEDULE,
        Some(drill_schedule_hook),
    );
    GucRegistry::define_string_guc(
        c"walarchive.drill_directory",
        c"Sets the directory below which restore drills of this server restore.",
        c"It must have room for the whole cluster. Without it no drill is made.",
        &DRILL_DIRECTORY,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"walarchive.drill_sql_file",
        c"Sets the file with SQL that scheduled restore drills run on the restored server; empty for none.",
        c"",
        &DRILL_SQL_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"walarchive.drill_sql_role",
        c"Sets the role that runs the file of walarchive.drill_sql_file; empty for one that can read everything.",
        c"The role is one of the cluster. The other one is made for the drill, and is no superuser.",
        &DRILL_SQL_ROLE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
}

fn int(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<i32>,
    range: RangeInclusive<i32>,
    flags: GucFlags,
) {
    let (least, most) = range.into_inner();
    GucRegistry::define_int_guc(name, short, long, setting, least, most, GucContext::Sighup, flags);
}

fn choice<T: GucEnum>(name: &'static CStr, short: &'static CStr, long: &'static CStr, setting: &'static GucSetting<T>) {
    let (context, flags) = (GucContext::Sighup, GucFlags::default());
    GucRegistry::define_enum_guc(name, short, long, setting, context, flags);
}

check_hook!(storage_hook: STORAGE_NAME, check_storage => note_rejected);
check_hook!(storage_options_hook: STORAGE_OPTIONS_NAME, check_storage_options => note_rejected);
check_hook!(encryption_hook: ENCRYPTION_NAME, check_encryption => note_rejected);
check_hook!(encryption_key_file_hook: ENCRYPTION_KEY_FILE_NAME, check_key_file => note_rejected);
check_hook!(encryption_key_command_hook: ENCRYPTION_KEY_COMMAND_NAME, check_key_command => note_rejected);
check_hook!(synchronous_conninfo_hook: "walarchive.synchronous_conninfo", check_conninfo);
check_int_hook!(tail_interval_hook: "walarchive.tail_interval", check_tail_interval);
check_hook!(backup_schedule_hook: "walarchive.backup_schedule", check_schedule);
check_hook!(drill_schedule_hook: "walarchive.drill_schedule", check_schedule);
check_hook!(retention_hook: "walarchive.retention", check_retention);
