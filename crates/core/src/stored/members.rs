//! The members of a tar, one after the other, in bounded memory and to the tar's very end.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::codec::Format;
use crate::error::Error;

/// The most that the headers of one member may have, in bytes: the tar crate keeps long names in memory.
const HEADER_LIMIT: u64 = 1 << 20;

/// The unit of a tar, in bytes. Two of them, all zero, end it.
const BLOCK: u64 = 512;

/// The finding on a tar without its end.
pub(crate) const TRUNCATED: &str = "It is truncated: its end mark is missing.";

/// Why reading a tar stopped: the source could not be read, or what it gave was not right.
pub(crate) enum Stop {
    Read(io::Error),
    Other(Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Read(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Other(error)
    }
}

/// A member of a tar.
pub(crate) type Member<'a, 'b> = tar::Entry<'a, Bounded<'b>>;

/// Look at every member; what of its content was not read is skipped. False if the tar ends before its end mark.
pub(crate) fn each_member<'b>(
    format: Format,
    source: impl Read + Send + 'b,
    mut each: impl FnMut(&mut Member<'_, 'b>) -> Result<(), Stop>,
) -> Result<bool, Stop> {
    let budget = Rc::new(Budget::default());
    let mut archive = tar::Archive::new(Bounded {
        inner: format.decoder(source)?,
        budget: Rc::clone(&budget),
    });
    let mut entries = archive.entries()?;
    let mut end;
    loop {
        end = budget.read.get().next_multiple_of(BLOCK);
        budget.left.set(HEADER_LIMIT);
        let Some(entry) = entries.next() else { break };
        budget.left.set(u64::MAX);
        let mut entry = entry?;
        each(&mut entry)?;
        // Content that was not wanted still has to be read, outside the headers' budget.
        io::copy(&mut entry, &mut io::sink())?;
    }
    // Reading to the end lets the decoder check its checksum, and tells a tar that ends between two members.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(budget.read.get() >= end + 2 * BLOCK)
}

/// How much was unpacked, and how much may be until the next member's content begins.
struct Budget {
    read: Cell<u64>,
    left: Cell<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Budget {
            read: Cell::new(0),
            left: Cell::new(HEADER_LIMIT),
        }
    }
}

/// A decoder within its [`Budget`].
pub(crate) struct Bounded<'b> {
    inner: Box<dyn Read + Send + 'b>,
    budget: Rc<Budget>,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        let (read, left) = (self.budget.read.get(), self.budget.left.get());
        self.budget.read.set(read + bytes as u64);
        if left < bytes as u64 {
            return Err(io::Error::other(
                "the headers of a member, or what follows the last one, are too long",
            ));
        }
        self.budget.left.set(left - bytes as u64);
        Ok(bytes)
    }
}
