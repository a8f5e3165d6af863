//! Decides on the next step: a state machine that knows no clock and no store. Its caller tells it what happened.

use chrono::{DateTime, TimeDelta, Utc};

use super::Schedule;

/// The first retry of a failed backup comes after this.
const SHORTEST_PAUSE: TimeDelta = TimeDelta::minutes(1);

/// No retry is farther away.
pub const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(1);

/// A backup of the future cannot be. One of less than this is the work of a clock that was set back a bit, and counts;
/// farther away the clock was wrong, and waiting for it to be right would be waiting for years.
const CLOCK_ERROR: TimeDelta = TimeDelta::days(1);

/// Why a backup is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is none in the repository.
    First,
    /// It was scheduled for this time.
    Scheduled(DateTime<Utc>),
    /// The last attempts, so many, failed.
    Retry(u32),
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Take a backup now.
    Due(Reason),
    /// Nothing until then.
    Wait(DateTime<Utc>),
}

/// The state of scheduled backups so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempts {
    /// All that was scheduled until then is done. None: no backup has ever been taken.
    settled: Option<DateTime<Utc>>,
    /// Attempts that failed since.
    failures: u32,
    /// When to try again after the last one.
    retry: Option<DateTime<Utc>>,
}

impl Attempts {
    /// Start from the repository: when was its newest backup complete?
    pub fn new(newest: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Self {
        let mut plan = Attempts {
            settled: None,
            failures: 0,
            retry: None,
        };
        plan.learn(newest, now);
        plan
    }

    /// The repository was looked at again. Somebody else may have taken a backup in the meantime.
    pub fn learn(&mut self, newest: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        if let Some(newest) = newest {
            let newest = if newest > now + CLOCK_ERROR { now } else { newest };
            if self.settled.is_none_or(|settled| settled < newest) {
                self.settle(newest);
            }
        }
    }

    /// A backup, scheduled or not, ended well just now: it is the one of every scheduled time that passed while it ran.
    pub fn succeeded(&mut self, now: DateTime<Utc>) {
        self.settle(now);
    }

    /// A scheduled backup was cancelled: who did so does not want it back before the next scheduled time.
    pub fn cancelled(&mut self, now: DateTime<Utc>) {
        self.settle(now);
    }

    /// A scheduled backup failed. It is tried again after a pause that doubles each time, at the latest when the next one is
    /// due.
    pub fn failed(&mut self, schedule: &Schedule, now: DateTime<Utc>) {
        self.failed_with(schedule, now, rand::random());
    }

    /// `jitter` (0 to 1) takes up to a quarter off the pause, so that the servers of one store do not come all at once.
    fn failed_with(&mut self, schedule: &Schedule, now: DateTime<Utc>, jitter: f64) {
        let doubled = SHORTEST_PAUSE * 2_i32.pow(self.failures.min(10));
        let pause = doubled.min(LONGEST_PAUSE);
        let off = pause.num_milliseconds() as f64 * jitter.clamp(0.0, 1.0) / 4.0;
        let pause = pause - TimeDelta::milliseconds(off as i64);
        self.failures = self.failures.saturating_add(1);
        self.retry = Some((now + pause).min(schedule.after(now)));
    }

    fn settle(&mut self, until: DateTime<Utc>) {
        self.settled = Some(until);
        self.failures = 0;
        self.retry = None;
    }

    /// The step to take now. Ask again when the time has come, or when something happened.
    pub fn next(&mut self, schedule: &Schedule, now: DateTime<Utc>) -> Decision {
        // The clock was set back. That must neither start what was done already nor delay what comes for long.
        if self.settled.is_some_and(|settled| settled > now + CLOCK_ERROR) {
            self.settle(now);
        }
        if self.retry.is_some_and(|retry| retry > now + LONGEST_PAUSE) {
            self.retry = Some(now + LONGEST_PAUSE);
        }
        let scheduled = self.settled.map(|settled| schedule.after(settled));
        match (scheduled, self.retry) {
            (Some(scheduled), _) if scheduled > now => Decision::Wait(scheduled),
            (_, Some(retry)) if retry > now => Decision::Wait(retry),
            (_, Some(_)) => Decision::Due(Reason::Retry(self.failures)),
            (Some(scheduled), None) => Decision::Due(Reason::Scheduled(scheduled)),
            (None, None) => Decision::Due(Reason::First),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Offset;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-{text}Z").parse().expect("a time")
    }

    fn schedule(text: &str) -> Schedule {
        text.parse::<Schedule>().expect("a schedule").in_zone(Utc.fix())
    }

    fn hourly() -> Schedule {
        schedule("0 * * * *")
    }

    #[test]
    fn without_any_backup_the_first_is_due_at_once() {
        let now = at("11-21T10:30:00");
        let mut plan = Attempts::new(None, now);
        assert_eq!(plan.next(&hourly(), now), Decision::Due(Reason::First));
        plan.succeeded(now);
        assert_eq!(plan.next(&hourly(), now), Decision::Wait(at("11-21T11:00:00")));
    }

    #[test]
    fn what_was_missed_is_caught_up_once() {
        let now = at("11-21T10:30:00");
        let mut plan = Attempts::new(Some(at("11-18T04:10:00")), now);
        let due = Decision::Due(Reason::Scheduled(at("11-18T05:00:00")));
        assert_eq!(plan.next(&hourly(), now), due);
        plan.succeeded(at("11-21T10:40:00"));
        let wait = Decision::Wait(at("11-21T11:00:00"));
        assert_eq!(plan.next(&hourly(), at("11-21T10:40:00")), wait);
    }

    #[test]
    fn a_backup_that_runs_at_a_scheduled_time_is_the_one_of_that_time() {
        let mut plan = Attempts::new(Some(at("11-21T09:10:00")), at("11-21T09:30:00"));
        // Somebody's own, from 09:50 to 11:20.
        plan.succeeded(at("11-21T11:20:00"));
        let wait = Decision::Wait(at("11-21T12:00:00"));
        assert_eq!(plan.next(&hourly(), at("11-21T11:20:00")), wait);
    }

    #[test]
    fn failures_are_retried_more_and_more_seldom() {
        let schedule = schedule("0 0 1 1 *");
        let mut now = at("11-21T10:30:00");
        let mut plan = Attempts::new(None, now);
        for (attempt, minutes) in [1, 2, 4, 8, 16, 32, 60, 60, 60].into_iter().enumerate() {
            plan.failed_with(&schedule, now, 0.0);
            let retry = now + TimeDelta::minutes(minutes);
            assert_eq!(plan.next(&schedule, now), Decision::Wait(retry), "{attempt}");
            now = retry;
            let due = Decision::Due(Reason::Retry(attempt as u32 + 1));
            assert_eq!(plan.next(&schedule, now), due, "{attempt}");
        }
        plan.succeeded(now);
        assert!(matches!(plan.next(&schedule, now), Decision::Wait(next) if next > at("12-31T00:00:00")));
        plan.failed_with(&schedule, now, 1.0);
        assert_eq!(plan.retry, Some(now + TimeDelta::seconds(45)), "from the beginning");
    }

    #[test]
    fn a_retry_is_not_later_than_the_next_scheduled_time() {
        let schedule = schedule("*/5 * * * * *");
        let now = at("11-21T10:30:01");
        let mut plan = Attempts::new(None, now);
        for _ in 0..20 {
            plan.failed(&schedule, now);
        }
        assert_eq!(plan.next(&schedule, now), Decision::Wait(at("11-21T10:30:05")));
    }

    #[test]
    fn a_cancelled_backup_does_not_come_back_before_its_time() {
        let now = at("11-21T10:30:00");
        let mut plan = Attempts::new(None, now);
        plan.cancelled(now);
        plan.learn(None, now);
        assert_eq!(plan.next(&hourly(), now), Decision::Wait(at("11-21T11:00:00")));
    }

    #[test]
    fn what_somebody_else_took_ends_the_retries() {
        let now = at("11-21T10:30:00");
        let mut plan = Attempts::new(Some(at("11-21T08:10:00")), now);
        plan.failed(&hourly(), now);
        plan.learn(Some(at("11-21T08:10:00")), now);
        assert_eq!(plan.failures, 1, "nothing new");
        plan.learn(Some(at("11-21T10:31:00")), at("11-21T10:32:00"));
        let wait = Decision::Wait(at("11-21T11:00:00"));
        assert_eq!(plan.next(&hourly(), at("11-21T10:32:00")), wait);
        assert_eq!(plan.failures, 0);
    }

    #[test]
    fn a_clock_that_jumps_back_repeats_nothing_and_delays_nothing_for_long() {
        // By an hour: what was done at 10:00 is not done again when 10:00 comes again.
        let mut plan = Attempts::new(Some(at("11-21T10:05:00")), at("11-21T09:05:00"));
        let wait = Decision::Wait(at("11-21T11:00:00"));
        assert_eq!(plan.next(&hourly(), at("11-21T09:05:00")), wait);
        assert_eq!(plan.next(&hourly(), at("11-21T10:00:00")), wait);
        // By years: the clock was wrong then.
        let future = at("11-21T10:05:00") + TimeDelta::days(3000);
        let now = at("11-21T10:05:00");
        assert_eq!(Attempts::new(Some(future), now).next(&hourly(), now), wait);
        let mut plan = Attempts::new(None, future);
        plan.succeeded(future);
        assert_eq!(plan.next(&hourly(), now), wait);
        assert_eq!(plan.next(&hourly(), at("11-21T10:59:00")), wait);
        assert!(matches!(plan.next(&hourly(), at("11-21T11:00:00")), Decision::Due(_)));
        // And so it is with retries.
        let mut plan = Attempts::new(None, future);
        plan.failed(&hourly(), future);
        assert_eq!(plan.next(&hourly(), now), Decision::Wait(now + LONGEST_PAUSE));
    }

    /// Events of a server, by the minute.
    #[derive(Debug, Clone)]
    enum Event {
        Pass(i64),
        Jump(i64),
        Fail,
        Manual,
        Restart,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            6 => (0..300_i64).prop_map(Event::Pass),
            1 => (-3000..3000_i64).prop_map(Event::Jump),
            3 => Just(Event::Fail),
            1 => Just(Event::Manual),
            1 => Just(Event::Restart),
        ];
        proptest::collection::vec(event, 1..60)
    }

    proptest! {
        /// Asked as often as one likes, after any event: backups that succeed are never more than the scheduled times that
        /// passed, and the plan never waits for longer than the next one and the error of a clock.
        #[test]
        fn there_is_never_a_storm(events in events(), every in 1..180_i64) {
            let schedule = hourly();
            let start = at("11-21T10:30:00");
            let (mut now, mut newest, mut plan) = (start, None, Attempts::new(None, start));
            let (mut taken, mut allowed, mut failing) = (0_i64, 1_i64, false);
            for event in events {
                match event {
                    Event::Pass(minutes) => {
                        let end = now + TimeDelta::minutes(minutes);
                        while now < end {
                            let before = now;
                            now = (now + TimeDelta::minutes(every)).min(end);
                            let mut tick = schedule.after(before);
                            while tick <= now {
                                allowed += 1;
                                tick = schedule.after(tick);
                            }
                            match plan.next(&schedule, now) {
                                Decision::Due(_) if failing => {
                                    plan.failed(&schedule, now);
                                    prop_assert!(matches!(plan.next(&schedule, now), Decision::Wait(_)));
                                    failing = false;
                                }
                                Decision::Due(_) => {
                                    taken += 1;
                                    newest = Some(now);
                                    plan.succeeded(now);
                                    let next = schedule.after(now);
                                    prop_assert_eq!(plan.next(&schedule, now), Decision::Wait(next));
                                }
                                Decision::Wait(until) => {
                                    prop_assert!(until > now);
                                    prop_assert!(until <= now + CLOCK_ERROR + TimeDelta::hours(1));
                                }
                            }
                        }
                    }
                    // Forward, it may pass scheduled times, which count for one.
                    Event::Jump(minutes) => {
                        now += TimeDelta::minutes(minutes);
                        allowed += 1;
                    }
                    Event::Fail => failing = true,
                    Event::Manual => {
                        newest = Some(now);
                        plan.succeeded(now);
                    }
                    Event::Restart => plan = Attempts::new(newest, now),
                }
                prop_assert!(taken <= allowed, "{taken} of {allowed}");
            }
        }
    }
}
