//! A turn of a server: look, decide, act. No lock is held while the store is asked: several processes of a server may be at it at
//! once. Each writes down the token that it drew before it uses it, and each finds what the others drew.

use std::time::Duration;

use chrono::Utc;

use super::act::{Renew, Writer};
use super::clock::Moment;
use super::decide::{Decision, Facts, How, Why, decide};
use super::instance::{Held, Instance, Known, Origin, Seen, Watch, lock};
use super::place::Place;
use super::record::{Alive, Holder, Lease, VERSION, View, json, read};
use super::refuse;
use crate::error::{Error, Result};
use crate::repository::{self, layout};
use walarchive_storage::{CreateOnly, Created};

/// On a store that overwrites where it should not, another server may have taken the same epoch at the same moment. After this
/// what it wrote is there.
const READ_BACK: Duration = Duration::from_secs(2);

/// The right of a server to the lease after its name was overwritten.
const OVERWRITTEN: &str = "its name was overwritten, and it held the lease before";

/// The result of a look, and when it began and ended: the lease was so at some moment in between.
struct Look {
    view: View,
    /// Nothing is there, and this server has nothing noted of it: nobody can be using it.
    is_new: bool,
    began: Moment,
    ended: Moment,
}

/// May another process of this server have taken the lease since we looked?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// Then look again.
    First,
    /// Decide with what is known.
    Last,
}

/// The change to make in the store, after it was written down.
enum Step {
    Nothing,
    /// Another process of this server took the lease after the look.
    LookAgain,
    Renew(Box<Renewal>),
    Acquire(Box<Holder>, How),
}

struct Renewal {
    alive: Alive,
    /// What is to be written in the place of another server's name.
    holder: Option<Holder>,
    /// Was the last renewal young when this one was decided?
    young: bool,
    /// Could the token be written down?
    noted: bool,
}

impl Writer {
    /// Look, decide, act.
    pub(super) async fn take_turn(&self, renew: Renew) -> Result<()> {
        let look = self.look().await?;
        self.act(look, renew).await
    }

    /// The same, if `first` allows it, which is asked at the same time as the lease is looked at. Nothing is written before its
    /// answer is there.
    pub(super) async fn take_turn_after<T>(&self, first: impl Future<Output = Result<T>>) -> Result<T> {
        let (first, look) = tokio::join!(first, self.look());
        let first = first?;
        self.act(look?, Renew::IfDue).await?;
        Ok(first)
    }

    async fn act(&self, mut look: Look, renew: Renew) -> Result<()> {
        self.refuse_vanished(&look).await?;
        let mut step = self.settle(&look, renew, Attempt::First).await?;
        if matches!(step, Step::LookAgain) {
            look = self.look().await?;
            step = self.settle(&look, renew, Attempt::Last).await?;
        }
        match step {
            Step::Nothing | Step::LookAgain => {}
            Step::Renew(renewal) => self.renew(*renewal).await?,
            Step::Acquire(holder, how) => self.acquire(*holder, how, &look.view).await?,
        }
        self.has_looked(look.began);
        Ok(())
    }

    /// This server has seen a lease, and now nothing is there at all, in a store that can be gone without an error: a file system
    /// that is not mounted. A new repository there would hide what it takes as soon as the old one comes back.
    async fn refuse_vanished(&self, look: &Look) -> Result<()> {
        if look.view.lease.is_some() || !self.store().may_vanish() {
            return Ok(());
        }
        let instance = Instance::read(self.data_directory())?.filter(|instance| !instance.take_over);
        let known = instance.and_then(|mut instance| instance.repositories.remove(self.store().url()));
        match known.is_some_and(|known| known.has_met()) && !repository::is_there(self.store()).await? {
            true => Err(repository::none_in(self.store())),
            false => Ok(()),
        }
    }

    /// A server in recovery takes no lease, and may be the first one to write: a standby is of the same cluster. It begins no
    /// repository either where one has vanished. `has_owner`: there is a repository, and it has an owner.
    pub(crate) async fn remember_in_recovery(&self, has_owner: bool) -> Result<()> {
        let url = self.store().url();
        if !self.store().may_vanish() {
            return Ok(());
        }
        let known = Instance::read(self.data_directory())?.and_then(|mut instance| instance.repositories.remove(url));
        let has_met = known.is_some_and(|known| known.has_met());
        if has_met && !has_owner && !repository::is_there(self.store()).await? {
            return Err(repository::none_in(self.store()));
        }
        if has_owner && !has_met {
            let _lock = lock(self.data_directory()).await?;
            let (mut instance, _) = Instance::of(self.data_directory())?;
            let known = instance.known(url, None);
            (known.found, known.forgotten) = (true, false);
            instance.write(self.data_directory())?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<Look> {
        let instance = Instance::read(self.data_directory())?;
        let known = instance.and_then(|mut instance| instance.repositories.remove(self.store().url()));
        let began = Moment::now();
        let is_unknown = known.is_none();
        let view = match known.and_then(|known| known.held) {
            // Nothing was deleted or taken over since, mostly.
            Some(held) => View::of(self.store(), held.epoch).await?,
            None => View::read(self.store()).await?,
        };
        let is_new = is_unknown && view.highest == 0 && !repository::is_there(self.store()).await?;
        Ok(Look {
            view,
            is_new,
            began,
            ended: Moment::now(),
        })
    }

    /// Decide, and write down what is to be known before the store is told.
    async fn settle(&self, look: &Look, renew: Renew, attempt: Attempt) -> Result<Step> {
        let (view, url, situation) = (&look.view, self.store().url(), self.situation());
        let _lock = lock(self.data_directory()).await?;
        let (mut instance, sameness) = Instance::of(self.data_directory())?;
        let token = view.lease.as_ref().map(|lease| lease.token().to_owned());
        let known = instance.known(url, token.as_deref());
        if attempt == Attempt::First && known.held.as_ref().is_some_and(|held| held.epoch > view.highest) {
            return Ok(Step::LookAgain);
        }
        known.seen = view.lease.as_ref().map(|lease| Seen {
            epoch: lease.holder.epoch,
            holder: lease.name(),
            timeline: lease.timeline(),
        });
        let known = known.clone();
        let young = known.held.as_ref().is_some_and(|held| held.is_valid(&Moment::now()));
        let decision = decide(&Facts {
            instance: &instance,
            sameness,
            known: &known,
            view,
            situation: &situation,
            is_new: look.is_new,
            began: &look.began,
            ended: &look.ended,
        });
        match decision {
            Decision::Renew if young && renew == Renew::IfDue && !instance.take_over => Ok(Step::Nothing),
            Decision::Renew => self.draw_renewal(instance, view, young),
            Decision::Acquire(how) => self.draw_claim(instance, view, how, &look.began),
            Decision::Refuse(why) => Err(self.refuse(instance, view, &why)?),
        }
    }

    /// Under the lock.
    fn draw_renewal(&self, mut instance: Instance, view: &View, young: bool) -> Result<Step> {
        let (url, situation) = (self.store().url(), self.situation());
        let Some(lease) = &view.lease else {
            return Ok(Step::Nothing);
        };
        let known = instance.known(url, None);
        let is_of_lease = |held: &Held| held.epoch == lease.holder.epoch;
        // The claim turned out to be there.
        let claimed = known.claim.take_if(|claim| is_of_lease(claim));
        let Some(mut held) = known.held.take_if(|held| is_of_lease(held)).or(claimed) else {
            return Ok(Step::Nothing);
        };
        let drawn = held.draw();
        held.keep(lease.token());
        // The others count by the store's record: the old interval or the new one while the answer is not there.
        held.interval_ms = held.interval_ms.min(millis(situation.interval));
        *known = Known {
            held: Some(held),
            seen: known.seen.take(),
            ..Known::default()
        };
        instance.place = Some(Place::of(self.data_directory())?);
        instance.origin = Origin::Own;
        (instance.take_over, instance.standby) = (false, false);
        // On a disk that is full no new token can be noted, and archiving must go on to make room: the last one does again.
        let (token, noted) = match instance.write(self.data_directory()) {
            Ok(()) => (drawn, true),
            Err(error) if lease.alive.is_some() => {
                tracing::warn!(%error, "the lease is renewed with its last token");
                (lease.token().to_owned(), false)
            }
            Err(error) => return Err(error),
        };
        let counter = lease.alive.as_ref().map_or(0, |alive| alive.counter) + 1;
        let overwritten = lease.holder.instance != instance.id;
        let holder = match overwritten {
            true => Some(self.holder(&instance, lease.holder.epoch, token.clone(), OVERWRITTEN.to_owned())?),
            false => None,
        };
        Ok(Step::Renew(Box::new(Renewal {
            holder,
            alive: self.alive(&instance.id, lease.holder.epoch, token, counter),
            young,
            noted,
        })))
    }

    async fn renew(&self, renewal: Renewal) -> Result<()> {
        let Renewal {
            alive,
            holder,
            young,
            noted,
        } = renewal;
        if let Some(holder) = holder {
            tracing::warn!(
                "another server has written its name into the lease of repository \"{}\" after this server took it as \
                 epoch {}: the store does not refuse to overwrite. This server keeps the lease",
                self.store().url(),
                holder.epoch
            );
            self.store()
                .put(&layout::lease_holder(holder.epoch), json(&holder)?)
                .await?;
        }
        match self.give_sign_of_life(&alive).await {
            Err(Error::Io { .. }) if !noted => {}
            outcome => outcome?,
        }
        if young {
            return Ok(());
        }
        // Somebody who took this lease for stale may have come between the look and the sign of life.
        let view = View::read(self.store()).await?;
        if view.highest <= alive.epoch {
            return Ok(());
        }
        let _lock = lock(self.data_directory()).await?;
        let (mut instance, _) = Instance::of(self.data_directory())?;
        let held = instance.known(self.store().url(), None).held.as_ref();
        match held.is_some_and(|held| held.epoch >= view.highest) {
            // It was another process of this server.
            true => Ok(()),
            false => Err(self.refuse(instance, &view, &Why::Lost)?),
        }
    }

    fn alive(&self, instance: &str, epoch: u64, token: String, counter: u64) -> Alive {
        let situation = self.situation();
        Alive {
            version: VERSION,
            epoch,
            instance: instance.to_owned(),
            token,
            counter,
            interval_ms: millis(situation.interval),
            timeline: situation.timeline,
            time: Utc::now(),
        }
    }

    /// Tell the store, and note when.
    async fn give_sign_of_life(&self, alive: &Alive) -> Result<()> {
        let sent = Moment::now();
        self.store()
            .put(&layout::lease_alive(alive.epoch), json(alive)?)
            .await?;
        let _lock = lock(self.data_directory()).await?;
        let (mut instance, _) = Instance::of(self.data_directory())?;
        let known = instance.known(self.store().url(), None);
        let Some(held) = known.held.as_mut().filter(|held| held.epoch == alive.epoch) else {
            return Ok(());
        };
        // Of two processes that promised different intervals at once, the shorter one counts until the next renewal.
        held.interval_ms = match held.tokens.last() == Some(&alive.token) {
            true => alive.interval_ms,
            false => held.interval_ms.min(alive.interval_ms),
        };
        let is_later = |before: &Moment| sent.since(before).is_none_or(|after| !after.is_zero());
        if held.renewed.as_ref().is_none_or(is_later) {
            held.renewed = Some(sent);
        }
        instance.write(self.data_directory())
    }

    /// Under the lock. If the answer of the store is lost, the token tells later who wrote the object.
    fn draw_claim(&self, mut instance: Instance, view: &View, how: How, now: &Moment) -> Result<Step> {
        let (situation, epoch) = (self.situation(), view.highest + 1);
        let known = instance.known(self.store().url(), None);
        let lasted = known.watch.as_ref().map(|watch| watch.lasted(now));
        let earlier = known.claim.take_if(|claim| claim.epoch == epoch);
        let mut claim = earlier.unwrap_or(Held {
            epoch,
            tokens: Vec::new(),
            renewed: None,
            interval_ms: millis(situation.interval),
        });
        let token = claim.draw();
        known.claim = Some(claim);
        instance.write(self.data_directory())?;
        let holder = self.holder(&instance, epoch, token, how.in_words(view.lease.as_ref(), lasted))?;
        Ok(Step::Acquire(Box::new(holder), how))
    }

    fn holder(&self, instance: &Instance, epoch: u64, token: String, how: String) -> Result<Holder> {
        let here = Place::of(self.data_directory())?;
        Ok(Holder {
            version: VERSION,
            epoch,
            instance: instance.id.clone(),
            hostname: here.host,
            data_directory: here.path,
            timeline: self.situation().timeline,
            since: Utc::now(),
            how,
            token,
        })
    }

    async fn acquire(&self, holder: Holder, how: How, before: &View) -> Result<()> {
        let (url, epoch) = (self.store().url(), holder.epoch);
        let is_ours = self.create(&holder).await?;
        let view = match is_ours {
            true => View::default(),
            false => View::read(self.store()).await?,
        };
        let alive = {
            let _lock = lock(self.data_directory()).await?;
            let (mut instance, _) = Instance::of(self.data_directory())?;
            let known = instance.known(url, None);
            if !is_ours {
                known.claim = None;
                let watch = Watch::look(None, epoch, "", self.situation().interval, &Moment::now());
                return Err(self.refuse(instance, &view, &Why::Waits(watch))?);
            }
            let other = known.held.take_if(|held| held.epoch == epoch);
            let mut held = other.or(known.claim.take()).unwrap_or(Held {
                epoch,
                tokens: Vec::new(),
                renewed: None,
                interval_ms: millis(self.situation().interval),
            });
            held.keep(&holder.token);
            let first = held.draw();
            *known = Known {
                held: Some(held),
                seen: Some(Seen {
                    epoch,
                    holder: holder.name(),
                    timeline: holder.timeline,
                }),
                ..Known::default()
            };
            instance.place = Some(Place::of(self.data_directory())?);
            instance.origin = Origin::Own;
            (instance.take_over, instance.standby) = (false, false);
            instance.write(self.data_directory())?;
            self.alive(&instance.id, epoch, first, 1)
        };
        self.give_sign_of_life(&alive).await?;
        refuse::announce(url, &holder, how, before.lease.as_ref());
        Ok(())
    }

    /// Returns whether the epoch is ours.
    async fn create(&self, holder: &Holder) -> Result<bool> {
        let (key, content) = (layout::lease_holder(holder.epoch), json(holder)?);
        let created = self.store().create(&key, content.clone()).await?;
        if created == Created::Yes && self.store().create_only().is_none() {
            // Nobody has asked this store whether it keeps its promise.
            self.store().probe_create_only(&key, content).await?;
        }
        if created == Created::Yes && self.store().create_only() == Some(CreateOnly::Honoured) {
            return Ok(true);
        }
        if created == Created::Yes {
            tokio::time::sleep(READ_BACK).await;
        }
        let Some(found) = read::<Holder>(self.store(), &key).await? else {
            return Ok(false);
        };
        // Ours may be there since an attempt whose answer was lost, or another process of this server was faster.
        let instance = Instance::read(self.data_directory())?;
        let known = instance.and_then(|mut instance| instance.repositories.remove(self.store().url()));
        let known = known.unwrap_or_default();
        let drawn = [known.claim, known.held].into_iter().flatten();
        let drawn: Vec<String> = drawn
            .filter(|held| held.epoch == holder.epoch)
            .flat_map(|held| held.tokens)
            .collect();
        if found.token != holder.token && !drawn.contains(&found.token) {
            return Ok(false);
        }
        // If this process slept between its look and its write, another server may have taken the epoch meanwhile, have read back
        // its own name, and been overwritten. Then there is its sign of life.
        let alive = read::<Alive>(self.store(), &layout::lease_alive(holder.epoch)).await?;
        Ok(alive.is_none_or(|alive| drawn.contains(&alive.token)))
    }

    /// Write down what was learned, and return what is to be said. Under the lock.
    fn refuse(&self, mut instance: Instance, view: &View, why: &Why) -> Result<Error> {
        let known = instance.known(self.store().url(), None);
        match why {
            Why::Lost => {
                let held = known.held.take();
                let to = view.lease.as_ref().map_or(view.highest, |lease| lease.holder.epoch);
                known.lost = Some(to);
                known.watch = None;
                if let (Some(held), Some(lease)) = (held, &view.lease) {
                    tracing::warn!(
                        "lost the lease of repository \"{}\", which was held as epoch {}, to {} as epoch {to}",
                        self.store().url(),
                        held.epoch,
                        lease.name()
                    );
                }
            }
            Why::Older => known.watch = None,
            Why::Waits(watch) => known.watch = Some(watch.clone()),
        }
        let origin = instance.origin;
        // A directory that nothing was written into has its identity from now on.
        if Instance::read(self.data_directory())?.as_ref() != Some(&instance) {
            instance.write(self.data_directory())?;
        }
        Ok(refuse::error(
            self.store(),
            self.data_directory(),
            view,
            why,
            origin,
            self.situation(),
        ))
    }
}

fn millis(interval: Duration) -> u64 {
    u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
}

impl How {
    /// For the object, and so for the one that is replaced.
    fn in_words(self, before: Option<&Lease>, lasted: Option<Duration>) -> String {
        match (self, before, lasted) {
            (How::First, ..) => "first writer".to_owned(),
            (How::Promotion, ..) => "promotion of a standby".to_owned(),
            (How::TakeOver, ..) => "taken over on request".to_owned(),
            (How::Stale, Some(before), Some(lasted)) => {
                format!("{} had not renewed it for {}", before.name(), refuse::seconds(lasted))
            }
            (How::Stale, ..) => "the lease was no longer renewed".to_owned(),
        }
    }
}
