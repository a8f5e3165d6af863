//! Tells who is taking the backup of a name: `walarchive_claim.json` in its folder. It also tells everybody who deletes that
//! somebody is still at work there.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::BackupRequest;
use crate::error::{Error, Result};
use crate::printable::counted;
use crate::repository::layout;
use walarchive_storage::{CreateOnly, Created, Store};

/// More than any claim has, in bytes.
const LIMIT: u64 = 64 << 10;

/// A folder that has not grown for a day is taken for a leftover; waiting for WAL adds nothing.
const RENEW_AFTER: Duration = Duration::from_secs(3600);

/// On a store that lets the last writer win: by then whoever had not seen our claim has written his.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

pub(super) struct Claim {
    store: Store,
    backup: String,
    content: Bytes,
    written: Mutex<Instant>,
}

impl Claim {
    /// Refuse a name that has any object.
    pub(super) async fn look(store: &Store, name: &str) -> Result<()> {
        let taken = |reason: String| Err(taken(name, reason));
        let (sentinel, folder, claim) = (
            layout::sentinel(name),
            layout::backup_folder(name),
            layout::backup_claim(name),
        );
        // At once, and with the fence's look that the first write would have to wait for.
        let (sentinel, left, found, ()) = tokio::try_join!(
            store.size(&sentinel),
            store.list(&folder),
            store.get(&claim, LIMIT),
            store.check_fence()
        )?;
        if sentinel.is_some() {
            return taken("It is complete: its sentinel is in the repository.".to_owned());
        }
        if let Some(content) = found {
            return taken(format!("It is claimed by {}", String::from_utf8_lossy(&content)));
        }
        if let Some(first) = left.first() {
            return taken(format!(
                "Its folder has {}, \"{}\" among them.",
                counted(left.len(), "object"),
                first.key
            ));
        }
        Ok(())
    }

    /// Take a name that was free a moment ago.
    pub(super) async fn take(store: &Store, request: &BackupRequest, name: &str) -> Result<Self> {
        let claim = layout::backup_claim(name);
        let content = serde_json::json!({
            "hostname": request.hostname,
            "pid": std::process::id(),
            "time": Utc::now(),
        });
        let content = Bytes::from(content.to_string());
        // The claim that is there afterwards tells who has the name. Our own claim is there before us if the answer to an
        // attempt was lost, and a store that ignores create-only lets the last writer win. One that is known to keep its
        // promise has said it already.
        let created = store.create(&claim, content.clone()).await?;
        let is_certain = created == Created::Yes && store.create_only() == Some(CreateOnly::Honoured);
        let looks: &[Duration] = match store.create_only() {
            _ if is_certain => &[],
            // Another one may have looked before our claim was there, and write his over it a moment later.
            Some(CreateOnly::Ignored | CreateOnly::Unsupported) => &[Duration::ZERO, LOOK_AGAIN],
            Some(CreateOnly::Honoured) | None => &[Duration::ZERO],
        };
        for pause in looks {
            tokio::time::sleep(*pause).await;
            if store.get(&claim, LIMIT).await?.as_ref() != Some(&content) {
                let reason = "Another backup took the name at the same moment.";
                return Err(taken(name, reason.to_owned()));
            }
        }
        Ok(Claim {
            store: store.clone(),
            backup: name.to_owned(),
            content,
            written: Mutex::new(Instant::now()),
        })
    }

    /// Is the name still ours, and nobody deletes what is under it?
    pub(super) async fn check(&self) -> Result<()> {
        let (claim, deletion) = (
            layout::backup_claim(&self.backup),
            layout::backup_deletion(&self.backup),
        );
        let (found, deletion) = tokio::try_join!(self.store.get(&claim, LIMIT), self.store.size(&deletion))?;
        match found == Some(self.content.clone()) && deletion.is_none() {
            true => Ok(()),
            false => Err(Error::damaged(
                self.store.object_url(&layout::backup_folder(&self.backup)),
                "Somebody has deleted what was stored of the backup, or does so now. Take it again.",
            )),
        }
    }

    /// Write it again if that was long ago. It is no failure of the backup if that cannot be done.
    pub(super) async fn renew(&self) {
        if self.written.lock().elapsed() < RENEW_AFTER {
            return;
        }
        let renewed = async {
            self.check().await?;
            let key = layout::backup_claim(&self.backup);
            self.store.put(&key, self.content.clone()).await?;
            Ok::<(), Error>(())
        };
        match renewed.await {
            Ok(()) => *self.written.lock() = Instant::now(),
            Err(error) => tracing::warn!(backup = self.backup, %error, "the claim of the backup could not be renewed"),
        }
    }

    /// Renew it for as long as this is polled.
    pub(super) async fn keep(&self) -> Infallible {
        loop {
            tokio::time::sleep(RENEW_AFTER).await;
            self.renew().await;
        }
    }
}

fn taken(name: &str, reason: String) -> Error {
    Error::BackupExists {
        name: name.to_owned(),
        reason,
    }
}
