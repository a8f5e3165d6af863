use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::retention::{Before, Garbage, Gfs, Mode, Object, Request, Rule, Situation, Span, plan};

/// Segments of a timeline.
const END: u64 = 60;

/// A repository, in numbers that shrink well.
#[derive(Debug, Clone)]
struct Spec {
    /// Parent and switch point of timelines 2, 3, …
    forks: Vec<(usize, u64)>,
    /// Timelines whose history file is lost or damaged.
    lost: BTreeSet<u32>,
    damaged: BTreeSet<u32>,
    /// Timeline, first segment, length, parent if a delta, permanent, damaged.
    backups: Vec<(usize, u64, u64, Option<usize>, bool, bool)>,
    /// Segments that are not there.
    gaps: BTreeSet<(u32, u64)>,
    /// Timeline, segment, age in hours, deletion begun, delta.
    unfinished: Vec<(usize, u64, i64, bool, bool)>,
    /// Another cluster, newer and on timeline 1: backups, and where its WAL begins.
    upgraded: Option<(u64, Vec<(u64, u64)>)>,
    /// Backups of that cluster alternate with those of the first one.
    alternating: bool,
}

fn spec() -> impl Strategy<Value = Spec> {
    let rarely = || prop::bool::weighted(0.15);
    let backup = (
        0usize..4,
        2u64..END,
        0u64..3,
        prop::option::weighted(0.4, 0usize..9),
        rarely(),
        rarely(),
    );
    let unfinished = (0usize..4, 2u64..END, 0i64..48, rarely(), any::<bool>());
    let upgraded = (5u64..90, prop::collection::vec((0u64..20, 0u64..3), 0..4));
    (
        prop::collection::vec((0usize..4, 5u64..END - 5), 0..4),
        (
            prop::collection::btree_set(2u32..5, 0..2),
            prop::collection::btree_set(2u32..5, 0..2),
        ),
        prop::collection::vec(backup, 0..9),
        prop::collection::btree_set((1u32..5, 2u64..END), 0..6),
        prop::collection::vec(unfinished, 0..3),
        prop::option::weighted(0.3, upgraded),
        rarely(),
    )
        .prop_map(
            |(forks, (lost, damaged), backups, gaps, unfinished, upgraded, alternating)| Spec {
                forks,
                lost,
                damaged,
                backups,
                gaps,
                unfinished,
                upgraded,
                alternating,
            },
        )
}

fn request() -> impl Strategy<Value = Request> {
    let mode = prop_oneof![Just(Mode::Any), Just(Mode::Full), Just(Mode::FindFull)];
    let after = prop::option::of((0u64..END).prop_map(hour));
    prop_oneof![
        (1u32..5, mode, after).prop_map(|(count, mode, after)| Request::Rule(Rule::Retain { count, mode, after })),
        (0u64..END + 40, any::<bool>()).prop_map(|(at, find_full)| Request::Rule(Rule::Before {
            target: Before::Time(hour(at)),
            find_full
        })),
        (0usize..9, any::<bool>()).prop_map(|(at, find_full)| Request::Rule(Rule::Before {
            target: Before::Name(at.to_string()),
            find_full
        })),
        prop_oneof![Just(Garbage::All), Just(Garbage::Archives), Just(Garbage::Backups)].prop_map(Request::Garbage),
        (1i64..100).prop_map(|hours| Request::Rule(Rule::OutsideWindow(
            Span::new(0, 0, hours * 3_600_000_000).expect("a span")
        ))),
        (0u32..4, 0u32..3, 0u32..2, 0u32..2).prop_filter_map("nothing", |(d, w, m, y)| Gfs::new(d, w, m, y)
            .ok()
            .map(|rule| Request::Rule(Rule::Gfs(rule)))),
    ]
}

impl Spec {
    /// As timelines are: each begins in the last segment of its parent before the fork.
    fn timelines(&self) -> Vec<(TimelineHistory, u64)> {
        let mut timelines = vec![(history(1, &[]), 1)];
        for (parent, at) in &self.forks {
            let (parent, begin) = timelines[parent % timelines.len()].clone();
            let at = (*at).max(begin);
            let mut ancestors = parent.ancestors.clone();
            ancestors.push((parent.timeline, lsn(at, 800)));
            let timeline = timelines.len() as u32 + 1;
            timelines.push((TimelineHistory { timeline, ancestors }, at));
        }
        timelines
    }

    fn inventory(&self) -> Inventory {
        let timelines = self.timelines();
        let mut backups: BTreeMap<String, BackupInfo> = BTreeMap::new();
        for (timeline, first, length, parent, permanent, damaged) in &self.backups {
            let (history, begin) = &timelines[timeline % timelines.len()];
            let first = (*first).max(*begin);
            let older: Vec<&BackupInfo> = backups
                .values()
                .filter(|older| older.metadata.start_time < hour(first))
                .collect();
            let mut new = match parent {
                Some(parent) if !older.is_empty() => {
                    delta(older[parent % older.len()], history.timeline, first, first + length)
                }
                _ => backup(history.timeline, first, first + length),
            };
            if *damaged {
                new.damaged = Some("It cannot be read.".to_owned());
                new.metadata = Default::default();
                new.delta = crate::repository::inventory::parse_name(&new.name)
                    .1
                    .map(|parent| Delta {
                        parent,
                        full: None,
                        count: None,
                    });
            } else {
                new.metadata.is_permanent = *permanent;
            }
            backups.insert(new.name.clone(), new);
        }
        let mut objects = Vec::new();
        for (history, begin) in &timelines {
            objects.extend(wal(history.timeline, *begin..=END + 3));
        }
        if let Some((begin, of)) = &self.upgraded {
            objects.extend(wal(1, *begin..=begin + 25));
            for (at, length) in of {
                let mut new = backup(1, begin + at, begin + at + length);
                let later = if self.alternating { 0 } else { END };
                new.metadata.start_time = hour(begin + at + later);
                new.metadata.finish_time = hour(begin + at + length + later);
                new.written = new.metadata.finish_time;
                new.metadata.system_identifier = Some(8);
                backups.entry(new.name.clone()).or_insert(new);
            }
        }
        objects.sort_by_key(|object| object.name);
        objects.dedup_by_key(|object| object.name);
        objects.retain(|object| {
            let segment = object.name.segment();
            !segment.is_some_and(|segment| self.gaps.contains(&(segment.timeline, segment.number(SIZE))))
        });
        for (history, begin) in timelines.iter().skip(1) {
            let parent = history.parent().map_or(1, |(parent, _)| parent);
            objects.push(object(WalFileName::Partial(segment(parent, *begin)), *begin));
        }
        let histories = timelines.into_iter().skip(1).map(|(history, _)| history);
        let histories = histories
            .filter(|history| !self.lost.contains(&history.timeline))
            .collect();
        let mut inventory = inventory(backups.into_values().collect(), objects, histories);
        for timeline in &self.damaged {
            if inventory.histories.remove(timeline).is_some() {
                inventory.damaged_histories.insert(*timeline, "damaged".to_owned());
            }
        }
        inventory.unfinished = self.leftovers();
        inventory
    }

    fn leftovers(&self) -> Vec<Unfinished> {
        let folders = self.unfinished.iter().map(|(timeline, at, age, deleting, delta)| {
            let start = segment(*timeline as u32 + 1, *at);
            let name = match (delta, self.inventory_names().first()) {
                (true, Some(parent)) => format!("base_{start}_D_{}", &parent[5..29]),
                _ => format!("base_{start}"),
            };
            leftover(&name, now() - TimeDelta::hours(*age), *deleting)
        });
        // A folder is there once.
        let mut names = BTreeSet::new();
        folders.filter(|folder| names.insert(folder.name.clone())).collect()
    }

    fn inventory_names(&self) -> Vec<String> {
        let plain = Spec {
            unfinished: Vec::new(),
            ..self.clone()
        };
        plain
            .inventory()
            .backups
            .into_iter()
            .map(|backup| backup.name)
            .collect()
    }
}

fn now() -> DateTime<Utc> {
    hour(END + 100)
}

/// A name where the request has a number for one.
fn with_name(request: Request, inventory: &Inventory) -> Option<Request> {
    match request {
        Request::Rule(Rule::Before {
            target: Before::Name(at),
            find_full,
        }) => {
            let readable: Vec<&BackupInfo> = inventory.backups.iter().filter(|b| b.damaged.is_none()).collect();
            let at: usize = at.parse().ok()?;
            Some(Request::Rule(Rule::Before {
                target: Before::Name(readable.get(at)?.name.clone()),
                find_full,
            }))
        }
        request => Some(request),
    }
}

/// The WAL that recovery can use from a backup on, told by brute force.
fn leads_to(inventory: &Inventory, backup: &BackupInfo) -> BTreeSet<(u32, u64)> {
    let (Some(own), first) = (backup.timeline, backup.metadata.start_lsn.0 / SIZE.bytes()) else {
        return BTreeSet::new();
    };
    let mut timelines = BTreeSet::from([own]);
    for history in inventory.histories.values() {
        if history.leads_from(own, backup.metadata.finish_lsn) && history.timeline != own {
            let after = history.ancestors.iter().skip_while(|(of, _)| *of != own);
            timelines.extend(after.map(|(of, _)| *of));
            timelines.insert(history.timeline);
        }
    }
    let segments = |timeline: &u32| {
        let numbers = inventory.segments(*timeline).iter().filter(|number| **number >= first);
        numbers.map(|number| (*timeline, *number)).collect::<Vec<_>>()
    };
    timelines.iter().flat_map(segments).collect()
}

fn restorable(inventory: &Inventory) -> BTreeSet<String> {
    let restorable = inventory
        .backups
        .iter()
        .filter(|backup| inventory.is_restorable(backup));
    restorable.map(|backup| backup.name.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_plan_removes_what_a_kept_backup_needs(spec in spec(), request in request()) {
        let before = spec.inventory();
        let Some(request) = with_name(request, &before) else { return Ok(()) };
        // A delta at the line.
        let Ok(plan) = plan(&before, &request, &Situation::at(now())) else { return Ok(()) };

        let able = restorable(&before);
        // After each action: what is there is whole. WAL comes last and only goes, so there its end is enough.
        let backups = plan.actions.iter().filter(|action| matches!(action.object, Object::Backup { .. })).count();
        for actions in (0..=backups).chain([plan.actions.len()]) {
            let left = after(&before, &plan, actions);
            let still = restorable(&left);
            for backup in &left.backups {
                prop_assert!(
                    !able.contains(&backup.name) || still.contains(&backup.name),
                    "{} after {actions} of {:?}", backup.name, keys(&plan)
                );
            }
        }
        let left = after(&before, &plan, plan.actions.len());
        if !able.is_empty() {
            prop_assert!(matches!(request, Request::Rule(Rule::Before { .. })) || !restorable(&left).is_empty(), "none is left");
        }
        let kept: BTreeMap<&str, &str> =
            plan.kept.iter().map(|kept| (kept.name.as_str(), kept.why.as_str())).collect();
        for backup in &before.backups {
            let name = backup.name.as_str();
            prop_assert_eq!(kept.contains_key(name), left.backup(name).is_some());
            if backup.metadata.is_permanent {
                prop_assert!(kept.contains_key(name), "{name} is permanent");
            }
            if backup.damaged.is_some() || !kept.contains_key(name) {
                continue;
            }
            for link in before.chain(backup).into_iter().flatten() {
                prop_assert!(kept.contains_key(link.name.as_str()), "{name} depends on {}", link.name);
            }
            // Not those that stay for another reason than their age.
            if backup.metadata.is_permanent || kept[name].contains("depends on it") || matches!(request, Request::Rule(Rule::Gfs(_))) {
                continue;
            }
            for (timeline, number) in leads_to(&before, backup) {
                prop_assert!(left.has(segment(timeline, number)), "{name} leads to {}", segment(timeline, number));
            }
        }
        for folder in &before.unfinished {
            let young = folder.newest > now() - TimeDelta::hours(24) && !folder.deleting;
            let stays = left.unfinished.contains(folder);
            prop_assert!(stays || !young, "{} may be running", folder.name);
            prop_assert!(!stays || !folder.deleting, "the deletion of {} is not finished", folder.name);
            let Some(start) = folder.start.filter(|_| young) else { continue };
            for number in before.segments(start.timeline).iter().filter(|number| **number >= start.number(SIZE)) {
                prop_assert!(left.has(segment(start.timeline, *number)), "{} needs {number}", folder.name);
            }
        }
        // Timelines that have something left can be followed.
        let mut timelines: BTreeSet<u32> = left.wal.iter().filter_map(|object| Some(object.name.segment()?.timeline)).collect();
        timelines.extend(left.backups.iter().filter_map(|backup| backup.timeline));
        for timeline in timelines {
            prop_assert_eq!(left.histories.get(&timeline), before.histories.get(&timeline));
        }
        // Backups before WAL, WAL before history files.
        let rank = |object: &Object| match object {
            Object::Backup { .. } => 0,
            Object::Leftover { .. } => 1,
            Object::Wal(wal) if !matches!(wal.name, WalFileName::History(_)) => 2,
            _ => 3,
        };
        prop_assert!(plan.actions.is_sorted_by_key(|action| rank(&action.object)));
    }

    #[test]
    fn a_plan_that_was_applied_leaves_nothing_to_do(spec in spec(), request in request()) {
        let before = spec.inventory();
        let Some(request) = with_name(request, &before) else { return Ok(()) };
        let situation = Situation::at(now());
        let Ok(first) = plan(&before, &request, &situation) else { return Ok(()) };
        let left = after(&before, &first, first.actions.len());
        let second = plan(&left, &request, &situation);
        prop_assert!(second.is_ok(), "{second:?}");
        let second = second.unwrap_or_default();
        prop_assert!(second.actions.is_empty(), "{:?} after {:?}", keys(&second), keys(&first));
    }

    #[test]
    fn a_target_goes_with_its_dependants_and_nothing_else(spec in spec(), at in 0usize..9, find_full: bool) {
        let before = spec.inventory();
        let Some(backup) = before.backups.get(at) else { return Ok(()) };
        let request = Request::Target { name: backup.name.clone(), find_full };
        let Ok(plan) = plan(&before, &request, &Situation::at(now())) else { return Ok(()) };
        let left = after(&before, &plan, plan.actions.len());
        prop_assert!(left.backup(&backup.name).is_none());
        prop_assert_eq!(left.wal.len(), before.wal.len());
        for backup in &left.backups {
            prop_assert!(!restorable(&before).contains(&backup.name) || restorable(&left).contains(&backup.name));
        }
        prop_assert!(before.backups.iter().filter(|backup| backup.metadata.is_permanent).all(|b| left.backup(&b.name).is_some()));
    }
}
