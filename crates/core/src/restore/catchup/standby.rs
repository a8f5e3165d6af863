//! Is a data directory that of a standby which the backup brings up?

use std::path::Path;

use crate::control_file::ControlFile;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::page::PAGE_BYTES;
use crate::wal::TimelineHistory;

/// The facts about the backup that count.
pub(super) struct Backup<'a> {
    pub(super) name: &'a str,
    /// It lacks what was changed before.
    pub(super) since: Lsn,
    /// Where it ends.
    pub(super) finish: Lsn,
    pub(super) timeline: u32,
    /// How its timeline came to be; none if that is not known.
    pub(super) history: Option<TimelineHistory>,
    /// Its `pg_control`.
    pub(super) control: &'a ControlFile,
}

/// Up to where its data may come from: the timeline, and the place on it.
pub(super) fn reached(standby: &ControlFile) -> (u32, Lsn) {
    match standby.min_recovery > standby.checkpoint {
        true => (standby.min_recovery_timeline, standby.min_recovery),
        false => (standby.timeline, standby.checkpoint),
    }
}

/// Refuse a directory whose pages and those of the backup do not make one state.
pub(super) fn check(directory: &Path, standby: &ControlFile, backup: &Backup<'_>) -> Result<()> {
    let (directory, name) = (directory.display(), backup.name);
    let theirs = backup.control;
    if !standby.in_recovery {
        return Err(Error::refused(
            format!("the server of directory \"{directory}\" was no standby when it was stopped"),
            "Only a standby can be brought up. Use pg_rewind for a former primary, or restore with backup-fetch."
                .to_owned(),
        ));
    }
    if (standby.pg_control_version, standby.catalog_version) != (theirs.pg_control_version, theirs.catalog_version) {
        return Err(Error::refused(
            format!("directory \"{directory}\" and backup \"{name}\" are of different versions of PostgreSQL"),
            "Restore with backup-fetch.".to_owned(),
        ));
    }
    if standby.data_checksums != theirs.data_checksums || standby.page_bytes as usize != PAGE_BYTES {
        return Err(Error::refused(
            format!("the pages of directory \"{directory}\" and those of backup \"{name}\" are not of one kind"),
            "Data checksums must be on or off in both, and pages must have 8192 bytes. Restore with backup-fetch."
                .to_owned(),
        ));
    }
    if standby.redo < backup.since {
        return Err(Error::refused(
            format!(
                "backup \"{name}\" has the changes from {} on, and directory \"{directory}\" lacks those from {} on",
                backup.since, standby.redo
            ),
            format!(
                "Take another one on the primary: catchup-push --from-lsn {}. It is the REDO location of the standby's latest \
                 checkpoint, as pg_controldata shows it.",
                standby.redo
            ),
        ));
    }
    let (timeline, lsn) = reached(standby);
    let leads = timeline == backup.timeline
        || backup
            .history
            .as_ref()
            .is_some_and(|history| history.leads_from(timeline, lsn));
    if !leads {
        return Err(Error::refused(
            format!(
                "the standby in directory \"{directory}\" has come to {lsn} on timeline {timeline}, which is not on the way to \
                 timeline {} of backup \"{name}\"",
                backup.timeline
            ),
            "Its history and the primary's have parted. Use pg_rewind, or restore with backup-fetch.".to_owned(),
        ));
    }
    if lsn > backup.finish {
        return Err(Error::refused(
            format!(
                "the standby in directory \"{directory}\" has come to {lsn}, and backup \"{name}\" ends before, at {}",
                backup.finish
            ),
            "The standby is further than the backup. Start it, or take another backup with catchup-push.".to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_file::tests::sample;

    #[test]
    fn only_a_standby_before_the_backups_end_is_brought_up() {
        let control = ControlFile::parse(&sample(16 << 20, 288)).expect("intact");
        let standby = ControlFile {
            in_recovery: true,
            redo: Lsn(100),
            checkpoint: Lsn(110),
            timeline: 1,
            min_recovery: Lsn(150),
            min_recovery_timeline: 2,
            ..control
        };
        let history = TimelineHistory {
            timeline: 3,
            ancestors: vec![(1, Lsn(130)), (2, Lsn(150))],
        };
        let ask = |standby: &ControlFile, since, finish, timeline, history: Option<&TimelineHistory>| {
            let backup = Backup {
                name: "b",
                since: Lsn(since),
                finish: Lsn(finish),
                timeline,
                history: history.cloned(),
                control: &control,
            };
            let checked = check(Path::new("/d"), standby, &backup);
            checked.map_err(|error| error.to_string())
        };
        ask(&standby, 100, 150, 2, None).expect("the same timeline");
        ask(&standby, 1, 1000, 3, Some(&history)).expect("a later one");
        let other = ControlFile {
            data_checksums: true,
            ..standby
        };
        let ahead = ControlFile {
            min_recovery: Lsn(151),
            ..standby
        };
        for (standby, since, finish, timeline, history, why) in [
            (&control, 1, 1000, 1, None, "no standby"),
            (&other, 1, 1000, 2, None, "not of one kind"),
            (&standby, 101, 1000, 2, None, "lacks those from 0/64 on"),
            (&standby, 100, 149, 2, None, "ends before"),
            (&standby, 100, 1000, 3, None, "not on the way"),
            (&ahead, 100, 1000, 3, Some(&history), "not on the way"),
        ] {
            let refused = ask(standby, since, finish, timeline, history).expect_err(why);
            assert!(refused.contains(why), "{refused}");
        }
    }
}
