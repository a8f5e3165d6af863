//! Try the abilities that a store must have, with objects that are removed again.

use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{Check, CheckStatus};
use crate::error::{Error, Result, StorageError};
use crate::repository::layout::{self, Key};
use walarchive_storage::{CreateOnly, Created, PART_BYTES, Store};

/// Without these nothing can be said of the repository.
pub(super) const IS_NEEDED: [&str; 3] = ["store", "list", "read"];

/// Objects of a check that ended before it could remove them are older than this.
const LEFT: Duration = Duration::from_secs(3600);

/// Clouds refuse signatures of clocks that differ by a quarter of an hour; backups are chosen by their times.
const SKEW: Duration = Duration::from_secs(60);

const CONTENT: &[u8] = b"written by a check of walarchive, and removed by it\n";

/// All of them, in their order, up to the one that makes the next ones pointless.
pub(super) async fn checks(store: &Store) -> Vec<Check> {
    let mut checks = Vec::new();
    let id = format!("{:x}-{:x}", std::process::id(), Utc::now().timestamp_micros());
    let (small, large) = (layout::check(&id), layout::check(&format!("{id}-parts")));
    if reach(store, &mut checks).await && list(store, &mut checks).await && create(store, &small, &mut checks).await {
        read(store, &small, &mut checks).await;
        multipart(store, &large, &mut checks).await;
    }
    // In every case: a write that failed for us may have succeeded for the store.
    let created = checks
        .iter()
        .find(|check| check.name == "create")
        .map(|check| check.status);
    if let Some(created) = created {
        let deleted = delete(store, &[&small, &large]).await;
        if created == CheckStatus::Ok {
            checks.push(deleted);
        }
    }
    checks
}

async fn timed<T, E: Into<Error>>(work: impl Future<Output = Result<T, E>>) -> (Result<T>, Duration) {
    let start = Instant::now();
    let result = work.await.map_err(Into::into);
    (result, start.elapsed())
}

/// Asks for the first time, which takes a connection too.
async fn reach(store: &Store, checks: &mut Vec<Check>) -> bool {
    let (answer, latency) = timed(store.size(&layout::CLUSTER)).await;
    let check = match &answer {
        Ok(_) => Check::ok("store", format!("\"{}\" can be reached", store.url())),
        Err(error) => Check::of_error("store", error),
    };
    checks.push(check.took(latency));
    refused_clock(&answer, checks);
    answer.is_ok()
}

/// A clock that the store refuses ends the check before the row that compares the two.
fn refused_clock<T>(answer: &Result<T>, checks: &mut Vec<Check>) {
    if let Err(error @ Error::Storage(StorageError::ClockSkew { reason, .. })) = answer {
        checks.push(Check::failed("clock", reason, error.hint().unwrap_or_default()));
    }
}

/// Also removes what an earlier check left.
async fn list(store: &Store, checks: &mut Vec<Check>) -> bool {
    let (found, latency) = timed(store.list_shallow(&layout::CHECK_FOLDER)).await;
    let check = match &found {
        Ok(_) => Check::ok("list", "the objects of a folder can be listed"),
        Err(error) => Check::of_error("list", error),
    };
    checks.push(check.took(latency));
    refused_clock(&found, checks);
    let old = Utc::now() - LEFT;
    for object in found.iter().flatten().filter(|object| object.last_modified < old) {
        // The check named "delete" will say what is wrong with that.
        let _ = store.delete(&object.key).await;
    }
    found.is_ok()
}

async fn create(store: &Store, key: &Key, checks: &mut Vec<Check>) -> bool {
    let before = Utc::now();
    let (created, latency) = timed(store.create(key, Bytes::from_static(CONTENT))).await;
    let check = match &created {
        Ok(Created::Yes) => Check::ok("create", "an object was written"),
        Ok(Created::Exists) => Check::failed(
            "create",
            format!("\"{}\" already exists, though nobody wrote it", store.object_url(key)),
            "The store gives false answers. Do not trust it with an archive.",
        ),
        Err(error) => Check::of_error("create", error),
    };
    checks.push(check.took(latency));
    refused_clock(&created, checks);
    if created.is_err() {
        return false;
    }
    let after = Utc::now();
    let (probed, latency) = timed(store.probe_create_only(key, Bytes::from_static(CONTENT))).await;
    checks.push(create_again(&probed).took(latency));
    checks.push(clock(store, key, before, after).await);
    true
}

fn create_again(probed: &Result<CreateOnly>) -> Check {
    let name = "create again";
    let hint = "Nothing is lost by that, but two clusters that write one object in the same moment are not told apart. Give \
                each a prefix of its own.";
    match probed {
        Ok(CreateOnly::Honoured) => Check::ok(
            name,
            "create-only writes are honoured: no object can be overwritten by mistake",
        ),
        Ok(CreateOnly::Ignored) => Check::warning(
            name,
            "the store overwrites where it was told to create: every WAL file is looked for before it is written",
            hint,
        ),
        Ok(CreateOnly::Unsupported) => Check::warning(
            name,
            "the store knows no create-only writes: every WAL file is looked for before it is written",
            hint,
        ),
        Err(error) => Check::of_error(name, error),
    }
}

/// The store's clock: it stamps what is written.
async fn clock(store: &Store, key: &Key, before: DateTime<Utc>, after: DateTime<Utc>) -> Check {
    let name = "clock";
    let listed = match store.list_shallow(&layout::CHECK_FOLDER).await {
        Ok(listed) => listed,
        Err(error) => return Check::of_error(name, &error.into()),
    };
    let Some(object) = listed.into_iter().find(|object| object.key == *key) else {
        return Check::warning(
            name,
            "the object that was just written is not listed",
            "The store lists late. Backups and WAL may seem to be missing for a while after they were written.",
        );
    };
    // Stamps may be whole seconds.
    let early = before - Duration::from_secs(1) - object.last_modified;
    let late = object.last_modified - after;
    let skew = early.max(late);
    match skew.to_std() {
        Ok(skew) if skew > SKEW => Check::warning(
            name,
            format!(
                "the store's clock is {} s {} this machine's",
                skew.as_secs(),
                if late > early { "ahead of" } else { "behind" }
            ),
            "Set both clocks by NTP. Clouds refuse requests of a clock that is a quarter of an hour off.",
        ),
        _ => Check::ok(name, "the store's clock and this machine's agree"),
    }
}

async fn read(store: &Store, key: &Key, checks: &mut Vec<Check>) {
    let limit = CONTENT.len() as u64;
    let (content, latency) = timed(store.get(key, limit)).await;
    let check = match content {
        Ok(Some(content)) if content == CONTENT => Check::ok("read", "the object has the content that was written"),
        Ok(Some(_)) => other_content("read"),
        Ok(None) => Check::failed(
            "read",
            "the object that was written is not there",
            "The store acknowledges what it does not keep. Do not trust it with an archive.",
        ),
        Err(error) => Check::of_error("read", &error),
    };
    checks.push(check.took(latency));
    let (start, end) = (7, limit - 3);
    let (content, latency) = timed(store.get_range(key, start..end)).await;
    let check = match content {
        Ok(content) if content == CONTENT[start as usize..end as usize] => {
            Check::ok("range", "a part of the object can be read")
        }
        Ok(_) => other_content("range"),
        Err(error) => Check::of_error("range", &error),
    };
    checks.push(check.took(latency));
}

fn other_content(name: &'static str) -> Check {
    Check::failed(
        name,
        "the object has other content than was written",
        "Something between here and the store changes what it carries. Do not trust it with an archive.",
    )
}

async fn multipart(store: &Store, key: &Key, checks: &mut Vec<Check>) {
    let bytes = PART_BYTES + 1;
    let upload = async {
        let (mut upload, task) = store.upload(key, CancellationToken::new());
        let produce = tokio::task::spawn_blocking(move || {
            // If the upload has ended, it says why.
            let _ = upload
                .write_all(&vec![0; bytes as usize])
                .and_then(|()| upload.finish());
        });
        let outcome = task.outcome().await;
        let _ = produce.await;
        outcome?;
        match store.size(key).await? {
            Some(size) if size == bytes => Ok(()),
            size => Err(Error::damaged(
                store.object_url(key),
                format!(
                    "{bytes} bytes were written in two parts, and the store has {}.",
                    size.unwrap_or_default()
                ),
            )),
        }
    };
    let (uploaded, latency) = timed(upload).await;
    let check = match uploaded {
        Ok(()) => Check::ok("multipart", "an object was written in two parts, 8 MB in all"),
        Err(error) => Check::of_error("multipart", &error),
    };
    checks.push(check.took(latency));
}

async fn delete(store: &Store, keys: &[&Key]) -> Check {
    let work = async {
        for key in keys {
            store.delete(key).await?;
        }
        for key in keys {
            if store.size(key).await?.is_some() {
                return Err(Error::Storage(StorageError::Store {
                    operation: "delete",
                    object: store.object_url(key),
                    reason: "The store says that the object is deleted, and that it is there.".to_owned(),
                }));
            }
        }
        Ok::<(), Error>(())
    };
    let (deleted, latency) = timed(work).await;
    let check = match deleted {
        Ok(()) => Check::ok("delete", "the objects of the check are gone"),
        Err(error) => Check::of_error("delete", &error),
    };
    check.took(latency)
}
