//! A server that was promoted archives what nobody else has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use walarchive_core::archive::backfill::{self, Backlog, Line, Wanted};
use walarchive_core::archive::{Archive, Pushed};
use walarchive_core::repository::inventory::SegmentRange;
use walarchive_core::{Error, Lsn, Result};
use walarchive_storage::Brake;

use super::{Backfill, FIRST_PAUSE, LIMIT, Link, News, Phase, SOON};
use crate::bridge::Bridge;
use crate::error;
use crate::guc;
use crate::pg::{server, slot};
use crate::shmem::{Failure, Stage, Text};

/// Files that are archived at a time; one when WAL that is written now waits for the link.
const AT_A_TIME: usize = 2;

/// Attempts do not come later than this after one another.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Ranges of lost segments that are named.
const NAMED: usize = 6;

impl Backfill {
    pub(super) fn on_primary(
        &mut self,
        bridge: &'static Bridge,
        archive: Arc<Archive>,
        news: Vec<News>,
        timeline: u32,
        position: Lsn,
        link: Link,
    ) -> Duration {
        if self.phase == Phase::Over {
            // Somebody may have used the slot when it was to be removed.
            self.keep.end();
            return guc::lease_interval();
        }
        // Before the archive is asked: the checkpoint after the promotion is on its way.
        match guc::keep_unarchived() {
            true if self.was_in_recovery => _ = self.keep.begin(timeline, position),
            true => {}
            false => self.keep.end(),
        }
        for news in news {
            match news {
                News::Found(found) => self.found(found),
                News::Stored(wanted, stored) => self.stored(wanted, stored),
                // From the time before the promotion.
                News::Kept(_) => self.looking = None,
            }
        }
        self.keep.limit(timeline, position);
        let now = Instant::now();
        match self.phase {
            Phase::Looking if self.looking.is_none() && now >= self.due => {
                self.shown.stage = Stage::Looking;
                self.due = now + LONGEST_PAUSE;
                self.look(bridge, archive, timeline);
            }
            // What is written now is worth nothing until what was before is archived, and that must not be let go.
            Phase::Archiving if self.keep.is_near_limit(position) => self.upload(bridge, &archive, Link::Free),
            Phase::Archiving => self.upload(bridge, &archive, link),
            Phase::Looking | Phase::Over => {}
        }
        match (self.running.is_empty(), &self.looking) {
            (false, _) => SOON,
            // The end of a look wakes the uploader.
            (true, Some(_)) => LIMIT,
            (true, None) => self.due.saturating_duration_since(now).min(LIMIT),
        }
    }

    /// Is there anything to do, and what?
    fn look(&mut self, bridge: &'static Bridge, archive: Arc<Archive>, timeline: u32) {
        let (pg_wal, identity) = (self.pg_wal.clone(), server::identity());
        // A server that was promoted long ago is not asked again about what was lost then.
        let is_fresh = self.was_in_recovery || slot::look() != slot::Slot::Missing;
        let work = async move {
            let line = Line::read(&pg_wal, timeline, &identity)?;
            if is_fresh {
                line.check_ancestors()?;
            }
            if line.switch().is_none() || !(is_fresh || line.has_any_before_switch()?) {
                return Ok((line, Backlog::default()));
            }
            let backlog = backfill::look(archive.store(), &line).await?;
            Ok((line, backlog))
        };
        let sender = self.sender.clone();
        // This fails if the loop has ended.
        self.looking = Some(bridge.spawn(work, move |found| drop(sender.send(News::Found(found)))));
    }

    fn found(&mut self, found: Result<(Line, Backlog)>) {
        self.looking = None;
        let (line, backlog) = match found {
            Ok(found) => found,
            Err(error) => return self.try_again(&error),
        };
        if backlog.wanted.is_empty() {
            self.tell_trouble(None);
        }
        self.note_lost(&backlog.lost);
        if let (Some(first), Some(last)) = (backlog.wanted.first(), backlog.wanted.last()) {
            if !std::mem::replace(&mut self.is_announced, true) {
                log!(
                    "walarchive: {} WAL files of before the promotion, from {} to {}, are not archived yet; this server archives \
                     them now",
                    backlog.wanted.len(),
                    first.name(),
                    last.name()
                );
            }
            self.shown.stage = Stage::Archiving;
        }
        self.line = Some(line);
        self.waiting = backlog.wanted.into();
        self.phase = Phase::Archiving;
        self.conclude();
    }

    fn note_lost(&mut self, lost: &[SegmentRange]) {
        let mut names: Vec<String> = lost.iter().take(NAMED).map(name).collect();
        if let Some(more) = lost.len().checked_sub(NAMED + 1) {
            names.push(format!("and {} more gaps", more + 1));
        }
        let names = names.join(", ");
        self.shown.lost = Text::new(&names);
        if names != self.told && !names.is_empty() {
            let lost = Error::refused(
                format!("WAL of before the promotion is neither in the archive nor in pg_wal: {names}"),
                "No backup from before this gap can be restored to a moment after it: take a backup now. If another server has these \
                 segments in its pg_wal, copy them into the pg_wal of this server, and run SELECT pg_reload_conf() here.",
            );
            error::notify(&Failure::from(&lost));
        }
        self.told = names;
    }

    fn upload(&mut self, bridge: &'static Bridge, archive: &Arc<Archive>, link: Link) {
        let Some(line) = self.line.clone() else { return };
        // The oldest one goes on in any case.
        let oldest = self.running.keys().min_by_key(|wanted| wanted.start(&line)).copied();
        for (wanted, (_, brake)) in &self.running {
            brake.hold(link == Link::Needed && Some(*wanted) != oldest);
        }
        let most = match link {
            Link::Free => AT_A_TIME,
            Link::Needed => 1,
        };
        while self.running.len() < most {
            let Some(wanted) = self.waiting.pop_front() else { break };
            let brake = Brake::default();
            let (archive, line, held, sender) = (Arc::clone(archive), line.clone(), brake.clone(), self.sender.clone());
            let work = async move { archive.push_wanted(&line, &wanted, held).await };
            // This fails if the loop has ended.
            let task = bridge.spawn(work, move |stored| drop(sender.send(News::Stored(wanted, stored))));
            self.running.insert(wanted, (task, brake));
        }
    }

    fn stored(&mut self, wanted: Wanted, stored: Result<Pushed>) {
        if self.running.remove(&wanted).is_none() {
            // Of an attempt that was given up.
            return;
        }
        match stored {
            Ok(pushed) => {
                self.pause = FIRST_PAUSE;
                self.shown.archived += u64::from(!pushed.already_there);
                if self.failed.is_empty() {
                    self.tell_trouble(None);
                }
            }
            Err(error) if self.line.as_ref().is_some_and(|line| wanted.is_to_blame(line, &error)) => {
                self.failed.push(wanted);
                self.tell_trouble(Some(&error));
            }
            // The others would fail, too.
            Err(error) => return self.try_again(&error),
        }
        self.conclude();
    }

    /// Move the slot to the oldest file that is left, or end, if none is left.
    fn conclude(&mut self) {
        let left = self.waiting.iter().chain(self.running.keys()).chain(&self.failed);
        let is_over = left.clone().next().is_none();
        let oldest = self.line.as_ref().and_then(|line| {
            let starts = left.filter_map(|wanted| Some((wanted.start(line)?, wanted.name())));
            starts.min_by_key(|(start, _)| *start)
        });
        if let Some((start, name)) = oldest {
            self.keep.advance(start);
            self.show_kept(Some((start, name.to_string())));
        }
        if is_over {
            if self.shown.stage == Stage::Archiving {
                log!("walarchive: the WAL of before the promotion is archived");
            }
            self.shown.stage = match (self.shown.lost.as_str().is_empty(), self.was_in_recovery) {
                (false, _) => Stage::Incomplete,
                (true, false) if self.shown.archived == 0 => Stage::None,
                (true, _) => Stage::Done,
            };
            self.tell_trouble(None);
            self.show_kept(None);
            self.phase = Phase::Over;
            self.keep.end();
            return;
        }
        if self.waiting.is_empty() && self.running.is_empty() {
            self.begin_again();
        }
    }

    fn try_again(&mut self, error: &Error) {
        match error {
            // A clone that archives to a place of its own has not begun there yet.
            Error::NoRepository { .. } if self.pause == FIRST_PAUSE => self.shown.error = Text::new(&error.to_string()),
            _ => self.tell_trouble(Some(error)),
        }
        self.begin_again();
    }

    /// Look anew after a pause.
    fn begin_again(&mut self) {
        self.stop();
        self.phase = Phase::Looking;
        self.due = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

fn name(range: &SegmentRange) -> String {
    match range.count {
        1 => range.first.to_string(),
        _ => format!("{} to {}", range.first, range.last),
    }
}
