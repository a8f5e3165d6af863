//! The files that PostgreSQL 17 and later write into `pg_wal/summaries` (`common/blkreftable.c`): the blocks of relations that
//! the WAL of a range changed.
//!
//! | bytes | content |
//! |---|---|
//! | 4 | magic number |
//! | 24 | tablespace, database, relation, fork, limit block, number of chunks: an entry; all zero after the last one |
//! | 2 each | how many values each chunk of the entry has; a chunk covers 65 536 blocks |
//! | 2 each | the values: numbers of blocks within the chunk; if there are 4096 of them, a bitmap |
//! | 4 | CRC-32C of everything before |
//!
//! All numbers are in the byte order of the machine.

use std::io::Read;

use super::blocks::ChangedBlocks;
use crate::backup::delta::relation::Locator;

const MAGIC: u32 = 0x652B_137B;

/// `MAX_ENTRIES_PER_CHUNK`: a chunk with so many values is a bitmap.
const BITMAP: usize = 4096;

/// The most chunks that a fork can have.
const CHUNKS_LIMIT: u32 = 1 << 16;

/// `MAIN_FORKNUM`.
const MAIN_FORK: u32 = 0;

/// Add what a summary says to `changed`. Else why it cannot be read, half a sentence; then `changed` is not to be used.
pub(super) fn read(source: impl Read, changed: &mut ChangedBlocks) -> Result<(), String> {
    let mut source = Summed { inner: source, crc: 0 };
    if source.number()? != MAGIC {
        return Err("it does not begin as a WAL summary does".to_owned());
    }
    let (mut usage, mut values) = (Vec::new(), Vec::new());
    loop {
        let entry = [(); 6].map(|()| source.number());
        let [tablespace, database, relation, fork, limit, chunks] = entry;
        let (tablespace, database, relation) = (tablespace?, database?, relation?);
        let (fork, limit, chunks) = (fork?, limit?, chunks?);
        if (tablespace, database, relation, fork, limit, chunks) == (0, 0, 0, 0, 0, 0) {
            break;
        }
        if chunks > CHUNKS_LIMIT {
            return Err("an entry has more chunks than a relation can have".to_owned());
        }
        let locator = Locator {
            tablespace,
            database,
            relation,
        };
        let mut main = (fork == MAIN_FORK).then(|| changed.entry(locator));
        if let Some(entry) = &mut main {
            entry.limit_to(limit);
        }
        source.values(chunks as usize, &mut usage)?;
        for (chunk, used) in (0..).zip(&usage) {
            let used = usize::from(*used);
            if used > BITMAP {
                return Err("a chunk has more values than it can have".to_owned());
            }
            source.values(used, &mut values)?;
            match &mut main {
                None => {}
                Some(entry) if used == BITMAP => entry.add_bitmap(chunk, &values),
                Some(entry) => entry.add(chunk, &values),
            }
        }
    }
    let crc = source.crc;
    if source.number()? != crc {
        return Err("its checksum is wrong".to_owned());
    }
    match source.inner.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("something follows its checksum".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Sums up what is read.
struct Summed<R> {
    inner: R,
    crc: u32,
}

impl<R: Read> Summed<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), String> {
        self.inner
            .read_exact(buffer)
            .map_err(|error| format!("it cannot be read: {error}"))?;
        self.crc = crc32c::crc32c_append(self.crc, buffer);
        Ok(())
    }

    fn number(&mut self) -> Result<u32, String> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// So many numbers of 16 bits, in place of the buffer's content.
    fn values(&mut self, count: usize, values: &mut Vec<u16>) -> Result<(), String> {
        let mut bytes = [0; 4096];
        values.clear();
        let mut left = count * 2;
        while left > 0 {
            let piece = &mut bytes[..left.min(4096)];
            self.fill(piece)?;
            let (pairs, _) = piece.as_chunks::<2>();
            values.extend(pairs.iter().copied().map(u16::from_ne_bytes));
            left -= piece.len();
        }
        Ok(())
    }
}

#[cfg(test)]
pub(in crate::backup) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An entry: locator, fork, limit, chunks.
    type Entry = (Locator, u32, u32, Vec<Vec<u16>>);

    /// A summary of those entries.
    fn summary(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        for (locator, fork, limit, chunks) in entries {
            for number in [
                locator.tablespace,
                locator.database,
                locator.relation,
                *fork,
                *limit,
                chunks.len() as u32,
            ] {
                bytes.extend(number.to_ne_bytes());
            }
            let usage = chunks.iter().map(|chunk| chunk.len() as u16);
            for value in usage.chain(chunks.iter().flatten().copied()) {
                bytes.extend(value.to_ne_bytes());
            }
        }
        bytes.extend([0; 24]);
        bytes.extend(crc32c::crc32c(&bytes).to_ne_bytes());
        bytes
    }

    /// Of a main fork: tablespace, database and relation, limit block, blocks below 65 536.
    pub(in crate::backup) type MainFork<'a> = ((u32, u32, u32), u32, &'a [u16]);

    /// A summary of them.
    pub(in crate::backup) fn summary_of(entries: &[MainFork<'_>]) -> Vec<u8> {
        let entries: Vec<Entry> = entries
            .iter()
            .map(|((tablespace, database, relation), limit, blocks)| {
                let locator = Locator {
                    tablespace: *tablespace,
                    database: *database,
                    relation: *relation,
                };
                (locator, MAIN_FORK, *limit, vec![blocks.to_vec()])
            })
            .collect();
        summary(&entries)
    }

    fn locator(relation: u32) -> Locator {
        Locator {
            tablespace: 1663,
            database: 5,
            relation,
        }
    }

    /// As PostgreSQL 18 has written it. `pg_walsummary` says of it: `TS 1663, DB 5, REL 1249, FORK main: block 54`, and so on.
    const OF_POSTGRESQL: &str = "7b132b657f06000005000000e104000000000000ffffffff01000000010036007f06000005000000eb04000000000000ffffffff\
         01000000010000007f06000005000000320a000000000000ffffffff01000000010000007f060000050000000140000000000000\
         ffffffff0100000002004d0135057f060000050000000640000000000000ffffffff0100000001000f008006000000000000ee04\
         000000000000ffffffff010000000100000080060000000000006f0a000000000000ffffffff0100000001000100800600000000\
         0000700a000000000000ffffffff010000000100010000000000000000000000000000000000000000000000000094cc21b0";

    #[test]
    #[cfg(target_endian = "little")]
    fn what_postgresql_writes_is_read() {
        let bytes = crate::formats::manifest::unhex(OF_POSTGRESQL).expect("hexadecimal digits");
        let mut changed = ChangedBlocks::default();
        read(&bytes[..], &mut changed).expect("read");
        for (relation, blocks) in [
            (1249, vec![54]),
            (1259, vec![0]),
            (16385, vec![333, 1333]),
            (16390, vec![15]),
        ] {
            assert_eq!(changed.of(locator(relation), 0, 2000), Some(blocks), "{relation}");
        }
        let global = Locator {
            tablespace: 1664,
            database: 0,
            relation: 2671,
        };
        assert_eq!(changed.of(global, 0, 5), Some(vec![1]));
        assert_eq!(changed.of(locator(1), 0, 5), Some(vec![]));
    }

    #[test]
    fn entries_of_every_kind_are_read() {
        let mut bitmap = vec![0; 4096];
        (bitmap[0], bitmap[4095]) = (0b101, 0x8000);
        let made = Locator {
            database: 6,
            ..locator(0)
        };
        let bytes = summary(&[
            (made, 0, 0, vec![]),
            (locator(1), 0, u32::MAX, vec![vec![7, 3], vec![], vec![65535]]),
            (locator(1), 2, 0, vec![vec![9]]),
            (locator(2), 0, 40, vec![bitmap]),
            (locator(3), 1, 0, vec![vec![1]]),
        ]);
        let mut changed = ChangedBlocks::default();
        read(&bytes[..], &mut changed).expect("read");
        assert_eq!(changed.of(Locator { relation: 9, ..made }, 0, 5), None);
        let of = |relation, first, count| changed.of(locator(relation), first, count);
        assert_eq!(of(1, 0, 100), Some(vec![3, 7]));
        assert_eq!(of(1, 131_072, 65_536), Some(vec![65_535]));
        assert_eq!(of(2, 0, 43), Some(vec![0, 2, 40, 41, 42]));
        assert_eq!(of(2, 65_520, 20), None, "beyond the limit");
        assert_eq!(of(3, 0, 10), Some(vec![]), "only the main fork counts");
    }

    #[test]
    fn damage_is_seen() {
        let good = summary(&[(locator(1), 0, u32::MAX, vec![vec![7, 3]])]);
        let result = |bytes: &[u8]| read(bytes, &mut ChangedBlocks::default());
        assert_eq!(result(&good), Ok(()));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert!(result(&bad).is_err(), "byte {at}");
            assert!(result(&good[..at]).is_err(), "{at} bytes");
        }
        assert!(result(&[&good[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, magic: bool) {
            if magic {
                bytes.splice(0..0, MAGIC.to_ne_bytes());
            }
            let _ = read(&bytes[..], &mut ChangedBlocks::default());
        }
    }
}
