//! Is the object that is there the one that was to be written?

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::notes::{noted, sum_of};
use super::push::Archive;
use crate::blocking::blocking;
use crate::codec::Format;
use crate::encrypted::{self, KeyedDigest, blame};
use crate::error::{Error, Result};
use crate::files::read_full;
use crate::repository::layout::{self, Key};
use crate::repository::unread::{self, Digest};

/// Bytes that are compared at once.
const CHUNK: usize = 256 << 10;

impl Archive {
    /// Is an object under the key, with the content of the file? False: there is none. Other content is an error.
    pub(super) async fn is_same(&self, key: &Key, path: &Path) -> Result<bool> {
        if let Some(digest) = self.wrapping().await?.digest()
            && let Some(is_same) = self.is_same_by_digest(key, path, digest).await?
        {
            return Ok(is_same);
        }
        let Some(mut object) = encrypted::open(self.store(), key).await? else {
            return Ok(false);
        };
        let (format, url, path) = (Format::of_key(key).0, self.store().object_url(key), path.to_owned());
        blocking(move || {
            let compared = format.decoder(&mut object).and_then(|decoded| compare(decoded, &path));
            match compared {
                Ok(None) => Ok(true),
                Ok(Some(at)) => Err(conflict(url, path, format!("They differ from byte {at} on."))),
                Err(error) => {
                    let why = format!("The object could not be compared with the file: {error}.");
                    Err(match blame(&mut object, &url, format, why) {
                        Error::Damaged { reason, .. } => conflict(url, path, reason),
                        encrypted @ (Error::Encrypted { .. } | Error::Sealed { .. }) => {
                            conflict(url, path, format!("{encrypted}, so the two cannot be compared."))
                        }
                        failure => failure,
                    })
                }
            }
        })
        .await
    }

    /// The same where the object cannot be decrypted, by what was written down about it. None: nothing was, or there is no object.
    async fn is_same_by_digest(&self, key: &Key, path: &Path, digest: KeyedDigest) -> Result<Option<bool>> {
        let Some((name, _)) = layout::wal_of_object(key) else {
            return Ok(None);
        };
        let Some(sum) = sum_of(self.store(), key).await? else {
            return Ok(None);
        };
        let Some(noted) = unread::read_digest(self.store(), &name, &sum).await? else {
            return Ok(None);
        };
        let file = path.to_owned();
        let ours = blocking(move || digest_of(&file, digest).map_err(|error| Error::io("read", &file, error))).await?;
        match ours == noted {
            true => Ok(Some(true)),
            false => Err(conflict(
                self.store().object_url(key),
                path.to_owned(),
                "The digest that was written down of its content is another one.".to_owned(),
            )),
        }
    }
}

/// Takes bytes, and keeps none.
struct Summing<F>(F);

impl<F: FnMut(&[u8])> io::Write for Summing<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn digest_of(path: &Path, mut digest: KeyedDigest) -> io::Result<Digest> {
    io::copy(
        &mut File::open(path)?,
        &mut Summing(|bytes: &[u8]| digest.update(bytes)),
    )?;
    Ok(noted(digest))
}

fn conflict(object: String, local: PathBuf, reason: String) -> Error {
    Error::Conflict {
        object,
        local: local.display().to_string(),
        reason,
    }
}

/// The offset of the first byte that differs, if any does.
fn compare(mut object: impl Read, path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut offset = 0;
    loop {
        let (a, b) = (read_full(&mut file, &mut ours)?, read_full(&mut object, &mut theirs)?);
        if let Some(at) = ours[..a]
            .iter()
            .zip(&theirs[..b])
            .position(|(ours, theirs)| ours != theirs)
        {
            return Ok(Some(offset + at as u64));
        }
        offset += a.min(b) as u64;
        if a != b {
            return Ok(Some(offset));
        }
        if a < CHUNK {
            return Ok(None);
        }
    }
}
