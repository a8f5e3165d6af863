//! WAL-G's settings, as far as all programs of this project have to know them: none that is set is ignored in silence.

use std::ffi::OsStr;

use walarchive_storage::crypt::WAL_G_KEYS;

use crate::error::{Error, Result};

/// How the names of settings begin that ask for encryption.
const ENCRYPTION: [&str; 9] = [
    "WALG_LIBSODIUM_",
    "WALG_PGP_",
    "WALG_GPG_",
    "WALE_GPG_",
    "WALG_CSE_",
    "WALG_ENVELOPE_",
    "YC_CSE_KMS_",
    "YC_SERVICE_ACCOUNT_KEY_FILE",
    "GCS_ENCRYPTION_KEY",
];

/// Variables that tune WAL-G's speed, retries, prefetching, output and waiting, and cannot change what is stored or where; and
/// those that ask for something that is always done here.
const HARMLESS: [&str; 38] = [
    "WALG_ALIVE_CHECK_INTERVAL",
    "WALG_AZURE_BUFFER_SIZE",
    "WALG_AZURE_MAX_BUFFERS",
    "WALG_CONFIG_PATH",
    "WALG_DAEMON_WAL_UPLOAD_TIMEOUT",
    "WALG_DIRECT_IO",
    "WALG_DISABLE_PARTIAL_RESTORE",
    "WALG_DISK_RATE_LIMIT",
    "WALG_DOWNLOAD_CONCURRENCY",
    "WALG_DOWNLOAD_FILE_RETRIES",
    "WALG_INTEGRITY_MAX_DELAYED_WALS",
    "WALG_LOG_DESTINATION",
    "WALG_LOG_LEVEL",
    "WALG_NETWORK_RATE_LIMIT",
    "WALG_PG_BLOCK_SIZE",
    "WALG_PG_WAL_PAGE_SIZE",
    "WALG_PG_WAL_SIZE",
    "WALG_PREFETCH_DIR",
    "WALG_PREVENT_WAL_OVERWRITE",
    "WALG_S3_LOG_LEVEL",
    "WALG_S3_MAX_PART_SIZE",
    "WALG_S3_MAX_RETRIES",
    "WALG_S3_RANGE_BATCH_ENABLED",
    "WALG_S3_RANGE_MAX_RETRIES",
    "WALG_SERIALIZER_TYPE",
    "WALG_SKIP_REDUNDANT_TARS",
    "WALG_STATSD_ADDRESS",
    "WALG_STATSD_EXTRA_TAGS",
    "WALG_STOP_BACKUP_TIMEOUT",
    "WALG_STORE_ALL_CORRUPT_BLOCKS",
    "WALG_TAR_DISABLE_FSYNC",
    "WALG_UPLOAD_CONCURRENCY",
    "WALG_UPLOAD_DISK_CONCURRENCY",
    "WALG_UPLOAD_QUEUE",
    "WALG_USE_COPY_COMPOSER",
    "WALG_USE_DATABASE_COMPOSER",
    "WALG_USE_RATING_COMPOSER",
    "WALG_USE_REVERSE_UNPACK",
];

/// Variables that only concern the taking of backups, which the server does: its own settings say how.
const OF_BACKUPS: [&str; 10] = [
    "WALG_DELTA_FROM_NAME",
    "WALG_DELTA_FROM_USER_DATA",
    "WALG_DELTA_MAX_STEPS",
    "WALG_DELTA_ORIGIN",
    "WALG_FORCE_WAL_DELTA",
    "WALG_SENTINEL_USER_DATA",
    "WALG_TAR_SIZE_THRESHOLD",
    "WALG_USE_WAL_DELTA",
    "WALG_VERIFY_PAGE_CHECKSUMS",
    "WALG_WITHOUT_FILES_METADATA",
];

/// Does this setting ask for encryption?
pub fn asks_for_encryption(name: &str) -> bool {
    ENCRYPTION.iter().any(|start| name.starts_with(start))
}

/// The settings that ask for encryption and are set.
pub fn encryption_settings(
    environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Vec<String> {
    set(environment, asks_for_encryption)
}

/// Nothing may be written in plain text where the environment asks for encryption and no setting of ours says how. To be called with
/// all variables of the process before anything is written; empty ones count as unset, as they do for WAL-G. A key may be any
/// bytes.
pub fn refuse_plain_text(environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Result<()> {
    refuse(
        &encryption_settings(environment),
        "and walarchive has no key to encrypt with",
    )
}

/// The same where walarchive encrypts with a key of WAL-G's: what asks for encryption in another way must not be ignored.
pub fn refuse_other_encryption(
    environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Result<()> {
    let other = set(environment, |name| {
        asks_for_encryption(name) && !WAL_G_KEYS.contains(&name)
    });
    refuse(&other, "in a way that walarchive does not know")
}

fn refuse(asking: &[String], how: &str) -> Result<()> {
    if asking.is_empty() {
        return Ok(());
    }
    Err(Error::config(
        format!(
            "WAL-G's settings ask for encryption, {how}, so it writes nothing: {}",
            asking.join(", ")
        ),
        "Set walarchive.encryption and walarchive.encryption_key_file, or give the binary --encryption and \
         --encryption-key-file; or take the setting out of the environment, the configuration file or the envdir.",
    ))
}

/// WAL-G's and WAL-E's variables that are set, that `understood` does not know, and that matter to a program which takes no
/// backups. Those that ask for encryption in a way that cannot be read are among them: who only reads is not
/// [refused](refuse_plain_text).
pub fn not_understood(
    environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    understood: impl Fn(&str) -> bool,
) -> Vec<String> {
    set(environment, |name| {
        is_of_wal_g(name) && !understood(name) && !HARMLESS.contains(&name) && !OF_BACKUPS.contains(&name)
    })
}

/// The same for the server, which has settings of its own for backups.
pub fn not_read_by_server(
    environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Vec<String> {
    // The key is a secret, and so core reads it where it is.
    let understood = |name: &str| name == "WALG_S3_SSE_C" || asks_for_encryption(name);
    set(environment, |name| {
        is_of_wal_g(name) && !understood(name) && !HARMLESS.contains(&name)
    })
}

fn is_of_wal_g(name: &str) -> bool {
    name.starts_with("WALG_") || name.starts_with("WALE_")
}

/// The names of those variables that are wanted and not empty, in order.
fn set(
    environment: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
    wanted: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut names: Vec<String> = environment
        .into_iter()
        .filter(|(_, value)| !value.as_ref().is_empty())
        .filter_map(|(name, _)| name.as_ref().to_str().filter(|name| wanted(name)).map(str::to_owned))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn every_setting_that_asks_for_encryption_is_refused_and_named() {
        for name in [
            "WALG_LIBSODIUM_KEY",
            "WALG_LIBSODIUM_KEY_PATH",
            "WALG_LIBSODIUM_KEY_TRANSFORM",
            "WALG_PGP_KEY",
            "WALG_PGP_KEY_PATH",
            "WALG_PGP_KEY_PASSPHRASE",
            "WALG_GPG_KEY_ID",
            "WALE_GPG_KEY_ID",
            "WALG_CSE_KMS_ID",
            "WALG_CSE_KMS_REGION",
            "YC_CSE_KMS_KEY_ID",
            "YC_SERVICE_ACCOUNT_KEY_FILE",
            "WALG_ENVELOPE_PGP_KEY",
            "WALG_ENVELOPE_PGP_KEY_PATH",
            "WALG_ENVELOPE_PGP_YC_CSE_KMS_KEY_ID",
            "GCS_ENCRYPTION_KEY",
        ] {
            let error = refuse_plain_text([("PATH", "/bin"), (name, "hunter2")]).expect_err(name);
            let text = format!("{error} {error:?}");
            assert!(text.contains(name) && !text.contains("hunter2"), "{text}");
            assert!(not_read_by_server([(name, "x")]).is_empty(), "the refusal names it");
        }
        // A key of 32 raw bytes is no text.
        let raw = OsStr::from_bytes(&[0xff; 32]);
        refuse_plain_text([(OsStr::new("WALG_LIBSODIUM_KEY"), raw)]).expect_err("refused");
        for (name, value) in [
            ("WALG_LIBSODIUM_KEY", ""),
            ("WALG_S3_SSE", "aws:kms"),
            ("AWS_REGION", "x"),
        ] {
            refuse_plain_text([(name, value)]).expect(name);
        }
        // Beside a key that is used.
        refuse_other_encryption([("WALG_LIBSODIUM_KEY", "k"), ("WALG_PGP_KEY_PASSPHRASE", "p")]).expect("known");
        let error = refuse_other_encryption([("WALG_PGP_KEY", "k"), ("WALE_GPG_KEY_ID", "i")]).expect_err("refused");
        assert!(error.to_string().ends_with(": WALE_GPG_KEY_ID"), "{error}");
    }

    #[test]
    fn what_is_neither_understood_nor_harmless_is_named() {
        let environment = [
            ("WALG_S3_PREFIX", "s3://b"),
            ("WALG_UPLOAD_WAL_METADATA", "BULK"),
            ("WALE_DISABLE_S3_SSE", "true"),
            ("WALG_DELTA_MAX_STEPS", "6"),
            ("WALG_UPLOAD_CONCURRENCY", "4"),
            ("WALG_FAILOVER_STORAGES", ""),
            ("WALG_GPG_KEY_ID", "x"),
            ("PGDATA", "/d"),
        ];
        let binary = not_understood(environment, |name| name == "WALG_S3_PREFIX");
        // A key that cannot be read with is not ignored in silence; who writes is refused beside that.
        assert_eq!(
            binary,
            ["WALE_DISABLE_S3_SSE", "WALG_GPG_KEY_ID", "WALG_UPLOAD_WAL_METADATA"]
        );
        let server = not_read_by_server(environment);
        assert_eq!(
            server,
            [
                "WALE_DISABLE_S3_SSE",
                "WALG_DELTA_MAX_STEPS",
                "WALG_S3_PREFIX",
                "WALG_UPLOAD_WAL_METADATA"
            ]
        );
    }
}
