//! Blocks of one relation, few or many.

use std::collections::{BTreeMap, HashSet};

/// Blocks that a chunk covers.
pub(super) const CHUNK_BLOCKS: u32 = 1 << 16;

/// Numbers that a chunk has at most before it becomes a bitmap, which takes as much memory.
pub(super) const NUMBERS: usize = 4096;

/// Changed blocks that a relation has before they are kept in chunks.
const FEW: usize = 1024;

/// Numbers of blocks.
#[derive(Debug)]
pub(super) enum BlockSet {
    /// Ascending, and no more than [`FEW`].
    Few(Vec<u32>),
    Chunks(BTreeMap<u32, Chunk>),
}

/// The changed blocks of one chunk of [`CHUNK_BLOCKS`], by their places there.
#[derive(Debug)]
pub(super) enum Chunk {
    Numbers(HashSet<u16>),
    Bitmap(Box<[u16; NUMBERS]>),
}

impl BlockSet {
    /// Those from `first` on, and before `end`, ascending.
    pub(super) fn between(&self, first: u32, end: u32) -> Vec<u32> {
        match self {
            BlockSet::Few(blocks) => {
                let place = |block| blocks.partition_point(|other| *other < block);
                blocks.get(place(first)..place(end)).unwrap_or_default().to_vec()
            }
            BlockSet::Chunks(chunks) => {
                let mut found = Vec::new();
                for (number, chunk) in chunks.range(first / CHUNK_BLOCKS..=end / CHUNK_BLOCKS) {
                    let start = found.len();
                    let blocks = chunk.numbers().map(|offset| number * CHUNK_BLOCKS + u32::from(offset));
                    found.extend(blocks.filter(|block| (first..end).contains(block)));
                    found[start..].sort_unstable();
                }
                found
            }
        }
    }

    pub(super) fn add(&mut self, chunk: u32, offsets: &[u16]) {
        match self {
            BlockSet::Few(blocks) if blocks.len() + offsets.len() <= FEW => {
                let new = offsets.iter().map(|offset| chunk * CHUNK_BLOCKS + u32::from(*offset));
                blocks.reserve_exact(offsets.len());
                blocks.extend(new);
                blocks.sort_unstable();
                blocks.dedup();
            }
            _ => self.chunk(chunk).add(offsets),
        }
    }

    pub(super) fn add_bitmap(&mut self, chunk: u32, words: &[u16]) {
        self.chunk(chunk).add_bitmap(words);
    }

    /// From now on they are in chunks.
    fn chunk(&mut self, number: u32) -> &mut Chunk {
        if let BlockSet::Few(blocks) = self {
            let mut chunks: BTreeMap<u32, Chunk> = BTreeMap::new();
            for block in blocks.iter() {
                let offset = (block % CHUNK_BLOCKS) as u16;
                chunks.entry(block / CHUNK_BLOCKS).or_default().add(&[offset]);
            }
            *self = BlockSet::Chunks(chunks);
        }
        match self {
            BlockSet::Chunks(chunks) => chunks.entry(number).or_default(),
            BlockSet::Few(_) => unreachable!("they were put into chunks"),
        }
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Chunk::Numbers(HashSet::new())
    }
}

impl Chunk {
    fn add(&mut self, offsets: &[u16]) {
        match self {
            Chunk::Bitmap(bits) => offsets.iter().for_each(|offset| set(bits, *offset)),
            Chunk::Numbers(numbers) => {
                numbers.extend(offsets);
                if numbers.len() >= NUMBERS {
                    let mut bits = Box::new([0; NUMBERS]);
                    numbers.iter().for_each(|offset| set(&mut bits, *offset));
                    *self = Chunk::Bitmap(bits);
                }
            }
        }
    }

    fn add_bitmap(&mut self, words: &[u16]) {
        let mut bits = Box::new([0; NUMBERS]);
        bits.iter_mut().zip(words).for_each(|(bits, word)| *bits = *word);
        match self {
            Chunk::Bitmap(there) => there.iter_mut().zip(&bits[..]).for_each(|(there, word)| *there |= word),
            Chunk::Numbers(numbers) => {
                numbers.iter().for_each(|offset| set(&mut bits, *offset));
                *self = Chunk::Bitmap(bits);
            }
        }
    }

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

pub(super) fn set(bits: &mut [u16; NUMBERS], offset: u16) {
    let (word, bit) = place(offset);
    bits[word] |= bit;
}

/// The word of a bitmap that holds a block's bit, and the bit.
fn place(offset: u16) -> (usize, u16) {
    (usize::from(offset / 16), 1 << (offset % 16))
}
