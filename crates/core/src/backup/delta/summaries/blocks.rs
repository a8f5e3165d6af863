//! Which blocks were changed, of all relations that were.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::backup::delta::relation::Locator;

/// Blocks that a chunk covers.
const CHUNK_BLOCKS: u32 = 1 << 16;

/// Numbers that a chunk has at most before it becomes a bitmap, which takes as much memory.
const NUMBERS: usize = 4096;

/// What the summaries of a range of WAL say together. A block takes two bytes, or a relation an eighth of a byte for each of
/// its blocks, whichever is less.
#[derive(Debug, Default)]
pub(in crate::backup::delta) struct ChangedBlocks {
    relations: HashMap<Locator, Changed>,
}

/// One relation's main fork.
#[derive(Debug)]
pub(super) struct Changed {
    /// It was made anew or cut off there: all blocks from here on are changed.
    limit: u32,
    chunks: BTreeMap<u32, Chunk>,
}

#[derive(Debug)]
enum Chunk {
    Numbers(HashSet<u16>),
    Bitmap(Box<[u16; NUMBERS]>),
}

impl ChangedBlocks {
    /// That of a relation, to be added to.
    pub(super) fn entry(&mut self, locator: Locator) -> &mut Changed {
        self.relations.entry(locator).or_insert_with(|| Changed {
            limit: u32::MAX,
            chunks: BTreeMap::new(),
        })
    }

    /// Was the whole directory made since, in which this relation is?
    fn whole_database(&self, locator: Locator) -> bool {
        self.relations.contains_key(&Locator { relation: 0, ..locator })
    }

    /// Of a file of `count` blocks, of which the first has the number `first` in its relation, the blocks that were changed,
    /// by their numbers in the file, ascending. None: all of them, as the file was made since.
    pub(in crate::backup::delta) fn of(&self, locator: Locator, first: u32, count: u32) -> Option<Vec<u32>> {
        if self.whole_database(locator) {
            return None;
        }
        let Some(changed) = self.relations.get(&locator) else {
            return Some(Vec::new());
        };
        if changed.limit <= first {
            return None;
        }
        let end = first.saturating_add(count).min(changed.limit);
        let mut found = Vec::new();
        let chunks = changed.chunks.range(first / CHUNK_BLOCKS..=end / CHUNK_BLOCKS);
        for (number, chunk) in chunks {
            let start = found.len();
            let blocks = chunk.numbers().map(|offset| number * CHUNK_BLOCKS + u32::from(offset));
            found.extend(
                blocks
                    .filter(|block| (first..end).contains(block))
                    .map(|block| block - first),
            );
            found[start..].sort_unstable();
        }
        found.extend(end - first..count);
        Some(found)
    }
}

impl Changed {
    pub(super) fn limit_to(&mut self, block: u32) {
        self.limit = self.limit.min(block);
    }

    pub(super) fn add(&mut self, chunk: u32, offsets: &[u16]) {
        if offsets.is_empty() {
            return;
        }
        let chunk = self
            .chunks
            .entry(chunk)
            .or_insert_with(|| Chunk::Numbers(HashSet::new()));
        match chunk {
            Chunk::Bitmap(bits) => offsets.iter().for_each(|offset| set(bits, *offset)),
            Chunk::Numbers(numbers) => {
                numbers.extend(offsets);
                if numbers.len() >= NUMBERS {
                    let mut bits = Box::new([0; NUMBERS]);
                    numbers.iter().for_each(|offset| set(&mut bits, *offset));
                    *chunk = Chunk::Bitmap(bits);
                }
            }
        }
    }

    /// `words` are as many as a bitmap has.
    pub(super) fn add_bitmap(&mut self, chunk: u32, words: &[u16]) {
        let mut bits = Box::new([0; NUMBERS]);
        bits.iter_mut().zip(words).for_each(|(bits, word)| *bits = *word);
        match self
            .chunks
            .entry(chunk)
            .or_insert_with(|| Chunk::Numbers(HashSet::new()))
        {
            Chunk::Bitmap(there) => there.iter_mut().zip(&bits[..]).for_each(|(there, word)| *there |= word),
            there => {
                there.numbers().for_each(|offset| set(&mut bits, offset));
                *there = Chunk::Bitmap(bits);
            }
        }
    }
}

impl Chunk {
    /// In no order.
    fn numbers(&self) -> Box<dyn Iterator<Item = u16> + '_> {
        match self {
            Chunk::Numbers(numbers) => Box::new(numbers.iter().copied()),
            Chunk::Bitmap(bits) => {
                Box::new((0..=u16::MAX).filter(|offset| bits[place(*offset).0] & place(*offset).1 != 0))
            }
        }
    }
}

fn set(bits: &mut [u16; NUMBERS], offset: u16) {
    let (word, bit) = place(offset);
    bits[word] |= bit;
}

/// The word of a bitmap in which a block's bit is, and the bit.
fn place(offset: u16) -> (usize, u16) {
    (usize::from(offset / 16), 1 << (offset % 16))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const RELATION: Locator = Locator {
        tablespace: 1663,
        database: 5,
        relation: 7,
    };

    proptest! {
        #[test]
        fn it_is_the_union_of_what_was_added(
            parts in prop::collection::vec((0u32..3, any::<bool>(), prop::collection::vec(any::<u16>(), 0..3000)), 0..6),
            limit in prop_oneof![Just(u32::MAX), 0u32..200_000],
            (first, count) in (0u32..150_000, 0u32..150_000),
        ) {
            let mut changed = ChangedBlocks::default();
            let mut blocks: BTreeSet<u32> = BTreeSet::new();
            changed.entry(RELATION).limit_to(limit);
            for (chunk, as_bitmap, offsets) in &parts {
                let entry = changed.entry(RELATION);
                if *as_bitmap {
                    let mut bits = [0; NUMBERS];
                    offsets.iter().for_each(|offset| set(&mut bits, *offset));
                    entry.add_bitmap(*chunk, &bits);
                } else {
                    entry.add(*chunk, offsets);
                }
                blocks.extend(offsets.iter().map(|offset| chunk * CHUNK_BLOCKS + u32::from(*offset)));
            }
            let expected: Vec<u32> = (first..first + count)
                .filter(|block| *block >= limit || blocks.contains(block))
                .map(|block| block - first)
                .collect();
            prop_assert_eq!(changed.of(RELATION, first, count), (limit > first).then_some(expected));
        }
    }

    #[test]
    fn a_database_that_was_made_is_changed_wholly() {
        let mut changed = ChangedBlocks::default();
        assert_eq!(changed.of(RELATION, 0, 5), Some(vec![]));
        changed
            .entry(Locator {
                relation: 0,
                ..RELATION
            })
            .limit_to(0);
        assert_eq!(changed.of(RELATION, 0, 5), None);
        let elsewhere = Locator {
            tablespace: 1,
            ..RELATION
        };
        assert_eq!(changed.of(elsewhere, 0, 5), Some(vec![]));
    }
}
