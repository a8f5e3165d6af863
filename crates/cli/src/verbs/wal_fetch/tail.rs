//! Give out what the tail has of a segment that is not archived whole.

use chrono::Utc;
use walarchive_core::Result;
use walarchive_core::archive::Fetched;
use walarchive_core::archive::tail::{Brought, Tail, fetch_tail};
use walarchive_core::codec::Format;
use walarchive_core::repository::tail::Cover;

use super::wanted::{Attempt, Wanted};

/// The tail has all of the segment that is given out.
pub async fn give_whole(wanted: &Wanted<'_>, tail: &Tail) -> Result<Attempt> {
    let Some(cover) = &tail.cover else {
        return Ok(Attempt::Moved);
    };
    let (path, most) = (&wanted.args.path, wanted.most);
    match fetch_tail(wanted.store, wanted.segment, cover, path, most, None).await? {
        Brought::Fetched(bytes) => {
            tell(wanted, cover, bytes);
            let format = Format::Zstd;
            Ok(Attempt::Whole(Fetched {
                format,
                file_bytes: bytes,
            }))
        }
        Brought::AlreadyThere | Brought::Gone => Ok(Attempt::Moved),
    }
}

/// It has the beginning. None: nothing that the server has not.
pub async fn give_part(wanted: &Wanted<'_>, tail: &Tail) -> Result<Option<Attempt>> {
    let Some(cover) = &tail.cover else { return Ok(None) };
    // What recovery has been given before, or what the administrator has saved of a dead server, is never replaced by less.
    let own = wanted
        .recovering()
        .and_then(|_| Some(wanted.args.path.parent()?.join(wanted.segment.to_string())));
    let round = wanted.round();
    let has_it = round.is_some_and(|round| round.has_tail(wanted.segment, cover));
    if has_it && own.as_ref().is_some_and(|own| own.exists()) {
        return Ok(None);
    }
    let (path, most) = (&wanted.args.path, wanted.most);
    let brought = fetch_tail(wanted.store, wanted.segment, cover, path, most, own).await?;
    if let Brought::Fetched(bytes) = brought {
        tell(wanted, cover, bytes);
    }
    if let Some(round) = round.filter(|_| brought != Brought::Gone) {
        round.got_tail(wanted.segment, cover);
    }
    Ok(match brought {
        Brought::Fetched(_) => Some(Attempt::Part),
        Brought::AlreadyThere => None,
        Brought::Gone => Some(Attempt::Moved),
    })
}

/// Recovery is told how far it comes. A standby gets more every few seconds, and says it once for each segment.
fn tell(wanted: &Wanted<'_>, cover: &Cover, bytes: u64) {
    let (name, epoch) = (wanted.segment, cover.epoch());
    let age = (Utc::now() - cover.stored).num_seconds().max(0);
    let is_told = wanted
        .round()
        .is_some_and(|round| round.is_of_standby && round.has_any_tail(name));
    match is_told {
        true => tracing::info!(%name, bytes, epoch, age, "fetched from the tail"),
        false => eprintln!(
            "walarchive: note: \"{name}\" is not archived yet; its first {bytes} bytes were fetched from the tail, where the last \
             of them were stored {age} s ago (epoch {epoch})"
        ),
    }
}
