//! Decides who gets the lease. A pure function.

use std::time::Duration;

use super::STALE;
use super::clock::Moment;
use super::instance::{Instance, Known, Origin, Watch};
use super::place::Sameness;
use super::record::{Lease, View};

/// The facts about the server that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// It does not accept writes: it is a standby, or recovers.
    pub in_recovery: bool,
    /// There is a standby.signal.
    pub is_standby: bool,
    /// The timeline that it writes, or follows.
    pub timeline: u32,
    /// How often it will renew.
    pub interval: Duration,
}

/// The right to take the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// There was none.
    First,
    /// The server was a standby and was promoted.
    Promotion,
    /// Nobody had renewed it any more.
    Stale,
    /// Somebody wanted it.
    TakeOver,
}

/// Why a server may not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// It lost the lease.
    Lost,
    /// It is on an older timeline than the holder.
    Older,
    /// It waits until the lease is stale.
    Waits(Watch),
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It holds it: give a sign of life.
    Renew,
    /// Take it as the next epoch.
    Acquire(How),
    /// It may not write.
    Refuse(Why),
}

/// Everything that the decision depends on.
pub(super) struct Facts<'a> {
    pub(super) instance: &'a Instance,
    pub(super) sameness: Sameness,
    pub(super) known: &'a Known,
    pub(super) view: &'a View,
    pub(super) situation: &'a Situation,
    /// The repository is empty, and this server has not met it before.
    pub(super) is_new: bool,
    /// When the look at the store began.
    pub(super) began: &'a Moment,
    /// And when it ended.
    pub(super) ended: &'a Moment,
}

/// For a server that accepts writes.
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let Facts {
        instance,
        known,
        view,
        situation,
        ..
    } = *facts;
    let Some(lease) = &view.lease else {
        return match instance.origin {
            _ if instance.take_over => Decision::Acquire(How::TakeOver),
            Origin::Own => Decision::Acquire(How::First),
            _ if facts.is_new => Decision::Acquire(How::First),
            // An original that does not know of leases cannot be told from one that is gone; one that does will come.
            Origin::Restored | Origin::Copied => {
                silence(facts, 0, "", situation.interval * STALE, Decision::Acquire(How::First))
            }
        };
    };
    let mut drawn = [&known.held, &known.claim].into_iter().flatten();
    let is_ours = lease.instance() == instance.id
        && drawn.any(|held| held.epoch == lease.holder.epoch && held.has_drawn(lease.token()));
    if is_ours {
        return match facts.sameness {
            Sameness::Same => Decision::Renew,
            // The original would have renewed it by then.
            _ => silence(
                facts,
                lease.holder.epoch,
                &lease.mark(),
                lease.interval() * 3 / 2,
                Decision::Renew,
            ),
        };
    }
    if instance.take_over {
        return Decision::Acquire(How::TakeOver);
    }
    if instance.standby && situation.timeline > lease.timeline() {
        return Decision::Acquire(How::Promotion);
    }
    if has_lost(known, lease) {
        return Decision::Refuse(Why::Lost);
    }
    if situation.timeline < lease.timeline() {
        return Decision::Refuse(Why::Older);
    }
    let needs = lease.interval().max(situation.interval) * STALE;
    silence(
        facts,
        lease.holder.epoch,
        &lease.mark(),
        needs,
        Decision::Acquire(How::Stale),
    )
}

/// Did it hold an earlier epoch than this one?
fn has_lost(known: &Known, lease: &Lease) -> bool {
    let held = known.held.as_ref().filter(|held| held.renewed.is_some());
    known.lost.is_some() || held.is_some_and(|held| held.epoch < lease.holder.epoch)
}

/// `then`, if the counter has not moved for long enough. The state that a look found may be as old as the moment when it began,
/// and as young as the one when it ended: the process may have slept in the meantime.
fn silence(facts: &Facts<'_>, epoch: u64, mark: &str, needs: Duration, then: Decision) -> Decision {
    let watch = Watch::look(facts.known.watch.as_ref(), epoch, mark, needs, facts.ended);
    match watch.lasted(facts.began) >= needs {
        true => then,
        false => Decision::Refuse(Why::Waits(watch)),
    }
}
