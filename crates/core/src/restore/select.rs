//! Which backup to restore.

use super::target::RestoreTarget;
use crate::error::{Error, Result};
use crate::repository::inventory::BackupInfo;
use crate::wal::TimelineHistory;

/// The backup to restore, and what the user should know about the choice.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The backup.
    pub backup: BackupInfo,
    /// Sentences.
    pub notes: Vec<String>,
}

/// Choose a backup: `LATEST` is the newest one that ends before the target, on the way to the target timeline; any other
/// name is that backup, which is refused if it ends after the target. `history` is that of the target timeline, as
/// [`crate::restore::target_history`] finds it.
pub fn select_backup(
    backups: &[BackupInfo],
    wanted: &str,
    target: &RestoreTarget,
    history: Option<&TimelineHistory>,
) -> Result<Selection> {
    if wanted == "LATEST" {
        newest(backups, target, history)
    } else {
        named(backups, wanted, target, history)
    }
}

fn newest(backups: &[BackupInfo], target: &RestoreTarget, history: Option<&TimelineHistory>) -> Result<Selection> {
    let mut notes = Vec::new();
    let mut candidates: Vec<&BackupInfo> = backups.iter().collect();
    candidates.sort_by_key(|backup| backup.started());
    for backup in candidates.iter().rev() {
        let Some(reason) = unusable(backup, target, history).or_else(|| broken(backups, backup, history)) else {
            notes.extend(note(backup, target));
            return Ok(Selection {
                backup: (*backup).clone(),
                notes,
            });
        };
        notes.push(format!("Backup \"{}\" was passed over: {reason}.", backup.name));
    }
    Err(Error::NoBackup {
        message: format!("no backup can be restored to {target}"),
        hint: match notes.len() {
            0 => "There are no backups; check the storage URL and its prefix.".to_owned(),
            // The oldest one is the closest to the target.
            _ => format!(
                "{} Choose a later target or another timeline.",
                notes.swap_remove(notes.len() - 1)
            ),
        },
    })
}

fn named(
    backups: &[BackupInfo],
    wanted: &str,
    target: &RestoreTarget,
    history: Option<&TimelineHistory>,
) -> Result<Selection> {
    let backup = backups
        .iter()
        .find(|backup| backup.name == wanted)
        .ok_or_else(|| Error::NoBackup {
            message: format!("there is no backup named \"{wanted}\""),
            hint: "List the backups to see which there are.".to_owned(),
        })?;
    // A transaction with a lower ID may still have been running when the backup ended: who names a backup has decided.
    let decided = matches!(target, RestoreTarget::Xid(_)).then_some(&RestoreTarget::Latest);
    if let Some(reason) = unusable(backup, decided.unwrap_or(target), history) {
        return Err(Error::NoBackup {
            message: format!("backup \"{wanted}\" cannot be restored to {target}: {reason}"),
            hint: "Use LATEST to have the newest suitable backup chosen, or change the target.".to_owned(),
        });
    }
    Ok(Selection {
        backup: backup.clone(),
        // A restore point's age is not known, but who names a backup has decided.
        notes: match target {
            RestoreTarget::Name(_) => Vec::new(),
            _ => note(backup, target).into_iter().collect(),
        },
    })
}

/// Why a delta backup cannot be restored, as far as a listing tells.
fn broken(backups: &[BackupInfo], backup: &BackupInfo, history: Option<&TimelineHistory>) -> Option<String> {
    let mut last = backup;
    for _ in 0..=backups.len() {
        let parent = &last.delta.as_ref()?.parent;
        last = match backups.iter().find(|backup| backup.name == *parent) {
            None => return Some(format!("it is based on \"{parent}\", which is missing")),
            Some(parent) if parent.damaged.is_some() => {
                return Some(format!("it is based on \"{}\", whose metadata is damaged", parent.name));
            }
            Some(parent) => parent,
        };
        if let Some(reason) = off_the_way(last, history) {
            return Some(format!("it is based on \"{}\", which {reason}", last.name));
        }
    }
    Some("its ancestors never come to a full backup".to_owned())
}

/// Why the backup does not lead to the target.
fn unusable(backup: &BackupInfo, target: &RestoreTarget, history: Option<&TimelineHistory>) -> Option<String> {
    if backup.damaged.is_some() {
        return Some("its metadata is damaged".to_owned());
    }
    if let Some(reason) = off_the_way(backup, history) {
        return Some(format!("it {reason}"));
    }
    let metadata = &backup.metadata;
    match target {
        RestoreTarget::Time(time) if backup.finished() > *time => Some(format!(
            "it ends at {}",
            backup.finished().format("%Y-%m-%d %H:%M:%S%.f+00")
        )),
        RestoreTarget::Lsn(lsn) if metadata.finish_lsn > *lsn => {
            Some(format!("it ends at LSN {}", metadata.finish_lsn))
        }
        RestoreTarget::Xid(xid) => metadata
            .next_xid
            .filter(|next| !precedes_or_equals(*next, *xid))
            .map(|next| format!("it ends at transaction {next}")),
        _ => None,
    }
}

fn off_the_way(backup: &BackupInfo, history: Option<&TimelineHistory>) -> Option<String> {
    let (history, timeline) = (history?, backup.timeline?);
    let finish = backup.metadata.finish_lsn;
    (!history.leads_from(timeline, finish)).then(|| {
        format!(
            "ends at {finish} on timeline {timeline}, which is not on the way to timeline {}",
            history.timeline
        )
    })
}

/// Transaction IDs have 32 bits and wrap around; the upper half of a 64-bit one is its epoch. Users may give either.
fn precedes_or_equals(a: u64, b: u64) -> bool {
    (a as u32).wrapping_sub(b as u32) as i32 <= 0
}

fn note(backup: &BackupInfo, target: &RestoreTarget) -> Option<String> {
    match target {
        RestoreTarget::Name(name) => Some(format!(
            "The age of restore point \"{name}\" is not known before recovery. If it is older than backup \"{}\", name an \
             older backup.",
            backup.name
        )),
        RestoreTarget::Xid(_) if backup.metadata.next_xid.is_none() => Some(format!(
            "Backup \"{}\" does not tell its last transaction. If the target is older, name an older backup.",
            backup.name
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeZone, Utc};

    use super::*;
    use crate::formats::ExtendedMetadata;
    use crate::lsn::Lsn;
    use crate::repository::inventory::Delta;

    fn hour(hour: u32) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 20, hour, 0, 0).single().expect("a time")
    }

    fn backup(name: &str, at: u32, timeline: u32) -> BackupInfo {
        BackupInfo {
            name: name.to_owned(),
            written: hour(23),
            timeline: Some(timeline),
            delta: None,
            metadata: ExtendedMetadata {
                start_time: hour(at),
                finish_time: hour(at + 1),
                finish_lsn: Lsn(u64::from(at) * 100),
                next_xid: Some(u64::from(at) * 1000),
                ..ExtendedMetadata::default()
            },
            damaged: None,
        }
    }

    fn backups() -> Vec<BackupInfo> {
        let mut delta = backup("delta", 9, 1);
        delta.delta = Some(Delta {
            parent: "two".to_owned(),
            full: None,
            count: None,
        });
        let mut damaged = backup("damaged", 10, 1);
        damaged.damaged = Some("It is.".to_owned());
        vec![damaged, delta, backup("two", 4, 1), backup("one", 2, 1)]
    }

    fn chosen(target: &RestoreTarget) -> Result<String> {
        select_backup(&backups(), "LATEST", target, None).map(|selection| selection.backup.name)
    }

    #[test]
    fn latest_is_the_newest_that_ends_before_the_target() {
        assert_eq!(chosen(&RestoreTarget::Latest).expect("chosen"), "delta");
        assert_eq!(chosen(&RestoreTarget::Immediate).expect("chosen"), "delta");
        for (at, expected) in [
            (12, Some("delta")),
            (9, Some("two")),
            (5, Some("two")),
            (4, Some("one")),
            (3, Some("one")),
            (2, None),
        ] {
            let target = RestoreTarget::Time(hour(at).into());
            assert_eq!(chosen(&target).ok().as_deref(), expected, "{target}");
        }
        for (lsn, expected) in [(400, Some("two")), (399, Some("one")), (199, None)] {
            assert_eq!(chosen(&RestoreTarget::Lsn(Lsn(lsn))).ok().as_deref(), expected, "{lsn}");
        }
        for (xid, expected) in [
            (4000, Some("two")),
            (3999, Some("one")),
            ((7 << 32) + 4000, Some("two")),
            (1999, None),
        ] {
            assert_eq!(chosen(&RestoreTarget::Xid(xid)).ok().as_deref(), expected, "{xid}");
        }
    }

    #[test]
    fn transaction_ids_wrap_around() {
        assert!(precedes_or_equals(u64::from(u32::MAX) - 5, 10) && !precedes_or_equals(10, u64::from(u32::MAX) - 5));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let name = RestoreTarget::name("before").expect("a name");
        let selection = select_backup(&backups(), "LATEST", &name, None).expect("chosen");
        assert!(
            selection.notes.iter().any(|note| note.contains("name an older backup")),
            "{selection:?}"
        );
        let mut silent = backups();
        silent[2].metadata.next_xid = None;
        let selection = select_backup(&silent, "LATEST", &RestoreTarget::Xid(1), None).expect("chosen");
        assert!(
            selection.backup.name == "two"
                && selection
                    .notes
                    .iter()
                    .any(|note| note.contains("does not tell its last transaction"))
        );
    }

    #[test]
    fn a_named_backup_must_suit_the_target() {
        let select = |name: &str, target: &RestoreTarget| select_backup(&backups(), name, target, None);
        assert_eq!(
            select("one", &RestoreTarget::Latest).expect("chosen").backup.name,
            "one"
        );
        let late = RestoreTarget::Time(hour(4).into());
        assert!(matches!(select("two", &late), Err(Error::NoBackup { .. })));
        assert!(matches!(
            select("damaged", &RestoreTarget::Latest),
            Err(Error::NoBackup { .. })
        ));
        assert!(matches!(
            select("none", &RestoreTarget::Latest),
            Err(Error::NoBackup { .. })
        ));
        assert_eq!(
            select("delta", &RestoreTarget::Latest).expect("chosen").backup.name,
            "delta"
        );
    }

    #[test]
    fn a_delta_counts_if_its_chain_is_whole() {
        let latest =
            |backups: &[BackupInfo]| select_backup(backups, "LATEST", &RestoreTarget::Latest, None).expect("chosen");
        let mut all = backups();
        assert_eq!(latest(&all).backup.name, "delta");
        all[1].delta = Some(Delta {
            parent: "lost".to_owned(),
            full: None,
            count: None,
        });
        let chosen = latest(&all);
        assert_eq!(chosen.backup.name, "two");
        let passed = "Backup \"delta\" was passed over: it is based on \"lost\", which is missing.";
        assert!(chosen.notes.iter().any(|note| note == passed), "{:?}", chosen.notes);
        all[1].delta.as_mut().expect("a delta").parent = "damaged".to_owned();
        assert!(
            latest(&all)
                .notes
                .iter()
                .any(|note| note.contains("whose metadata is damaged"))
        );
        all[1].delta.as_mut().expect("a delta").parent = "delta".to_owned();
        assert!(
            latest(&all)
                .notes
                .iter()
                .any(|note| note.contains("never come to a full backup"))
        );
    }

    #[test]
    fn a_backup_on_a_branch_that_was_left_is_passed_over() {
        let history = TimelineHistory {
            timeline: 2,
            ancestors: vec![(1, Lsn(300))],
        };
        let select = |name| select_backup(&backups(), name, &RestoreTarget::Latest, Some(&history));
        assert_eq!(select("LATEST").expect("chosen").backup.name, "one");
        assert!(select("two").is_err());
        // A delta whose parent is such a one.
        let mut all = backups();
        all[1].timeline = Some(2);
        let chosen = select_backup(&all, "LATEST", &RestoreTarget::Latest, Some(&history)).expect("chosen");
        assert_eq!(chosen.backup.name, "one");
        let passed = "Backup \"delta\" was passed over: it is based on \"two\", which ends at 0/190 on timeline 1, which is \
                      not on the way to timeline 2.";
        assert!(chosen.notes.iter().any(|note| note == passed), "{:?}", chosen.notes);
    }
}
