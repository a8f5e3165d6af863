use super::*;
use crate::retention::{Before, Garbage, Gfs, Mode, Request, Rule, Situation, Span, plan};

fn now() -> DateTime<Utc> {
    hour(1000)
}

fn keys_of(inventory: &Inventory, request: Request) -> Vec<String> {
    keys(&plan(inventory, &request, &Situation::at(now())).expect("a plan"))
}

fn full(count: u32) -> Request {
    Request::Rule(Rule::Retain {
        count,
        mode: Mode::Full,
        after: None,
    })
}

fn name(timeline: u32, number: u64) -> String {
    format!("base_{}", segment(timeline, number))
}

fn segments(timeline: u32, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|number| segment(timeline, number).to_string())
        .collect()
}

#[test]
fn the_newest_are_retained_with_the_wal_from_the_oldest_of_them_on() {
    let backups = vec![backup(1, 3, 3), backup(1, 6, 7), backup(1, 10, 10)];
    let inventory = inventory(backups, wal(1, 1..=12).collect(), vec![]);
    let plan = plan(&inventory, &full(2), &Situation::at(now())).expect("a plan");
    assert_eq!(keys(&plan), [vec![name(1, 3)], segments(1, 1..=5)].concat());
    assert_eq!(plan.actions[0].why.as_ref(), "older than the 2 newest full backups");
    assert_eq!(plan.actions[1].row(false).what, "wal");
    assert_eq!(plan.kept.len(), 2);
    assert_eq!(plan.bytes(), 500);
    assert_eq!(keys_of(&inventory, full(3)), segments(1, 1..=2));
    let more = crate::retention::plan(&inventory, &full(4), &Situation::at(now())).expect("a plan");
    assert!(
        more.actions.is_empty() && more.notes[0].contains("no backup is deleted"),
        "{more:?}"
    );
}

#[test]
fn after_pg_upgrade_the_lower_timeline_is_the_newer_cluster() {
    let mut new = [backup(1, 40, 40), backup(1, 45, 45)];
    new.iter_mut()
        .for_each(|backup| backup.metadata.system_identifier = Some(8));
    let mut backups = vec![backup(5, 20, 20), backup(5, 30, 30)];
    backups.extend(new);
    let objects = wal(5, 15..=39).chain(wal(1, 40..=47)).collect();
    let inventory = inventory(backups, objects, vec![history(5, &[(1, 3), (4, 10)])]);
    assert_eq!(
        keys_of(&inventory, full(2)),
        [vec![name(5, 20), name(5, 30)], segments(5, 15..=39)].concat(),
        "the history file of the newest timeline stays"
    );
    assert_eq!(
        keys_of(&inventory, full(3)),
        [vec![name(5, 20)], segments(5, 15..=29)].concat()
    );
}

#[test]
fn where_two_clusters_alternate_no_rule_is_applied() {
    let mut other = backup(2, 5, 5);
    other.metadata.system_identifier = Some(8);
    let backups = vec![backup(1, 3, 3), other, backup(1, 10, 10)];
    let objects = wal(1, 1..=15).chain(wal(2, 1..=15)).collect();
    let inventory = inventory(backups, objects, vec![]);
    let error = plan(&inventory, &full(1), &Situation::at(now())).expect_err("refused");
    assert!(error.to_string().contains("in alternation"), "{error}");
    assert!(plan(&inventory, &Request::Garbage(Garbage::All), &Situation::at(now())).is_ok());
}

#[test]
fn a_backup_that_cannot_be_restored_does_not_count() {
    let mut damaged = backup(1, 12, 12);
    damaged.damaged = Some("It cannot be read.".to_owned());
    damaged.metadata = Default::default();
    let mut old = backup(1, 2, 2);
    old.damaged = damaged.damaged.clone();
    old.metadata = Default::default();
    let backups = vec![old, backup(1, 4, 4), backup(1, 6, 6), backup(1, 9, 10), damaged];
    let objects = wal(1, 1..=9).chain(wal(1, 11..=14)).collect();
    let inventory = inventory(backups, objects, vec![]);
    // The one of 9 lacks WAL; that of 12 is damaged; that of 2 was complete before the one of 6 began.
    let mut gone = keys_of(&inventory, full(1));
    gone.sort();
    assert_eq!(gone, [segments(1, 1..=5), vec![name(1, 2), name(1, 4)]].concat());
}

#[test]
fn deltas_and_their_ancestors_stay_together() {
    let first = backup(1, 2, 2);
    let second = backup(1, 8, 8);
    let of_first = delta(&first, 1, 4, 4);
    let late = delta(&of_first, 1, 10, 10);
    let of_second = delta(&second, 1, 12, 12);
    let backups = vec![first, of_first.clone(), second, late.clone(), of_second.clone()];
    let inventory = inventory(backups, wal(1, 1..=14).collect(), vec![]);
    assert_eq!(
        keys_of(&inventory, full(1)),
        [segments(1, [1]), segments(1, [3]), segments(1, 5..=7)].concat(),
        "a delta of the first one is newer than the second one"
    );
    let retain = |count, mode| {
        Request::Rule(Rule::Retain {
            count,
            mode,
            after: None,
        })
    };
    let error = plan(&inventory, &retain(1, Mode::Any), &Situation::at(now())).expect_err("a delta");
    assert!(error.to_string().contains(&of_second.name) && error.hint().is_some_and(|hint| hint.contains("FIND_FULL")));
    assert_eq!(
        keys_of(&inventory, retain(1, Mode::FindFull)),
        keys_of(&inventory, full(1))
    );

    let target = |name: &str, find_full| Request::Target {
        name: name.to_owned(),
        find_full,
    };
    assert_eq!(
        keys_of(&inventory, target(&of_first.name, false)),
        [late.name.clone(), of_first.name.clone()]
    );
    assert_eq!(
        keys_of(&inventory, target(&late.name, true)),
        [late.name, of_first.name, name(1, 2)]
    );
}

#[test]
fn a_permanent_backup_keeps_itself_and_its_wal_and_no_more() {
    let mut permanent = backup(1, 3, 4);
    permanent.metadata.is_permanent = true;
    let backups = vec![backup(1, 1, 1), permanent, backup(1, 6, 6), backup(1, 9, 9)];
    let inventory = inventory(backups, wal(1, 1..=10).collect(), vec![]);
    assert_eq!(
        keys_of(&inventory, full(1)),
        [vec![name(1, 1), name(1, 6)], segments(1, 1..=2), segments(1, 5..=8)].concat()
    );
    let target = Request::Target {
        name: name(1, 3),
        find_full: false,
    };
    assert!(plan(&inventory, &target, &Situation::at(now())).is_err());
    let everything = |force| plan(&inventory, &Request::Everything { force }, &Situation::at(now()));
    let refused = everything(false).expect_err("refused");
    assert_eq!(
        refused.to_string(),
        format!("1 backup is permanent: \"{}\"", name(1, 3))
    );
    assert_eq!(everything(true).expect("forced").actions.len(), 14);
}

#[test]
fn wal_of_descendants_stays_and_that_of_other_branches_goes() {
    // 2 left 1 in segment 5, 3 left 1 in segment 8; the backup is between.
    let histories = vec![history(2, &[(1, 5)]), history(3, &[(1, 8)])];
    let objects = || {
        wal(1, 1..=9)
            .chain(wal(2, 5..=9))
            .chain(wal(3, 8..=12))
            .collect::<Vec<_>>()
    };
    let backups = vec![backup(1, 1, 1), backup(1, 6, 6)];
    let known = inventory(backups.clone(), objects(), histories.clone());
    assert_eq!(
        keys_of(&known, full(1)),
        [vec![name(1, 1)], segments(1, 1..=5), segments(2, [5])].concat(),
        "what another branch has beyond the backup stays, to be safe"
    );
    // Once a backup is beyond it all, so goes the branch with its history file.
    let mut later = backups.clone();
    later.push(backup(3, 11, 11));
    let later = inventory(later, objects(), histories);
    let gone = keys_of(&later, full(1));
    assert!(gone.ends_with(&["00000002.history".to_owned()]), "{gone:?}");
    assert!(!gone.contains(&"00000003.history".to_owned()));
    // From where 3 was forked is not known: a backup on 1 may lead there.
    let unknown = inventory(later.backups.clone(), objects(), vec![]);
    let retain = keys_of(&unknown, full(2));
    assert!(!retain.contains(&segment(3, 8).to_string()), "{retain:?}");
}

#[test]
fn a_window_reaches_back_to_the_backup_before_it() {
    let backups = vec![backup(1, 700, 700), backup(1, 800, 801), backup(1, 900, 900)];
    let inventory = inventory(backups, wal(1, 699..=999).collect(), vec![]);
    let window = |hours: i64| {
        Request::Rule(Rule::OutsideWindow(
            Span::new(0, 0, hours * 3_600_000_000).expect("a span"),
        ))
    };
    let gone = |hours| {
        keys_of(&inventory, window(hours))
            .into_iter()
            .filter(|key| key.starts_with("base"))
            .count()
    };
    assert_eq!([gone(50), gone(150), gone(250), gone(350)], [2, 1, 0, 0]);
    // It must have ended before the window begins.
    assert_eq!([gone(198), gone(200)], [1, 0]);
}

#[test]
fn an_abandoned_branch_does_not_shorten_the_window() {
    // The newest backup before the window is on a branch that leads nowhere; what the window shows is on timeline 3.
    let backups = vec![backup(1, 700, 700), backup(2, 800, 800), backup(3, 950, 950)];
    let objects = wal(1, 700..=750).chain(wal(2, 750..=810)).chain(wal(3, 750..=999));
    let histories = vec![history(2, &[(1, 750)]), history(3, &[(1, 750)])];
    let inventory = inventory(backups, objects.collect(), histories);
    let window = Request::Rule(Rule::OutsideWindow(
        Span::new(0, 0, 100 * 3_600_000_000).expect("a span"),
    ));
    assert!(keys_of(&inventory, window).is_empty());
}

#[test]
fn one_a_day_a_week_a_month() {
    // One every 6 hours; the newest one is of hour 999.
    let backups: Vec<_> = (1..=166).map(|at| backup(1, at * 6, at * 6)).collect();
    let inventory = inventory(backups, wal(1, 1..=999).collect(), vec![]);
    let gfs = Request::Rule(Rule::Gfs(Gfs::new(2, 2, 2, 0).expect("a rule")));
    let plan = plan(&inventory, &gfs, &Situation::at(now())).expect("a plan");
    let why: Vec<&str> = plan.kept.iter().map(|kept| kept.why.as_str()).collect();
    assert_eq!(
        why,
        [
            "newest of month 2024-10",
            "newest of week 2024-W45",
            "newest of day 2024-11-13",
            "newest of day 2024-11-14"
        ]
    );
    let left = after(&inventory, &plan, plan.actions.len());
    assert!(left.backups.iter().all(|backup| left.is_restorable(backup)));
    let daily = left.backups[2].metadata.start_lsn.0 / SIZE.bytes();
    assert_eq!(left.segments(1).len() as u64, 2 + 999 - daily + 1);
}

#[test]
fn before_a_name_or_a_time() {
    let first = backup(1, 2, 2);
    let second = backup(1, 5, 5);
    let third = delta(&second, 1, 8, 8);
    let inventory = inventory(vec![first, second, third.clone()], wal(1, 1..=9).collect(), vec![]);
    let before = |target: &str, find_full| {
        Request::Rule(Rule::Before {
            target: target.parse().expect("a target"),
            find_full,
        })
    };
    let expected = [vec![name(1, 2)], segments(1, 1..=4)].concat();
    assert_eq!(keys_of(&inventory, before(&name(1, 5), false)), expected);
    assert_eq!(keys_of(&inventory, before(&third.name, true)), expected);
    let time = |at| {
        Request::Rule(Rule::Before {
            target: Before::Time(hour(at)),
            find_full: false,
        })
    };
    assert_eq!(keys_of(&inventory, time(4)), expected);
    assert!(keys_of(&inventory, time(10)).is_empty(), "none would be left");
    let refused = |request| plan(&inventory, &request, &Situation::at(now())).is_err();
    assert!(refused(before(&third.name, false)) && refused(time(7)) && refused(before("base_x", false)));
}

#[test]
fn garbage_is_what_no_backup_needs() {
    let mut permanent = backup(1, 2, 2);
    permanent.metadata.is_permanent = true;
    let mut inventory = inventory(
        vec![permanent.clone(), backup(1, 5, 5)],
        wal(1, 1..=9).collect(),
        vec![],
    );
    let old = now() - TimeDelta::hours(25);
    inventory.unfinished = vec![
        leftover(&name(1, 3), old, false),
        leftover(&name(1, 6), now(), false),
        leftover(&name(1, 4), now(), true),
        leftover("somebody's", old, false),
    ];
    let folders = vec![name(1, 3), name(1, 4)];
    let archives = [segments(1, [1]), segments(1, 3..=4)].concat();
    assert_eq!(
        keys_of(&inventory, Request::Garbage(Garbage::All)),
        [folders.clone(), archives.clone()].concat()
    );
    assert_eq!(keys_of(&inventory, Request::Garbage(Garbage::Backups)), folders);
    assert_eq!(
        keys_of(&inventory, Request::Garbage(Garbage::Archives)),
        [vec![name(1, 4)], archives].concat(),
        "an interrupted deletion is finished by any other"
    );
    let mut protected = Situation::at(now());
    protected.protected = vec![name(1, 3)];
    let plan = crate::retention::plan(&inventory, &Request::Garbage(Garbage::All), &protected).expect("a plan");
    assert_eq!(keys(&plan), [vec![name(1, 4)], segments(1, [1])].concat());
    // All that there is may be needed to go on from it.
    let only = crate::retention::tests::inventory(vec![permanent], wal(1, 1..=9).collect(), vec![]);
    assert!(keys_of(&only, Request::Garbage(Garbage::All)).is_empty());
    assert_eq!(
        keys_of(&only, Request::GarbageWithoutBackups(Garbage::Archives)),
        [segments(1, [1]), segments(1, 3..=9)].concat()
    );
    assert!(keys_of(&only, Request::GarbageWithoutBackups(Garbage::Backups)).is_empty());
    assert_eq!(
        keys_of(&inventory, Request::GarbageWithoutBackups(Garbage::All)),
        keys_of(&inventory, Request::Garbage(Garbage::All)),
        "with a backup it makes no difference"
    );
}

#[test]
fn a_running_backup_keeps_its_wal_and_its_parent() {
    let parent = backup(1, 2, 2);
    let mut inventory = inventory(vec![parent, backup(1, 9, 9)], wal(1, 1..=10).collect(), vec![]);
    inventory.unfinished = vec![leftover(&format!("{}_D_{}", name(1, 6), segment(1, 2)), now(), false)];
    assert_eq!(
        keys_of(&inventory, full(1)),
        [segments(1, [1]), segments(1, 3..=5)].concat()
    );
    assert!(plan(&inventory, &Request::Everything { force: false }, &Situation::at(now())).is_err());
    let target = Request::Target {
        name: name(1, 2),
        find_full: false,
    };
    assert!(plan(&inventory, &target, &Situation::at(now())).is_err());
}

#[test]
fn no_gap_is_made_in_the_history_files_above_a_backup() {
    // 2 was left at once; the server lives on 3. Recovery to the latest timeline asks for 2 before it asks for 3.
    let histories = vec![history(2, &[(1, 5)]), history(3, &[(1, 8)])];
    let objects = wal(1, 1..=9).chain(wal(2, 5..=6)).chain(wal(3, 8..=12)).collect();
    let known = inventory(vec![backup(1, 1, 1), backup(1, 7, 7)], objects, histories);
    let gone = keys_of(&known, full(1));
    assert!(gone.contains(&segment(2, 6).to_string()), "{gone:?}");
    assert!(!gone.iter().any(|key| key.ends_with(".history")), "{gone:?}");
}

#[test]
fn a_backup_during_a_promotion_keeps_its_end_on_the_new_timeline() {
    let histories = vec![history(2, &[(1, 5)])];
    let objects = wal(1, 1..=5).chain(wal(2, 5..=12)).collect();
    let mut across = backup(1, 4, 7);
    across.metadata.is_permanent = true;
    let known = inventory(vec![across, backup(2, 11, 11)], objects, histories);
    let gone = keys_of(&known, full(1));
    assert_eq!(gone, [segments(1, 1..=3), segments(2, 8..=10)].concat());
}

#[test]
fn where_the_size_of_segments_is_doubtful_all_that_follows_stays() {
    let mut permanent = backup(1, 3, 3);
    permanent.metadata.is_permanent = true;
    // Its LSN says another place than its name.
    permanent.metadata.start_lsn = lsn(12, 40);
    permanent.metadata.finish_lsn = lsn(12, 400);
    let known = inventory(vec![permanent, backup(1, 9, 9)], wal(1, 1..=12).collect(), vec![]);
    assert_eq!(keys_of(&known, full(1)), segments(1, 1..=2));
}

#[test]
fn young_wal_without_a_backup_stays_and_all_of_it_when_one_begins() {
    let histories = || vec![history(2, &[(1, 2)])];
    let objects = || wal(1, 890..=999).chain(wal(2, 985..=995)).collect::<Vec<_>>();
    let known = || inventory(vec![backup(1, 900, 900), backup(1, 998, 998)], objects(), histories());
    let gone = keys_of(&known(), full(1));
    assert!(gone.contains(&segment(1, 997).to_string()), "{gone:?}");
    assert!(!gone.contains(&segment(2, 990).to_string()), "{gone:?}");
    let mut situation = Situation::at(now());
    situation.protected.push("(about to start)".to_owned());
    let begun = plan(&known(), &full(1), &situation).expect("planned");
    assert_eq!(begun.actions.len(), 1, "only the backup: {:?}", begun.actions);
}

#[test]
fn before_leaves_a_backup_that_can_be_restored() {
    let known = inventory(vec![backup(1, 1, 1), backup(1, 5, 7)], wal(1, 1..=6).collect(), vec![]);
    let before = Request::Rule(Rule::Before {
        target: Before::Time(hour(4)),
        find_full: false,
    });
    let error = plan(&known, &before, &Situation::at(now())).expect_err("refused");
    assert!(error.to_string().contains("no backup that would remain"), "{error}");
}
