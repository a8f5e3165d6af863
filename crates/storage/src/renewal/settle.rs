//! A store that is opened just when somebody writes its credentials.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::config::StorageConfig;
use crate::error::Result;
use crate::store::Store;

/// A file that has not changed for so long is as it was meant.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(100);

/// Variables that begin so may name files with credentials or certificates.
const OF_STORES: [&str; 9] = [
    "AWS_", "GOOGLE_", "GCS_", "AZURE_", "OS_", "ST_", "SSH_", "WALG_", "WALE_",
];

impl Store {
    /// [`Store::open`], for work that waits a few seconds sooner than it fails: while a file that the store needs has just changed,
    /// or has just gone, it may be half written. An error about files that are there for longer comes at once.
    pub async fn open_settled(config: &StorageConfig) -> Result<Self> {
        let begun = Instant::now();
        let mut is_told = false;
        loop {
            let error = match Store::open(config) {
                Ok(store) => return Ok(store),
                Err(error) => error,
            };
            let is_over = begun.elapsed() >= SETTLED_AFTER;
            if is_over || !files(config).iter().any(|file| has_just_changed(file, SETTLED_AFTER)) {
                return Err(error);
            }
            if !is_told {
                tracing::warn!(
                    %error,
                    "a file with credentials was changed a moment ago and cannot be used: waiting up to {} s for it",
                    SETTLED_AFTER.as_secs()
                );
                is_told = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Files that the store may read: those that settings name, and those where tools look.
fn files(config: &StorageConfig) -> Vec<PathBuf> {
    let set = config.options.iter().map(|(_, value)| value.to_owned());
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| OF_STORES.iter().any(|start| name.starts_with(start)))
        .map(|(_, value)| value);
    let named = set
        .chain(variables)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let usual = home
        .iter()
        .flat_map(|home| [".aws/credentials", ".aws/config"].map(|name| home.join(name)));
    config
        .credentials_file
        .iter()
        .cloned()
        .chain(named)
        .chain(usual)
        .collect()
}

/// Has the file changed within this time? Of one that is not there, its directory tells when it went.
pub(crate) fn has_just_changed(file: &Path, within: Duration) -> bool {
    let Some(meta) = std::fs::metadata(file).ok().or_else(|| file.parent()?.metadata().ok()) else {
        return false;
    };
    let changed = std::os::unix::fs::MetadataExt::ctime(&meta);
    let changed = u64::try_from(changed).map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    // The kernel's clock for files may be a moment behind. A time that is to come says nothing.
    changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age < within))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config(file: &Path) -> StorageConfig {
        StorageConfig {
            credentials_file: Some(file.to_owned()),
            ..StorageConfig::new("s3://bucket/prefix")
        }
    }

    fn write(file: &Path, content: &str) {
        std::fs::write(file, content).expect("written");
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).expect("mode set");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_is_being_written_is_waited_for() {
        for half in ["", "aws_access_key_id = KEY\naws_secr", "aws_access_key_id = KEY\n"] {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("credentials");
            write(&file, half);
            Store::open(&config(&file)).expect_err(half);
            let opening = tokio::spawn({
                let config = config(&file);
                async move { Store::open_settled(&config).await }
            });
            tokio::time::sleep(PAUSE * 5).await;
            assert!(!opening.is_finished(), "{half:?}");
            write(
                &file,
                "aws_access_key_id = KEY\naws_secret_access_key = SECRET\naws_region = r\n",
            );
            opening
                .await
                .expect("no panic")
                .unwrap_or_else(|error| panic!("{half:?}: {error:?}"));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_was_never_there_is_not_waited_for() {
        let begun = Instant::now();
        let error = Store::open_settled(&config(Path::new("/usr/share/walarchive-none"))).await;
        assert!(error.is_err() && begun.elapsed() < SETTLED_AFTER / 2);
    }
}
