//! Fetch a segment: whole from the archive, or else what the tail has of it.

use walarchive_core::archive::Answer;
use walarchive_core::wal::Segment;
use walarchive_core::{Error, Result, StorageError};
use walarchive_storage::Store;

use super::wanted::{Attempt, Wanted};
use super::{Call, WalFetch, end, share, tail};

/// How often what has moved is looked for again. It moves once when the segment is archived, and once in many chunks of the tail.
const LOOKS: usize = 10;

/// Fetch it. True: the server has all of it that it can get.
pub async fn fetch(args: &WalFetch, call: &Call, store: &Store, segment: Segment) -> Result<bool> {
    let most = share::most_of(args, call, store).await?;
    let wanted = Wanted {
        args,
        call,
        store,
        segment,
        most,
    };
    for _ in 0..LOOKS {
        match attempt(&wanted).await? {
            Attempt::Whole(fetched) => {
                match most {
                    u64::MAX => wanted.note_served(),
                    _ => share::tell_part(call)?,
                }
                tracing::info!(name = %segment, bytes = fetched.file_bytes, "fetched");
                return Ok(true);
            }
            Attempt::Part => return Ok(false),
            Attempt::Moved => {}
        }
    }
    Err(Error::Storage(StorageError::Store {
        operation: "read",
        object: segment.to_string(),
        reason: format!("What the store lists of it was gone {LOOKS} times when it was to be read."),
    }))
}

async fn attempt(wanted: &Wanted<'_>) -> Result<Attempt> {
    let (object, tail, behind) = match wanted.ask().await? {
        Answer::Fetched(fetched) => return Ok(Attempt::Whole(fetched)),
        Answer::Absent { object, tail, behind } => (object, tail, behind),
    };
    if wanted.is_complete(&tail)
        && let Some(given) = tail::give_whole(wanted, &tail).await?
    {
        if given == Attempt::Part {
            end::tell_end(wanted.round(), wanted.segment)?;
        }
        return Ok(given);
    }
    if !wanted.args.allow_gap {
        return end::of_archive(wanted, object, tail, behind).await;
    }
    end::tell_end(wanted.round(), wanted.segment)?;
    let given = tail::give_part(wanted, &tail).await?;
    given.ok_or_else(|| StorageError::NotFound { object }.into())
}
