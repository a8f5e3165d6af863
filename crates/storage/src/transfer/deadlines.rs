//! How long moving bytes may take where nobody can tell how far it is.

use std::time::Duration;

/// The bytes that a file system must move in a second, not to be given up: it does not tell how far it is. A part of 8 MB then
/// has two minutes, a WAL segment of 16 MB has four.
pub(crate) const SLOWEST: u64 = 64 << 10;

/// The time that so many bytes may take at that many bytes a second.
pub(crate) fn time_at(rate: u64, bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::parts::PART_BYTES;

    #[test]
    fn a_slow_link_has_the_time_that_it_needs() {
        assert_eq!(time_at(SLOWEST, 0), Duration::ZERO);
        assert_eq!(time_at(SLOWEST, PART_BYTES), Duration::from_secs(128));
        // Nothing overflows, whatever a server says about the size of an object.
        assert!(time_at(SLOWEST, u64::MAX) > Duration::from_secs(1 << 30));
    }
}
