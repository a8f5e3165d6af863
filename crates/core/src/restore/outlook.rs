//! Find the end of recovery, before anything is written.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::options::Look;
use super::settings::{RecoveryMode, RecoverySettings};
use super::target::{RestoreTarget, TargetTimeline};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::repository::inventory::{
    Contents, CreatedTablespace, Hole, Inventory, MOST_READ, Reach, SegmentRange, look_ahead, parse_name, wal_from,
};
use crate::stored::chain::Link;
use crate::wal::{Ending, Outcome, Parameters, Segment, SegmentSize, Sought, TimeTarget, TimelineHistory};
use walarchive_storage::Store;

/// A segment that was stored so short a time ago may have been quicker than the one before it: several are uploaded at a time.
const YOUNG: chrono::TimeDelta = chrono::TimeDelta::seconds(60);

/// After this a young hole is looked at again.
const PAUSE: Duration = Duration::from_secs(3);

/// So many segments behind that of a target, in which a record ends, recovery may read to know that it is there: the next record may
/// begin in the one behind it, and end in one more. A record may go through any number of others.
const BEHIND_TARGET: usize = 2;

/// The end of a backup's recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The end of the WAL that it can read.
    pub end: Lsn,
    /// On this timeline.
    pub timeline: u32,
    /// When the last transaction in it ended, where that is known.
    pub last_time: Option<DateTime<Utc>>,
    /// Is the target in that WAL?
    pub target: TargetSeen,
    /// The WAL that it reads on its way to the target, or to its end where the place of the target is not known.
    pub wal: Vec<SegmentRange>,
    /// The stored bytes of that WAL.
    pub wal_bytes: u64,
    /// The transaction before which recovery to a time stops.
    pub stop: Option<Ending>,
    /// Where its WAL ends though the archive goes on.
    pub hole: Option<Hole>,
    /// The segment there, if it is in the archive and its object is empty or cut off.
    pub unreadable: Option<Segment>,
    /// When the last of it was stored, if that is the tail of a segment that is not archived whole.
    pub tail_stored: Option<DateTime<Utc>>,
    /// The greatest parameters that the server has in it, where they change.
    pub(crate) parameters: Option<Parameters>,
    /// The tablespaces that are created in it.
    pub(crate) tablespaces: Vec<CreatedTablespace>,
    /// The first segment that is damaged, and what is wrong with it.
    pub(crate) damaged: Option<(Segment, String)>,
    /// A segment that was gone when it was to be read.
    pub unread: Option<Segment>,
    /// Where the last complete record begins, if all was read.
    pub last_record: Option<Lsn>,
    /// The last segment that recovery may need on its way to the target, if its events are known, on the timeline that recovery is to
    /// come to.
    pub looked_at: Option<Segment>,
}

/// Is the target within reach?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetSeen {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// It was not looked for.
    Unknown,
}

impl Outlook {
    /// The directories of tablespaces that are created in the WAL up to [`Outlook::looked_at`]. Replay makes them there, whatever is on
    /// this machine.
    pub fn created_tablespaces(&self) -> impl Iterator<Item = &str> {
        let place = |segment: Segment| (segment.log, segment.seg);
        let last = self.looked_at.map(place);
        let within = self
            .tablespaces
            .iter()
            .filter(move |created| last.is_none_or(|last| place(created.segment) <= last));
        let locations = within.map(|created| created.location.as_str());
        locations.filter(|location| !location.is_empty())
    }

    /// Are tablespaces created in its WAL that are inside of the data directory?
    pub fn creates_in_place(&self) -> bool {
        self.tablespaces.iter().any(|created| created.location.is_empty())
    }

    /// What is wrong with the WAL before the target, as a sentence; recovery ends there.
    pub fn damage(&self) -> Option<String> {
        if let Some(segment) = self.unreadable.filter(|_| self.falls_short()) {
            return Some(empty(segment, self.end));
        }
        let last = self.wal.last()?.last;
        let (segment, problem) = self.damaged.as_ref().filter(|(segment, _)| *segment <= last)?;
        Some(damage(*segment, problem))
    }

    /// The target is not in the WAL; as far as that is known.
    pub fn falls_short(&self) -> bool {
        self.target == TargetSeen::No
    }

    /// The refusal of a target beyond a hole: the server would promote before it without a word.
    pub fn refusal(&self, recovery: &RecoverySettings) -> Option<Error> {
        let hole = self.hole.as_ref()?;
        let ends_early = self.falls_short() && recovery.mode == RecoveryMode::Recovery;
        ends_early.then(|| refused(recovery, self, hole))
    }
}

/// Look at the WAL from a backup on. None if nothing is known of it.
pub(super) async fn look(
    store: &Store,
    link: &Link,
    recovery: &RecoverySettings,
    how_much: Look,
    notes: &mut Vec<String>,
) -> Result<Option<Outlook>> {
    let Some(first) = parse_name(&link.backup).0 else {
        return Ok(None);
    };
    let mut looked = None;
    for is_last in [false, true] {
        let Some(inventory) = wal_from(store, first).await? else {
            break;
        };
        let history = history(&inventory, first.timeline, recovery.target.timeline);
        let reach = Reach::of(&inventory, first.timeline, link.sentinel.start_lsn, &history);
        let is_young = |hole: &Hole| Utc::now().signed_duration_since(hole.after_written) < YOUNG;
        let is_final = is_last || !reach.hole.as_ref().is_some_and(is_young);
        looked = Some((inventory, reach, history.timeline));
        if is_final {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let Some((inventory, mut reach, to)) =
        looked.filter(|(_, reach, _)| !reach.read.is_empty() || reach.hole.is_some())
    else {
        notes.push(
            "The archive has no WAL from the start of the backup on, and without it the backup cannot become consistent.".to_owned(),
        );
        return Ok(None);
    };
    let system_identifier = link.sentinel.system_identifier;
    let most = match how_much {
        Look::Bounded => MOST_READ,
        Look::Whole => u64::MAX,
    };
    notes.extend(left_behind(
        &inventory,
        first.timeline,
        link.sentinel.start_lsn,
        &reach,
        recovery,
    ));
    let contents = look_ahead(store, &inventory, &reach, system_identifier, sought(recovery), most).await?;
    if let Some((segment, _)) = &contents.damaged {
        (reach.end, reach.timeline) = (segment.start(inventory.segment_size), segment.timeline);
    }
    let finish = link.sentinel.finish_lsn;
    let target = find(recovery, &reach, &contents, finish);
    let place = match target {
        TargetSeen::Yes => place(recovery, &contents, finish),
        TargetSeen::No | TargetSeen::Unknown => None,
    };
    let wal = until(&reach, place.map(|place| place.max(finish)), inventory.segment_size);
    let outlook = Outlook {
        end: reach.end,
        timeline: reach.timeline,
        last_time: contents.last_time,
        target,
        wal_bytes: stored_bytes(&inventory, &wal),
        wal,
        stop: contents.stop.filter(|_| contents.is_all),
        hole: reach.hole.clone(),
        unreadable: reach.unreadable,
        tail_stored: reach.tail.as_ref().map(|cover| cover.stored),
        parameters: contents.parameters,
        tablespaces: contents.tablespaces.clone(),
        damaged: contents.damaged.clone(),
        unread: contents.unread,
        last_record: contents
            .last_record
            .filter(|record| contents.is_all && *record < reach.end),
        looked_at: looked_at(
            &reach,
            &contents,
            place.map(|place| place.max(finish)),
            to,
            inventory.segment_size,
        ),
    };
    explain(&outlook, &reach, &contents, recovery, notes);
    Ok(Some(outlook))
}

/// Say in notes what is not as it should be.
fn explain(
    outlook: &Outlook,
    reach: &Reach,
    contents: &Contents,
    recovery: &RecoverySettings,
    notes: &mut Vec<String>,
) {
    if let Some(segment) = outlook.unreadable {
        notes.push(empty(segment, outlook.end));
    }
    match &outlook.hole {
        Some(hole) => notes.push(format!(
            "{} Recovery ends at LSN {} at the latest.",
            missing(hole, outlook.unreadable),
            outlook.end
        )),
        None if outlook.falls_short() && outlook.unreadable.is_none() && outlook.damaged.is_none() => {
            notes.push(beyond(recovery, outlook))
        }
        None => {}
    }
    if let Some(stop) = outlook.stop.as_ref().filter(|_| !outlook.falls_short()) {
        notes.push(stops(stop));
    }
    if let Some((segment, problem)) = &contents.damaged {
        notes.push(damage(*segment, problem));
    } else if !contents.is_all {
        notes.push(format!(
            "Recovery would replay {} WAL segments. These are too many to read beforehand, so it is not known whether they \
             have restore points or transactions, create tablespaces, or raise max_connections and the like.",
            reach.segments()
        ));
    }
    if let Some(parameters) = &contents.parameters {
        notes.push(format!(
            "In the WAL to be replayed the server gets {parameters}. The restore raises lower settings in \
             postgresql.auto.conf, because recovery would stop otherwise."
        ));
    }
}

/// What to look for in the WAL.
fn sought(recovery: &RecoverySettings) -> Sought {
    let inclusive = recovery.target.inclusive;
    match recovery.target.target {
        // The upper half, if there is one, is the epoch.
        RestoreTarget::Xid(xid) => Sought {
            transaction: Some(xid as u32),
            time: None,
        },
        RestoreTarget::Time(time) => Sought {
            transaction: None,
            time: Some(TimeTarget {
                time: time.into(),
                inclusive,
            }),
        },
        _ => Sought::default(),
    }
}

/// The place of a target that is in the WAL, where it is known.
fn place(recovery: &RecoverySettings, contents: &Contents, finish: Lsn) -> Option<Lsn> {
    match &recovery.target.target {
        RestoreTarget::Latest => None,
        RestoreTarget::Immediate => Some(finish),
        RestoreTarget::Lsn(lsn) => Some(*lsn),
        RestoreTarget::Time(_) => contents.stop.map(|stop| stop.lsn),
        RestoreTarget::Name(name) => {
            let point = contents.restore_points.iter().find(|point| point.name == *name);
            point.map(|point| point.lsn)
        }
        RestoreTarget::Xid(_) => contents.transaction_before.map(|end| Lsn(end.0 - 1)),
    }
}

/// The last segment that was read and is in order: of what comes later nobody knows what replay would do. Nor is it needed behind the
/// place of the target, where that is known.
fn looked_at(
    reach: &Reach,
    contents: &Contents,
    place: Option<Lsn>,
    timeline: u32,
    size: SegmentSize,
) -> Option<Segment> {
    let last = reach.read.last()?.last.number(size);
    let before_damage = |(segment, _): &(Segment, String)| segment.number(size).saturating_sub(1);
    let last = contents.damaged.as_ref().map_or(last, before_damage);
    let behind = |place: Lsn| (place.0 / size.bytes()).saturating_add(1)..last;
    let has_end = |number: &u64| contents.within_record.binary_search(number).is_err();
    let needed = place.and_then(|place| behind(place).filter(has_end).nth(BEHIND_TARGET - 1));
    let last = last.min(needed.unwrap_or(u64::MAX));
    Some(Segment::from_number(timeline, last, size)).filter(|_| contents.is_all)
}

fn empty(segment: Segment, end: Lsn) -> String {
    format!(
        "The object of WAL segment {segment} is empty or cut off, so recovery stops before it, at LSN {end}, with an error."
    )
}

fn damage(segment: Segment, problem: &str) -> String {
    format!("WAL segment {segment} is damaged, and recovery ends there: {problem}")
}

/// The ranges up to the segment with a position.
fn until(reach: &Reach, place: Option<Lsn>, size: SegmentSize) -> Vec<SegmentRange> {
    let last_wanted = place.map_or(u64::MAX, |place| place.0 / size.bytes());
    let cut = |range: &SegmentRange| {
        let (first, last) = (range.first.number(size), range.last.number(size));
        (first <= last_wanted).then(|| SegmentRange::new(range.first.timeline, first, last.min(last_wanted), size))
    };
    reach.read.iter().filter_map(cut).collect()
}

fn stored_bytes(inventory: &Inventory, wal: &[SegmentRange]) -> u64 {
    let size = inventory.segment_size;
    let segments = wal.iter().flat_map(|range| {
        let numbers = range.first.number(size)..=range.last.number(size);
        numbers.map(|number| Segment::from_number(range.first.timeline, number, size))
    });
    let bytes = segments.map(|segment| inventory.stored_bytes(segment));
    bytes.fold(0, u64::saturating_add)
}

/// Recovery ends where the newest timeline has left an older one, since that one has archived nothing behind it; and the older one
/// has. Somebody's trial may have begun the newest one.
fn left_behind(
    inventory: &Inventory,
    first: u32,
    start: Lsn,
    reach: &Reach,
    recovery: &RecoverySettings,
) -> Option<String> {
    let history = history(inventory, first, recovery.target.timeline);
    let (followed, old) = (history.timeline, reach.timeline);
    let mut ancestors = history.ancestors.iter();
    let (_, fork) = ancestors.find(|(ancestor, _)| *ancestor == old && reach.hole.is_none())?;
    let older = Reach::of(inventory, first, start, &inventory.history(old));
    let is_behind = recovery.target.timeline == TargetTimeline::Latest && older.end > *fork;
    is_behind.then(|| {
        format!(
            "Recovery follows timeline {followed}, which has left timeline {old} at LSN {fork} and has archived no WAL after \
             that. Timeline {old} goes on to LSN {}: to restore that, use --target-timeline {old}.",
            older.end
        )
    })
}

/// Of the timeline that recovery goes to.
fn history(inventory: &Inventory, timeline: u32, target: TargetTimeline) -> TimelineHistory {
    match target {
        TargetTimeline::Latest => inventory.latest_history(timeline),
        TargetTimeline::Current => inventory.history(timeline),
        TargetTimeline::Number(number) => inventory.history(number),
    }
}

fn find(recovery: &RecoverySettings, reach: &Reach, contents: &Contents, finish: Lsn) -> TargetSeen {
    let is = |found: bool| if found { TargetSeen::Yes } else { TargetSeen::No };
    let is_within = |found: bool| match (found, contents.is_all) {
        (true, _) => TargetSeen::Yes,
        (false, true) => TargetSeen::No,
        (false, false) => TargetSeen::Unknown,
    };
    if reach.end < finish {
        return TargetSeen::No;
    }
    match &recovery.target.target {
        RestoreTarget::Latest => {
            let is_whole = reach.unreadable.is_none() && contents.damaged.is_none();
            is(reach.hole.is_none() && is_whole)
        }
        RestoreTarget::Immediate => TargetSeen::Yes,
        RestoreTarget::Lsn(lsn) => is(*lsn < reach.end),
        // Recovery knows that it is there when it sees something later.
        // Times need not grow with the position, and the first transaction behind it counts.
        RestoreTarget::Time(_) if contents.stop.is_some() => TargetSeen::Yes,
        RestoreTarget::Time(time) => match contents.last_time {
            Some(last) if recovery.target.inclusive => is(last > *time),
            Some(last) => is(last >= *time),
            None => TargetSeen::Unknown,
        },
        RestoreTarget::Name(name) => is_within(contents.restore_points.iter().any(|point| point.name == *name)),
        RestoreTarget::Xid(_) => is_within(contents.may_end_transaction),
    }
}

/// The missing part, as a sentence. It may begin with a segment that cannot be read.
fn missing(hole: &Hole, unreadable: Option<Segment>) -> String {
    let (first, last) = (hole.missing.first, hole.missing.last);
    let what = match hole.missing.count {
        1 => format!("WAL segment {first} is"),
        count => format!("{count} WAL segments, {first} to {last}, are"),
    };
    let lacks = match unreadable {
        Some(_) => "missing in the archive, or cannot be read there, and the archive",
        None => "not in the archive, which",
    };
    format!(
        "{what} {lacks} continues to LSN {} on timeline {}.",
        hole.beyond, hole.timeline
    )
}

/// The end of the WAL, in a sentence.
fn end(outlook: &Outlook) -> String {
    let time = outlook
        .last_time
        .map(|time| format!(", after a last transaction at {}", shown(time)));
    format!(
        "LSN {} on timeline {}{}",
        outlook.end,
        outlook.timeline,
        time.unwrap_or_default()
    )
}

fn shown(time: DateTime<Utc>) -> impl std::fmt::Display {
    time.format("%Y-%m-%d %H:%M:%S%.f+00")
}

/// The transaction before which recovery stops, in a sentence.
fn stops(stop: &Ending) -> String {
    let what = match stop.outcome {
        Outcome::Commit => "commit",
        Outcome::Abort => "abort",
    };
    let of = match stop.xid {
        Some(xid) => format!("transaction {xid}"),
        None => "a prepared transaction".to_owned(),
    };
    format!(
        "Recovery will stop before the {what} of {of} at {}, LSN {}.",
        shown(stop.time),
        stop.lsn
    )
}

fn refused(recovery: &RecoverySettings, outlook: &Outlook, hole: &Hole) -> Error {
    Error::refused(
        format!(
            "recovery to {} would end too early, at {}",
            recovery.target.target,
            end(outlook)
        ),
        format!(
            "{} Look for them where the WAL was written, restore a backup that was taken after them, or choose an earlier \
             target. With --allow-gap the backup is restored, and recovery ends there.",
            missing(hole, outlook.unreadable)
        ),
    )
}

fn beyond(recovery: &RecoverySettings, outlook: &Outlook) -> String {
    let what = match recovery.mode {
        RecoveryMode::Recovery => "Recovery will end there with an error, unless it is archived by then.",
        RecoveryMode::Standby => "The standby will wait for more.",
    };
    format!(
        "{} is not in the archive: its WAL ends at {}. {what}",
        capitalised(&recovery.target.target.to_string()),
        end(outlook)
    )
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
