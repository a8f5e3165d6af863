//! Which blocks were changed, of all relations that were.

use std::collections::HashMap;

use super::chunks::{BlockSet, CHUNK_BLOCKS};
use crate::backup::delta::relation::Locator;

/// The sum of the summaries of a range of WAL. A relation takes some 40 bytes, and 50 more if more than one of its blocks was
/// changed. Each block takes four bytes. In a relation with many changes it is two for each block that was changed, or an
/// eighth of a byte for each block of the relation, whichever is less.
#[derive(Debug, Default)]
pub(in crate::backup::delta) struct ChangedBlocks {
    relations: HashMap<Locator, Changed>,
    /// Relations that do not fit into [`Changed`].
    others: Vec<Blocks>,
}

/// One relation's main fork. There are as many as the cluster has relations, so it is small.
#[derive(Debug, Clone, Copy)]
enum Changed {
    /// Of blocks below this one none was changed; it was made again or cut off there, so all from there on were.
    From(u32),
    /// This block and no other.
    Only(u32),
    /// The entry of [`ChangedBlocks::others`] with this number.
    Other(u32),
}

/// The changes of a relation.
#[derive(Debug)]
struct Blocks {
    /// It was made again or cut off there: all blocks from here on are changed.
    limit: u32,
    /// The others that were.
    below: BlockSet,
}

/// One relation, to be added to.
pub(super) struct RelationBlocks<'a> {
    changed: &'a mut Changed,
    others: &'a mut Vec<Blocks>,
}

impl ChangedBlocks {
    /// That of a relation.
    pub(super) fn entry(&mut self, locator: Locator) -> RelationBlocks<'_> {
        RelationBlocks {
            changed: self.relations.entry(locator).or_insert(Changed::From(u32::MAX)),
            others: &mut self.others,
        }
    }

    /// Was the whole directory of this relation made since?
    fn whole_database(&self, locator: Locator) -> bool {
        self.relations.contains_key(&Locator { relation: 0, ..locator })
    }

    /// The blocks that were changed in a file of `count` blocks whose first block has the number `first` in its relation: by
    /// their numbers in the file, ascending. None: all of them, as the file was made since.
    pub(in crate::backup::delta) fn of(&self, locator: Locator, first: u32, count: u32) -> Option<Vec<u32>> {
        if self.whole_database(locator) {
            return None;
        }
        let changed = match self.relations.get(&locator) {
            None => return Some(Vec::new()),
            Some(changed) => *changed,
        };
        let limit = match changed {
            Changed::From(limit) => limit,
            Changed::Only(_) => u32::MAX,
            Changed::Other(at) => self.others[at as usize].limit,
        };
        if limit <= first {
            return None;
        }
        let end = first.saturating_add(count).min(limit);
        let mut found = match changed {
            Changed::From(_) => Vec::new(),
            Changed::Only(block) => Vec::from_iter((first..end).contains(&block).then_some(block)),
            Changed::Other(at) => self.others[at as usize].below.between(first, end),
        };
        found.iter_mut().for_each(|block| *block -= first);
        found.extend(end - first..count);
        Some(found)
    }
}

impl RelationBlocks<'_> {
    pub(super) fn limit_to(&mut self, block: u32) {
        match self.changed {
            Changed::From(limit) => *limit = block.min(*limit),
            Changed::Only(_) if block == u32::MAX => {}
            Changed::Only(_) | Changed::Other(_) => {
                let blocks = self.blocks();
                blocks.limit = blocks.limit.min(block);
            }
        }
    }

    pub(super) fn add(&mut self, chunk: u32, offsets: &[u16]) {
        let first = chunk * CHUNK_BLOCKS;
        match (*self.changed, offsets) {
            (_, []) => {}
            // Blocks beyond the limit are changed anyway: a relation that was made again needs no more words.
            (Changed::From(limit), _) if limit <= first => {}
            (Changed::From(u32::MAX), [offset]) => *self.changed = Changed::Only(first + u32::from(*offset)),
            (Changed::Only(block), [offset]) if block == first + u32::from(*offset) => {}
            _ => self.blocks().below.add(chunk, offsets),
        }
    }

    /// `words` are as many as a bitmap has.
    pub(super) fn add_bitmap(&mut self, chunk: u32, words: &[u16]) {
        match self.changed {
            Changed::From(limit) if *limit <= chunk * CHUNK_BLOCKS => {}
            _ => self.blocks().below.add_bitmap(chunk, words),
        }
    }

    /// As one of the others, which it becomes.
    fn blocks(&mut self) -> &mut Blocks {
        let (limit, few) = match *self.changed {
            Changed::Other(at) => return &mut self.others[at as usize],
            Changed::From(limit) => (limit, Vec::new()),
            Changed::Only(block) => (u32::MAX, vec![block]),
        };
        let at = self.others.len();
        // There are not more relations than numbers for them.
        *self.changed = Changed::Other(at as u32);
        self.others.push(Blocks {
            limit,
            below: BlockSet::Few(few),
        });
        &mut self.others[at]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::backup::delta::summaries::chunks::{NUMBERS, set};

    const RELATION: Locator = Locator {
        tablespace: 1663,
        database: 5,
        relation: 7,
    };

    /// Some offsets: mostly one or a few, sometimes many.
    fn offsets() -> impl Strategy<Value = Vec<u16>> {
        prop_oneof![
            prop::collection::vec(any::<u16>(), 1..2),
            prop::collection::vec(0u16..4, 0..9),
            prop::collection::vec(any::<u16>(), 0..3000),
        ]
    }

    proptest! {
        #[test]
        fn it_is_the_union_of_what_was_added(
            parts in prop::collection::vec((0u32..3, 0u8..4, offsets()), 0..9),
            (limit, at) in (prop_oneof![Just(u32::MAX), Just(0), 0u32..200_000], 0usize..9),
            (first, count) in (0u32..150_000, 0u32..150_000),
        ) {
            let mut changed = ChangedBlocks::default();
            let mut blocks: BTreeSet<u32> = BTreeSet::new();
            let mut limit_now = u32::MAX;
            for (part, (chunk, kind, offsets)) in parts.iter().enumerate() {
                let mut entry = changed.entry(RELATION);
                if part == at {
                    limit_now = limit;
                }
                entry.limit_to(limit_now);
                if *kind == 0 {
                    let mut bits = [0; NUMBERS];
                    offsets.iter().for_each(|offset| set(&mut bits, *offset));
                    entry.add_bitmap(*chunk, &bits);
                } else {
                    entry.add(*chunk, offsets);
                }
                blocks.extend(offsets.iter().map(|offset| chunk * CHUNK_BLOCKS + u32::from(*offset)));
            }
            let expected: Vec<u32> = (first..first + count)
                .filter(|block| *block >= limit_now || blocks.contains(block))
                .map(|block| block - first)
                .collect();
            prop_assert_eq!(changed.of(RELATION, first, count), (limit_now > first).then_some(expected));
        }
    }

    /// The bytes that it takes: a hash table with its control bytes, a piece of memory with the allocator's share.
    fn bytes(changed: &ChangedBlocks) -> usize {
        let pieces = changed.others.iter().map(|blocks| match &blocks.below {
            BlockSet::Few(blocks) if blocks.capacity() == 0 => 0,
            BlockSet::Few(blocks) => (blocks.capacity() * size_of::<u32>() + 8).max(32),
            BlockSet::Chunks(_) => panic!("there are few"),
        });
        changed.relations.capacity() / 7 * 8 * (size_of::<(Locator, Changed)>() + 1)
            + changed.others.capacity() * size_of::<Blocks>()
            + pieces.sum::<usize>()
    }

    /// Two summaries that both name a million relations.
    fn million(offsets: &[u16]) -> ChangedBlocks {
        let mut changed = ChangedBlocks::default();
        for number in (1..=1_000_000).chain(1..=1_000_000) {
            let mut entry = changed.entry(Locator {
                relation: number,
                ..RELATION
            });
            entry.limit_to(u32::MAX);
            entry.add(0, offsets);
        }
        let blocks = offsets.iter().map(|offset| u32::from(*offset)).collect();
        assert_eq!(changed.of(RELATION, 0, 1000), Some(blocks));
        changed
    }

    #[test]
    fn a_million_relations_of_one_changed_block_take_little_memory() {
        let found = bytes(&million(&[7]));
        assert!(found < 45 << 20, "{found}");
    }

    #[test]
    fn a_million_relations_of_some_changed_blocks_take_little_memory() {
        let found = bytes(&million(&[7, 9, 500]));
        assert!(found < 120 << 20, "{found}");
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
