//! Find out who writes into the repository, and whether somebody else has written beside it.

use chrono::Utc;

use super::Check;
use crate::error::Result;
use crate::lease::{Holder, Lease, Writer, other_branches};
use crate::repository::inventory::Inventory;
use walarchive_storage::{CreateOnly, Store};

/// Two rows: who holds the lease, and which branches of the history go on beside the one of `timeline`. `writer` is the server
/// that asks, if it is one that could write.
pub async fn check_lease(store: &Store, writer: Option<&Writer>, timeline: Option<u32>) -> Vec<Check> {
    let holder = match holder(store, writer).await {
        Ok(check) => check,
        Err(error) => return vec![Check::of_error("lease", &error)],
    };
    let branches = match branches(store, timeline).await {
        Ok(check) => check,
        Err(error) => Some(Check::of_error("branches", &error)),
    };
    [holder].into_iter().chain(branches).collect()
}

async fn holder(store: &Store, writer: Option<&Writer>) -> Result<Check> {
    let name = "lease";
    let Some(lease) = Lease::read(store).await? else {
        return Ok(Check::ok(
            name,
            "nobody holds the lease yet: the first server that writes takes it",
        ));
    };
    let unreadable = lease.holder.is_unreadable();
    let age = (Utc::now() - lease.alive.as_ref().map_or(lease.holder.since, |alive| alive.time)).num_seconds();
    let mut detail = match unreadable {
        true => format!(
            "the lease of epoch {} exists, but its object cannot be read",
            lease.holder.epoch
        ),
        false => format!(
            "{} holds the lease as epoch {} on timeline {} ({}), and renewed it {} s ago by its clock",
            lease.name(),
            lease.holder.epoch,
            lease.timeline(),
            lease.holder.how,
            age.max(0)
        ),
    };
    if matches!(store.create_only(), Some(CreateOnly::Ignored | CreateOnly::Unsupported)) {
        detail.push_str("; the store has no create-only writes, so a server that takes the lease reads it back");
    }
    let Some(writer) = writer else {
        return Ok(match unreadable {
            true => Check::warning(
                name,
                detail,
                "It was damaged, or put there by something else. The server that is to write takes the lease once no \
                 server renews it, or at once by SELECT walarchive_take_over().",
            ),
            false => Check::ok(name, detail),
        });
    };
    let own = writer.data_directory().display();
    Ok(match writer.status()?.state {
        "held" => Check::ok(name, format!("this server writes: {detail}")),
        "standby" => Check::ok(name, format!("this server is in recovery: {detail}")),
        "lost" => Check::failed(
            name,
            format!("this server, on \"{own}\", has lost the lease and archives nothing: {detail}"),
            "Rebuild it as a standby, or stop the other server and run SELECT walarchive_take_over() here.",
        ),
        _ => Check::warning(
            name,
            format!("this server, on \"{own}\", does not write: {detail}"),
            "If it is a clone, set archive_mode = off or give it a walarchive.storage of its own. It writes once the \
             other server no longer renews the lease, or after SELECT walarchive_take_over().",
        ),
    })
}

/// None if it is not known which one is ours.
async fn branches(store: &Store, timeline: Option<u32>) -> Result<Option<Check>> {
    let name = "branches";
    let Some(own) = timeline else { return Ok(None) };
    let inventory = Inventory::load(store).await?;
    let branches = other_branches(&inventory, own, &Holder::all(store).await?);
    Ok(Some(match branches.as_slice() {
        [] => Check::ok(
            name,
            format!("no other server has written a timeline beside timeline {own}"),
        ),
        branches => {
            let described: Vec<String> = branches.iter().map(|branch| branch.describe(own)).collect();
            Check::warning(
                name,
                described.join("; "),
                "Another server has written into this repository: a clone, perhaps. A standby or a restore that follows the latest \
                 timeline may go over to it. Give each a prefix of its own.",
            )
        }
    }))
}
