//! What comes becomes files: one for the segment that grows, and one for each that is whole and waits to be stored. They have no
//! names, so nothing of them is left when this process ends, however it ends.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::branch::Branch;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::{Segment, WalFileName};

/// A WAL file that has come and is whole.
#[derive(Debug)]
pub struct Received {
    /// Its name in the archive.
    pub name: WalFileName,
    file: File,
}

impl Received {
    /// A file with this content, such as that of a history file.
    pub fn with(name: WalFileName, content: &[u8]) -> Result<Self> {
        let mut file = unnamed()?;
        file.write_all(content).map_err(failed)?;
        Ok(Received { name, file })
    }

    /// A path to it, for as long as this lives.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// The segment that is being received.
#[derive(Debug)]
pub struct Spool {
    branch: Branch,
    /// The segment, and up to where it is there.
    segment: Segment,
    position: Lsn,
    file: Option<File>,
}

impl Spool {
    /// For a stream that begins there, which is the start of a segment.
    pub fn new(branch: Branch, start: Lsn) -> Self {
        Spool {
            segment: branch.segment_at(start),
            branch,
            position: start,
            file: None,
        }
    }

    /// The segment that is being received.
    pub fn segment(&self) -> Segment {
        self.segment
    }

    /// Up to where all has come.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Take what comes next, at most up to the end of the segment. Returns how much was taken, and the segment if it is whole.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Received>)> {
        let size = self.branch.segment_size();
        let end = self.segment.start(size).0 + size.bytes();
        let room = usize::try_from(end - self.position.0).unwrap_or(usize::MAX);
        let taken = bytes.len().min(room);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(unnamed()?),
        };
        file.write_all(&bytes[..taken]).map_err(failed)?;
        self.position = Lsn(self.position.0 + taken as u64);
        if self.position.0 < end {
            return Ok((taken, None));
        }
        let name = WalFileName::Segment(self.segment);
        // On the timeline that is being sent, until its end.
        self.segment = self.segment.next(size);
        Ok((taken, self.file.take().map(|file| Received { name, file })))
    }
}

fn unnamed() -> Result<File> {
    tempfile::tempfile().map_err(failed)
}

fn failed(error: std::io::Error) -> Error {
    Error::io("write", std::env::temp_dir().join("(the WAL that was received)"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::SegmentSize;

    #[test]
    fn bytes_become_segments_wherever_messages_end() {
        const MB: usize = 1 << 20;
        let size = SegmentSize::new(MB as u64).expect("a size");
        let mut spool = Spool::new(Branch::new(1, None, size), Lsn(3 * MB as u64));
        let bytes: Vec<u8> = (0..3 * MB).map(|at| (at / 1000) as u8).collect();
        let mut whole = Vec::new();
        for mut message in bytes.chunks(700_001) {
            while !message.is_empty() {
                let (taken, received) = spool.take(message).expect("taken");
                message = &message[taken..];
                whole.extend(received);
            }
        }
        assert_eq!(spool.position(), Lsn(6 * MB as u64));
        let names: Vec<String> = whole.iter().map(|received| received.name.to_string()).collect();
        let expected = [3, 4, 5].map(|at| format!("0000000100000000{at:08X}"));
        assert_eq!(names, expected);
        let content: Vec<u8> = whole
            .iter()
            .flat_map(|received| std::fs::read(received.path()).expect("read"))
            .collect();
        assert!(content == bytes);
    }
}
