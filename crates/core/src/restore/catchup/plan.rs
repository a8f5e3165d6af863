//! Finding out what bringing a standby up has to do.

use std::collections::HashSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::geteuid;

use super::standby::{self, Backup};
use super::{room, survey};
use crate::blocking::blocking;
use crate::control_file::{ControlFile, PG_CONTROL_BYTES};
use crate::data_dir::PG_CONTROL;
use crate::error::{Error, Result};
use crate::formats::Sentinel;
use crate::lsn::Lsn;
use crate::printable::counted;
use crate::recovery_state::is_standby;
use crate::repository::inventory::{parse_name, read_history, read_sentinel};
use crate::repository::layout;
use crate::restore::directory::condition::Condition;
use crate::restore::directory::directories::Directories;
use crate::restore::directory::owner::Owner;
use crate::restore::directory::tablespaces::{Tablespace, TablespaceMap};
use crate::restore::directory::{condition, locations, tablespaces, vacant, wal_directory};
use crate::restore::options::RestoreMode;
use crate::stored::chain::Link;
use crate::stored::contents::{self, Base, MISSING_TAR};
use crate::stored::databases::database_of;
use crate::stored::facts::Stored;
use crate::stored::fetch::{read_with, to_the_end};
use crate::stored::member::MemberPath;
use crate::stored::names::{ListSource, NAMED, names};
use crate::stored::survey::Survey;
use crate::stored::table::Table;
use crate::stored::tars::{Tar, TarKind, list_tars};
use crate::version;
use crate::wal::TimelineHistory;
use walarchive_storage::Store;

/// How a standby is brought up.
#[derive(Debug, Clone)]
pub struct CatchupOptions {
    /// Where tablespaces go that the standby does not have yet.
    pub tablespace_map: TablespaceMap,
    /// Tars that are unpacked at a time.
    pub concurrency: usize,
    /// Refuse if the file systems have too little room.
    pub check_space: bool,
}

/// What is to be done, for people.
#[derive(Debug)]
pub struct CatchupPlan {
    /// The name of the backup.
    pub backup: String,
    /// The standby's data directory.
    pub target: PathBuf,
    /// The pages that were changed before this LSN are the standby's.
    pub since: Lsn,
    /// The standby is consistent once it has replayed the WAL up to here.
    pub finish: Lsn,
    /// The files of which some pages come.
    pub in_part: u64,
    /// The files that come whole.
    pub whole: u64,
    /// The files that the primary does not have any more.
    pub removed: u64,
    /// The tablespaces that are new, with their directories.
    pub new_tablespaces: Vec<(String, PathBuf)>,
    /// Stored bytes to download.
    pub stored_bytes: u64,
    /// What an earlier run has left.
    pub state: CatchupState,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// What an interrupted run with the same backup has left of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchupState {
    /// There was none, or it has changed nothing.
    New,
    /// It ended in the middle: the run continues it.
    Interrupted,
    /// It ended when everything was there. Only its marker is to be removed.
    Complete,
}

/// A plan, with all that carrying it out takes. The directory is locked as long as it is there.
#[derive(Debug)]
pub struct PlannedCatchup {
    /// For people.
    pub plan: CatchupPlan,
    pub(super) held: Held,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) store: Store,
    pub(super) place: Place,
    pub(super) sentinel: Sentinel,
    pub(super) tars: Vec<Tar>,
    pub(super) table: Arc<Table>,
    pub(super) control: Control,
    pub(super) concurrency: usize,
}

/// The backup's `pg_control`.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    pub(crate) facts: ControlFile,
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// Find out everything about bringing up the standby of `target` with the backup of that name, and refuse what cannot be done.
/// Writes nothing.
pub async fn plan_catchup(store: &Store, name: &str, target: &Path, options: CatchupOptions) -> Result<PlannedCatchup> {
    let source = layout::catchup_place(name);
    let sentinel = read_sentinel(store, &source).await?;
    let object = store.object_url(&layout::sentinel(&source));
    let Some(since) = sentinel.delta_lsn else {
        return Err(Error::damaged(
            object,
            "It does not say from which LSN on it has changes.",
        ));
    };
    let tars = list_tars(store, &source).await?;
    let (table, sizes, mut notes) = contents(store, &source, &sentinel, &tars).await?;
    let control = control(store, &tars).await?;
    let (asked, wanted, map) = (target.to_owned(), sentinel.clone(), options.tablespace_map);
    let place = blocking(move || Place::find(&asked, &wanted, &object, map)).await?;
    let state = place.state(&source, &control.content)?;
    if state == CatchupState::New {
        let history = history(store, name, &place, &control.facts).await?;
        place.check(name, &sentinel, since, history, &control.facts)?;
    }
    if !is_standby(&place.target) {
        notes.push(
            "The directory is not told to be that of a standby, so the server leaves recovery at its end. Create standby.signal \
             before you start it, or recovery.conf up to PostgreSQL 11."
                .to_owned(),
        );
    }
    let (found, place, table) = blocking(move || {
        let found = survey::look(&place.directories, &table, &place.all(), place.major)?;
        Ok((found, place, table))
    })
    .await?;
    check_base(store, &source, name, &table, &found, since).await?;
    if options.check_space && state != CatchupState::Complete {
        let primary = table.has_manifest.then_some(&sizes);
        room::check(&place.target, &place.all(), &sentinel, primary, &found.bytes)?;
    }
    let stored = |how| (0..table.len()).filter(|file| table.stored(*file) == Some(how)).count() as u64;
    let plan = CatchupPlan {
        backup: name.to_owned(),
        target: place.target.clone(),
        since,
        finish: sentinel.finish_lsn,
        in_part: stored(Stored::Increment),
        whole: stored(Stored::Full),
        removed: found.removed,
        new_tablespaces: place.new_tablespaces(),
        stored_bytes: tars.iter().map(|tar| tar.size).sum(),
        state,
        notes,
    };
    let held = Held {
        store: store.clone(),
        place,
        sentinel,
        tars,
        table: Arc::new(table),
        control,
        concurrency: options.concurrency.max(1),
    };
    Ok(PlannedCatchup { plan, held })
}

/// The files of the backup, their sizes if it has a manifest, and notes on them.
async fn contents(
    store: &Store,
    source: &str,
    sentinel: &Sentinel,
    tars: &[Tar],
) -> Result<(Table, room::Sizes, Vec<String>)> {
    let mut notes = Vec::new();
    let link = Link {
        backup: source.to_owned(),
        sentinel: sentinel.clone(),
    };
    let own = contents::read_own(store, &link, tars, Base::Parent, Survey::default(), &mut notes).await?;
    if let Some(missing) = own.missing_tars.first() {
        return Err(Error::damaged(
            store.object_url(&layout::tar(source, missing)),
            MISSING_TAR,
        ));
    }
    match own.table.filter(|table| table.has_metadata) {
        Some(table) => Ok((table, own.survey.bytes, notes)),
        None => Err(Error::damaged(
            store.object_url(&layout::files_metadata(source)),
            "Without it nobody can tell which files have only some pages.",
        )),
    }
}

/// More than the tar with `pg_control` has, in bytes.
const TAR_LIMIT: u64 = 1 << 20;

async fn control(store: &Store, tars: &[Tar]) -> Result<Control> {
    let tar = tars.iter().find(|tar| tar.kind == TarKind::Control);
    let tar = tar.ok_or_else(|| Error::defect("no tar has pg_control, and nobody has noticed"))?;
    let object = store.object_url(&tar.key);
    let found = read_with(store, &tar.key, tar.size, |source| {
        let mut found = None;
        let mut archive = tar::Archive::new((&mut *source).take(TAR_LIMIT));
        for entry in archive.entries()? {
            let mut entry = entry?;
            if MemberPath::parse(&entry.path_bytes()).is_ok_and(|path| path.is(PG_CONTROL)) {
                let (mut content, mode) = (Vec::new(), entry.header().mode()?);
                entry.by_ref().take(PG_CONTROL_BYTES).read_to_end(&mut content)?;
                found = Some((content, mode));
            }
        }
        to_the_end(source, TAR_LIMIT)?;
        Ok(found)
    });
    let (content, mode) = found
        .await?
        .ok_or_else(|| Error::damaged(&object, format!("It has no \"{PG_CONTROL}\".")))?;
    let facts = ControlFile::parse(&content).map_err(|reason| Error::damaged(&object, reason))?;
    Ok(Control { facts, content, mode })
}

/// How the backup's timeline came to be, where the standby is on another one.
async fn history(store: &Store, name: &str, place: &Place, backup: &ControlFile) -> Result<Option<TimelineHistory>> {
    let timeline = timeline_of(name, backup);
    let standby = place
        .condition
        .control()
        .and_then(|control| ControlFile::parse(control).ok());
    if standby.is_none_or(|standby| standby::reached(&standby).0 == timeline) {
        return Ok(None);
    }
    let text = read_history(store, timeline).await?;
    Ok(text.and_then(|text| TimelineHistory::parse(timeline, &text)))
}

fn timeline_of(name: &str, control: &ControlFile) -> u32 {
    parse_name(name).0.map_or(control.timeline, |segment| segment.timeline)
}

/// Refuse a backup that has only some pages of a file that the standby does not have at all.
async fn check_base(
    store: &Store,
    source: &str,
    name: &str,
    table: &Table,
    found: &survey::Found,
    since: Lsn,
) -> Result<()> {
    let (count, first) = survey::without_base(table, &found.present, NAMED);
    // Of WAL-G's backups nobody can tell before they are unpacked.
    if count == 0 || !table.has_manifest {
        return Ok(());
    }
    let keys: HashSet<_> = first.iter().map(|file| table.key(*file)).collect();
    let paths = names(store, source, ListSource::FilesMetadata, table.keys().clone(), keys).await?;
    let path = paths.first().map_or("", String::as_str);
    let database = database_of(path.as_bytes()).map_or_else(|| "OID".to_owned(), |(oid, _)| oid.to_string());
    Err(Error::refused(
        format!(
            "backup \"{name}\" has only some pages of \"{path}\", which the directory does not have; the same is true of {} in all",
            counted(count, "file")
        ),
        format!(
            "A database that was made or moved after LSN {since} is copied without new LSNs. Take another backup: catchup-push \
             --whole-database {database}, once for each such database."
        ),
    ))
}

/// The directories of the standby.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) target: PathBuf,
    /// Those of the backup.
    pub(super) tablespaces: Vec<Tablespace>,
    /// Those that only the standby has.
    pub(super) dropped: Vec<Tablespace>,
    pub(super) major: u32,
    /// To whom new files belong, if root works here.
    pub(super) owner: Option<Owner>,
    pub(super) directories: Directories,
    pub(super) condition: Condition,
    /// The OIDs of the tablespaces that the standby has.
    known: Vec<String>,
}

impl Place {
    fn find(target: &Path, sentinel: &Sentinel, object: &str, mut map: TablespaceMap) -> Result<Self> {
        let links = links(target)?;
        let of_backup = match &sentinel.tablespaces {
            Some(spec) => tablespaces::of_spec(spec, object)?,
            None => Vec::new(),
        };
        let is_of_backup = |oid: &str| of_backup.iter().any(|(known, _)| known == oid);
        let (kept, dropped): (Vec<_>, Vec<_>) = links.into_iter().partition(|(oid, _)| is_of_backup(oid));
        kept.iter().for_each(|(oid, location)| map.keep(oid, location));
        let mut tablespaces = tablespaces::resolve(of_backup, &map, object)?;
        let dropped: Vec<Tablespace> = dropped.into_iter().map(of_standby).collect();
        let major = version::of_number(sentinel.pg_version).unwrap_or(0);
        let all = [&tablespaces[..], &dropped[..]].concat();
        let target = vacant::check_directories(target, &all, RestoreMode::Delta, major)?;
        let mut directories = Directories::find(&target, &all)?;
        let owner = owner(&directories)?;
        locations::confirm(&mut tablespaces, &directories, map.accepts_originals(), owner)?;
        check_locations(&tablespaces)?;
        let taken: Result<Vec<PathBuf>> = std::iter::once(Ok(target.clone()))
            .chain(
                all.iter()
                    .filter_map(|tablespace| tablespace.location.as_deref())
                    .map(tablespaces::settled),
            )
            .collect();
        directories.wal = wal_directory::find(None, &target, major, &directories, &taken?, true)?;
        let condition = condition::check_directories(&directories, &all, sentinel)?.ok_or_else(|| {
            Error::refused(
                format!(
                    "directory \"{}\" is not that of a standby: it is empty",
                    target.display()
                ),
                "Give the data directory of the standby, or restore with backup-fetch.",
            )
        })?;
        Ok(Place {
            target,
            tablespaces,
            dropped,
            major,
            owner,
            directories,
            condition,
            known: kept.into_iter().map(|(oid, _)| oid).collect(),
        })
    }

    /// All tablespaces that are in the directory or will be.
    pub(super) fn all(&self) -> Vec<Tablespace> {
        [&self.tablespaces[..], &self.dropped[..]].concat()
    }

    fn new_tablespaces(&self) -> Vec<(String, PathBuf)> {
        let is_new = |tablespace: &&Tablespace| !self.known.contains(&tablespace.oid);
        let new = self.tablespaces.iter().filter(is_new);
        new.filter_map(|tablespace| Some((tablespace.oid.clone(), tablespace.location.clone()?)))
            .collect()
    }

    /// Was a run with the same backup interrupted? Then the standby was checked before.
    fn state(&self, source: &str, control: &[u8]) -> Result<CatchupState> {
        match (self.condition.interrupted(), self.condition.control()) {
            (Some(backup), Some(found)) if backup == source && found == control => Ok(CatchupState::Complete),
            // A marker says nothing beside `pg_control`: it was put before anything was changed, or all was done.
            (_, Some(_)) | (None, None) => Ok(CatchupState::New),
            (Some(backup), None) if backup == source => Ok(CatchupState::Interrupted),
            (Some(backup), None) => Err(Error::refused(
                format!(
                    "directory \"{}\" has only a part of backup \"{}\"",
                    self.target.display(),
                    layout::backup_name(&backup).escape_debug()
                ),
                match backup == layout::backup_name(&backup) {
                    true => "Go on with backup-fetch --delta, or restore again.",
                    false => "Go on with that backup, or restore with backup-fetch --delta.",
                },
            )),
        }
    }

    fn check(
        &self,
        name: &str,
        sentinel: &Sentinel,
        since: Lsn,
        history: Option<TimelineHistory>,
        control: &ControlFile,
    ) -> Result<()> {
        let content = self.condition.control().unwrap_or_default();
        let of_standby = ControlFile::parse(content)
            .map_err(|reason| Error::damaged(self.target.join(PG_CONTROL).display().to_string(), reason))?;
        let backup = Backup {
            name,
            since,
            finish: sentinel.finish_lsn,
            timeline: timeline_of(name, control),
            history,
            control,
        };
        standby::check(&self.target, &of_standby, &backup)
    }
}

/// The links to tablespaces that are there, by OID.
fn links(target: &Path) -> Result<Vec<(String, PathBuf)>> {
    let directory = target.join("pg_tblspc");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", directory, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("read", &directory, error))?;
        if let (Ok(name), Ok(location)) = (entry.file_name().into_string(), std::fs::read_link(entry.path()))
            && name.bytes().all(|byte| byte.is_ascii_digit())
        {
            found.push((name, location));
        }
    }
    found.sort();
    Ok(found)
}

fn of_standby((oid, location): (String, PathBuf)) -> Tablespace {
    Tablespace {
        oid,
        original: location.to_string_lossy().into_owned(),
        location: Some(location),
        confirmed: true,
    }
}

/// What root creates belongs to whom the directory belongs to.
fn owner(directories: &Directories) -> Result<Option<Owner>> {
    let Some(target) = directories.target.as_ref().filter(|_| geteuid().is_root()) else {
        return Ok(None);
    };
    let meta = target.directory().metadata();
    let meta = meta.map_err(|error| Error::io("open", &target.path, error))?;
    Ok(Some(Owner {
        uid: meta.uid(),
        gid: meta.gid(),
    }))
}

fn check_locations(tablespaces: &[Tablespace]) -> Result<()> {
    let Some(tablespace) = tablespaces.iter().find(|tablespace| !tablespace.confirmed) else {
        return Ok(());
    };
    let oid = &tablespace.oid;
    Err(Error::refused(
        format!(
            "the standby does not have tablespace {oid}, and only the repository names its directory, {:?}",
            tablespace.original
        ),
        format!(
            "Say where it goes: --tablespace-map {oid}=DIR, or --tablespace-map-all DIR for all new ones. \
             --tablespace-map-original puts them where they are on the primary."
        ),
    ))
}
