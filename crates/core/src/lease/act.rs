//! Taking the lease and keeping it, for the server of a data directory and for the binary beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use parking_lot::Mutex;

use super::clock::Moment;
use super::decide::{Decision, Facts, How, Situation, Why, decide};
use super::fence::{Fenced, Followed, IfHeld};
use super::instance::{Held, Instance, Known, Origin, Seen, Watch, lock};
use super::place::Place;
use super::record::{Alive, Holder, Lease, VERSION, View, json, read};
use super::{refuse, status};
use crate::error::{Error, Result};
use crate::layout;
use crate::wal::{SegmentSize, WalFileName};
use walarchive_storage::{CreateOnly, Created, Fence, Store, Write};

/// On a store that overwrites where it should not, another server may have taken the same epoch at the same moment. After this
/// what it wrote is there.
const READ_BACK: Duration = Duration::from_secs(2);

/// One server and one repository.
#[derive(Debug)]
pub struct Writer {
    /// Without a fence.
    store: Store,
    data_dir: PathBuf,
    situation: Mutex<Situation>,
    /// One at a time in this process; the file's lock is for the others.
    turn: tokio::sync::Mutex<()>,
    followed: Followed,
    /// Has this process asked the store? A server that comes back shall not go by what it noted before.
    asked: AtomicBool,
}

impl Writer {
    /// The server of a data directory. Nothing is asked of the store yet.
    pub fn new(store: Store, data_dir: impl Into<PathBuf>, situation: Situation) -> Arc<Self> {
        Arc::new(Writer {
            store: store.without_fence(),
            data_dir: data_dir.into(),
            situation: Mutex::new(situation),
            turn: tokio::sync::Mutex::default(),
            followed: Followed::default(),
            asked: AtomicBool::new(false),
        })
    }

    /// What the server is now; to be told before each piece of work.
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

    /// The same store, in which nothing is written that this server may not write now. A standby may write on behalf of the
    /// holder whose timeline it follows, for as long as that one holds.
    pub fn fenced(self: &Arc<Self>, store: &Store) -> Store {
        let fence: Arc<dyn Fence> = Arc::new(Fenced::new(Arc::clone(self)));
        store.with_fence(fence)
    }

    /// The same for work that reads and notes what it has found: it is noted only if this server writes anyway.
    pub fn fenced_notes(self: &Arc<Self>, store: &Store) -> Store {
        store.with_fence(Arc::new(IfHeld::new(Arc::clone(self))))
    }

    /// Is the lease held, with a young renewal?
    pub(super) fn holds(&self) -> Result<bool> {
        let held = Instance::permits(&self.data_dir, self.store.url(), &Moment::now())?;
        Ok(held.is_some())
    }

    /// May be written now? Takes or renews the lease if need be, and asks the store for nothing if that was done lately; but
    /// before a deletion, whether somebody has taken it since.
    pub async fn permit(&self, write: Write) -> Result<()> {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked && let Some(held) = Instance::permits(&self.data_dir, self.store.url(), &Moment::now())? {
            let newer = match write {
                Write::Object => None,
                Write::Deletion => self.store.size(&layout::lease_holder(held.epoch + 1)).await?,
            };
            if newer.is_none() {
                return Ok(());
            }
        }
        self.take_turn(false).await?;
        self.asked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// May a server in recovery write this WAL file, which is not in the archive? A standby that archives too may, if the file is
    /// of the history of the holder's timeline.
    pub async fn permit_standby(&self, name: &WalFileName, size: SegmentSize) -> Result<()> {
        match self.situation().is_standby {
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
        if self.in_recovery() || (known.held.is_none() && known.watch.is_none() && !instance.take_over) {
            return Ok(());
        }
        self.take_turn(true).await
    }

    /// Take the lease, whoever has it, and say who it was.
    pub async fn take_over(&self) -> Result<Option<Lease>> {
        if self.in_recovery() {
            return Err(Error::config(
                "a server in recovery cannot take the lease over",
                "Promote it first: a standby that is promoted takes the lease over by itself.",
            ));
        }
        let before = View::read(&self.store).await?.lease;
        crate::lease::instance::request_take_over(&self.data_dir).await?;
        self.take_turn(false).await?;
        Ok(before)
    }

    /// Note whether the server is a standby, or recovers without being one, so that it is known once it is promoted. To be
    /// called while it is in recovery.
    pub async fn note_recovery(&self) -> Result<()> {
        let exists = |name: &str| self.data_dir.join(name).exists();
        let standby = exists("standby.signal");
        let known = Instance::read(&self.data_dir)?;
        let unchanged = match &known {
            Some(instance) if standby => instance.standby && instance.place == Place::of(&self.data_dir).ok(),
            Some(instance) => !(exists("recovery.signal") && instance.standby),
            None => !standby,
        };
        if unchanged {
            return Ok(());
        }
        let _lock = lock(&self.data_dir).await?;
        let (mut instance, _) = Instance::of(&self.data_dir)?;
        instance.standby = standby;
        if standby {
            // What it was before does not matter any more: it follows the holder.
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
        instance.repositories.remove(self.store.url());
        instance.write(&self.data_dir)
    }

    /// Look, decide, act. With `renew` also if the last sign of life is young.
    async fn take_turn(&self, renew: bool) -> Result<()> {
        let _turn = self.turn.lock().await;
        let _lock = lock(&self.data_dir).await?;
        let (mut instance, sameness) = Instance::of(&self.data_dir)?;
        let url = self.store.url();
        let view = match instance.repositories.get(url).and_then(|known| known.held.clone()) {
            // Nothing was deleted or taken over since, mostly.
            Some(held) => match read::<Holder>(&self.store, &layout::lease_holder(held.epoch)).await? {
                Some(holder) => View::after(&self.store, &holder).await?,
                None => View::read(&self.store).await?,
            },
            None => View::read(&self.store).await?,
        };
        let token = view.lease.as_ref().map(|lease| lease.token().to_owned());
        let known = instance.known(url, token.as_deref());
        known.seen = view.lease.as_ref().map(|lease| Seen {
            epoch: lease.holder.epoch,
            holder: lease.name(),
            timeline: lease.timeline(),
        });
        let (known, now, situation) = (known.clone(), Moment::now(), self.situation());
        let young = known.held.as_ref().is_some_and(|held| held.is_valid(&now));
        let decision = decide(&Facts {
            instance: &instance,
            sameness,
            known: &known,
            view: &view,
            situation: &situation,
            now: &now,
        });
        match decision {
            Decision::Renew if young && !renew && !instance.take_over => Ok(()),
            Decision::Renew => {
                let epoch = view.highest;
                self.renew(instance, &view).await?;
                if young {
                    return Ok(());
                }
                // Whoever took this lease for stale may have come between the look and the sign of life.
                let view = View::read(&self.store).await?;
                if view.highest <= epoch {
                    return Ok(());
                }
                let (instance, _) = Instance::of(&self.data_dir)?;
                self.refuse(instance, &view, Why::Lost)
            }
            Decision::Acquire(how) => self.acquire(instance, &view, how).await,
            Decision::Refuse(why) => self.refuse(instance, &view, why),
        }
    }

    async fn renew(&self, mut instance: Instance, view: &View) -> Result<()> {
        let (url, situation) = (self.store.url().to_owned(), self.situation());
        let Some((lease, mut held)) = view.lease.as_ref().zip(instance.known(&url, None).held.clone()) else {
            return Ok(());
        };
        let drawn = held.draw();
        held.keep(lease.token());
        // The others count by what the store says, which is the old interval or the new one while the answer is not there.
        let interval_ms = millis(situation.interval);
        held.interval_ms = held.interval_ms.min(interval_ms);
        instance.place = Some(Place::of(&self.data_dir)?);
        instance.origin = Origin::Own;
        (instance.take_over, instance.standby) = (false, false);
        *instance.known(&url, None) = Known {
            held: Some(held.clone()),
            seen: instance.known(&url, None).seen.clone(),
            ..Known::default()
        };
        // On a disk that is full no new token can be noted, and archiving must go on to make room: the last one does again.
        let (token, noted) = match instance.write(&self.data_dir) {
            Ok(()) => (drawn, true),
            Err(error) if lease.alive.is_some() => {
                tracing::warn!(%error, "the lease is renewed with its last token");
                (lease.token().to_owned(), false)
            }
            Err(error) => return Err(error),
        };
        let counter = lease.alive.as_ref().map_or(0, |alive| alive.counter) + 1;
        let renewed = self
            .sign_of_life(&instance.id, lease.holder.epoch, token, counter)
            .await?;
        (held.renewed, held.interval_ms) = (Some(renewed), interval_ms);
        instance.known(&url, None).held = Some(held);
        match instance.write(&self.data_dir) {
            Err(error) if noted => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns when it was sent, at the latest.
    async fn sign_of_life(&self, instance: &str, epoch: u64, token: String, counter: u64) -> Result<Moment> {
        let (situation, before) = (self.situation(), Moment::now());
        let alive = Alive {
            version: VERSION,
            epoch,
            instance: instance.to_owned(),
            token,
            counter,
            interval_ms: millis(situation.interval),
            timeline: situation.timeline,
            time: Utc::now(),
        };
        self.store.put(&layout::lease_alive(epoch), json(&alive)?).await?;
        Ok(before)
    }

    async fn acquire(&self, mut instance: Instance, view: &View, how: How) -> Result<()> {
        let (url, situation, epoch) = (self.store.url().to_owned(), self.situation(), view.highest + 1);
        let mut held = Held {
            epoch,
            tokens: Vec::new(),
            renewed: None,
            interval_ms: millis(situation.interval),
        };
        let token = held.draw();
        let before = instance.known(&url, None).clone();
        instance.known(&url, None).held = Some(held.clone());
        // If the answer of the store is lost, the token tells later who wrote the object.
        instance.write(&self.data_dir)?;
        let here = Place::of(&self.data_dir)?;
        let holder = Holder {
            version: VERSION,
            epoch,
            instance: instance.id.clone(),
            hostname: here.host.clone(),
            data_directory: here.path.clone(),
            timeline: situation.timeline,
            since: Utc::now(),
            how: how.as_str().to_owned(),
            token,
        };
        if !self.create(&holder).await? {
            *instance.known(&url, None) = before;
            instance.write(&self.data_dir)?;
            let view = View::read(&self.store).await?;
            let watch = Watch::look(None, epoch, "", situation.interval, &Moment::now());
            return self.refuse(instance, &view, Why::Waits(watch));
        }
        let first = held.draw();
        instance.place = Some(here);
        instance.origin = Origin::Own;
        (instance.take_over, instance.standby) = (false, false);
        *instance.known(&url, None) = Known {
            held: Some(held.clone()),
            seen: Some(Seen {
                epoch,
                holder: holder.name(),
                timeline: holder.timeline,
            }),
            ..Known::default()
        };
        instance.write(&self.data_dir)?;
        held.renewed = Some(self.sign_of_life(&instance.id, epoch, first, 1).await?);
        instance.known(&url, None).held = Some(held);
        instance.write(&self.data_dir)?;
        let from = view.lease.as_ref().map_or_else(|| "nobody".to_owned(), Lease::name);
        tracing::info!(
            "took the lease of repository \"{url}\" as epoch {epoch} on timeline {}, from {from}: {}",
            holder.timeline,
            how.as_str()
        );
        Ok(())
    }

    /// Returns whether the epoch is ours.
    async fn create(&self, holder: &Holder) -> Result<bool> {
        let (key, content) = (layout::lease_holder(holder.epoch), json(holder)?);
        let created = self.store.create(&key, content.clone()).await?;
        if created == Created::Yes && self.store.create_only().is_none() {
            // Nobody has asked this store whether it keeps its promise.
            self.store.probe_create_only(&key, content).await?;
        }
        if created == Created::Yes && self.store.create_only() == Some(CreateOnly::Honoured) {
            return Ok(true);
        }
        if created == Created::Yes {
            tokio::time::sleep(READ_BACK).await;
        }
        // Ours may be there since an attempt whose answer was lost.
        let found = read::<Holder>(&self.store, &key).await?;
        Ok(found.is_some_and(|found| found.token == holder.token))
    }

    /// Write down what was learned, and say it.
    fn refuse(&self, mut instance: Instance, view: &View, why: Why) -> Result<()> {
        let known = instance.known(self.store.url(), None);
        let was = known.clone();
        match &why {
            Why::Lost => {
                let held = known.held.take();
                let to = view.lease.as_ref().map_or(view.highest, |lease| lease.holder.epoch);
                known.lost = Some(to);
                known.watch = None;
                if let (Some(held), Some(lease)) = (held, &view.lease) {
                    tracing::warn!(
                        "lost the lease of repository \"{}\", which was held as epoch {}, to {} as epoch {to}",
                        self.store.url(),
                        held.epoch,
                        lease.name()
                    );
                }
            }
            Why::Older => known.watch = None,
            Why::Waits(watch) => known.watch = Some(watch.clone()),
        }
        let (changed, origin) = (was != *known, instance.origin);
        // A directory that nothing was written into has its identity from now on.
        if changed || Instance::read(&self.data_dir)?.as_ref() != Some(&instance) {
            instance.write(&self.data_dir)?;
        }
        Err(refuse::error(
            &self.store,
            &self.data_dir,
            view,
            &why,
            origin,
            self.situation(),
        ))
    }

    /// As the data directory knows it.
    pub fn status(&self) -> Result<status::Status> {
        status::status(&self.data_dir, self.store.url(), self.situation())
    }

    /// The data directory.
    pub fn data_directory(&self) -> &Path {
        &self.data_dir
    }
}

fn millis(interval: Duration) -> u64 {
    u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
}
