//! The refusals for a server that may not write.

use std::path::Path;
use std::time::Duration;

use super::clock::Moment;
use super::decide::{How, Situation, Why};
use super::instance::Origin;
use super::record::{Holder, Lease, View};
use crate::error::Error;
use crate::wal::WalFileName;
use walarchive_storage::Store;

const LOST: &str = "The waiting files stay in pg_wal. Rebuild an old primary as a standby, with pg_rewind for example. If \
                    this server is to write in place of the other one, which may be a clone, stop that one or set \
                    archive_mode = off there, and run SELECT walarchive_take_over() here, or \"walarchive \
                    take-over\". Otherwise set archive_mode = off, or give it a walarchive.storage of its own.";

const WAITS: &str = "For a clone set archive_mode = off, or give it a walarchive.storage of its own. To replace the other server, \
                     stop that one; to do so at once run SELECT walarchive_take_over() here, or \"walarchive take-over\".";

/// For a server that accepts writes.
pub(super) fn error(
    store: &Store,
    data_dir: &Path,
    view: &View,
    why: &Why,
    origin: Origin,
    situation: Situation,
) -> Error {
    let own = data_dir.display();
    let holder = match &view.lease {
        Some(lease) => holder(lease),
        None => "Nobody holds the lease, and a server with an older version of walarchive may be writing.".to_owned(),
    };
    let (reason, hint) = match why {
        Why::Lost => (
            format!("{holder} This server, on \"{own}\", held the lease before, and has lost it."),
            LOST,
        ),
        Why::Older => (
            format!(
                "{holder} This server, on \"{own}\", is on timeline {}, which is older.",
                situation.timeline
            ),
            LOST,
        ),
        Why::Waits(watch) => {
            let copied = match origin {
                Origin::Restored => " which was restored by backup-fetch,",
                Origin::Copied => " which is a copy,",
                Origin::Own => "",
            };
            let lasted = watch.lasted(&Moment::now()).as_secs();
            let needs = Duration::from_millis(watch.needs_ms);
            (
                format!(
                    "{holder} This server, on \"{own}\",{copied} goes on by itself once the lease has not been \
                     renewed for {}, for whatever reason; so far it is {lasted} s.",
                    seconds(needs)
                ),
                WAITS,
            )
        }
    };
    refused(store, reason, hint)
}

/// A server that recovers, and is no standby.
pub(super) fn in_recovery(store: &Store) -> Error {
    let reason = "This server is in recovery, but is not a standby: it has no standby.signal.";
    refused(
        store,
        reason.to_owned(),
        "Wait until recovery has ended, or make it a standby.",
    )
}

/// A server that does not write, and was asked to read only.
pub(super) fn only_reads(store: &Store) -> Error {
    let reason = "This server does not hold the lease, and what it was asked for needs none.";
    refused(store, reason.to_owned(), "Nothing needs to be done.")
}

/// The holder changed while somebody worked on his behalf.
pub(super) fn changed(store: &Store, lease: &Lease, before: u64) -> Error {
    let reason = format!("{} The lease was of epoch {before} when this began.", holder(lease));
    refused(store, reason, "Find out what that server does, and try again.")
}

/// A standby does not follow the holder.
pub(super) fn other_timeline(store: &Store, lease: &Lease, timeline: u32) -> Error {
    let reason = format!("{} This standby follows timeline {timeline}.", holder(lease));
    let hint =
        "A standby writes for the server that it follows only. Wait until it has followed that one to its timeline.";
    refused(store, reason, hint)
}

/// A standby has a WAL file of another branch.
pub(super) fn not_of_holder(store: &Store, lease: &Lease, name: &WalFileName) -> Error {
    let reason = format!("{} \"{name}\" is not of the history of that timeline.", holder(lease));
    let hint = "A standby archives what the server writes that it follows. Wait until it has followed that one to its timeline.";
    refused(store, reason, hint)
}

fn refused(store: &Store, reason: String, hint: &str) -> Error {
    Error::NotWriter {
        message: format!("repository \"{}\" is written by another server", store.url()),
        reason,
        hint: hint.to_owned(),
    }
}

/// Who holds it, as a sentence.
fn holder(lease: &Lease) -> String {
    format!(
        "The server {} took the lease as epoch {} at {} ({}), and is on timeline {}.",
        lease.name(),
        lease.holder.epoch,
        lease.holder.since.format("%Y-%m-%d %H:%M:%S UTC"),
        lease.holder.how,
        lease.timeline()
    )
}

/// Say that this server writes from now on, and what that means for the other one.
pub(super) fn announce(url: &str, holder: &Holder, how: How, before: Option<&Lease>) {
    let Holder {
        epoch,
        timeline,
        how: why,
        ..
    } = holder;
    match before {
        Some(before) if how == How::Stale => tracing::warn!(
            "took the lease of repository \"{url}\" as epoch {epoch} on timeline {timeline}: {why}. {} no longer \
             archives, even if it comes back. If it is to go on instead of this server, set archive_mode = off here, \
             or stop this server, and run \"SELECT walarchive_take_over()\" there",
            before.name()
        ),
        Some(before) => tracing::info!(
            "took the lease of repository \"{url}\" as epoch {epoch} on timeline {timeline}, from {}: {why}",
            before.name()
        ),
        None => tracing::info!(
            "took the lease of repository \"{url}\" as epoch {epoch} on timeline {timeline}, from nobody: {why}"
        ),
    }
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_millis().div_ceil(1000))
}

/// Say what will become of a directory that `backup-fetch` has restored, which is no standby. `then` is the lease when the
/// restore began, `now` when it ended.
pub fn outlook(then: Option<(&Lease, &Moment)>, now: Option<(&Lease, &Moment)>, take_over: bool) -> String {
    let Some((lease, at)) = now else {
        return "no server holds the lease of the repository; if none appears, this copy will archive some two minutes \
                after its start; use --archive-off for a clone"
            .to_owned();
    };
    let name = lease.name();
    if take_over {
        return format!(
            "this copy will take the lease over from the server {name} as soon as it archives; stop that one"
        );
    }
    let ago = (chrono::Utc::now() - lease.alive.as_ref().map_or(lease.holder.since, |alive| alive.time)).num_seconds();
    let unchanged = then.filter(|(then, _)| then.mark() == lease.mark());
    let lasted = unchanged.and_then(|(_, then)| at.since(then));
    let moved = then.is_some() && unchanged.is_none();
    let life = match (moved, lasted) {
        // No clock of another machine is needed for that.
        (true, _) => "renewed its lease during this restore".to_owned(),
        (false, Some(lasted)) if lasted >= lease.interval() * crate::lease::STALE => {
            return format!(
                "the server {name} has not renewed its lease for {}: this copy will take it, and archive, once it has \
                 recovered; use --archive-off for a clone",
                seconds(lasted)
            );
        }
        _ => format!("renewed its lease here {} s ago, by its clock", ago.max(0)),
    };
    format!(
        "the server {name} {life}; this copy will not archive while it lives, and takes its place when it has not \
         renewed the lease for {}, for whatever reason; use --archive-off for a clone, or --take-over to replace it",
        seconds(lease.interval() * super::STALE)
    )
}
