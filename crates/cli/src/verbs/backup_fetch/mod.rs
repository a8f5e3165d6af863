//! `backup-fetch`.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use indicatif::{HumanBytes, HumanDuration};
use tokio_util::sync::CancellationToken;
use walarchive_core::lease::{self, Lease, Moment};
use walarchive_core::printable::counted;
use walarchive_core::repository::drills::Drill;
use walarchive_core::repository::encryption;
use walarchive_core::repository::inventory::{find_backup, find_by_user_data, list_backups};
use walarchive_core::restore::{
    ConfigurationPlan, PlannedRestore, Rates, ReadProgress, RecoveryMode, RecoverySettings, RestoreCommand,
    RestorePlan, RestoreTarget, Restored, Selection, apply, notes_on_places, plan, select_backup, target_history,
};
use walarchive_core::verify::VerifyStatus;
use walarchive_core::{Error, Result, StorageError, printable};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;

use crate::repository::data_dir::usual_data_dir;
use crate::repository::restored;
use crate::signals::cancelled_by_signals;
use crate::{exit, print, progress, repository};

mod args;

pub use args::BackupFetch;

/// The steps that remain after a restore of some databases.
const INVALID_PAGES: &str = "note: ignore_invalid_pages is on in postgresql.auto.conf, so that recovery passes over the pages that \
     were left out; after recovery remove the setting with ALTER SYSTEM RESET ignore_invalid_pages and restart the server, or \
     damaged pages would go unnoticed in the next recovery";

/// The longest answer that is read from the terminal, in bytes.
const LONGEST_ANSWER: u64 = 100;

/// Restore a backup.
pub async fn run(args: &BackupFetch) -> Result<()> {
    let (mut restore, storage, configuration) = prepare(args).await?;
    let store = Store::open_settled(&storage).await?;
    let seen = holder(&store).await;
    if is_root() && args.owner.is_none() {
        eprintln!(
            "walarchive: warning: the restored files will belong to root, and PostgreSQL refuses to run as root\n\
             HINT:  Give them to the server's user with --owner, or run this as that user."
        );
    }
    let archives = args.mode() != Some(RecoveryMode::Standby) && args.mask.is_none();
    if args.plan {
        show(args, &store, &mut restore, configuration.as_ref()).await?;
        if archives {
            let now = seen.as_ref().map(|(lease, at)| (lease, at));
            say(args, &lease::outlook(None, now, args.take_over));
        }
        return refuse_gap(args, &restore.plan);
    }
    let plan = &mut restore.plan;
    if ask_for_locations(plan)? {
        plan.confirm_locations();
    }
    plan.check_locations()?;
    let mut next = next_step(plan, storage.credentials_file.is_none());
    if let Some(configuration) = &configuration {
        let settings = configuration.settings(&plan.target).join(" -c ");
        next.push_str(&format!(
            "; with pg_ctl -o \"-c {settings}\" it reads the restored configuration"
        ));
    }
    let ignores_invalid_pages = plan.ignores_invalid_pages();
    let (name, target, has_links) = (plan.backup.clone(), plan.target.clone(), !plan.links.is_empty());
    let (progress, started) = (Arc::<ReadProgress>::default(), Instant::now());
    let cancel = cancelled_by_signals("the restore ends")?;
    let work = Box::pin(apply(restore, Arc::clone(&progress), cancel));
    let restored = progress::show(Arc::clone(&progress), args.quiet, work)
        .await
        .inspect_err(|_| {
            if progress.is_writing.load(Ordering::Relaxed) {
                incomplete(&target, has_links);
            }
        })?;
    say(args, &summary(&name, &target, &restored, started));
    if let Some(configuration) = configuration {
        say(args, &configuration.write(args.owner).await?);
    }
    say(args, &next);
    if archives {
        let then = seen.as_ref().map(|(lease, at)| (lease, at));
        // A standby is told from a copy by its standby.signal, every other directory by this.
        if let Err(error) = lease::mark_restored(&target, args.take_over, store.url(), then) {
            // The directory is complete. Without the mark it is a copy like any other, and waits all the same.
            if args.take_over {
                return Err(error);
            }
            eprintln!("walarchive: warning: {error}");
        }
        if !args.archives_never() {
            let seen = holder(&store).await;
            let now = seen.as_ref().map(|(lease, at)| (lease, at));
            say(args, &lease::outlook(then, now, args.take_over));
        }
    }
    if ignores_invalid_pages {
        say(args, INVALID_PAGES);
    }
    Ok(())
}

/// Print the plan.
async fn show(
    args: &BackupFetch,
    store: &Store,
    restore: &mut PlannedRestore,
    configuration: Option<&ConfigurationPlan>,
) -> Result<()> {
    let rates = rates(store).await;
    restore.estimate(rates.as_ref()).await;
    let plan = &restore.plan;
    if args.json {
        return print::out(&print::json(&plan.report()));
    }
    print::piece(&printable::lines(&plan.to_string()))?;
    match configuration {
        Some(configuration) => print::out(&printable::lines(&configuration.to_string())),
        None => Ok(()),
    }
}

/// What a restore drill has measured. Nothing, if that cannot be read.
async fn rates(store: &Store) -> Option<Rates> {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let host = host.unwrap_or_default();
    let drill = Drill::newest(store, &host).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "could not read what restore drills have measured");
        None
    })?;
    Some(Rates {
        at: drill.stop_time,
        restored: drill.rate_of_restore().filter(|_| drill.host == host),
        replayed: drill.rate_of_replay(),
        host: drill.host,
    })
}

/// A plan that cannot be carried out ends as the restore would.
fn refuse_gap(args: &BackupFetch, plan: &RestorePlan) -> Result<()> {
    let (outlook, recovery) = (plan.outlook.as_ref(), plan.recovery.as_ref());
    let refusal = outlook
        .zip(recovery)
        .and_then(|(outlook, recovery)| outlook.refusal(recovery));
    match refusal.filter(|_| !args.allow_gap) {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

/// Look up who writes into the repository now, and note when we looked. A failure here does not end the restore.
async fn holder(store: &Store) -> Option<(Lease, Moment)> {
    let lease = Lease::read(store).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "could not find out who writes into the repository");
        None
    });
    Some((lease?, Moment::now()))
}

/// Read all that a restore would take. A damaged backup is an answer, not an error.
pub async fn verify(args: &BackupFetch) -> Result<VerifyStatus> {
    let verified = async {
        let (restore, ..) = prepare(args).await?;
        let (name, progress) = (restore.plan.backup.clone(), Arc::default());
        let work = Box::pin(apply(restore, Arc::clone(&progress), CancellationToken::new()));
        let read = progress::show(progress, args.quiet, work).await?;
        let bytes = HumanBytes(read.bytes);
        println!(
            "backup \"{}\" can be restored: {}, {bytes} were read and checked",
            printable::line(&name),
            counted(read.files, "file")
        );
        Ok(VerifyStatus::Ok)
    };
    match Box::pin(verified).await {
        Err(error @ (Error::Damaged { .. } | Error::Storage(StorageError::NotFound { .. }))) => {
            exit::print(&error);
            Ok(VerifyStatus::Failure)
        }
        verified => verified,
    }
}

/// What a backup does not hold is removed from the directory, and no backup holds a key. Recovery needs it.
fn refuse_key_within(directory: &Path, keys: &[PathBuf]) -> Result<()> {
    let Ok(directory) = directory.canonicalize() else {
        return Ok(());
    };
    let within = |key: &&PathBuf| key.canonicalize().is_ok_and(|key| key.starts_with(&directory));
    match keys.iter().find(within) {
        None => Ok(()),
        Some(key) => Err(Error::refused(
            format!(
                "the key file \"{}\" is in the directory that is to be restored, and would be removed",
                key.display()
            ),
            "Move it out of that directory, and give its new name with --encryption-key-file.",
        )),
    }
}

async fn prepare(args: &BackupFetch) -> Result<(PlannedRestore, StorageConfig, Option<ConfigurationPlan>)> {
    let data_dir = usual_data_dir();
    let settings = repository::find(&args.storage, data_dir.as_deref())?;
    let store = Store::open_settled(&settings.storage).await?;
    encryption::refuse_without_key(&store).await?;
    if !args.verify_only {
        refuse_key_within(&args.directory, &settings.storage.encryption.files())?;
    }
    let mut options = args.options()?;
    if let Some(mode) = args.mode().filter(|_| !args.verify_only) {
        let mut flags = repository::flags();
        // To the end of the backup nothing behind it is needed, and retention leaves nothing there for a permanent one.
        if options.allow_gap || args.target().target == RestoreTarget::Immediate {
            flags.push("--allow-gap".to_owned());
        }
        options.recovery = Some(RecoverySettings {
            mode,
            restore_command: RestoreCommand {
                binary: std::env::current_exe().map_err(|error| Error::io("find", "walarchive", error))?,
                storage: settings.storage.clone(),
                flags,
            },
            target: args.target(),
        });
    }
    let selection = select(args, &store).await?;
    // A store that answers has the patience of a backup: hours of work do not end with one bad answer.
    let patient = Store::open_settled(&settings.storage.for_backup()).await?;
    let mut restore = plan(&patient, &selection.backup.name, &args.directory, options).await?;
    let plan = &mut restore.plan;
    let (name, metadata) = (&selection.backup.name, &selection.backup.metadata);
    let configuration = match &args.config_dir {
        Some(directory) => ConfigurationPlan::read(&patient, name, metadata, directory).await?,
        None => None,
    };
    let mut followed = metadata.clone();
    // The plan has notes on the other links.
    followed
        .links
        .retain(|link| !plan.links.iter().any(|mapped| mapped.path == link.path));
    let mut places = notes_on_places(&followed, configuration.is_some());
    let mapped = plan.links.iter().map(|link| {
        format!(
            "\"{}\" becomes a symbolic link to \"{}\".",
            link.path,
            link.location.display()
        )
    });
    places.extend(mapped);
    if args.config_dir.is_some() && configuration.is_none() {
        places.push("The backup has no configuration files from outside of the data directory.".to_owned());
    }
    let of_plan = std::mem::take(&mut plan.notes);
    plan.notes = selection.notes.into_iter().chain(of_plan).chain(places).collect();
    // The plan has the notes.
    if !args.plan {
        plan.notes.iter().for_each(|note| say(args, &format!("note: {note}")));
    }
    Ok((restore, settings.storage, configuration))
}

/// Ask on the terminal, if there is one, whether tablespaces may go to directories that only the repository names.
fn ask_for_locations(plan: &RestorePlan) -> Result<bool> {
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if plan.unconfirmed().next().is_none() || !stdin.is_terminal() || !stderr.is_terminal() {
        return Ok(false);
    }
    for tablespace in plan.unconfirmed() {
        eprintln!(
            "walarchive: tablespace {} would go to {:?}, which only the repository names",
            tablespace.oid, tablespace.original
        );
    }
    let terminal = |error| Error::io("read", "/dev/tty", error);
    write!(stderr, "Write there? (yes/no) ").map_err(terminal)?;
    stderr.flush().map_err(terminal)?;
    let mut answer = String::new();
    stdin
        .lock()
        .take(LONGEST_ANSWER)
        .read_line(&mut answer)
        .map_err(terminal)?;
    Ok(answer.trim() == "yes")
}

fn say(args: &BackupFetch, text: &str) {
    if !args.quiet {
        eprintln!("walarchive: {}", printable::lines(text));
    }
}

async fn select(args: &BackupFetch, store: &Store) -> Result<Selection> {
    let target = args.target();
    let found = match args.user_data() {
        Some(data) => Some(find_by_user_data(store, &data).await?),
        None => None,
    };
    let name = found.as_ref().map(|backup| backup.name.as_str());
    let name = name.or(args.backup.as_deref()).unwrap_or("LATEST").to_owned();
    let backups = match (found, name.as_str()) {
        (Some(backup), _) => vec![backup],
        (None, "LATEST") => list_backups(store).await?,
        (None, name) => vec![find_backup(store, name).await?],
    };
    // Without recovery it does not matter which timeline it would have followed.
    let history = match args.mode() {
        Some(_) => target_history(store, target.timeline, &backups).await?,
        None => None,
    };
    select_backup(&backups, &name, &target.target, history.as_ref())
}

fn incomplete(target: &Path, has_links: bool) {
    // --delta keeps nothing behind a link.
    let next = match has_links {
        true => "empty the directories of --link and run the same command with --delta",
        false => "run the same command with --delta",
    };
    eprintln!(
        "walarchive: directory \"{}\" is incomplete, and no server can start on it\n\
         HINT:  To go on, {next}. To begin again, empty the directory, those of its tablespaces and those of --link first.",
        target.display()
    );
}

fn summary(name: &str, target: &Path, restored: &Restored, started: Instant) -> String {
    format!(
        "restored backup \"{name}\" into \"{}\": {}, {} from {} in {}",
        target.display(),
        counted(restored.files, "file"),
        HumanBytes(restored.bytes),
        HumanBytes(restored.stored_bytes),
        HumanDuration(started.elapsed())
    )
}

fn next_step(plan: &RestorePlan, credentials_in_environment: bool) -> String {
    if plan.is_masked() {
        return "only the files of --mask were restored: no server starts on the directory, unless they were all"
            .to_owned();
    }
    let start = format!("start the server on \"{}\"", plan.target.display());
    let Some(recovery) = &plan.recovery else {
        let file = match plan.has_recovery_conf() {
            true => "write recovery.conf with restore_command",
            false => "set restore_command and create recovery.signal",
        };
        return format!("no recovery settings were written: {file} before you {start}");
    };
    let mut next = match recovery.mode {
        RecoveryMode::Standby => format!("{start}; it will follow the archive as a standby until promoted"),
        RecoveryMode::Recovery => format!("{start}; it will recover to {} by itself", recovery.target.target),
    };
    if let Some(outlook) = plan.outlook.as_ref().filter(|outlook| outlook.falls_short()) {
        next = format!(
            "{start}; its recovery will end at LSN {} on timeline {}, and not at {}",
            outlook.latest_end(),
            outlook.timeline,
            recovery.target.target
        );
    } else if recovery.has_target() && recovery.mode == RecoveryMode::Recovery {
        next.push_str(&format!(", and then {}", recovery.target.action));
    }
    let remote = !recovery.restore_command.storage.url.starts_with("file:");
    if credentials_in_environment && remote {
        next.push_str("; its environment must have the store's credentials, as this one has");
    }
    let keys = restored::only_in_environment();
    if !keys.is_empty() {
        let keys = keys.join(", ");
        next.push_str(&format!(
            "; its environment must have {keys}, as this one has, since restore_command names no key"
        ));
    }
    let relative = restored::relative();
    if !relative.is_empty() {
        let relative = relative.join(", ");
        next.push_str(&format!(
            "; restore_command runs in the data directory, so make {relative} an absolute path"
        ));
    }
    next
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
