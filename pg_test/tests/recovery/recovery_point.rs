//! What is lost when the machine vanishes: rounds of a life with clients who write down what was acknowledged, an end at a random
//! moment, and a restore from the store alone.
//!
//! The seeds are 0 to 9 here; `make recovery-point` runs new ones. A failure names its seed, which `make recovery-point ROUNDS=1
//! SEED=N` repeats.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use walarchive_pg_test::losses::{Loss, Losses};
use walarchive_pg_test::site::Site;
use walarchive_pg_test::vanishing::{CLIENTS, LONG, Mode, Round, Templates};

const WITHOUT: Mode = Mode {
    name: "no tail",
    site: Site::on_files,
    settings: &[],
    is_synchronous: false,
};

const TAIL_ON_FILES: Mode = Mode {
    name: "tail of 200 ms, a directory",
    site: Site::on_files,
    settings: &[("walarchive.tail_interval", "200ms")],
    is_synchronous: false,
};

const TAIL_ON_S3: Mode = Mode {
    name: "tail of 200 ms, S3",
    site: Site::on_s3,
    settings: &[("walarchive.tail_interval", "200ms")],
    is_synchronous: false,
};

const SLOW_TAIL: Mode = Mode {
    name: "tail of 1 s, S3",
    site: Site::on_s3,
    settings: &[("walarchive.tail_interval", "1s")],
    is_synchronous: false,
};

const SYNCHRONOUS: Mode = Mode {
    name: "synchronous, S3",
    site: Site::on_s3,
    settings: &[
        ("walarchive.synchronous", "on"),
        // The operating system's user may be another one.
        ("walarchive.synchronous_conninfo", "user=postgres"),
        ("synchronous_standby_names", "walarchive"),
    ],
    is_synchronous: true,
};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// One round, with the seed in the message, whatever fails.
fn round(mode: &Mode, seed: u64, templates: &Templates) -> Loss {
    catch_unwind(AssertUnwindSafe(|| Round::new(mode, seed).run(templates))).unwrap_or_else(|panic| {
        eprintln!("{}: the seed was {seed}", mode.name);
        std::panic::resume_unwind(panic)
    })
}

/// Runs the rounds of a mode, and prints how their losses are spread.
fn rounds(mode: &Mode) -> Losses {
    let templates = Templates::make();
    let first = variable("WALARCHIVE_RECOVERY_POINT_SEED").unwrap_or(0);
    let count = variable("WALARCHIVE_RECOVERY_POINT_ROUNDS").unwrap_or(10);
    let losses = Losses::of((first..first + count).map(|seed| round(mode, seed, &templates)));
    let mut report = format!("{}: {losses}\n", mode.name);
    for clients in CLIENTS {
        if let Some(some) = losses.with_clients(clients) {
            report.push_str(&format!("{}, {clients} clients: {some}\n", mode.name));
        }
    }
    // Not by eprint!, whose text nobody sees of a test that passes.
    let _ = std::io::stderr().write_all(report.as_bytes());
    losses
}

/// What a round loses at most beside the interval, on a machine that does other things too. Less than what is lost without a
/// tail.
const SLACK: Duration = Duration::from_secs(3);

fn assert_lost_at_most(losses: &Losses, interval: Duration) {
    assert!(losses.within(100) <= interval + SLACK, "{losses}");
}

#[test]
fn without_the_tail_the_present_segment_is_lost() {
    let loss = round(&WITHOUT, 0, &Templates::make());
    assert!(loss.lost > 0 && loss.time >= LONG, "{loss:?}");
}

#[test]
fn a_tail_of_200_ms_on_files() {
    assert_lost_at_most(&rounds(&TAIL_ON_FILES), Duration::from_millis(200));
}

#[test]
fn a_tail_of_200_ms_on_s3() {
    assert_lost_at_most(&rounds(&TAIL_ON_S3), Duration::from_millis(200));
}

#[test]
fn a_tail_of_a_second() {
    assert_lost_at_most(&rounds(&SLOW_TAIL), Duration::from_secs(1));
}

#[test]
fn synchronous_commits_are_never_lost() {
    assert_eq!(rounds(&SYNCHRONOUS).lost(), 0);
}
