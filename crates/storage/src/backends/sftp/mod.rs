//! A directory on an SSH server: the SFTP protocol (version 3 and OpenSSH's extensions) over connections of our own, without
//! an `ssh` child process.
//!
//! What a write means here:
//!
//! - A file is written under a temporary name in its own directory (`.<name>.<pid>-<random>.walarchive-tmp`), flushed to disk by
//!   `fsync@openssh.com`, and only then given its name. A crash of either side leaves a temporary file and nothing else.
//!   Listings never show them, and remove those that were not written to for a day.
//! - Creating links the file to its name (`hardlink@openssh.com`), which fails if the name is taken, whoever else is creating it.
//!   Where the server has no such request or the file system no links, it is a look and a rename without replacing;
//!   OpenSSH makes that a link as well where it can.
//! - Overwriting is `posix-rename@openssh.com`; without it, the old file is removed just before the rename.
//! - A server without `fsync@openssh.com` flushes when it likes: after a power failure there, what was acknowledged last may be
//!   lost. The directory entry cannot be flushed by any request of SFTP; journaling file systems write it within seconds.
//!
//! Symbolic links below the directory are not followed by listings. The directory itself is never created.

mod auth;
mod config;
mod connect;
mod failure;
mod keys;
mod known_hosts;
mod list;
mod multipart;
mod pool;
mod read;
mod retry;
mod session;
mod store;
mod temporary;
mod write;

use std::sync::Arc;

use url::Url;

use crate::config::StorageConfig;
use crate::error::{Error, Result};
use crate::odd::Odd;
use crate::opened::Opened;
use crate::renewal::Followed;

pub(crate) use failure::Failure;

/// Reads the settings, the key files and the credentials. The server is asked nothing yet.
pub(crate) fn open(url: &Url, config: &StorageConfig) -> Result<Opened> {
    let (url, config) = (url.clone(), config.clone());
    let settings = follow(move || config::Settings::new(&url, &config, &|name| std::env::var(name).ok()))?;
    let odd = Arc::<Odd>::default();
    Ok(Opened {
        objects: Arc::new(store::SftpStore::new(Arc::clone(&settings), odd.clone())),
        pending: None,
        odd,
        origin: Some(Arc::new(move || settings.in_use().origin.clone())),
    })
}

/// Settings that follow the files of keys and passwords.
fn follow(
    read: impl Fn() -> Result<config::Settings> + Send + Sync + 'static,
) -> Result<Arc<Followed<config::Settings>>> {
    let followed = Followed::new("credentials", move |old: Option<&config::Settings>| {
        let settings = read()?;
        // One of the usual key files, half written.
        let lost = old.is_some_and(|old| !old.keys.is_empty()) && settings.keys.is_empty();
        if let Some(why) = settings.passed_over.first().filter(|_| lost) {
            return Err(Error::config(why.clone(), "Put the key back."));
        }
        let watch = settings.watch.clone();
        Ok((settings, watch))
    })?;
    Ok(Arc::new(followed))
}

#[cfg(test)]
mod tests;
