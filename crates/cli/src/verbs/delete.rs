//! `delete`, with WAL-G's words.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use tokio_util::sync::CancellationToken;
use walarchive_core::printable::counted;
use walarchive_core::repository::inventory::{find_backup, find_by_user_data};
use walarchive_core::retention::{
    self, Action, Before, Confirmed, Deletion, DeletionPlan, DeletionProgress, Mode, Object, Order, OtherBranches,
    Request, Rule,
};
use walarchive_core::wal::WalFileName;
use walarchive_core::{Error, Result};

use crate::print::plain;
use crate::repository::writer::{forget, writable};
use crate::repository::{self, Storage};
use crate::{exit, print, progress};

/// `delete`.
#[derive(Debug, clap::Args)]
pub struct Delete {
    #[command(subcommand)]
    what: What,
    /// Delete. Without it the plan is shown, and nothing else is done.
    #[arg(long, global = true)]
    confirm: bool,
    /// Order backups by the time at which they started. This is always done; the flag is WAL-G's.
    #[arg(long, global = true)]
    use_sentinel_time: bool,
}

/// The kind of deletion.
#[derive(Debug, Subcommand)]
enum What {
    /// Keep the newest backups: [FULL|FIND_FULL] N.
    ///
    /// FULL counts full backups, and keeps their deltas. Without FULL all backups count. If the oldest one to keep is a
    /// delta, FIND_FULL keeps its full backup as well; without FIND_FULL that is an error.
    Retain(Retain),
    /// Delete backups and WAL that are older than a backup or a time: [FIND_FULL] NAME|TIME.
    Before(Words),
    /// Delete one backup and the backups that depend on it: [FIND_FULL] NAME. WAL is not touched.
    Target(Target),
    /// Delete all backups and all WAL: [FORCE].
    ///
    /// Fails if permanent backups exist, or one may be running. FORCE deletes them too, and all that walarchive has stored for
    /// itself, so that nothing is left.
    Everything(Words),
    /// Delete objects that no backup needs: [ARCHIVES|BACKUPS].
    ///
    /// WAL is only deleted if there is a backup that is not permanent.
    Garbage(Unneeded),
    /// Keep all that a restore to any moment of the last span of time needs, for example '14 days'.
    OutsideWindow(Words),
    /// Keep the newest backup of each of the last days, weeks, months and years having one, for example 7,4,12,5.
    Gfs(Words),
}

/// Of all of them.
#[derive(Debug, clap::Args)]
struct Common {
    /// Also delete objects that another branch of the history needs, for example the server that this one was copied from.
    #[arg(long)]
    force: bool,
    /// Print a JSON array with a row for each object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    storage: Storage,
}

#[derive(Debug, clap::Args)]
struct Words {
    /// What to delete; see the description of the verb.
    #[arg(num_args = 0..=2)]
    words: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Retain {
    #[command(flatten)]
    words: Words,
    /// Never delete backups that started then or later, for example 2026-11-20T10:00:00Z, or a backup and those that are newer.
    #[arg(short, long, value_name = "TIME|NAME", value_parser = |text: &str| text.parse::<Before>().map_err(|error| error.to_string()))]
    after: Option<Before>,
}

#[derive(Debug, clap::Args)]
struct Target {
    #[command(flatten)]
    words: Words,
    /// The backup with this user data, in place of its name.
    #[arg(long, value_name = "JSON")]
    target_user_data: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Unneeded {
    #[command(flatten)]
    words: Words,
    /// Delete WAL even if all backups are permanent. WAL that permanent backups need stays.
    #[arg(long)]
    without_backup_check: bool,
}

impl What {
    fn words(&self) -> &Words {
        match self {
            What::Retain(retain) => &retain.words,
            What::Target(target) => &target.words,
            What::Garbage(garbage) => &garbage.words,
            What::Before(words) | What::Everything(words) | What::OutsideWindow(words) | What::Gfs(words) => words,
        }
    }

    /// `after` is the time of --after, `named` the backup that --target-user-data has found.
    fn request(&self, after: Option<DateTime<Utc>>, named: Option<&str>) -> Result<Request> {
        let words: Vec<&str> = self.words().words.iter().map(String::as_str).collect();
        let usage =
            |usage: &str| Error::config("the words after the verb are not understood", format!("Write {usage}."));
        // The mode, and what it is about.
        let split = |text: &str| match words[..] {
            [word] => Ok((Mode::Any, word.to_owned())),
            [mode, word] => Ok((mode.parse::<Mode>()?, word.to_owned())),
            _ => Err(usage(text)),
        };
        let optional = |text: &str| match words[..] {
            [] => Ok(""),
            [word] => Ok(word),
            _ => Err(usage(text)),
        };
        match self {
            What::Retain(_) => {
                let text = "\"delete retain [FULL|FIND_FULL] N\"";
                let (mode, count) = split(text)?;
                Request::retain(count.parse().map_err(|_| usage(text))?, mode, after)
            }
            What::Before(_) => {
                let (mode, target) = split("\"delete before [FIND_FULL] NAME|TIME\"")?;
                Ok(Request::Rule(Rule::Before {
                    target: target.parse()?,
                    find_full: mode.is_find_full()?,
                }))
            }
            What::Target(_) => {
                let (mode, name) = match (named, &words[..]) {
                    (Some(name), []) => (Mode::Any, name.to_owned()),
                    (Some(name), [mode]) => (mode.parse()?, name.to_owned()),
                    (Some(_), _) => return Err(usage("\"delete target [FIND_FULL] --target-user-data JSON\"")),
                    (None, _) => {
                        split("\"delete target [FIND_FULL] NAME\", or --target-user-data in place of the name")?
                    }
                };
                Ok(Request::Target {
                    name,
                    find_full: mode.is_find_full()?,
                })
            }
            What::Everything(_) => match optional("\"delete everything [FORCE]\"")? {
                "" => Ok(Request::Everything { force: false }),
                word if word.eq_ignore_ascii_case("FORCE") => Ok(Request::Everything { force: true }),
                _ => Err(usage("\"delete everything [FORCE]\"")),
            },
            What::Garbage(garbage) => {
                let what = optional("\"delete garbage [ARCHIVES|BACKUPS]\"")?.parse()?;
                Ok(match garbage.without_backup_check {
                    true => Request::GarbageWithoutBackups(what),
                    false => Request::Garbage(what),
                })
            }
            What::OutsideWindow(_) => Ok(Request::Rule(Rule::OutsideWindow(words.join(" ").parse()?))),
            What::Gfs(_) => Ok(Request::Rule(Rule::Gfs(optional("\"delete gfs 7,4,12,5\"")?.parse()?))),
        }
    }
}

/// Plan, show, and delete if that is confirmed.
pub async fn run(args: &Delete) -> Result<ExitCode> {
    let common = &args.what.words().common;
    let (after, named) = look_up(args).await?;
    let request = match args.what.request(after, named.as_deref()) {
        Ok(request) => request,
        Err(error) => {
            exit::print(&error);
            return Ok(ExitCode::from(exit::USAGE));
        }
    };
    let store = match args.confirm {
        true => writable(&common.storage).await?,
        false => repository::store(&common.storage).await?,
    };
    let patient = match args.confirm {
        true => Some(repository::patient_store(&common.storage).await?.with_fence_of(&store)),
        false => None,
    };
    let (progress, cancel) = (DeletionProgress::default(), CancellationToken::new());
    let confirmed = patient.as_ref().map(|store| Confirmed {
        store,
        progress: &progress,
        cancel: &cancel,
    });
    let order = Order {
        request: &request,
        protected: &[],
        others: match common.force {
            true => OtherBranches::Delete,
            false => OtherBranches::Keep,
        },
    };
    let notes = |plan: &DeletionPlan| {
        let notes = plan.notes.iter();
        notes.for_each(|note| eprintln!("walarchive: note: {}", plain(note)));
    };
    let work = Box::pin(retention::delete(&store, order, confirmed, notes));
    let deletion = progress::show_deletion(&progress, work).await?;
    if args.confirm && request == (Request::Everything { force: true }) {
        forget(&common.storage).await?;
    }
    match common.json {
        true => print_json(&deletion)?,
        false => print::out(&table(&deletion))?,
    }
    let Some(applied) = deletion.applied else {
        if !deletion.plan.actions.is_empty() {
            eprintln!("walarchive: nothing was deleted; add --confirm to delete");
        }
        return Ok(ExitCode::SUCCESS);
    };
    for spared in &applied.spared {
        eprintln!(
            "walarchive: warning: \"{}\" was not deleted: {}",
            plain(&spared.name),
            plain(&spared.why)
        );
    }
    if applied.spared.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("HINT:  No WAL was deleted. Run the same command again for a new plan.");
    Ok(ExitCode::from(exit::FAILED))
}

/// The questions to the repository before the words can be understood.
async fn look_up(args: &Delete) -> Result<(Option<DateTime<Utc>>, Option<String>)> {
    let storage = &args.what.words().common.storage;
    match &args.what {
        What::Retain(Retain { after: Some(after), .. }) => match after {
            Before::Time(time) => Ok((Some(*time), None)),
            Before::Name(name) => {
                let backup = find_backup(&repository::store(storage).await?, name).await?;
                Ok((Some(backup.started()), None))
            }
        },
        What::Target(Target {
            target_user_data: Some(data),
            ..
        }) => {
            let backup = find_by_user_data(&repository::store(storage).await?, data).await?;
            Ok((None, Some(backup.name)))
        }
        _ => Ok((None, None)),
    }
}

/// Row by row: there may be hundreds of thousands.
fn print_json(deletion: &Deletion) -> Result<()> {
    for (index, row) in deletion.rows().enumerate() {
        let row = serde_json::to_string(&row).unwrap_or_default();
        print::piece(&format!("{}{row}", if index == 0 { "[" } else { ",\n " }))?;
    }
    print::out(if deletion.plan.actions.is_empty() { "[]" } else { "]" })
}

/// Consecutive WAL files with one reason are one row.
struct Line<'a> {
    first: &'a Action,
    last: &'a Action,
    count: usize,
    size: u64,
    deleted: bool,
}

fn lines(deletion: &Deletion) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (index, action) in deletion.plan.actions.iter().enumerate() {
        let deleted = deletion.is_deleted(index);
        match lines.last_mut() {
            Some(line) if line.deleted == deleted && follows(line.last, action) => {
                line.last = action;
                line.count += 1;
                line.size = line.size.saturating_add(action.size);
            }
            _ => lines.push(Line {
                first: action,
                last: action,
                count: 1,
                size: action.size,
                deleted,
            }),
        }
    }
    lines
}

/// Both are segments of one timeline, or chunks of one segment: nothing that stays is between them, or the line would name it.
fn follows(before: &Action, action: &Action) -> bool {
    if let (Object::Tail(before), Object::Tail(action)) = (&before.object, &action.object) {
        return before.chunk.segment == action.chunk.segment && before.chunk.epoch == action.chunk.epoch;
    }
    let segment = |action: &Action| match &action.object {
        Object::Wal(object) => match object.name {
            WalFileName::Segment(segment) => Some(segment),
            _ => None,
        },
        _ => None,
    };
    match (segment(before), segment(action)) {
        (Some(before), Some(after)) => {
            let next = before.log == after.log && before.seg.checked_add(1) == Some(after.seg);
            let wraps = before.log.checked_add(1) == Some(after.log) && after.seg == 0;
            before.timeline == after.timeline && (next || wraps)
        }
        _ => false,
    }
}

fn table(deletion: &Deletion) -> String {
    let (plan, applied) = (&deletion.plan, deletion.applied.as_ref());
    if plan.actions.is_empty() {
        return format!("nothing to delete; kept: {}", counted(plan.kept.len(), "backup"));
    }
    let rows = lines(deletion).into_iter().map(|line| {
        let key = match line.count {
            1 => line.first.key().into(),
            count => format!("{} … {} ({count})", line.first.key(), name(&line.last.key())),
        };
        vec![
            line.first.what().to_owned(),
            key,
            print::bytes(line.size),
            line.first.why.to_string(),
            if line.deleted { "yes" } else { "" }.to_owned(),
        ]
    });
    let table = print::table(vec!["what", "key", "size", "why", "deleted"], rows);
    let (objects, bytes) = match applied {
        Some(applied) => (applied.count(), applied.bytes(plan)),
        None => (plan.actions.len(), plan.bytes()),
    };
    let verb = if applied.is_some() { "deleted" } else { "to be deleted" };
    format!(
        "{table}\n{verb}: {objects} of {}, {}; kept: {}",
        counted(plan.actions.len(), "row"),
        print::bytes(bytes),
        counted(plan.kept.len(), "backup")
    )
}

fn name(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;
    use walarchive_core::retention::{Garbage, Gfs};

    fn request(args: &str) -> Result<Request, String> {
        let args = ["walarchive", "delete"].into_iter().chain(args.split_whitespace());
        match Args::try_parse_from(args).map_err(|error| error.to_string())?.command {
            Command::Delete(delete) => {
                let (after, named) = match &delete.what {
                    What::Retain(Retain {
                        after: Some(Before::Time(time)),
                        ..
                    }) => (Some(*time), None),
                    // As if it had been found.
                    What::Target(target) => (None, target.target_user_data.as_deref()),
                    _ => (None, None),
                };
                delete.what.request(after, named).map_err(|error| error.to_string())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wal_g_s_syntax_is_understood() {
        let retain = |count, mode| {
            Request::Rule(Rule::Retain {
                count,
                mode,
                after: None,
            })
        };
        assert_eq!(request("retain 3 --confirm"), Ok(retain(3, Mode::Any)));
        assert_eq!(request("retain FULL 3"), Ok(retain(3, Mode::Full)));
        assert_eq!(request("retain find_full 3 --json"), Ok(retain(3, Mode::FindFull)));
        let after: DateTime<Utc> = "2026-11-20T10:00:00Z".parse().expect("a time");
        assert_eq!(
            request("retain FULL 3 --after 2026-11-20T10:00:00Z"),
            Ok(Request::Rule(Rule::Retain {
                count: 3,
                mode: Mode::Full,
                after: Some(after)
            }))
        );
        assert_eq!(
            request("before FIND_FULL 2026-11-20T10:00:00Z"),
            Ok(Request::Rule(Rule::Before {
                target: Before::Time(after),
                find_full: true
            }))
        );
        assert_eq!(
            request("target base_1"),
            Ok(Request::Target {
                name: "base_1".to_owned(),
                find_full: false
            })
        );
        for (words, find_full) in [("", false), ("FIND_FULL ", true)] {
            assert_eq!(
                request(&format!("target {words}--target-user-data 7 --use-sentinel-time")),
                Ok(Request::Target {
                    name: "7".to_owned(),
                    find_full
                })
            );
        }
        assert_eq!(
            request("--confirm retain 3 -a 2026-11-20T10:00:00Z"),
            request("retain 3 --after 2026-11-20T10:00:00Z")
        );
        assert_eq!(
            request("garbage BACKUPS --without-backup-check"),
            Ok(Request::GarbageWithoutBackups(Garbage::Backups))
        );
        assert_eq!(request("everything"), Ok(Request::Everything { force: false }));
        assert_eq!(
            request("everything FORCE --confirm"),
            Ok(Request::Everything { force: true })
        );
        assert_eq!(request("garbage"), Ok(Request::Garbage(Garbage::All)));
        assert_eq!(request("garbage ARCHIVES"), Ok(Request::Garbage(Garbage::Archives)));
        assert_eq!(
            request("outside-window 14 days"),
            Ok(Request::Rule(Rule::OutsideWindow("2 weeks".parse().expect("a span"))))
        );
        assert_eq!(
            request("gfs 7,4,12,5"),
            Ok(Request::Rule(Rule::Gfs(Gfs::new(7, 4, 12, 5).expect("a rule"))))
        );
        for args in [
            "",
            "retain",
            "retain 0",
            "retain x",
            "retain ALL 3",
            "retain FULL 3 4",
            "before",
            "before FULL base_1",
            "before yesterday",
            "target",
            "target FIND_FULL base_1 --target-user-data 7",
            "everything NOW",
            "garbage WAL",
            "outside-window",
            "outside-window 14",
            "gfs",
            "gfs 7",
            "wal 3",
        ] {
            assert!(request(args).is_err(), "{args}");
        }
    }
}
