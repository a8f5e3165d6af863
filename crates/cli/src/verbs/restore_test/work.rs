//! One drill, from the choice of the backup to the removal of everything.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use tokio_util::sync::CancellationToken;
use walarchive_core::printable::counted;
use walarchive_core::repository::drills::{Drill, DrillStatus};
use walarchive_core::repository::encryption;
use walarchive_core::repository::inventory::{BackupInfo, find_backup, list_backups};
use walarchive_core::restore::{
    Look, PlannedRestore, ReadProgress, RecoveryMode, RecoverySettings, RestoreCommand, RestoreOptions, RestorePlan,
    RestoreTarget, TablespaceMap, apply, plan, select_backup, target_history,
};
use walarchive_core::{Error, Lsn, Result, StorageError, version};
use walarchive_storage::{StorageConfig, Store};

use super::args::RestoreTest;
use super::checks::{self, check};
use super::limits::{Limit, Limits};
use super::programs::Programs;
use super::report::{connect, ended, say};
use super::scratch::Scratch;
use super::script;
use super::server::Server;
use crate::signals::unless;
use crate::{print, progress, repository};

/// What to do when there is too little room.
const LARGER: &str = "Free some space, or give a directory on a larger file system with --directory.";

/// A drill at work.
struct Work<'a> {
    args: &'a RestoreTest,
    cancel: &'a CancellationToken,
    scratch: Scratch,
    programs: Programs,
    major: u32,
    drill: Drill,
    server: Option<Server>,
    role: Option<String>,
    /// Recovery to the end of the archive comes behind this record.
    last_record: Option<Lsn>,
    /// Of the backup, if its name tells it.
    timeline: Option<u32>,
    /// Replay makes tablespaces inside of the data directory.
    tablespaces_in_place: bool,
}

/// Drill. Returns the result, and what else is to be said: how to connect to the server if it was kept, for example. An error if there
/// is no result: something on this machine or in the store did not let the drill be made, or somebody cancelled it.
pub(super) async fn drill(
    args: &RestoreTest,
    storage: &StorageConfig,
    parent: &Path,
    limits: &Limits,
) -> Result<(Drill, Option<String>)> {
    let store = Store::open_settled(&storage.for_backup()).await?;
    // That is nothing against the backup.
    encryption::refuse_without_right_key(&store).await?;
    let backup = select(args, &store).await?;
    let number = backup.metadata.pg_version;
    let Some(major) = version::of_number(number) else {
        return Err(Error::refused(
            format!("backup \"{}\" does not say of which version it is", backup.name),
            "Restore it with backup-fetch.",
        ));
    };
    let programs = Programs::find(args.pg_bin.as_deref(), major).await?;
    let scratch = Scratch::create(parent)?;
    let mut work = Work {
        args,
        cancel: &limits.ends,
        scratch,
        programs,
        major,
        drill: begin(args, &backup.name),
        server: None,
        role: None,
        last_record: None,
        timeline: backup.timeline,
        tablespaces_in_place: false,
    };
    let outcome = Box::pin(work.run(&store, storage)).await;
    let outcome = match (outcome, limits.met()) {
        (Err(Error::Cancelled), Some(Limit::Late)) => {
            let why = format!("the drill took longer than {} s", args.deadline().as_secs());
            let late = check("deadline", Instant::now(), DrillStatus::Failed, why);
            work.drill.checks.push(late);
            Ok(())
        }
        (Err(Error::Cancelled), Some(Limit::NoRoom(free))) => Err(no_room(parent, free)),
        (outcome, _) => outcome,
    };
    if let Err(error) = outcome {
        if let Some(text) = work.leave(false).await {
            eprintln!("{text}");
        }
        return Err(error);
    }
    let failed = work
        .drill
        .checks
        .iter()
        .any(|check| check.status == DrillStatus::Failed);
    work.drill.status = if failed { DrillStatus::Failed } else { DrillStatus::Ok };
    work.drill.stop_time = Utc::now();
    let drill = work.drill.clone();
    let said = work.leave(args.keep).await;
    if drill.status == DrillStatus::Failed && is_deleted(&store, &drill.backup).await {
        said.inspect(|text| eprintln!("{text}"));
        return Err(Error::refused(
            format!("backup \"{}\" was deleted during its restore drill", drill.backup),
            "Drill another one.",
        ));
    }
    Ok((drill, said))
}

/// Is the backup no longer in the repository?
pub(super) async fn is_deleted(store: &Store, backup: &str) -> bool {
    matches!(find_backup(store, backup).await, Err(Error::NoBackup { .. }))
}

fn no_room(parent: &Path, free: u64) -> Error {
    Error::refused(
        format!(
            "the restore drill was given up, as only {} are free in \"{}\"",
            print::bytes(free),
            parent.display()
        ),
        LARGER,
    )
}

fn begin(args: &RestoreTest, backup: &str) -> Drill {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    Drill {
        backup: backup.to_owned(),
        host: host.unwrap_or_default(),
        start_time: Utc::now(),
        stop_time: Utc::now(),
        status: DrillStatus::Failed,
        target: args.target().target.to_string(),
        stored_bytes: 0,
        restore_seconds: None,
        segments: 0,
        replay_seconds: None,
        lsn: None,
        timeline: None,
        last_transaction_time: None,
        checks: Vec::new(),
    }
}

async fn select(args: &RestoreTest, store: &Store) -> Result<BackupInfo> {
    let target = args.target();
    let backups = match args.backup.as_str() {
        "LATEST" => list_backups(store).await?,
        name => vec![find_backup(store, name).await?],
    };
    let history = target_history(store, target.timeline, &backups).await?;
    Ok(select_backup(&backups, &args.backup, &target.target, history.as_ref())?.backup)
}

impl Work<'_> {
    /// All steps. What fails is a check that failed, and the steps that need it are left out.
    async fn run(&mut self, store: &Store, storage: &StorageConfig) -> Result<()> {
        if !Box::pin(self.restore(store, storage)).await? {
            return Ok(());
        }
        let found = unless(self.cancel, checks::manifest(&self.programs, &self.scratch)).await?;
        self.drill.checks.push(found);
        if !self.recover().await? {
            return Ok(());
        }
        self.look().await?;
        if self.args.keep {
            let why = "the server was kept running";
            self.drill.checks.push(checks::skipped("pg_checksums", why));
            return Ok(());
        }
        let begun = Instant::now();
        if let Some(mut server) = self.server.take()
            && let Err(error) = server.stop().await
        {
            self.failed("shutdown", begun, &error);
            return Ok(());
        }
        let found = checks::checksums(&self.programs, &self.scratch, self.major);
        let found = unless(self.cancel, found).await?;
        self.drill.checks.push(found);
        Ok(())
    }

    fn failed(&mut self, name: &str, begun: Instant, error: &Error) {
        let more = [error.detail(), error.hint()].into_iter().flatten();
        let detail: String = std::iter::once(error.to_string())
            .chain(more)
            .collect::<Vec<_>>()
            .join("\n");
        self.drill.checks.push(check(name, begun, DrillStatus::Failed, detail));
    }

    /// Restore the backup. False if it cannot be restored, or could not be recovered.
    async fn restore(&mut self, store: &Store, storage: &StorageConfig) -> Result<bool> {
        const NAME: &str = "restore";
        let begun = Instant::now();
        let planned = unless(self.cancel, Box::pin(self.plan(store, storage))).await;
        let mut planned = match planned {
            Ok(planned) => planned,
            Err(error) if is_of_backup(&error) => {
                self.failed(NAME, begun, &error);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if let Some(why) = fault(&planned.plan, self.timeline)? {
            self.drill
                .checks
                .push(check("recovery", begun, DrillStatus::Failed, why));
            return Ok(false);
        }
        pin(&mut planned.plan)?;
        let outlook = planned.plan.outlook.as_ref();
        let is_to_end = self.args.target().target == RestoreTarget::Latest;
        self.last_record = outlook.and_then(|outlook| outlook.last_record).filter(|_| is_to_end);
        self.tablespaces_in_place = outlook.is_some_and(|outlook| outlook.creates_in_place());
        self.drill.segments = outlook.map_or(0, |outlook| outlook.wal.iter().map(|range| range.count).sum());
        self.drill.stored_bytes = planned.plan.stored_bytes();
        for note in &planned.plan.notes {
            say(self.args, &format!("note: {note}"));
        }
        // The plan has read the WAL, which no restore in need has to do.
        let begun = Instant::now();
        let progress = Arc::<ReadProgress>::default();
        let work = Box::pin(apply(planned, Arc::clone(&progress), self.cancel.clone()));
        match progress::show(progress, self.args.quiet, work).await {
            Ok(restored) => {
                self.drill.restore_seconds = Some(begun.elapsed().as_secs_f64());
                let detail = format!(
                    "{}, {} from {}",
                    counted(restored.files, "file"),
                    print::bytes(restored.bytes),
                    print::bytes(restored.stored_bytes)
                );
                self.drill.checks.push(check(NAME, begun, DrillStatus::Ok, detail));
                Ok(true)
            }
            Err(error) if is_of_backup(&error) => {
                self.failed(NAME, begun, &error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn plan(&self, store: &Store, storage: &StorageConfig) -> Result<PlannedRestore> {
        let mut tablespace_map = TablespaceMap::default();
        tablespace_map.put_all(&self.scratch.tablespaces())?;
        let options = RestoreOptions {
            tablespace_map,
            recovery: Some(RecoverySettings {
                mode: RecoveryMode::Recovery,
                restore_command: RestoreCommand {
                    binary: std::env::current_exe().map_err(|error| Error::io("find", "walarchive", error))?,
                    storage: storage.clone(),
                    flags: repository::flags(),
                },
                target: self.args.target(),
            }),
            archive_off: true,
            // Replay could write into the tablespaces of another server.
            look: Look::Whole,
            // A hole is seen in the plan, and is no refusal but a result.
            allow_gap: true,
            space_hint: Some(LARGER),
            ..RestoreOptions::default()
        };
        plan(store, &self.drill.backup, &self.scratch.data(), options).await
    }

    /// Let the server replay WAL up to the target. False if it does not get there.
    async fn recover(&mut self) -> Result<bool> {
        const NAME: &str = "recovery";
        let begun = Instant::now();
        let mut settings = self.args.settings.clone();
        if self.tablespaces_in_place || has_tablespaces_in_place(&self.scratch.data()) {
            // The original may have had this for the session that made them only, and without it the recovery of them panics.
            settings.push("allow_in_place_tablespaces=on".to_owned());
        }
        let server = Server::start(&self.programs, &self.scratch, self.major, &settings)?;
        let server = self.server.insert(server);
        let recovered = unless(self.cancel, async { Ok(server.wait_recovered().await) }).await?;
        if let Err(log) = recovered {
            if let Some(error) = server.trouble(&log) {
                return Err(error);
            }
            let detail = format!("the server ended before the target; the end of its log:\n{log}");
            self.drill.checks.push(check(NAME, begun, DrillStatus::Failed, detail));
            return Ok(false);
        }
        self.drill.replay_seconds = Some(begun.elapsed().as_secs_f64());
        let asked = checks::point(server, self.major, self.args.username.as_deref());
        match unless(self.cancel, asked).await {
            Ok((role, point)) => {
                self.role = Some(role);
                self.drill.lsn = Some(point.lsn);
                self.drill.timeline = Some(point.timeline);
                self.drill.last_transaction_time = point.last;
                let last = point.last.map_or_else(
                    || "no transaction".to_owned(),
                    |time| format!("last transaction at {}", print::time(time)),
                );
                let detail = format!(
                    "to {}, LSN {}, {last}; {}",
                    self.drill.target,
                    point.lsn,
                    counted(self.drill.segments as usize, "WAL segment")
                );
                let ends_at_target = self.args.target().target != RestoreTarget::Latest;
                let is_short = ends_at_target && !server.has_stopped_at_target();
                let missed = match self.last_record.filter(|record| point.lsn <= *record) {
                    // The server takes a damaged record for the end of the WAL, and says nothing.
                    Some(record) => Some(format!(
                        "The archive has WAL up to the record at {record}, which was not replayed."
                    )),
                    None => is_short.then(|| "Recovery came to the end of the WAL, and not to its target.".to_owned()),
                };
                let (status, detail) = match &missed {
                    None => (DrillStatus::Ok, detail),
                    Some(why) => (DrillStatus::Failed, format!("{detail}\n{why}")),
                };
                self.drill.checks.push(check(NAME, begun, status, detail));
                Ok(missed.is_none())
            }
            Err(error @ Error::Server { .. }) => {
                self.failed(NAME, begun, &error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Look into the server.
    async fn look(&mut self) -> Result<()> {
        let (Some(server), Some(role)) = (&self.server, &self.role) else {
            return Ok(());
        };
        let found = checks::amcheck(&self.programs, &self.scratch, server, self.major, role);
        let found = unless(self.cancel, found).await?;
        let is_well = found.status != DrillStatus::Failed;
        self.drill.checks.push(found);
        let Some(file) = &self.args.run else { return Ok(()) };
        let begun = Instant::now();
        let (run_as, database) = (self.args.run_as.as_deref(), &self.args.database);
        let found = script::run(&self.scratch, server, role, run_as, database, file);
        match unless(self.cancel, found).await {
            Ok(found) => self.drill.checks.push(found),
            // What was found before is a result.
            Err(error) if !is_well && !matches!(error, Error::Cancelled) => self.failed("sql", begun, &error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Remove everything; or leave the server, if there is one. Returns what is to be said of it.
    async fn leave(mut self, keep: bool) -> Option<String> {
        let (text, done) = match self.server.take() {
            Some(mut server) if keep => {
                let (data, role) = (self.scratch.data(), self.role.as_deref().unwrap_or("postgres"));
                let text = match server.is_running() {
                    true => connect(&data, server.socket(), role, &self.programs.path("pg_ctl")),
                    false => ended(&data, server.log_file()),
                };
                (Some(text), self.scratch.keep())
            }
            server => {
                if let Some(mut server) = server {
                    server.end().await;
                }
                (None, self.scratch.remove().await)
            }
        };
        // The result counts all the same.
        let warning = done.err().map(|error| format!("walarchive: warning: {error}"));
        let said: Vec<String> = text.into_iter().chain(warning).collect();
        (!said.is_empty()).then(|| said.join("\n"))
    }
}

/// Is a tablespace inside of the data directory, and not the link to one?
fn has_tablespaces_in_place(data: &Path) -> bool {
    let mut entries = std::fs::read_dir(data.join("pg_tblspc"))
        .into_iter()
        .flatten()
        .flatten();
    entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// Does the error say that the backup cannot be restored, and not that it could not be tried here and now?
fn is_of_backup(error: &Error) -> bool {
    let is_gone = matches!(error, Error::Storage(StorageError::NotFound { .. }));
    error.is_content() || is_gone || matches!(error, Error::NoBackup { .. })
}

/// What keeps the backup from being recovered to the target. An error if that cannot be tried on this machine.
fn fault(plan: &RestorePlan, timeline: Option<u32>) -> Result<Option<String>> {
    let unknown = |why: &str| {
        Error::refused(
            format!("the restore drill does not know what replay would do: {why}"),
            "Try again.",
        )
    };
    let (Some(outlook), Some(recovery)) = (&plan.outlook, &plan.recovery) else {
        return match timeline {
            Some(_) => Ok(Some(
                "the archive has no WAL from the start of the backup on, and without it the backup cannot become consistent"
                    .to_owned(),
            )),
            None => Err(unknown("the name of the backup does not tell where its WAL begins")),
        };
    };
    if let Some(refusal) = outlook.refusal(recovery) {
        let hint = refusal.hint().map(|hint| format!("\n{hint}"));
        return Ok(Some(format!("{refusal}{}", hint.unwrap_or_default())));
    }
    if let Some(damage) = outlook.damage() {
        return Ok(Some(damage));
    }
    refuse_tablespaces(plan)?;
    match (outlook.unread, outlook.looked_at) {
        (Some(segment), _) => Err(unknown(&format!(
            "WAL segment {segment} was deleted while it was to be read"
        ))),
        (None, None) => Err(unknown("not all of the WAL was read")),
        (None, Some(_)) => Ok(None),
    }
}

/// Nothing is replayed but the WAL that was looked at: what the original does meanwhile may write outside of the drill's directory.
fn pin(plan: &mut RestorePlan) -> Result<()> {
    let last = plan.outlook.as_ref().and_then(|outlook| outlook.looked_at);
    let (Some(last), Some(recovery)) = (last, plan.recovery.as_mut()) else {
        return Err(Error::defect("a restore drill has no end".to_owned()));
    };
    let flags = ["--until".to_owned(), last.to_string()];
    recovery.restore_command.flags.extend(flags);
    Ok(())
}

/// Replay makes a tablespace in the directory that it has on the original, which may be in use on this machine.
fn refuse_tablespaces(plan: &RestorePlan) -> Result<()> {
    let created = plan
        .outlook
        .as_ref()
        .and_then(|outlook| outlook.created_tablespaces().next());
    match created {
        None => Ok(()),
        Some(location) => Err(Error::refused(
            format!(
                "the WAL to be replayed creates a tablespace in \"{location}\", which may be in use on this machine"
            ),
            "Drill a backup that was taken after that.",
        )),
    }
}
