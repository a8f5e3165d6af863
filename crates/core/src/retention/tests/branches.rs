//! Two servers have written into one repository, as one was a copy of the other.

use chrono::TimeDelta;

use super::*;
use crate::lease::Holder;
use crate::retention::plan::{OtherBranches, Situation};
use crate::retention::planner::plan;
use crate::retention::request::{Before, Mode, Request, Rule};

fn full(count: u32) -> Request {
    Request::retain(i64::from(count), Mode::Full, None).expect("a request")
}

fn situation(own: u32, hour_of: u64) -> Situation {
    Situation {
        own_timeline: Some(own),
        writers: vec![holder(1, "db1"), holder(2, "clone")],
        ..Situation::at(hour(hour_of))
    }
}

fn holder(timeline: u32, host: &str) -> Holder {
    Holder {
        version: 1,
        epoch: u64::from(timeline),
        instance: String::new(),
        hostname: host.to_owned(),
        data_directory: "/data".to_owned(),
        timeline,
        since: hour(0),
        how: String::new(),
        token: String::new(),
    }
}

/// The clone was made of the backup in 2, and left timeline 1 in segment 5; production went on to `last`. Both have taken backups.
fn parted(last: u64) -> Inventory {
    let wal = wal(1, 2..=last).chain(wal(2, 5..=30));
    inventory(
        vec![backup(1, 2, 2), backup(2, 20, 20)],
        wal.collect(),
        vec![history(2, &[(1, 5)])],
    )
}

#[test]
fn what_production_needs_stays_when_a_clone_deletes() {
    let inventory = parted(30);
    let drawn = plan(&inventory, &full(1), &situation(2, 30)).expect("a plan");
    assert_eq!(keys(&drawn), Vec::<String>::new());
    let kept = drawn
        .kept
        .iter()
        .find(|kept| kept.name.ends_with("000000010000000000000002"));
    let why = kept.map(|kept| kept.why.clone()).unwrap_or_default();
    assert_eq!(why, "timeline 1, written by db1:/data, needs it");
    // Named, it is refused.
    let request = Request::Target {
        name: inventory.backups[0].name.clone(),
        find_full: false,
    };
    let refused = plan(&inventory, &request, &situation(2, 30))
        .expect_err("refused")
        .to_string();
    assert!(
        refused.contains("is also needed by another server: timeline 1"),
        "{refused}"
    );
    assert!(plan(&inventory, &Request::Everything { force: false }, &situation(2, 30)).is_err());
    // And gone with --force.
    let insisted = Situation {
        others: OtherBranches::Delete,
        ..situation(2, 30)
    };
    let drawn = plan(&inventory, &full(1), &insisted).expect("a plan");
    assert!(
        keys(&drawn).contains(&"base_000000010000000000000002".to_owned()),
        "{:?}",
        keys(&drawn)
    );
}

#[test]
fn what_a_clone_needs_stays_when_production_deletes() {
    let mut inventory = parted(30);
    let newer = backup(1, 28, 28);
    inventory = Inventory::new(
        SIZE,
        inventory.backups.iter().cloned().chain([newer]).collect(),
        inventory.wal.clone(),
        inventory.histories.clone(),
    );
    let drawn = plan(&inventory, &full(1), &situation(1, 30)).expect("a plan");
    assert!(
        !keys(&drawn).contains(&"base_000000020000000000000014".to_owned()),
        "{:?}",
        keys(&drawn)
    );
    // Long after, when that branch is older than what stays and nothing was added to it, it goes.
    let late = Situation {
        now: hour(30) + TimeDelta::days(30),
        ..situation(1, 30)
    };
    let mut last = backup(1, 60, 60);
    last.metadata.start_time += TimeDelta::days(20);
    let wal: Vec<WalObject> = inventory.wal.iter().copied().chain(wal(1, 31..=70)).collect();
    let backups = inventory.backups.iter().cloned().chain([last]).collect();
    let inventory = Inventory::new(SIZE, backups, wal, inventory.histories.clone());
    let drawn = plan(&inventory, &full(1), &late).expect("a plan");
    assert!(
        keys(&drawn).contains(&"base_000000020000000000000014".to_owned()),
        "{:?}",
        keys(&drawn)
    );
}

#[test]
fn a_branch_is_named_with_its_writer() {
    let inventory = parted(30);
    let writers = situation(1, 30).writers;
    let described = |own: u32| -> Vec<String> {
        let branches = crate::lease::other_branches(&inventory, own, &writers);
        branches.iter().map(|branch| branch.describe(own)).collect()
    };
    assert_eq!(
        described(1),
        [
            "timeline 2 branched off timeline 1 at 0/5000320; it was written by clone:/data, last at \
          2024-10-05 06:00:00 UTC"
        ]
    );
    assert!(
        described(2)[0].contains("timeline 1 branched off timeline 2 at 0/5000320"),
        "{:?}",
        described(2)
    );
    assert!(described(2)[0].contains("written by db1:/data"), "{:?}", described(2));
    // A verification of the WAL tells it, on either side.
    let at = |timeline| crate::verify::Live {
        position: Some(crate::verify::Position {
            timeline,
            lsn: lsn(31, 0),
        }),
        ..crate::verify::Live::default()
    };
    for own in [1, 2] {
        let found = crate::verify::timeline(&inventory, &at(own), &writers);
        assert_eq!(found.branches, described(own));
        assert!(found.status != crate::verify::VerifyStatus::Ok);
    }
}

/// The old primary archived this before the failover: it is no branch that goes on.
#[test]
fn a_failover_is_no_branch() {
    let inventory = parted(5);
    let drawn = plan(&inventory, &full(1), &situation(2, 30)).expect("a plan");
    assert!(
        keys(&drawn).contains(&"base_000000010000000000000002".to_owned()),
        "{:?}",
        keys(&drawn)
    );
    let before = Request::Rule(Rule::Before {
        target: "base_000000020000000000000014".parse::<Before>().expect("a target"),
        find_full: false,
    });
    let drawn = plan(&inventory, &before, &situation(2, 30)).expect("a plan");
    assert!(
        keys(&drawn).contains(&"base_000000010000000000000002".to_owned()),
        "{:?}",
        keys(&drawn)
    );
}
