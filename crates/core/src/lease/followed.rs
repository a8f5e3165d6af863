//! Decides whose WAL a standby may archive, too.

use parking_lot::Mutex;
use walarchive_storage::Store;

use super::clock::Moment;
use super::record::View;
use super::{INTERVAL, refuse};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::inventory::read_history;
use crate::wal::{SegmentSize, TimelineHistory, WalFileName};

/// The answer to a standby that wants to write a WAL file.
#[derive(Debug)]
pub(super) enum OfStandby {
    /// It may write the file.
    Permitted,
    /// The file is of a later timeline than the holder's: the standby is being promoted, or follows a server that was promoted and
    /// has not taken the lease yet. Else it is of another branch, and this says so.
    Later(Error),
    /// It is of another branch.
    Refused(Error),
}

/// The guide of a standby that archives, too (`archive_mode = always`): the holder's timeline, looked up now and then.
#[derive(Debug, Default)]
pub(super) struct Followed(Mutex<Option<(Moment, Option<TimelineHistory>)>>);

impl Followed {
    /// May a standby write this file, which is not in the archive? Only what is of the holder's history.
    pub(super) async fn permit(&self, store: &Store, name: &WalFileName, size: SegmentSize) -> Result<OfStandby> {
        let (known, now) = (self.0.lock().clone(), Moment::now());
        let young = known.filter(|(looked, _)| now.since(looked).is_some_and(|age| age < INTERVAL));
        if let Some((_, history)) = &young
            && has(history.as_ref(), name, size)
        {
            return Ok(OfStandby::Permitted);
        }
        let Some(lease) = View::read(store).await?.lease else {
            *self.0.lock() = Some((now, None));
            return Ok(OfStandby::Permitted);
        };
        let timeline = lease.timeline();
        let text = read_history(store, timeline).await?;
        let history = text.and_then(|text| TimelineHistory::parse(timeline, &text));
        let history = history.unwrap_or(TimelineHistory {
            timeline,
            ancestors: Vec::new(),
        });
        let permitted = has(Some(&history), name, size);
        *self.0.lock() = Some((now, Some(history)));
        let refusal = || refuse::not_of_holder(store, &lease, name);
        Ok(match permitted {
            true => OfStandby::Permitted,
            false if name.timeline() > timeline => OfStandby::Later(refusal()),
            false => OfStandby::Refused(refusal()),
        })
    }
}

/// The guide of a program that receives WAL from a server, and has no data directory. An administrator has told it which server that
/// is, so it writes for that one: also where the server was promoted, and is on a later timeline than the holder of the lease.
#[derive(Debug, Default)]
pub struct Following(Followed);

impl Following {
    /// May this file be written? Only one of a branch that the holder of the lease has left may not: an old primary has sent it.
    pub async fn permit(&self, store: &Store, name: &WalFileName, size: SegmentSize) -> Result<()> {
        match self.0.permit(store, name, size).await? {
            OfStandby::Permitted | OfStandby::Later(_) => Ok(()),
            OfStandby::Refused(refusal) => Err(of_old_primary(refusal)),
        }
    }
}

fn of_old_primary(refusal: Error) -> Error {
    match refusal {
        Error::NotWriter { message, reason, .. } => Error::NotWriter {
            message,
            reason,
            hint: "The server that sends this WAL may be an old primary. Connect to the server that is named here."
                .to_owned(),
        },
        other => other,
    }
}

/// Is the file of that history? Without a lease, and so without a holder, all are.
fn has(history: Option<&TimelineHistory>, name: &WalFileName, size: SegmentSize) -> bool {
    let Some(history) = history else { return true };
    let leads = |timeline: u32, end: Lsn| history.leads_from(timeline, end);
    match name {
        WalFileName::History(timeline) => leads(*timeline, Lsn(0)),
        WalFileName::Segment(segment) => {
            let end = segment.start(size).0.saturating_add(size.bytes());
            leads(segment.timeline, Lsn(end))
        }
        WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
            leads(segment.timeline, segment.start(size))
        }
    }
}
