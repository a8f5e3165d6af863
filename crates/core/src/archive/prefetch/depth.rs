//! How many segments are fetched ahead: enough for the pace of the replay, and no more.

use std::time::Duration;

/// Fewer are never fetched ahead.
const LEAST: usize = 2;

/// At the start nothing is known. What recovery waits for then, it waits for at once.
const AT_START: usize = 8;

/// Recovery that asks less often than that waits for something else.
const IDLE: Duration = Duration::from_secs(10);

/// The weight of a new figure against those before.
const WEIGHT: f64 = 0.25;

/// After so many segments in a row that were there in time, fewer may do.
const CALM: usize = 32;

/// Was the segment there when recovery asked for it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    InTime,
    Late,
}

#[derive(Debug)]
pub(super) struct Depth {
    most: usize,
    /// What has shown to be needed.
    needed: usize,
    in_time: usize,
    /// Seconds between two segments that recovery asks for.
    interval: Option<f64>,
    /// Seconds that a download takes.
    duration: Option<f64>,
}

impl Depth {
    pub(super) fn new(most: usize) -> Self {
        Depth {
            most: most.max(1),
            needed: AT_START.min(most.max(1)),
            in_time: 0,
            interval: None,
            duration: None,
        }
    }

    /// Recovery has asked for the next segment, so long after the one before.
    pub(super) fn asked(&mut self, after: Duration, came: Came) {
        if after >= IDLE {
            return;
        }
        update(&mut self.interval, after);
        match came {
            Came::Late => {
                self.needed = (self.needed * 2).min(self.most);
                self.in_time = 0;
            }
            Came::InTime => self.in_time += 1,
        }
        if self.in_time >= CALM {
            self.needed = (self.needed - 1).max(LEAST);
            self.in_time = 0;
        }
    }

    /// A download has ended.
    pub(super) fn fetched(&mut self, took: Duration) {
        update(&mut self.duration, took);
    }

    /// Segments that replay takes from the spool while one is fetched.
    fn at_a_time(&self) -> usize {
        match (self.duration, self.interval) {
            (Some(duration), Some(interval)) => (duration / interval.max(0.001)).ceil().clamp(1.0, 64.0) as usize,
            _ => LEAST,
        }
    }

    /// Segments to have ahead.
    pub(super) fn segments(&self) -> usize {
        (self.at_a_time() + 1).max(self.needed).clamp(1, self.most)
    }

    /// Downloads at a time.
    pub(super) fn downloads(&self) -> usize {
        self.at_a_time().max(self.needed / 2).clamp(1, self.most)
    }
}

fn update(figure: &mut Option<f64>, new: Duration) {
    let new = new.as_secs_f64();
    *figure = Some(figure.map_or(new, |old| old + (new - old) * WEIGHT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_replay() {
        let mut depth = Depth::new(8);
        assert_eq!((depth.segments(), depth.downloads()), (8, 4));
        for _ in 0..1000 {
            depth.fetched(Duration::from_millis(300));
            depth.asked(Duration::from_millis(100), Came::InTime);
        }
        assert_eq!((depth.segments(), depth.downloads()), (4, 3));
        depth.asked(Duration::from_millis(100), Came::Late);
        depth.asked(Duration::from_millis(100), Came::Late);
        assert_eq!(depth.segments(), 8);
        for _ in 0..1000 {
            depth.fetched(Duration::from_millis(20));
            depth.asked(Duration::from_millis(100), Came::InTime);
        }
        assert_eq!((depth.segments(), depth.downloads()), (2, 1));
        assert_eq!(Depth::new(1).segments(), 1);
    }
}
