//! The writer: the server of a data directory, and the binary beside it. It asks the lease, and tells it what the server is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::clock::Moment;
use super::decide::Situation;
use super::flight::Flight;
use super::followed::{Followed, OfStandby};
use super::instance::{Instance, Known, Origin, lock};
use super::place::Place;
use super::record::{Lease, View};
use super::{LOOK, refuse, status};
use crate::error::{Error, Result};
use crate::recovery_state::{is_recovering_only, is_standby};
use crate::repository::layout;
use crate::wal::{SegmentSize, WalFileName};
use walarchive_storage::{Store, Write};

/// How long a standby waits with a file of a timeline that the holder is not on, before it is refused: for the end of its own
/// recovery, or for the server that it follows to take the lease.
const PROMOTION: Duration = if cfg!(test) {
    Duration::from_secs(5)
} else {
    Duration::from_secs(20)
};

/// How often it looks meanwhile whether its recovery has ended, which costs nothing, and who the holder is.
const LOOK_FOR_PROMOTION: Duration = Duration::from_millis(50);
const LOOK_FOR_HOLDER: Duration = Duration::from_secs(1);

/// When to give a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renew {
    /// If the last one is no longer young.
    IfDue,
    /// In any case.
    Always,
}

/// One server and one repository.
#[derive(Debug)]
pub struct Writer {
    /// Without a fence.
    store: Store,
    data_dir: PathBuf,
    situation: Mutex<Situation>,
    /// The turns of those that want to write.
    turns: Flight<()>,
    /// The looks for a higher epoch. The answer is the highest epoch, or 0.
    looks: Flight<u64>,
    followed: Followed,
    /// When this process has last seen that nobody took the lease. None: it goes by nothing that was noted before.
    looked: Mutex<Option<Moment>>,
}

impl Writer {
    /// The server of a data directory. Nothing is asked of the store yet.
    pub fn new(store: Store, data_dir: impl Into<PathBuf>, situation: Situation) -> Arc<Self> {
        Arc::new(Writer {
            store: store.without_fence(),
            data_dir: data_dir.into(),
            situation: Mutex::new(situation),
            turns: Flight::default(),
            looks: Flight::default(),
            followed: Followed::default(),
            looked: Mutex::default(),
        })
    }

    /// The same server, asked through another store for the same repository. Its last look still counts.
    pub fn through(&self, store: Store) -> Arc<Self> {
        let writer = Self::new(store, self.data_dir.clone(), self.situation());
        writer.looked.lock().clone_from(&self.looked.lock());
        writer
    }

    /// Tell what the server is now; before each piece of work.
    pub fn set_situation(&self, situation: Situation) {
        *self.situation.lock() = situation;
    }

    pub(super) fn situation(&self) -> Situation {
        *self.situation.lock()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Does the server accept no writes now?
    pub fn in_recovery(&self) -> bool {
        self.situation().in_recovery
    }

    /// Is the lease held, with a young renewal?
    pub fn holds(&self) -> Result<bool> {
        let held = Instance::permits(&self.data_dir, self.store.url(), &Moment::now())?;
        Ok(held.is_some())
    }

    /// May be written now? Takes or renews the lease if need be. Whether somebody else has taken it is asked before a deletion in
    /// any case, and before another write begins if nobody in this process has asked lately.
    pub async fn permit(self: &Arc<Self>, write: Write) -> Result<()> {
        let looked = self.looked.lock().clone();
        if let Some(looked) = looked
            && let Some(held) = Instance::permits(&self.data_dir, self.store.url(), &Moment::now())?
        {
            let age = Moment::now().since(&looked);
            let enough = match write {
                Write::Object => age.is_some_and(|age| age < LOOK),
                Write::Soon => age.is_some_and(|age| age < LOOK / 2),
                Write::Ongoing => true,
                Write::Deletion => false,
            };
            if enough {
                return Ok(());
            }
            let newest = self.looks.ask(|| Arc::clone(self).look_for_newer(held.epoch)).await?;
            // The answer may have come late.
            let valid = Instance::permits(&self.data_dir, self.store.url(), &Moment::now())?;
            if valid.is_some_and(|held| held.epoch == newest) {
                return Ok(());
            }
        }
        let turn = || {
            let writer = Arc::clone(self);
            async move { writer.take_turn(Renew::IfDue).await }
        };
        self.turns.ask(turn).await
    }

    /// May be written now, as the first thing of a process, if `first` allows it? Its answer is waited for before the lease is
    /// taken or renewed.
    pub(crate) async fn permit_after<T>(self: &Arc<Self>, first: impl Future<Output = Result<T>>) -> Result<T> {
        if self.looked.lock().is_none() {
            return Box::pin(self.take_turn_after(first)).await;
        }
        let first = first.await?;
        self.permit(Write::Object).await?;
        Ok(first)
    }

    /// Do work that was permitted. In the meantime this looks again in good time, so that the next write need not wait for that.
    pub(crate) async fn looking_beside<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        let looks = async {
            loop {
                // If it fails, the next write asks again, and tells.
                let _ = self.permit(Write::Soon).await;
                tokio::time::sleep(LOOK / 4).await;
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = looks => unreachable!("it looks until it is dropped"),
        }
    }

    async fn look_for_newer(self: Arc<Self>, epoch: u64) -> Result<u64> {
        let began = Moment::now();
        match self.store.size(&layout::lease_holder(epoch + 1)).await? {
            Some(_) => Ok(0),
            None => {
                self.has_looked(began);
                Ok(epoch)
            }
        }
    }

    /// Nobody had taken the lease at that moment.
    pub(super) fn has_looked(&self, at: Moment) {
        let mut looked = self.looked.lock();
        let is_later = looked.as_ref().is_none_or(|before| at.ms > before.ms);
        if is_later {
            *looked = Some(at);
        }
    }

    /// May a server in recovery write this WAL file, which is not in the archive? A standby that archives too may, if the file is
    /// of the history of the holder's timeline. In the moment of a promotion it waits until it is the holder itself, or whoever it
    /// follows is; [`Writer::set_situation`] is to tell it of the end of its recovery.
    pub async fn permit_standby(self: &Arc<Self>, name: &WalFileName, size: SegmentSize) -> Result<()> {
        let until = Instant::now() + PROMOTION;
        loop {
            let refusal = match self.may_standby(name, size).await? {
                OfStandby::Permitted => return Ok(()),
                OfStandby::Refused(refusal) => return Err(refusal),
                OfStandby::Later(refusal) => refusal,
            };
            let again = Instant::now() + LOOK_FOR_HOLDER;
            while Instant::now() < again {
                tokio::time::sleep(LOOK_FOR_PROMOTION).await;
                if !self.in_recovery() {
                    return self.permit(Write::Object).await;
                }
            }
            if Instant::now() > until {
                return Err(refusal);
            }
        }
    }

    async fn may_standby(&self, name: &WalFileName, size: SegmentSize) -> Result<OfStandby> {
        // While a standby is promoted its standby.signal is gone already, and its recovery goes on for a moment.
        let was_standby = || Instance::read(&self.data_dir).map(|found| found.is_some_and(|instance| instance.standby));
        match self.situation().is_standby || was_standby()? {
            true => self.followed.permit(&self.store, name, size).await,
            false => Err(refuse::in_recovery(&self.store)),
        }
    }

    /// Give a sign of life if the lease is held, watch it if this server waits for it, and do nothing else. For a task that
    /// does so every `walarchive.lease_interval`.
    pub async fn tick(&self) -> Result<()> {
        let Some(mut instance) = Instance::read(&self.data_dir)? else {
            return Ok(());
        };
        let known = instance.known(self.store.url(), None);
        let concerned = known.held.is_some() || known.claim.is_some() || known.watch.is_some() || instance.take_over;
        if self.in_recovery() || !concerned {
            return Ok(());
        }
        self.take_turn(Renew::Always).await
    }

    /// Take the lease, whoever has it, and say who it was.
    pub async fn take_over(&self) -> Result<Option<Lease>> {
        if self.in_recovery() {
            return Err(Error::refused(
                "a server in recovery cannot take the lease over",
                "Promote it first: a standby that is promoted takes the lease over by itself.",
            ));
        }
        let before = View::read(&self.store).await?.lease;
        crate::lease::instance::request_take_over(&self.data_dir).await?;
        self.take_turn(Renew::IfDue).await?;
        Ok(before)
    }

    /// Note whether the server is a standby, or recovers without being one, so that it is known once it is promoted. To be
    /// called while it is in recovery.
    pub async fn note_recovery(&self) -> Result<()> {
        let standby = is_standby(&self.data_dir);
        let known = Instance::read(&self.data_dir)?;
        let unchanged = match &known {
            Some(instance) if standby => instance.standby && instance.place == Place::of(&self.data_dir).ok(),
            Some(instance) => !(instance.standby && is_recovering_only(&self.data_dir)),
            None => !standby,
        };
        if unchanged {
            return Ok(());
        }
        let _lock = lock(&self.data_dir).await?;
        let (mut instance, _) = Instance::of(&self.data_dir)?;
        instance.standby = standby;
        if standby {
            // Its past does not matter any more: it follows the holder.
            instance.place = Some(Place::of(&self.data_dir)?);
            instance.origin = Origin::Own;
            instance.take_over = false;
            instance
                .repositories
                .values_mut()
                .for_each(|known| *known = Known::default());
        }
        instance.write(&self.data_dir)
    }

    /// All of the repository was deleted: there is no lease any more.
    pub async fn forget(&self) -> Result<()> {
        let _lock = lock(&self.data_dir).await?;
        let (mut instance, _) = Instance::of(&self.data_dir)?;
        *instance.known(self.store.url(), None) = Known {
            forgotten: true,
            ..Known::default()
        };
        instance.write(&self.data_dir)
    }

    /// Was all of the repository deleted on purpose, and nothing begun there since?
    pub fn has_forgotten(&self) -> Result<bool> {
        let instance = Instance::read(&self.data_dir)?;
        let known = instance.and_then(|mut instance| instance.repositories.remove(self.store.url()));
        Ok(known.is_some_and(|known| known.forgotten))
    }

    /// As the data directory knows it.
    pub fn status(&self) -> Result<status::LeaseStatus> {
        status::status(&self.data_dir, self.store.url(), self.situation())
    }

    /// The data directory.
    pub fn data_directory(&self) -> &Path {
        &self.data_dir
    }
}
