//! Which chunks of a segment are stored, and which one comes next. Nothing is read or written here.
//!
//! Few chunks are there at any time: the 64th of a kind is not stored alone, but as one chunk that has all 64, and takes their place;
//! so on with 64 of those. Of a large segment each part of [`MOST_BYTES`] is dealt with by itself, and ends as one chunk.

/// The most WAL that a chunk has. A larger segment has parts of this size.
pub(super) const MOST_BYTES: u64 = 16 << 20;

/// So many chunks of a kind become one.
const FAN: usize = 64;

/// A part of a segment, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The chunks of one segment that this epoch has stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// Up to here they reach.
    end: u64,
    /// Of a large segment the first part is stored last, when there is more than that from the beginning: without it a reader takes
    /// what an older epoch has, which reaches as far as this one does only then. 0 once it is there.
    first: u64,
    /// Those of the part that is being filled: single ones, such that have 64 of them, and so on. What one of a kind has lies before
    /// all that the kinds before have.
    kinds: Vec<Vec<Span>>,
    /// They were sent, and no answer came: they may be there.
    doubtful: Vec<Span>,
}

impl Plan {
    /// A segment of which another process has stored this much.
    pub(super) fn resumed(end: u64) -> Self {
        Plan { end, ..Plan::default() }
    }

    /// What is covered, from the beginning of the segment.
    pub(super) fn covered(&self) -> u64 {
        match self.first {
            0 => self.end,
            _ => 0,
        }
    }

    /// The next chunk to store, so that in the end everything up to `to` is there. None: it is.
    pub(super) fn next(&self, to: u64, segment_bytes: u64) -> Option<Span> {
        let start = match self.end {
            0 if to > MOST_BYTES => MOST_BYTES,
            end => end,
        };
        if start >= to {
            return (self.first > 0).then_some(Span {
                start: 0,
                end: self.first,
            });
        }
        let part = start / MOST_BYTES * MOST_BYTES;
        let border = (part + MOST_BYTES).min(segment_bytes);
        let end = to.min(border);
        // A part that is full becomes one chunk, unless the whole segment is about to take its place.
        let start = match end == border && border < segment_bytes {
            true => part,
            false => self.gathered().first().map_or(start, |first| first.start),
        };
        Some(Span { start, end })
    }

    /// The chunks in whose place the next one comes, unless it fills a part.
    fn gathered(&self) -> &[Span] {
        let full = self.kinds.iter().take_while(|kind| kind.len() + 1 >= FAN).count();
        full.checked_sub(1).map_or(&[], |last| &self.kinds[last])
    }

    /// It is being sent.
    pub(super) fn sent(&mut self, span: Span) {
        if !self.doubtful.contains(&span) {
            self.doubtful.push(span);
        }
    }

    /// It is stored. Returns the chunks that nobody needs any more.
    pub(super) fn stored(&mut self, span: Span) -> Vec<Span> {
        let mut replaced = std::mem::take(&mut self.doubtful);
        replaced.retain(|other| *other != span);
        if span.start == 0 && self.first > 0 {
            self.first = 0;
            return replaced;
        }
        if self.end == 0 && span.start > 0 {
            self.first = span.start;
        }
        self.end = span.end;
        let mut kind = 0;
        for (number, chunks) in self.kinds.iter_mut().enumerate() {
            let inside = |chunk: &Span| chunk.start >= span.start;
            if chunks.iter().any(inside) {
                kind = number + 1;
                replaced.append(chunks);
            }
        }
        if span.end.is_multiple_of(MOST_BYTES) {
            self.kinds.clear();
            return replaced;
        }
        if self.kinds.len() <= kind {
            self.kinds.resize_with(kind + 1, Vec::new);
        }
        self.kinds[kind].push(span);
        replaced
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1 << 20;

    /// A store that takes every chunk.
    #[derive(Default)]
    struct Taken {
        plan: Plan,
        there: BTreeSet<(u64, u64)>,
        most: usize,
        sent: u64,
    }

    impl Taken {
        fn ship(&mut self, to: u64, size: u64) {
            while let Some(span) = self.plan.next(to, size) {
                assert!(
                    span.start < span.end && span.end <= to.max(self.plan.end),
                    "{span:?} to {to}"
                );
                assert!(span.end - span.start <= MOST_BYTES, "{span:?}");
                self.plan.sent(span);
                assert!(self.there.insert((span.start, span.end)), "{span:?} again");
                self.sent += span.end - span.start;
                self.most = self.most.max(self.there.len());
                for old in self.plan.stored(span) {
                    assert!(self.there.remove(&(old.start, old.end)), "{old:?} was not there");
                }
            }
        }

        /// As a reader finds it.
        fn covered(&self) -> u64 {
            let reach = |to: u64| {
                let further = self.there.iter().filter(|(start, _)| *start <= to);
                further.map(|(_, end)| *end).max().unwrap_or(to).max(to)
            };
            let mut to = 0;
            while reach(to) > to {
                to = reach(to);
            }
            to
        }
    }

    proptest! {
        #[test]
        fn all_up_to_the_position_is_there_in_few_chunks(
            power in 20u32..=27,
            steps in proptest::collection::vec(prop_oneof![1u64..200, 1u64..100_000, 1u64..40 * MB], 1..600),
        ) {
            let size = 1 << power;
            let (mut taken, mut to) = (Taken::default(), 0);
            for step in steps {
                to = size.min(to + step);
                taken.ship(to, size);
                prop_assert_eq!(taken.covered(), to);
                prop_assert_eq!(taken.plan.covered(), to);
                prop_assert!(taken.there.len() as u64 <= 130 + size / MOST_BYTES);
            }
        }

        #[test]
        fn what_had_no_answer_is_removed_with_the_next_chunk(lost in proptest::collection::vec(any::<bool>(), 1..300)) {
            let (mut plan, mut there) = (Plan::default(), BTreeSet::new());
            for (number, is_lost) in (1u64..).zip(lost) {
                let Some(span) = plan.next(number * 100, MB) else { panic!("there is more") };
                plan.sent(span);
                there.insert((span.start, span.end));
                if !is_lost {
                    for old in plan.stored(span) {
                        there.remove(&(old.start, old.end));
                    }
                    prop_assert_eq!(plan.covered(), number * 100);
                    prop_assert!(there.len() <= 130);
                }
            }
        }
    }

    #[test]
    fn many_small_chunks_become_few_and_each_byte_is_sent_three_times() {
        let mut taken = Taken::default();
        let (size, step) = (16 * MB, 1600);
        (1..size / step).for_each(|number| taken.ship(number * step, size));
        assert!(taken.most <= 130, "{}", taken.most);
        assert!(taken.sent <= 3 * size, "{}", taken.sent);
        // The whole is archived now.
        let before = taken.sent;
        taken.ship(size, size);
        assert!(taken.sent - before <= 64 * 64 * step, "{}", taken.sent - before);
    }

    #[test]
    fn a_part_of_a_large_segment_becomes_one_chunk() {
        let mut taken = Taken::default();
        let size = 64 * MB;
        for to in [MB, 3 * MB, 15 * MB, 33 * MB] {
            taken.ship(to, size);
        }
        let spans: Vec<_> = taken.there.iter().map(|(start, end)| (start / MB, end / MB)).collect();
        assert_eq!(spans, [(0, 16), (16, 32), (32, 33)]);
    }

    #[test]
    fn an_epoch_is_visible_when_it_has_what_the_one_before_may_have() {
        let size = 64 * MB;
        let mut taken = Taken::default();
        let mut order = Vec::new();
        for to in [40 * MB, 41 * MB] {
            while let Some(span) = taken.plan.next(to, size) {
                order.push((span.start / MB, span.end / MB));
                taken.plan.stored(span);
            }
            assert_eq!(taken.plan.covered(), to);
        }
        assert_eq!(order, [(16, 32), (32, 40), (0, 16), (40, 41)]);
    }
}
