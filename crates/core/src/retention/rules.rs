//! The rules by which backups stay: a number of them, an age, a span of time, one a day.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Datelike, Utc};

use super::keep::KeptWal;
use super::plan::Situation;
use super::request::{Before, Garbage, Gfs, Mode, Rule};
use super::span::Span;
use crate::error::{Error, Result};
use crate::repository::inventory::{BackupInfo, Inventory};
use crate::wal::WalFileName;

/// Why a backup stays.
pub(super) struct Why {
    pub(super) wal: KeptWal,
    pub(super) text: Arc<str>,
}

/// The choice of a rule among the backups that can be read.
pub(super) struct Chosen {
    /// The backups that stay, by index in the inventory.
    pub(super) stay: Vec<(usize, Why)>,
    /// Why the others go.
    pub(super) why: Arc<str>,
    /// Backups that were complete before this moment are older than all that stay for their age; none: not known.
    pub(super) line: Option<DateTime<Utc>>,
    /// WAL that is not needed goes.
    pub(super) wal: bool,
    /// It goes even if no backup stays that needs what follows it.
    pub(super) wal_without_backups: bool,
    pub(super) notes: Vec<String>,
}

impl Chosen {
    fn nothing(why: &str) -> Self {
        Chosen {
            stay: Vec::new(),
            why: why.into(),
            line: None,
            wal: false,
            wal_without_backups: false,
            notes: Vec::new(),
        }
    }
}

/// Backups of one sequence, by start time.
struct Sequence<'a> {
    inventory: &'a Inventory,
    /// By index in the inventory.
    members: Vec<usize>,
    /// Which of the members can be restored.
    restorable: Vec<bool>,
}

/// A deletion of garbage keeps all backups.
pub(super) fn of_garbage(inventory: &Inventory, what: Garbage) -> Chosen {
    let mut chosen = Chosen {
        wal: what != Garbage::Backups,
        ..Chosen::nothing("")
    };
    Sequence::of(inventory).stay_from(0, "no backup is garbage", KeptWal::OfBackup, &mut chosen);
    chosen
}

/// Apply a rule.
pub(super) fn choose(inventory: &Inventory, rule: &Rule, situation: &Situation) -> Result<Chosen> {
    let words = Words::of(rule);
    let mut chosen = Chosen::nothing(&words.goes);
    let sequence = Sequence::of(inventory);
    sequence.refuse_alternating()?;
    let line = match rule {
        Rule::Retain { count, mode, after } => sequence.retain(*count as usize, *mode, *after)?,
        Rule::Before { target, find_full } => sequence.before(target, *find_full)?,
        Rule::OutsideWindow(span) => sequence.window(situation.now, span),
        Rule::Gfs(gfs) => sequence.gfs(gfs, &mut chosen),
    };
    match line {
        None => {
            sequence.stay_from(0, "it is not too old", KeptWal::Onwards, &mut chosen);
            chosen.notes.push(words.nothing.to_owned());
        }
        Some(line) => {
            if !matches!(rule, Rule::Gfs(_)) {
                sequence.stay_from(line, &words.stays, KeptWal::Onwards, &mut chosen);
            }
            chosen.line = Some(sequence.backup(line).started());
            chosen.wal = true;
        }
    }
    Ok(chosen)
}

/// How the reasons are put.
struct Words {
    stays: String,
    goes: String,
    nothing: &'static str,
}

impl Words {
    fn of(rule: &Rule) -> Words {
        let words = |stays: String, goes: String, nothing| Words { stays, goes, nothing };
        match rule {
            Rule::Retain { count, mode, after } => {
                let backups = match (mode, count) {
                    (Mode::Full, 1) => "newest full backup".to_owned(),
                    (Mode::Full, count) => format!("{count} newest full backups"),
                    (_, 1) => "newest backup".to_owned(),
                    (_, count) => format!("{count} newest backups"),
                };
                let after = after.map(|after| format!(" or than {after}")).unwrap_or_default();
                words(
                    format!("not older than the {backups}{after}"),
                    format!("older than the {backups}{after}"),
                    "no backup is deleted, because no more than that many can be restored",
                )
            }
            Rule::Before { target, .. } => {
                let line = match target {
                    Before::Name(name) => format!("\"{name}\""),
                    Before::Time(time) => time.to_string(),
                };
                words(
                    format!("not older than {line}, or needed by one that is not"),
                    format!("older than {line}"),
                    "nothing was deleted, because no backup would remain",
                )
            }
            Rule::OutsideWindow(span) => words(
                format!("needed to restore to any moment of the last {span}"),
                format!("not needed to restore to any moment of the last {span}"),
                "no backup is deleted, because none that can be restored is older than the window",
            ),
            Rule::Gfs(_) => words(
                String::new(),
                "not the newest backup of a day, week, month or year that is kept".to_owned(),
                "no backup is deleted, because none can be restored",
            ),
        }
    }
}

/// A backup that can be read.
pub(super) fn known<'a>(inventory: &'a Inventory, name: &str) -> Result<&'a BackupInfo> {
    let backup = inventory.backup(name).ok_or_else(|| Error::NoBackup {
        message: format!("there is no backup named \"{name}\""),
        hint: match inventory.backups.last() {
            Some(newest) => format!("The newest of {} is \"{}\".", inventory.backups.len(), newest.name),
            None => "There are no backups at all; check the storage URL and its prefix.".to_owned(),
        },
    })?;
    match &backup.damaged {
        None => Ok(backup),
        Some(_) => Err(Error::refused(
            format!("the start time of backup \"{name}\" is not known, because its description cannot be read"),
            "Name another backup, or a time.",
        )),
    }
}

impl<'a> Sequence<'a> {
    fn of(inventory: &'a Inventory) -> Self {
        let readable = (0..inventory.backups.len()).filter(|index| inventory.backups[*index].damaged.is_none());
        let members: Vec<usize> = readable.collect();
        Sequence {
            inventory,
            restorable: members
                .iter()
                .map(|index| inventory.is_restorable(&inventory.backups[*index]))
                .collect(),
            members,
        }
    }

    /// After `pg_upgrade` the backups of one cluster follow those of another. If they alternate, both clusters live, and what
    /// is old for one of them says nothing of the other.
    fn refuse_alternating(&self) -> Result<()> {
        let identifiers = self
            .positions()
            .filter_map(|at| self.backup(at).metadata.system_identifier);
        let mut seen: Vec<u64> = Vec::new();
        for identifier in identifiers.filter(|identifier| *identifier != 0) {
            if seen.last() == Some(&identifier) {
                continue;
            }
            if seen.contains(&identifier) {
                return Err(Error::refused(
                    format!("the repository has backups of {} clusters in alternation", seen.len()),
                    "Each cluster needs a repository of its own; delete the backups of the others by their names, with \
                     \"delete target\".",
                ));
            }
            seen.push(identifier);
        }
        Ok(())
    }

    fn backup(&self, at: usize) -> &BackupInfo {
        &self.inventory.backups[self.members[at]]
    }

    fn positions(&self) -> std::ops::Range<usize> {
        0..self.members.len()
    }

    /// Keep what starts at the line or later. `permanent`: the WAL that stays with permanent backups.
    fn stay_from(&self, line: usize, text: &str, permanent: KeptWal, chosen: &mut Chosen) {
        let text: Arc<str> = text.into();
        for at in line..self.members.len() {
            let why = Why {
                wal: match self.backup(at).metadata.is_permanent {
                    true => permanent,
                    false => KeptWal::Onwards,
                },
                text: Arc::clone(&text),
            };
            chosen.stay.push((self.members[at], why));
        }
    }

    fn retain(&self, count: usize, mode: Mode, after: Option<DateTime<Utc>>) -> Result<Option<usize>> {
        let counted = |at: &usize| self.restorable[*at] && (mode != Mode::Full || self.backup(*at).delta.is_none());
        let Some(line) = self.positions().rev().filter(counted).nth(count.saturating_sub(1)) else {
            return Ok(None);
        };
        let young = after.and_then(|after| self.positions().find(|at| self.backup(*at).started() >= after));
        let line = young.map_or(line, |young| line.min(young));
        self.at_full(line, mode != Mode::Any).map(Some)
    }

    fn before(&self, target: &Before, find_full: bool) -> Result<Option<usize>> {
        let line = match target {
            Before::Name(name) => {
                known(self.inventory, name)?;
                self.positions().find(|at| self.backup(*at).name == *name)
            }
            Before::Time(time) => self.positions().find(|at| self.backup(*at).started() >= *time),
        };
        let can_restore = |from: usize| self.positions().skip(from).any(|at| self.restorable[at]);
        if line.is_some_and(|line| can_restore(0) && !can_restore(line)) {
            return Err(Error::refused(
                "nothing was deleted, because no backup that would remain can be restored",
                "See the view walarchive_backups, or backup-list, for the reasons; name an older backup or an earlier time.",
            ));
        }
        line.map(|line| self.at_full(line, find_full)).transpose()
    }

    /// The line must not cut a chain: a delta there is an error, or the line goes to its full backup.
    fn at_full(&self, line: usize, find_full: bool) -> Result<usize> {
        let backup = self.backup(line);
        if backup.delta.is_none() {
            return Ok(line);
        }
        if !find_full {
            return Err(Error::refused(
                format!(
                    "backup \"{}\" is a delta backup, and its parents are older",
                    backup.name
                ),
                "Use FIND_FULL to keep its full backup and all that is newer than that, or FULL to count full backups.",
            ));
        }
        let names: HashMap<&str, usize> = self.positions().map(|at| (self.backup(at).name.as_str(), at)).collect();
        let (mut oldest, mut at, mut steps) = (line, line, 0);
        while let Some(parent) = self
            .backup(at)
            .delta
            .as_ref()
            .and_then(|delta| names.get(delta.parent.as_str()))
        {
            at = *parent;
            oldest = oldest.min(at);
            steps += 1;
            // A chain written by hand may have no end.
            if steps > self.members.len() {
                break;
            }
        }
        Ok(oldest)
    }

    /// The newest backup before the window stays. If there is WAL or a backup of several timelines in it: for each the newest
    /// one that leads there.
    fn window(&self, now: DateTime<Utc>, span: &Span) -> Option<usize> {
        let begin = span.before(now);
        let candidates: Vec<usize> = self
            .positions()
            .filter(|at| self.restorable[*at] && self.backup(*at).finished() <= begin)
            .collect();
        let newest = candidates.last().copied()?;
        let wal = self.inventory.wal.iter().filter(|object| object.written >= begin);
        let wal = wal.filter_map(|object| match object.name {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => Some(segment.timeline),
            _ => None,
        });
        let backups = self.positions().map(|at| self.backup(at));
        let backups = backups
            .filter(|backup| backup.started() >= begin)
            .filter_map(|backup| backup.timeline);
        let tail = self.inventory.covers().filter(|(_, cover)| cover.stored >= begin);
        let tail = tail.map(|(segment, _)| segment.timeline);
        let timelines: BTreeSet<u32> = wal.chain(tail).chain(backups).collect();
        let leading = timelines.into_iter().filter_map(|timeline| {
            let history = self.inventory.history(timeline);
            candidates.iter().rev().copied().find(|at| {
                let backup = self.backup(*at);
                let leads = |own| history.leads_from(own, backup.metadata.finish_lsn);
                backup.timeline.is_some_and(leads)
            })
        });
        leading.chain([newest]).min()
    }

    /// Fills in the backups that stay; returns the oldest daily backup.
    fn gfs(&self, gfs: &Gfs, chosen: &mut Chosen) -> Option<usize> {
        let newest = self.positions().rev().find(|at| self.restorable[*at])?;
        let mut daily = newest;
        let mut stay = |at: usize, wal, text: String| {
            chosen.stay.push((self.members[at], Why { wal, text: text.into() }));
        };
        for (at, day) in self.newest_of(gfs.days, |time| time.format("%Y-%m-%d").to_string()) {
            stay(at, KeptWal::Onwards, format!("newest of day {day}"));
            daily = daily.min(at);
        }
        let week = |time: DateTime<Utc>| format!("{}-W{:02}", time.iso_week().year(), time.iso_week().week());
        for (at, week) in self.newest_of(gfs.weeks, week) {
            stay(at, KeptWal::OfBackup, format!("newest of week {week}"));
        }
        for (at, month) in self.newest_of(gfs.months, |time| time.format("%Y-%m").to_string()) {
            stay(at, KeptWal::OfBackup, format!("newest of month {month}"));
        }
        for (at, year) in self.newest_of(gfs.years, |time| time.format("%Y").to_string()) {
            stay(at, KeptWal::OfBackup, format!("newest of year {year}"));
        }
        stay(newest, KeptWal::Onwards, "the newest that can be restored".to_owned());
        for at in newest + 1..self.members.len() {
            stay(at, KeptWal::Onwards, "newer than all that can be restored".to_owned());
        }
        Some(daily)
    }

    /// Of the last `count` periods having a backup that can be restored the newest one, newest first.
    fn newest_of(&self, count: u32, period: impl Fn(DateTime<Utc>) -> String) -> Vec<(usize, String)> {
        let mut found: Vec<(usize, String)> = Vec::new();
        for at in self.positions().rev().filter(|at| self.restorable[*at]) {
            if found.len() >= count as usize {
                break;
            }
            let period = period(self.backup(at).started());
            if found.last().is_none_or(|(_, last)| *last != period) {
                found.push((at, period));
            }
        }
        found
    }
}
