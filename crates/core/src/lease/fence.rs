//! The fence that stands before each change of a repository.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::act::Writer;
use super::clock::Moment;
use super::record::View;
use super::{INTERVAL, LOOK, refuse};
use crate::error::{Error, Result};
use walarchive_storage::{Fence, Refusal, Store, Write};

impl Writer {
    /// The same store, but writes that this server may not do now are refused. A standby may write on behalf of the holder
    /// whose timeline it follows, for as long as that one holds.
    pub fn fenced(self: &Arc<Self>, store: &Store) -> Store {
        let fence: Arc<dyn Fence> = Arc::new(Fenced::new(Arc::clone(self)));
        store.with_fence(fence)
    }

    /// The same for work that reads and notes what it has found: it is noted only if this server writes anyway.
    pub fn fenced_notes(self: &Arc<Self>, store: &Store) -> Store {
        store.with_fence(Arc::new(IfHeld::new(Arc::clone(self))))
    }
}

/// Of one piece of work of a server: as the holder, or as a standby of the holder.
#[derive(Debug)]
pub(super) struct Fenced {
    writer: Arc<Writer>,
    standby: OnBehalf,
}

impl Fenced {
    pub(super) fn new(writer: Arc<Writer>) -> Self {
        Fenced {
            writer,
            standby: OnBehalf::default(),
        }
    }
}

#[async_trait::async_trait]
impl Fence for Fenced {
    async fn permit(&self, write: Write) -> Result<(), Refusal> {
        let situation = self.writer.situation();
        if !situation.in_recovery {
            return Ok(self.writer.permit(write).await?);
        }
        if !situation.is_standby {
            return Err(refuse::in_recovery(self.writer.store()).into());
        }
        let store = self.writer.store();
        match self.standby.permit(store, write, Some(situation.timeline)).await {
            // It was promoted since this piece of work began, and is the holder itself.
            Err(Error::NotWriter { .. }) if self.writer.holds()? => Ok(self.writer.permit(write).await?),
            answer => Ok(answer?),
        }
    }
}

/// Of work that reads, and notes what it has found if this server writes anyway. It takes no lease.
#[derive(Debug)]
pub(super) struct IfHeld {
    work: Fenced,
}

impl IfHeld {
    pub(super) fn new(writer: Arc<Writer>) -> Self {
        IfHeld {
            work: Fenced::new(writer),
        }
    }
}

#[async_trait::async_trait]
impl Fence for IfHeld {
    async fn permit(&self, write: Write) -> Result<(), Refusal> {
        let writer = &self.work.writer;
        match writer.in_recovery() || writer.holds()? {
            true => self.work.permit(write).await,
            false => Err(refuse::only_reads(writer.store()).into()),
        }
    }
}

/// Writes for whoever holds the lease, for as long as that is the same one.
#[derive(Debug, Default)]
struct OnBehalf(Mutex<Option<(u64, Moment)>>);

impl OnBehalf {
    async fn permit(&self, store: &Store, write: Write, timeline: Option<u32>) -> Result<()> {
        let (before, now) = (self.0.lock().clone(), Moment::now());
        let age = before.as_ref().and_then(|(_, looked)| now.since(looked));
        let enough = match write {
            Write::Object => LOOK,
            Write::Soon => LOOK / 2,
            Write::Ongoing => INTERVAL,
            Write::Deletion => Duration::ZERO,
        };
        if age.is_some_and(|age| age < enough) {
            return Ok(());
        }
        let view = View::read(store).await?;
        let epoch = view.lease.as_ref().map_or(0, |lease| lease.holder.epoch);
        if let Some(lease) = &view.lease {
            if let Some((before, _)) = before.filter(|(before, _)| *before != 0 && *before != epoch) {
                return Err(refuse::changed(store, lease, before));
            }
            if let Some(timeline) = timeline.filter(|timeline| *timeline != lease.timeline()) {
                return Err(refuse::other_timeline(store, lease, timeline));
            }
        }
        *self.0.lock() = Some((epoch, now));
        Ok(())
    }
}

/// Of a program on a machine without the data directory: an administrator's, who works for whoever holds the lease.
#[derive(Debug)]
struct Follower {
    store: Store,
    behalf: OnBehalf,
}

#[async_trait::async_trait]
impl Fence for Follower {
    async fn permit(&self, write: Write) -> Result<(), Refusal> {
        Ok(self.behalf.permit(&self.store, write, None).await?)
    }
}

/// The same store for a piece of work on behalf of whoever holds the lease: it ends when somebody else takes it.
pub fn follower(store: &Store) -> Store {
    let fence = Follower {
        store: store.without_fence(),
        behalf: OnBehalf::default(),
    };
    store.with_fence(Arc::new(fence))
}
