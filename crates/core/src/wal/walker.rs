//! Is the content of WAL segments what PostgreSQL wrote? Every page header, every record's checksum and every link between
//! records is checked, as the server's own reader does before it replays them.

use chrono::{DateTime, Utc};

use super::events::{Ending, Event, MOST, Outcome};
use super::pages::{PAGE_BYTES, PageHeader, SHORT_HEADER_BYTES, bytes};
use super::record::{Ended, HEADER_BYTES, LARGEST, Record};
use super::{FirstPage, LONG_HEADER_BYTES, Segment, SegmentSize};
use crate::lsn::Lsn;

/// The beginning of a record, which parts the page behind one.
const ALIGNMENT: usize = 8;

/// The findings in a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// The first thing that is wrong, as a sentence; what comes after it was not looked at.
    pub problem: Option<String>,
    /// The problem is in a record that begins in the segment before, so that one may be the one that is damaged.
    pub begins_before: bool,
    /// Complete records whose checksum was found to be right.
    pub records: u64,
    /// Where the last of them begins.
    pub last_record: Option<Lsn>,
    /// When the first transaction that ends here ended; restore points count too.
    pub first_time: Option<DateTime<Utc>>,
    /// The same of the last one.
    pub last_time: Option<DateTime<Utc>>,
    /// Other ends in here that matter to a replay, in order; of hostile WAL not all, but always the first tablespace outside the
    /// data directory.
    pub events: Vec<Event>,
    /// The first checkpoint whose record begins and ends here.
    pub first_checkpoint: Option<Lsn>,
    /// The transaction that was asked for ends here.
    pub ends_transaction: bool,
    /// A transaction that was prepared ends here: which one, was not looked at.
    pub ends_prepared: bool,
    /// The first end of a transaction before which recovery to the time that was asked for stops.
    pub stop: Option<Ending>,
    /// Commits, no two of them in the same sixteenth of the segment; and the last one.
    pub commits: Vec<Ending>,
}

/// What a walk is to find.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sought {
    /// A transaction, by the lower 32 bits of its ID.
    pub transaction: Option<u32>,
    /// A time to which somebody wants to recover.
    pub time: Option<TimeTarget>,
}

/// `recovery_target_time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeTarget {
    /// The time.
    pub time: DateTime<Utc>,
    /// `recovery_target_inclusive`.
    pub inclusive: bool,
}

impl TimeTarget {
    /// Does recovery stop before a transaction that ended then?
    fn is_before(&self, ended: DateTime<Utc>) -> bool {
        match self.inclusive {
            true => ended > self.time,
            false => ended >= self.time,
        }
    }
}

/// Of so many parts of a segment one commit is kept.
const SAMPLES: u64 = 16;

/// Walks through segments, page by page: `begin`, `feed` until all is fed, `end`. A record that goes on in the next segment
/// is checked if that is the one that is begun next. Takes little memory, whatever the input says of itself.
#[derive(Debug)]
pub struct WalWalker {
    size: SegmentSize,
    system_identifier: Option<u64>,
    state: State,
    /// The last complete record.
    previous: Option<Lsn>,
    /// Of the last page.
    page_timeline: u32,
    magic: Option<u16>,
    page: Vec<u8>,
    segment: Option<Segment>,
    /// Bytes that were fed since its begin.
    fed: u64,
    /// The highest timeline that was seen since its begin.
    timeline: u32,
    sought: Sought,
    until: Option<Lsn>,
    walked: Walked,
}

#[derive(Debug)]
enum State {
    /// Nothing is known of the bytes before.
    Lost,
    /// The next record begins here.
    Between,
    /// So much of a record whose beginning was not seen.
    Skipping(u32),
    Within(Record),
    /// The rest of the segment is zero.
    Switched,
}

impl WalWalker {
    /// For the WAL of a cluster; its system identifier is compared if it is known.
    pub fn new(size: SegmentSize, system_identifier: Option<u64>) -> Self {
        WalWalker {
            size,
            system_identifier,
            state: State::Lost,
            previous: None,
            page_timeline: 0,
            magic: None,
            page: Vec::with_capacity(PAGE_BYTES),
            segment: None,
            fed: 0,
            timeline: 0,
            sought: Sought::default(),
            until: None,
            walked: Walked::default(),
        }
    }

    /// Say where this is.
    pub fn look_for(self, sought: Sought) -> Self {
        WalWalker { sought, ..self }
    }

    /// Recovery ends here, at the beginning of a record: what comes behind it is not looked at.
    pub fn until(self, end: Lsn) -> Self {
        WalWalker {
            until: Some(end),
            ..self
        }
    }

    /// One for the same cluster that has seen nothing yet.
    pub fn anew(&self) -> Self {
        WalWalker {
            until: self.until,
            ..WalWalker::new(self.size, self.system_identifier).look_for(self.sought)
        }
    }

    /// The bytes that follow are those of this segment. If it does not follow the one before, or that one was not in order, the
    /// walk starts again.
    pub fn begin(&mut self, segment: Segment) {
        let follows = self.segment.is_some_and(|last| {
            last.timeline <= segment.timeline && last.number(self.size) + 1 == segment.number(self.size)
        });
        if !follows || self.walked.problem.is_some() {
            self.state = State::Lost;
            self.previous = None;
            self.page_timeline = 0;
            self.magic = None;
        }
        self.segment = Some(segment);
        self.page.clear();
        self.fed = 0;
        self.timeline = 0;
        self.walked = Walked::default();
    }

    /// The next bytes of the segment.
    pub fn feed(&mut self, mut piece: &[u8]) {
        let Some(segment) = self.segment else { return };
        while !piece.is_empty() {
            let (taken, rest) = piece.split_at(piece.len().min(PAGE_BYTES - self.page.len()));
            piece = rest;
            self.page.extend_from_slice(taken);
            if self.page.len() < PAGE_BYTES {
                return;
            }
            let mut page = std::mem::take(&mut self.page);
            if self.walked.problem.is_none() && self.fed < self.size.bytes() {
                self.walked.problem = self.page(segment, &page).err();
            }
            self.fed += PAGE_BYTES as u64;
            page.clear();
            self.page = page;
        }
    }

    /// The segment is at its end.
    pub fn end(&mut self) -> Walked {
        let Some(segment) = self.segment else {
            return Walked::default();
        };
        let (fed, size) = (self.fed + self.page.len() as u64, self.size.bytes());
        if self.walked.problem.is_none() {
            self.walked.problem = if fed != size {
                Some(format!("It has {fed} bytes, a WAL segment of this cluster has {size}."))
            } else if self.timeline < segment.timeline && !self.may_begin_timeline() {
                Some(format!(
                    "All its WAL is of timeline {}, the file's name says {}.",
                    self.timeline, segment.timeline
                ))
            } else {
                None
            };
        }
        if matches!(self.state, State::Switched) {
            self.state = State::Between;
        }
        self.walked.clone()
    }

    /// The segment goes on, but no more of it is known: what is incomplete there is no problem.
    pub fn cut(&mut self) -> Walked {
        let mut page = std::mem::take(&mut self.page);
        page.truncate(page.len() - page.len() % ALIGNMENT);
        let header = if self.fed == 0 {
            LONG_HEADER_BYTES
        } else {
            SHORT_HEADER_BYTES
        };
        if let Some(segment) = self.segment
            && page.len() > header
            && self.walked.problem.is_none()
        {
            self.walked.problem = self.page(segment, &page).err();
        }
        self.walked.clone()
    }

    /// A server that was promoted at a segment's very end writes the record that says so into two of them.
    fn may_begin_timeline(&self) -> bool {
        matches!(&self.state, State::Within(record) if record.may_begin_timeline())
    }

    fn page(&mut self, segment: Segment, page: &[u8]) -> Result<(), String> {
        let address = Lsn(segment.start(self.size).0.saturating_add(self.fed));
        if self.is_behind(address) {
            return Ok(());
        }
        // PostgreSQL zeroes the headers, too, so that what is left compresses well.
        if matches!(self.state, State::Switched) && is_zero(page) {
            return Ok(());
        }
        let first = self.fed == 0;
        if first {
            self.check_first(segment, page)?;
        }
        let header = PageHeader::parse(page);
        header.check(address, first, *self.magic.get_or_insert(header.magic))?;
        if header.timeline > segment.timeline || header.timeline < self.page_timeline {
            return Err(format!(
                "The page at {address} is of timeline {}, the one before of {}, the file's name says {}.",
                header.timeline, self.page_timeline, segment.timeline
            ));
        }
        self.page_timeline = header.timeline;
        self.timeline = self.timeline.max(header.timeline);
        self.enter(address, &header)?;
        let begin = if first { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        self.records(address, page, begin)
    }

    fn is_behind(&self, at: Lsn) -> bool {
        self.until.is_some_and(|end| at >= end)
    }

    fn check_first(&self, segment: Segment, page: &[u8]) -> Result<(), String> {
        let header = FirstPage::parse(&bytes(page, 0));
        header.check(segment, self.size, self.system_identifier)?;
        match u32::from_le_bytes(bytes(page, LONG_HEADER_BYTES - 4)) {
            blocks if blocks as usize == PAGE_BYTES => Ok(()),
            blocks => Err(format!("Its pages have {blocks} bytes, only {PAGE_BYTES} are known.")),
        }
    }

    /// Does the page begin as the one before announced?
    fn enter(&mut self, address: Lsn, header: &PageHeader) -> Result<(), String> {
        let expected = match &self.state {
            State::Within(record) => Some(record.left()),
            State::Skipping(left) => Some(*left),
            State::Lost if header.continues_record() && header.remaining > 0 => {
                self.state = State::Skipping(header.remaining);
                return Ok(());
            }
            State::Lost | State::Between => None,
            State::Switched => return Ok(()),
        };
        match expected {
            // After a crash, the server leaves an incomplete record as it is and goes on behind it.
            _ if header.overwrites_record() => self.state = State::Between,
            None if header.continues_record() => {
                return Err(format!(
                    "The page at {address} continues a record, but none is to be continued."
                ));
            }
            None => self.state = State::Between,
            Some(left) if header.continues_record() && header.remaining == left => {}
            Some(left) => {
                return Err(format!(
                    "The page at {address} continues a record with {} bytes, {left} were expected.",
                    if header.continues_record() { header.remaining } else { 0 }
                ));
            }
        }
        Ok(())
    }

    fn records(&mut self, address: Lsn, page: &[u8], begin: usize) -> Result<(), String> {
        let mut at = begin;
        while at < page.len() {
            let room = page.len() - at;
            let here = Lsn(address.0.saturating_add(at as u64));
            if matches!(self.state, State::Lost | State::Between) && self.is_behind(here) {
                return Ok(());
            }
            let taken = match &mut self.state {
                State::Lost | State::Between => {
                    self.state = State::Within(start(here, &page[at..])?);
                    continue;
                }
                State::Switched => {
                    return match is_zero(&page[at..]) {
                        true => Ok(()),
                        false => Err(format!(
                            "The page at {address} is not empty, though the segment was ended before."
                        )),
                    };
                }
                State::Skipping(left) => {
                    let taken = room.min(*left as usize);
                    *left -= taken as u32;
                    if *left == 0 {
                        self.state = State::Between;
                    }
                    taken
                }
                State::Within(record) => {
                    let taken = room.min(record.left() as usize);
                    record.take(&page[at..at + taken]);
                    if record.left() == 0 {
                        self.finish()?;
                    }
                    taken
                }
            };
            at = (at + taken).next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        let State::Within(record) = std::mem::replace(&mut self.state, State::Between) else {
            return Ok(());
        };
        let at = record.start;
        let begins_before = self.segment.is_some_and(|segment| at < segment.start(self.size));
        let begins = match begins_before {
            true => ", which begins in the segment before,",
            false => "",
        };
        if !record.is_intact() {
            self.walked.begins_before = begins_before;
            return Err(format!("The record at {at}{begins} has a wrong checksum."));
        }
        let links = match self.previous {
            Some(previous) => record.previous() == previous,
            None => record.previous() < at,
        };
        if !links {
            return Err(format!(
                "The record at {at}{begins} says that the one before it is at {}, it is at {}.",
                record.previous(),
                self.previous.unwrap_or_default()
            ));
        }
        self.previous = Some(at);
        self.walked.records += 1;
        self.walked.last_record = Some(at);
        if record.is_checkpoint() && !begins_before {
            self.walked.first_checkpoint.get_or_insert(at);
        }
        if let Some(timeline) = record.timeline() {
            self.timeline = self.timeline.max(timeline);
        }
        if let Some(time) = record.time() {
            self.walked.first_time.get_or_insert(time);
            self.walked.last_time = Some(time);
        }
        if let Some(event) = record.event(self.magic.unwrap_or_default()) {
            let is_first_place = || event.is_outside() && !self.walked.events.iter().any(Event::is_outside);
            if self.walked.events.len() < MOST || is_first_place() {
                self.walked.events.push(event);
            }
        }
        match record.ends() {
            Some(Ended::Transaction(ended)) => self.walked.ends_transaction |= self.sought.transaction == Some(ended),
            Some(Ended::Prepared) => self.walked.ends_prepared = true,
            None => {}
        }
        if let Some(ending) = record.ending() {
            self.note(ending);
        }
        if record.is_switch() {
            self.state = State::Switched;
        }
        Ok(())
    }

    fn note(&mut self, ending: Ending) {
        if self.walked.stop.is_none() && self.sought.time.is_some_and(|target| target.is_before(ending.time)) {
            self.walked.stop = Some(ending);
        }
        if ending.outcome == Outcome::Abort {
            return;
        }
        let part = |ending: &Ending| ending.lsn.0 / (self.size.bytes() / SAMPLES);
        // The last one may be replaced by the next one, if it is not the only one of its part.
        if let [.., before, last] = self.walked.commits.as_slice()
            && part(before) == part(last)
        {
            self.walked.commits.pop();
        }
        self.walked.commits.push(ending);
    }
}

/// The record that begins here: its length is never split between two pages.
fn start(at: Lsn, page: &[u8]) -> Result<Record, String> {
    match u32::from_le_bytes(bytes(page, 0)) {
        0 => Err(format!(
            "There is no record at {at}, though the segment was not ended before."
        )),
        total if (HEADER_BYTES as u32..=LARGEST).contains(&total) => Ok(Record::new(at, total)),
        total => Err(format!("The record at {at} says that it has {total} bytes.")),
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
