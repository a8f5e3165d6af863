//! In which parts an object is uploaded. S3 and Google Cloud Storage take 10 000 of them, of up to 5 GiB, and an object may
//! have 5 TB; Azure takes more, and Swift's manifests nest. Parts are small as long as the object is: each of them is held in
//! memory until it is stored.

/// The size of the parts in which large objects are uploaded and downloaded, in bytes. S3 allows 10 000 parts.
pub const PART_BYTES: u64 = 8 << 20;

/// The limits of S3 and Google Cloud Storage for one part, in bytes.
const LARGEST: u64 = 5 << 30;
/// The largest part that may be on its way together with others, in bytes.
const SMALL: u64 = 64 << 20;
/// Sizes are multiples of this, in bytes.
const UNIT: u64 = 1 << 20;
/// An object whose size is known has no more parts than this, with room for headers and padding of its members.
const PLANNED: u64 = 9_000;
/// From which part on they grow if nobody knows how large the object will be, and by how much from each part to the next, in
/// bytes: so that the last one makes 5 TB full.
const GROWS_AFTER: u64 = 2_000;
const STEP: u64 = 168 << 10;

/// The sizes of the parts of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    base: u64,
    grows_after: u64,
    step: u64,
}

impl Parts {
    /// An object of unknown size.
    pub(crate) const UNKNOWN: Parts = Parts {
        base: PART_BYTES,
        grows_after: GROWS_AFTER,
        step: STEP,
    };

    /// Of an object that will have about that many bytes, or fewer. All parts have one size, since some servers want that,
    /// and only an object that becomes larger after all has larger ones at its end.
    pub(crate) fn of(bytes: u64) -> Self {
        let base = bytes
            .div_ceil(PLANNED)
            .next_multiple_of(UNIT)
            .clamp(PART_BYTES, LARGEST);
        match base {
            // It may have grown since somebody looked.
            PART_BYTES if bytes < PART_BYTES * GROWS_AFTER / 2 => Parts::UNKNOWN,
            base => Parts {
                base,
                grows_after: PLANNED + 500,
                step: base / 8,
            },
        }
    }

    /// The same, in parts of a test.
    #[cfg(test)]
    pub(crate) fn small(base: u64, grows_after: u64, step: u64) -> Self {
        Parts {
            base,
            grows_after,
            step,
        }
    }

    /// The bytes of a part; the first one has the number 0.
    pub(crate) fn size(&self, number: u64) -> u64 {
        let grown = number.saturating_sub(self.grows_after).saturating_mul(self.step);
        self.base.saturating_add(grown).min(LARGEST)
    }
}

/// How many parts may be on their way at a time, when one of this size is to be sent.
pub(crate) fn in_flight(bytes: u64, usual: usize) -> usize {
    if bytes > SMALL { 1 } else { usual }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit of S3 and Google Cloud Storage for one object.
    const MOST_PARTS: u64 = 10_000;
    const GIB: u64 = 1 << 30;
    const TB: u64 = 1_000_000_000_000;

    /// The number of parts, and the largest of them.
    fn parts(plan: Parts, bytes: u64) -> (u64, u64) {
        let (mut left, mut number, mut largest) = (bytes, 0, 0);
        while left > 0 {
            let size = plan.size(number);
            largest = largest.max(size.min(left));
            left = left.saturating_sub(size);
            number += 1;
        }
        (number, largest)
    }

    #[test]
    fn every_object_up_to_five_terabytes_fits() {
        for bytes in [1, GIB, 15 * GIB, 78 * GIB, 79 * GIB, 200 * GIB, TB, 5 * TB, 5 << 40] {
            let (number, largest) = parts(Parts::of(bytes), bytes);
            assert!(number <= MOST_PARTS, "{bytes} bytes in {number} parts");
            assert!(
                largest <= PART_BYTES.max(bytes / 8_000),
                "{bytes} bytes in parts of {largest}"
            );
            let (number, largest) = parts(Parts::UNKNOWN, bytes);
            assert!(number <= MOST_PARTS, "{bytes} unknown bytes in {number} parts");
            assert!(largest <= 2 * GIB, "{bytes} unknown bytes in parts of {largest}");
        }
        // Half as much again as somebody thought.
        for bytes in [79 * GIB, TB, 3 * TB] {
            let (number, _) = parts(Parts::of(bytes), bytes / 2 * 3);
            assert!(number <= MOST_PARTS, "{number}");
        }
    }

    #[test]
    fn usual_objects_have_small_parts_of_one_size() {
        for bytes in [0, 1 << 20, GIB, 8 * GIB, 70 * GIB] {
            assert_eq!(
                parts(Parts::of(bytes), bytes.max(1)).1.max(PART_BYTES),
                PART_BYTES,
                "{bytes}"
            );
        }
        let plan = Parts::of(TB);
        assert!((0..PLANNED).all(|number| plan.size(number) == plan.size(0)));
        assert_eq!((in_flight(PART_BYTES, 2), in_flight(plan.size(0), 2)), (2, 1));
    }
}
