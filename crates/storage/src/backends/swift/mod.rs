//! OpenStack Swift.
//!
//! An object that is written in parts is a static large object: its parts are objects of their own ("segments"), and a
//! manifest under its name lists them. The segments are in the same container, as
//! `.walarchive-segments/<name of the object>/<id of the upload>/<number>`:
//!
//! - In the same container, since a user who may write to one container need not be allowed to make another, and since
//!   storage policy, quota and expiry that were chosen for the container then hold for what it really has.
//! - At the root of the container, outside the prefix of any repository, so that no repository lists them. A listing of
//!   the whole container leaves them out; only who asks for `.walarchive-segments` by name sees them.
//! - By the object's name, so that what a crash left can be found and told apart: segments whose object is not there, or
//!   was made by another upload, which the header `X-Object-Meta-Walarchive-Upload` of the object tells.
//!
//! Segments go when their object goes, by deletion or by being written over; an object that is copied or renamed gets none
//! of another's. Two writers that replace a large object at
//! the same moment may leave the segments of the one that was first.
//!
//! `If-None-Match: *` keeps an object from being written over, but Swift looks for the object when a request begins and
//! not when its content has come. Of writers whose requests overlap several may be told that they created it; the object
//! is then that of the one whose request began last.

mod auth;
mod body;
mod client;
mod exchange;
mod keystone;
mod listing;
mod multipart;
mod options;
mod replace;
mod store;
#[cfg(test)]
mod tests;
mod uploads;

use std::sync::Arc;

use url::Url;

use self::client::Client;
use self::options::Settings;
use self::store::SwiftStore;
use crate::config::StorageConfig;
use crate::error::{Error, Result};
use crate::opened::Opened;
use crate::renewal::{Followed, Watch};
use crate::url::{below_prefix, bucket};

pub(crate) fn open(url: &Url, config: &StorageConfig) -> Result<Opened> {
    let settings = settings(config)?;
    let store = store(url, config, Arc::clone(&settings))?;
    let (orphans, odd) = (store.orphans(), store.odd());
    let opened = Opened {
        objects: below_prefix(store, url)?,
        pending: None,
        odd,
        origin: None,
    };
    Ok(opened
        .with_pending(orphans, url)?
        .with_origin(move || settings.in_use().origin.clone()))
}

/// The settings, which follow the credentials file.
fn settings(config: &StorageConfig) -> Result<Arc<Followed<Settings>>> {
    let config = config.clone();
    let followed = Followed::new("credentials", move |_| {
        let mut watch = Watch::default();
        if let Some(file) = &config.credentials_file {
            watch.add(file);
        }
        Ok((Settings::gather(&config, &|name| std::env::var(name).ok())?, watch))
    })?;
    Ok(Arc::new(followed))
}

fn store(url: &Url, config: &StorageConfig, settings: Arc<Followed<Settings>>) -> Result<SwiftStore> {
    let container = percent_encoding::percent_decode_str(bucket(url))
        .decode_utf8()
        .map_err(|_| Error::config(format!("storage \"{url}\" names no valid container"), "Use UTF-8."))?;
    Ok(SwiftStore::new(Client::new(&container, settings, config)?))
}
