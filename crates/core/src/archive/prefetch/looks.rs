//! When to look for the segment that recovery was told is not there. By itself it would ask again only after some seconds.

use std::time::{Duration, Instant};

/// The first pause between two looks, and the longest: each one is a request.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// As long as segments come as they came before, it is looked so often from one to the next.
const BETWEEN: u32 = 4;

#[derive(Debug)]
pub(super) struct Looks {
    /// Recovery can be made to ask again.
    are_of_use: bool,
    /// When recovery asked for this segment.
    since: Instant,
    /// How long it took until it asked for this one.
    rhythm: Duration,
    next: Instant,
    pause: Duration,
}

impl Looks {
    pub(super) fn new(are_of_use: bool, now: Instant) -> Self {
        Looks {
            are_of_use,
            since: now,
            rhythm: Duration::ZERO,
            next: now,
            pause: SHORTEST,
        }
    }

    /// Recovery has asked for another segment.
    pub(super) fn begin(&mut self, now: Instant) {
        *self = Looks {
            are_of_use: self.are_of_use,
            since: now,
            rhythm: now - self.since,
            next: now + SHORTEST,
            pause: SHORTEST,
        };
    }

    /// Is it time?
    pub(super) fn are_due(&self, now: Instant) -> bool {
        self.are_of_use && self.next <= now
    }

    /// It is looked for now.
    pub(super) fn look(&mut self, now: Instant) {
        self.next = now + self.pause;
        let most = match now - self.since < self.rhythm * 2 {
            true => (self.rhythm / BETWEEN).clamp(SHORTEST, LONGEST),
            false => LONGEST,
        };
        self.pause = (self.pause * 2).min(most);
    }

    /// Not before this time.
    pub(super) fn rest(&mut self, until: Instant) {
        self.next = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The looks of so many milliseconds, in milliseconds from when recovery asked.
    fn looks(looks: &mut Looks, asked: Instant, until: u32) -> Vec<u128> {
        let steps = (0..until).map(|ms| asked + MS * ms);
        let due = steps.filter(|now| {
            let is_due = looks.are_due(*now);
            if is_due {
                looks.look(*now);
            }
            is_due
        });
        due.map(|now| (now - asked).as_millis()).collect()
    }

    #[test]
    fn they_keep_the_rhythm_in_which_segments_come() {
        let asked = Instant::now() + MS * 800;
        let mut quick = Looks::new(true, asked - MS * 800);
        quick.begin(asked);
        // A fourth of 800 ms, and when nothing has come for twice that time, more and more seldom.
        assert_eq!(
            looks(&mut quick, asked, 6000),
            [
                50, 100, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 1800, 2200, 3000, 4000, 5000
            ]
        );
        let asked = Instant::now() + MS * 60_000;
        let mut slow = Looks::new(true, asked - MS * 60_000);
        slow.begin(asked);
        assert_eq!(
            looks(&mut slow, asked, 4000),
            [50, 100, 200, 400, 800, 1600, 2600, 3600]
        );
        let mut of_no_use = Looks::new(false, asked);
        assert_eq!(looks(&mut of_no_use, asked, 1000), [0u128; 0]);
    }
}
