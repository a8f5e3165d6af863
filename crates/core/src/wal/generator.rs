//! WAL for tests, as PostgreSQL 15 writes it.

use chrono::{DateTime, Utc};

use super::{PAGE_BYTES, Segment, SegmentSize};

/// The smallest segments that there are.
pub(crate) const SIZE_BYTES: usize = 1 << 20;

/// The cluster.
pub(crate) const SYSTEM_IDENTIFIER: u64 = 7_412_345_678_901_234_567;

/// Their size.
pub(crate) fn size() -> SegmentSize {
    SegmentSize::new(SIZE_BYTES as u64).expect("a size")
}

/// Writes records one after the other, beginning with a segment.
pub(crate) struct Generator {
    pub(crate) timeline: u32,
    pub(crate) system_identifier: u64,
    /// Counted from LSN 0.
    first: u64,
    previous: u64,
    bytes: Vec<u8>,
    /// `XLOG_PAGE_MAGIC`.
    pub(crate) magic: u16,
    /// Flags of the next page.
    pub(crate) flags: u16,
}

impl Generator {
    pub(crate) fn new(timeline: u32, first: u64) -> Self {
        Generator {
            timeline,
            system_identifier: SYSTEM_IDENTIFIER,
            first,
            previous: 0,
            bytes: Vec::new(),
            magic: 0xD110,
            flags: 0,
        }
    }

    /// The LSN of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.first * SIZE_BYTES as u64 + self.bytes.len() as u64
    }

    fn page_header(&mut self, remaining: u32) {
        let is_first = self.bytes.len().is_multiple_of(SIZE_BYTES);
        let flags = self.flags | u16::from(remaining > 0) | u16::from(is_first) << 1;
        self.flags = 0;
        let address = self.position();
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if is_first {
            self.bytes.extend(self.system_identifier.to_le_bytes());
            self.bytes.extend((SIZE_BYTES as u32).to_le_bytes());
            self.bytes.extend((PAGE_BYTES as u32).to_le_bytes());
        }
    }

    /// A record with these data.
    pub(crate) fn record(&mut self, manager: u8, info: u8, data: &[u8]) {
        let record = self.begin(manager, info, data);
        self.put(&record);
    }

    /// The bytes of a record that is to be [`Generator::put`].
    pub(crate) fn begin(&mut self, manager: u8, info: u8, data: &[u8]) -> Vec<u8> {
        if self.bytes.len().is_multiple_of(PAGE_BYTES) {
            self.page_header(0);
        }
        let mut record = Vec::new();
        record.extend((24 + data.len() as u32).to_le_bytes());
        record.extend(740u32.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(data), &record);
        record.extend(crc.to_le_bytes());
        record.extend(data);
        self.previous = self.position();
        record
    }

    /// Write a record, over as many pages as it takes.
    pub(crate) fn put(&mut self, record: &[u8]) {
        self.put_some(record, record.len());
    }

    /// Write the first `count` bytes of a record, and what is left of the page as zeros.
    pub(crate) fn put_some(&mut self, record: &[u8], count: usize) {
        let mut at = 0;
        while at < count {
            if self.bytes.len().is_multiple_of(PAGE_BYTES) {
                self.page_header((record.len() - at) as u32);
            }
            let room = PAGE_BYTES - self.bytes.len() % PAGE_BYTES;
            let end = count.min(at + room);
            self.bytes.extend_from_slice(&record[at..end]);
            at = end;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// The record before the last one is to be linked to, as after a crash.
    pub(crate) fn link_to(&mut self, previous: u64) -> u64 {
        std::mem::replace(&mut self.previous, previous)
    }

    /// The commit of a transaction.
    pub(crate) fn commit(&mut self, time: DateTime<Utc>) {
        let micros = time.timestamp_micros() - 946_684_800_000_000;
        let mut data = vec![253, 0, 0, 255, 8];
        data.extend(micros.to_le_bytes());
        self.record(1, 0x80, &data);
    }

    /// A restore point.
    pub(crate) fn restore_point(&mut self, name: &str) {
        let mut data = vec![255, 72];
        data.extend([0; 8]);
        data.extend(name.as_bytes());
        data.resize(2 + 72, 0);
        self.record(0, 0x70, &data);
    }

    /// `CREATE TABLESPACE`.
    pub(crate) fn tablespace(&mut self, oid: u32, location: &str) {
        let mut data = vec![254];
        data.extend((4 + location.len() as u32 + 1).to_le_bytes());
        data.extend(oid.to_le_bytes());
        data.extend(location.as_bytes());
        data.push(0);
        self.record(5, 0, &data);
    }

    /// The server has other parameters.
    pub(crate) fn parameters(&mut self, values: [i32; 5]) {
        let mut data = vec![255, 28];
        values.iter().for_each(|value| data.extend(value.to_le_bytes()));
        data.resize(2 + 28, 0);
        self.record(0, 0x60, &data);
    }

    /// The end of a recovery, which begins a timeline.
    pub(crate) fn end_of_recovery(&mut self, timeline: u32) {
        self.timeline = timeline;
        let mut data = vec![255, 16];
        data.extend([0; 8]);
        data.extend(timeline.to_le_bytes());
        data.extend((timeline - 1).to_le_bytes());
        self.record(0, 0x90, &data);
    }

    /// End the segment, as `pg_switch_wal()` does.
    pub(crate) fn switch(&mut self) {
        self.record(0, 0x40, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(SIZE_BYTES), 0);
    }

    /// Records of many lengths, until there are so many whole segments.
    pub(crate) fn fill(&mut self, segments: usize) {
        let mut length = 1;
        while self.bytes.len() < segments * SIZE_BYTES {
            self.record(10, 0, &vec![length as u8; length % 30_011]);
            length = length * 7 + 13;
            length %= 1 << 20;
        }
    }

    /// The whole segments.
    pub(crate) fn segments(&self) -> Vec<(Segment, Vec<u8>)> {
        let numbered = self.bytes.chunks_exact(SIZE_BYTES).zip(self.first..);
        numbered
            .map(|(bytes, number)| (Segment::from_number(self.timeline, number, size()), bytes.to_vec()))
            .collect()
    }
}

/// That many segments of a timeline, full of records.
pub(crate) fn segments(timeline: u32, first: u64, count: usize) -> Vec<(Segment, Vec<u8>)> {
    let mut wal = Generator::new(timeline, first);
    wal.fill(count);
    let mut segments = wal.segments();
    segments.truncate(count);
    segments
}
