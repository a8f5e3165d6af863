//! The run of all checks on one store.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use walarchive_testkit::{StoreServer, TestDir};

use crate::checks::CHECKS;
use crate::place::{Place, Room};
use crate::table;

/// Why a check failed.
pub type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// The result of a check that came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Yes,
    /// The store acknowledges the request and does not do what it asks for.
    Ignored,
    /// It says that it cannot.
    No,
    /// It needs nobody for it.
    Unneeded,
}

pub type Verdict = Result<Support, Trouble>;
pub type Check = fn(Room) -> BoxFuture<'static, Verdict>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Supported,
    Ignored,
    Unsupported,
    Unneeded,
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Supported => "yes",
            Outcome::Ignored => "ignored",
            Outcome::Unsupported => "no",
            Outcome::Unneeded => "by itself",
            Outcome::Failed => "failed",
        })
    }
}

/// The repository of the checks.
pub const PREFIX: &str = "conformance";

/// A check that takes longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(240);

/// Fails the check unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($says:tt)+) => {
        if !$condition {
            return Err(format!($($says)+).into());
        }
    };
}

/// Runs every check on the store, prints a line for each, and compares the whole with the table.
#[track_caller]
pub fn conforms(store: &'static str, start: impl FnOnce(&TestDir) -> Box<dyn StoreServer>) {
    let begun = Instant::now();
    let place = Arc::new(Place::new(start));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut found = Vec::new();
    for (number, (name, check)) in CHECKS.iter().enumerate() {
        let begun = Instant::now();
        let verdict = runtime.block_on(run(&place, number, *check));
        let outcome = match &verdict {
            Ok(Support::Yes) => Outcome::Supported,
            Ok(Support::Ignored) => Outcome::Ignored,
            Ok(Support::No) => Outcome::Unsupported,
            Ok(Support::Unneeded) => Outcome::Unneeded,
            Err(_) => Outcome::Failed,
        };
        let reason = verdict.err().map(|error| format!(": {error}")).unwrap_or_default();
        println!(
            "{store}: {name}: {outcome} ({:.1} s){reason}",
            begun.elapsed().as_secs_f64()
        );
        found.push((*name, outcome));
    }
    println!("{store}: {:.1} s", begun.elapsed().as_secs_f64());
    table::compare(store, &found);
}

async fn run(place: &Arc<Place>, number: usize, check: Check) -> Verdict {
    let room = Room {
        place: place.clone(),
        store: place.open(PREFIX)?,
        folder: format!("check{number:02}"),
    };
    // A task of its own, so that a panic fails this check only.
    let task = tokio::spawn(check(room));
    match tokio::time::timeout(DEADLINE, task).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(panic)) => Err(panic.into()),
        Err(_) => Err(format!("no end within {} s", DEADLINE.as_secs()).into()),
    }
}
