//! How many files are uploaded at once.
//!
//! On a link that is narrow, one or two uploads fill it, and the oldest file, which the archiver waits for, is there soonest if
//! it has the link for itself. On a way that is long, or with a store that takes its time, many uploads at once are faster.
//! Only a trial can tell the two apart: twice as many, or one less, for as long as a number of uploads takes.

use std::time::{Duration, Instant};

/// The beginning: one sends while the other one waits for its answer.
const FIRST: usize = 2;

/// Uploads that are as quick as that keep nobody waiting: more at once do no harm.
const QUICK: Duration = Duration::from_secs(1);

/// More uploads at once must carry so much more to be worth it, and less may carry so much less: parts of a thousand.
const WORTH: u64 = 1150;
const NO_LOSS: u64 = 950;

/// Something is tried again after so many measurements.
const REST: u32 = 8;

/// The trial that is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// Nothing: what there is is measured.
    Measure,
    /// More, instead of so many with that rate.
    More(usize, u64),
    /// One less, instead of so many with that rate.
    Less(usize, u64),
}

/// The limit, and what is known of the link.
#[derive(Debug)]
pub struct Pace {
    limit: usize,
    trial: Trial,
    rest: u32,
    /// So many were begun since uploads were quick, not since they were worth it.
    quick: bool,
    /// Uploads that began before the trial, and tell nothing.
    ignore: usize,
    begun: Option<Instant>,
    count: usize,
    bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            limit: FIRST,
            trial: Trial::Measure,
            rest: 0,
            quick: false,
            ignore: 0,
            begun: None,
            count: 0,
            bytes: 0,
        }
    }
}

impl Pace {
    /// How many files may be uploaded at once, of `most` that the user allows.
    pub fn limit(&self, most: usize) -> usize {
        self.limit.clamp(1, most.max(1))
    }

    /// There was less to do than could be done: nothing can be learned from that.
    pub fn idle(&mut self) {
        self.measure(Trial::Measure, 0);
    }

    /// Uploads fail: half as many at once.
    pub fn failed(&mut self) {
        self.limit = (self.limit / 2).max(1);
        self.rest = REST;
        self.measure(Trial::Measure, self.limit);
    }

    /// An upload takes long, while so many are on their way. If all were quick before, nothing is known of the link as it is
    /// now.
    pub fn late(&mut self, running: usize) {
        if std::mem::take(&mut self.quick) {
            self.limit = self.limit.min(FIRST);
            self.measure(Trial::Measure, running);
        }
    }

    /// An upload of so many stored bytes has succeeded.
    pub fn succeeded(&mut self, now: Instant, bytes: u64, took: Duration, most: usize) {
        if took < QUICK {
            if self.limit < most {
                self.limit += 1;
            }
            self.rest = 0;
            self.quick = true;
            return self.measure(Trial::Measure, 0);
        }
        if self.ignore > 0 {
            self.ignore -= 1;
            return;
        }
        let Some(begun) = self.begun else {
            self.begun = Some(now);
            return;
        };
        self.count += 1;
        self.bytes += bytes;
        if self.count < 2 * self.limit(most) {
            return;
        }
        let ms = u64::try_from(now.saturating_duration_since(begun).as_millis()).unwrap_or(u64::MAX);
        let rate = self.bytes.saturating_mul(1000) / ms.max(1);
        self.decide(rate, most);
    }

    fn decide(&mut self, rate: u64, most: usize) {
        let limit = self.limit(most);
        self.quick = false;
        match self.trial {
            Trial::More(before, old) if rate.saturating_mul(1000) < old.saturating_mul(WORTH) => {
                self.limit = before;
                self.try_less(old);
            }
            Trial::Less(before, old) if rate.saturating_mul(1000) < old.saturating_mul(NO_LOSS) => {
                self.limit = before;
                self.rest = REST;
                self.measure(Trial::Measure, before);
            }
            Trial::Less(..) => self.try_less(rate),
            Trial::Measure if self.rest > 0 => {
                self.rest -= 1;
                self.measure(Trial::Measure, 0);
            }
            Trial::More(..) | Trial::Measure if limit < most => {
                self.limit = (limit * 2).min(most);
                self.measure(Trial::More(limit, rate), self.limit);
            }
            Trial::More(..) | Trial::Measure => self.try_less(rate),
        }
    }

    fn try_less(&mut self, rate: u64) {
        if self.limit > 1 {
            self.limit -= 1;
            self.measure(Trial::Less(self.limit + 1, rate), self.limit + 1);
        } else {
            self.rest = REST;
            self.measure(Trial::Measure, 0);
        }
    }

    fn measure(&mut self, trial: Trial, ignore: usize) {
        (self.trial, self.ignore) = (trial, ignore);
        (self.begun, self.count, self.bytes) = (None, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8;

    /// Uploads of a megabyte over a link of `link` kB a second. One upload gets `each` at most, and the store is `away`
    /// milliseconds away. Returns the limits in force during the last quarter, and the megabytes a second over all.
    fn simulate(pace: &mut Pace, files: usize, link: u64, each: u64, away: u64) -> (Vec<usize>, f64) {
        const STEP: u64 = 10;
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let (mut now, mut begun, mut done, mut seen) = (0, 0, 0, Vec::new());
        // When it began, and how many bytes are left of it.
        let mut running: Vec<(u64, u64)> = Vec::new();
        while done < files {
            while begun < files && running.len() < pace.limit(MOST) {
                running.push((now, 1_000_000));
                begun += 1;
            }
            now += STEP;
            let sending = running.iter().filter(|(_, left)| *left > 0).count() as u64;
            for (_, left) in running.iter_mut() {
                *left = left.saturating_sub((link / sending.max(1)).min(each) * STEP);
            }
            running.retain(|(from, left)| {
                let over = *left == 0 && now - from >= away + 1_000_000 / each.min(link);
                if over {
                    pace.succeeded(at(now), 1 << 20, Duration::from_millis(now - from), MOST);
                    done += 1;
                    if done > files * 3 / 4 {
                        seen.push(pace.limit(MOST));
                    }
                }
                !over
            });
        }
        (seen, files as f64 * 1000.0 / now as f64)
    }

    fn mean(limits: &[usize]) -> f64 {
        limits.iter().sum::<usize>() as f64 / limits.len() as f64
    }

    #[test]
    fn a_slow_link_is_for_few() {
        let (limits, rate) = simulate(&mut Pace::default(), 400, 200, 1000, 0);
        assert!(mean(&limits) < 2.5, "{limits:?}");
        assert!(rate > 0.19, "{rate}");
    }

    #[test]
    fn a_long_way_is_for_many() {
        // Each upload takes ten seconds, whatever the others do.
        let (limits, rate) = simulate(&mut Pace::default(), 400, 10_000, 100, 0);
        assert!(mean(&limits) > 6.5, "{limits:?}");
        assert!(rate > 0.6, "{rate}");
    }

    #[test]
    fn what_was_fast_and_is_slow_is_tried_anew() {
        let mut pace = Pace::default();
        simulate(&mut pace, 40, 10_000, 10_000, 20);
        assert_eq!(pace.limit(MOST), MOST);
        pace.late(MOST);
        assert_eq!(pace.limit(MOST), FIRST);
        // More that are tried, or were found to be worth it, are no matter of lateness.
        simulate(&mut pace, 400, 10_000, 100, 0);
        let before = pace.limit(MOST);
        pace.late(before);
        assert!(before > FIRST && pace.limit(MOST) == before);
        // And what is fast again is so at once.
        simulate(&mut pace, MOST, 10_000, 10_000, 20);
        assert_eq!(pace.limit(MOST), MOST);
    }

    #[test]
    fn a_fast_link_gets_all_at_once() {
        let (limits, _) = simulate(&mut Pace::default(), 40, 10_000, 10_000, 20);
        assert!(limits.iter().all(|limit| *limit == MOST), "{limits:?}");
    }

    #[test]
    fn what_changes_is_noticed() {
        let mut pace = Pace::default();
        simulate(&mut pace, 40, 10_000, 10_000, 20);
        let (limits, _) = simulate(&mut pace, 400, 200, 1000, 0);
        assert!(mean(&limits) < 3.0, "{limits:?}");
        let (limits, _) = simulate(&mut pace, 40, 10_000, 10_000, 20);
        assert!(limits.iter().all(|limit| *limit == MOST), "{limits:?}");
        (0..10).for_each(|_| pace.failed());
        assert_eq!(pace.limit(MOST), 1);
    }
}
