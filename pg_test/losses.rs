//! What rounds have lost, and how that is spread.

use std::fmt;
use std::time::Duration;

use walarchive_testkit::Cluster;

use crate::commits::{Commit, rows};

/// What one round has lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// The round's seed.
    pub seed: u64,
    /// How many clients it had.
    pub clients: usize,
    /// How many commits were acknowledged.
    pub acknowledged: usize,
    /// How many of these were not restored.
    pub lost: usize,
    /// How long before the end the first of these was acknowledged.
    pub time: Duration,
}

impl Loss {
    /// Compares what was acknowledged with what a restored server has. `end` is from when on nothing more could be stored.
    ///
    /// Panics if something is missing in the middle: a commit that began once another was acknowledged comes after that one in
    /// the WAL.
    #[track_caller]
    pub fn find(seed: u64, clients: usize, commits: &[Commit], restored: &Cluster, end: Duration) -> Loss {
        let rows = rows(restored);
        let (kept, lost): (Vec<&Commit>, Vec<&Commit>) = commits.iter().partition(|commit| commit.is_in(&rows));
        let first = lost.iter().min_by_key(|commit| commit.acknowledged);
        if let Some(first) = first {
            let later = kept.iter().find(|commit| commit.begun > first.acknowledged);
            assert!(
                later.is_none(),
                "a hole: {first:?} is lost, and {later:?} is there (seed {seed})"
            );
        }
        Loss {
            seed,
            clients,
            acknowledged: commits.len(),
            lost: lost.len(),
            time: first.map_or(Duration::ZERO, |first| end.saturating_sub(first.acknowledged)),
        }
    }
}

/// How the losses of rounds of one kind are spread.
#[derive(Debug)]
pub struct Losses(Vec<Loss>);

impl Losses {
    /// Those of some rounds.
    #[track_caller]
    pub fn of(losses: impl IntoIterator<Item = Loss>) -> Losses {
        let mut losses: Vec<Loss> = losses.into_iter().collect();
        assert!(!losses.is_empty(), "there was no round");
        losses.sort_by_key(|loss| (loss.time, loss.lost));
        Losses(losses)
    }

    /// Those of the rounds with so many clients, if there were any.
    pub fn with_clients(&self, clients: usize) -> Option<Losses> {
        let mut some = self.0.iter().copied().filter(|loss| loss.clients == clients).peekable();
        some.peek().is_some().then(|| Losses::of(some))
    }

    /// How many acknowledged commits all have lost.
    pub fn lost(&self) -> usize {
        self.0.iter().map(|loss| loss.lost).sum()
    }

    /// The time that this share of the rounds does not exceed.
    pub fn within(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0[rank.max(1) - 1].time
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acknowledged: usize = self.0.iter().map(|loss| loss.acknowledged).sum();
        write!(
            f,
            "{} rounds, {acknowledged} commits acknowledged, {} lost",
            self.0.len(),
            self.lost()
        )?;
        match self.0.last() {
            Some(worst) if worst.lost > 0 => write!(
                f,
                "; seconds lost: median {:.3}, p99 {:.3}, max {:.3} (seed {})",
                self.within(50).as_secs_f64(),
                self.within(99).as_secs_f64(),
                worst.time.as_secs_f64(),
                worst.seed
            ),
            _ => Ok(()),
        }
    }
}
