//! The kinds of stores, by the scheme of the URL.

mod azure;
mod cloud;
mod credentials;
mod file;
mod gcs;
mod layer;
mod s3;
pub(crate) mod sftp;
mod storage_class;
mod swift;
mod xml_uploads;

use url::Url;

use crate::config::StorageConfig;
use crate::error::Result;
use crate::opened::Opened;

/// Opens what the URL names. Nothing is asked of it yet.
pub(crate) fn open(url: &Url, config: &StorageConfig) -> Result<Opened> {
    match url.scheme() {
        "file" => file::open(url),
        "gs" => gcs::open(url, config),
        "az" => azure::open(url, config),
        "swift" => swift::open(url, config),
        "sftp" => sftp::open(url, config),
        _ => s3::open(url, config),
    }
}
