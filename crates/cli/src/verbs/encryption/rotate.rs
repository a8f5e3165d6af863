//! `encryption-rotate`.

use std::sync::atomic::Ordering;

use walarchive_core::rotate::{self, RotateProgress, Survey};
use walarchive_core::{Error, Result};
use walarchive_storage::crypt::Under;

use crate::print::{bytes, plain};
use crate::repository::Storage;
use crate::repository::writer::writable;
use crate::signals::cancelled_by_signals;
use crate::{listing, print, progress};

/// `encryption-rotate`.
#[derive(Debug, clap::Args)]
pub struct EncryptionRotate {
    /// Show what is under which key, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    storage: Storage,
}

/// Encrypt again what is not under the key that encrypts new objects.
pub async fn rotate(args: &EncryptionRotate) -> Result<()> {
    let store = writable(&args.storage).await?;
    let progress = RotateProgress::default();
    let work = Box::pin(rotate::survey(&store, &progress));
    let survey = progress::show_rotation(&progress, work).await?;
    show(&survey)?;
    let (objects, total) = (survey.stale.len(), bytes(survey.stale_bytes));
    if args.dry_run {
        eprintln!("walarchive: {objects} objects with {total} would be encrypted again");
        return Ok(());
    }
    let cancel = cancelled_by_signals("the rotation ends")?;
    let work = Box::pin(rotate::apply(&store, &survey, &progress, &cancel));
    let rotated = progress::show_rotation(&progress, work).await.inspect_err(|_| {
        let done = progress.done.load(Ordering::Relaxed);
        if done > 0 {
            eprintln!(
                "walarchive: {done} of {objects} objects are encrypted again; the same command goes on with the others"
            );
        }
    })?;
    eprintln!(
        "walarchive: encrypted {} objects with {} again",
        rotated.objects,
        bytes(rotated.bytes)
    );
    for error in &rotated.damaged {
        let detail = error.detail().map_or_else(String::new, |detail| format!(" ({detail})"));
        eprintln!("walarchive: warning: {}", plain(&format!("{error}{detail}")));
    }
    if !rotated.damaged.is_empty() {
        return Err(Error::refused(
            format!(
                "{} objects cannot be read, and were left as they are",
                rotated.damaged.len()
            ),
            "See the warnings above. Look for another copy of them, or delete the backups that they are of.",
        ));
    }
    let left = survey.leaves();
    if left.objects > 0 {
        return Err(Error::refused(
            format!(
                "{} objects with {} were left as they are",
                left.objects,
                bytes(left.bytes)
            ),
            "Their key is not given, or they are in plain text. Give that key as well, or --accept-plain, and run this again.",
        ));
    }
    rotate::wait_for_writers(&store).await?;
    let work = Box::pin(rotate::is_complete(&store, &progress));
    match progress::show_rotation(&progress, work).await? {
        true => print::out("all is encrypted with the key for new objects; no other key is needed any more"),
        false => Err(Error::refused(
            "not all is encrypted with the key for new objects yet, so keep the other keys",
            "Somebody writes with another key, or a backup is being taken or was cut off. Wait for it, or run walarchive delete \
             garbage; then run this again.",
        )),
    }
}

fn show(survey: &Survey) -> Result<()> {
    let mut rows = vec![
        ["method", "key_id", "state", "objects", "size"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(survey.groups.iter().map(|(under, group)| {
        let (method, id, state) = match under {
            Under::Writing(method, id) => (method.to_string(), id.as_str(), "encrypts new objects"),
            Under::Reading(method, id) => (method.to_string(), id.as_str(), "is given to read with"),
            Under::Unknown(method) => (
                method.map_or_else(|| "unknown".to_owned(), |method| method.to_string()),
                "",
                "is not given, or the object is damaged",
            ),
            Under::Plain(_) => ("none".to_owned(), "", "plain text"),
        };
        let size = bytes(group.bytes);
        vec![method, plain(id), state.to_owned(), group.objects.to_string(), size]
    }));
    print::out(&listing::tabbed(&rows))
}
