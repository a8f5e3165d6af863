//! Finding out what a restore has to do.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::directory::condition::Condition;
use super::directory::directories::Directories;
use super::directory::existing::{Existing, Figures, Intended};
use super::directory::links::MappedLink;
use super::directory::space::Need;
use super::directory::tablespaces::Tablespace;
use super::directory::{condition, existing, links, locations, owner, space, tablespaces, vacant, wal_directory};
use super::narrow::narrow;
use super::options::{RestoreMode, RestoreOptions};
use super::plan::{Fetch, Held, PlannedRestore, RestorePlan};
use super::target::RestoreTarget;
use super::{beside, outlook};
use crate::blocking::blocking;
use crate::data_dir::TABLESPACE_MAP;
use crate::error::{Error, Result};
use crate::formats::Sentinel;
use crate::repository::inventory::find_backup;
use crate::repository::{cluster, layout};
use crate::stored::chain::Link;
use crate::stored::contents::Contents;
use crate::stored::databases::Databases;
use crate::stored::fetch::{read_with, to_the_end, whole};
use crate::stored::level::{Bits, Level};
use crate::stored::member::MemberPath;
use crate::stored::survey::Survey;
use crate::stored::table::Table;
use crate::stored::tars::{Tar, TarKind, list_tars};
use crate::stored::{chain, contents};
use crate::version;
use walarchive_storage::Store;

/// More than any tablespace map has, in bytes.
const MAP_LIMIT: u64 = 16 << 20;
/// The first major version with `recovery_target_lsn`.
const TARGET_LSN_SINCE: u32 = 10;

/// Find out everything about the restore of a backup into `target`, and refuse what cannot be done. Writes nothing.
pub async fn plan(store: &Store, backup: &str, target: &Path, options: RestoreOptions) -> Result<PlannedRestore> {
    owner::check(options.owner)?;
    let links = chain::links(store, backup).await?;
    let sentinel = links[0].sentinel.clone();
    check_cluster(store, &links).await?;
    let mut notes = Vec::new();
    check_version(&sentinel, &options, &mut notes)?;
    chain::check_timelines(store, &links, &mut notes).await?;
    let place = Place::find(store, backup, target, &sentinel, &options).await?;
    let outlook = match &options.recovery {
        Some(recovery) => {
            let outlook = outlook::look(store, &links[0], recovery, options.look, &mut notes).await?;
            let refusal = outlook.as_ref().and_then(|outlook| outlook.refusal(recovery));
            match refusal.filter(|_| !options.allow_gap) {
                Some(refusal) => return Err(refusal),
                None => outlook,
            }
        }
        None => None,
    };
    if options.mode != RestoreMode::VerifyOnly {
        notes.extend(beside::notes(
            &sentinel,
            &place.target,
            &place.tablespaces,
            outlook.as_ref(),
        ));
    }
    let databases = Databases::find(store, backup, &options.databases).await?;
    let Contents {
        table,
        levels,
        manifest,
        survey,
    } = contents::read(store, &links, place.survey(databases), &mut notes).await?;
    survey.databases.check(&survey.found, backup)?;
    if manifest.is_none() {
        notes.push("The backup has no manifest, so the content of its files cannot be compared with one.".to_owned());
    }
    let (place, table, existing) = compare(place, table, &options).await?;
    let (existing, kept) = existing.map(|found| (found.figures, found.kept)).unzip();
    notes.extend(existing.as_ref().and_then(|found| found.note(place.major)));
    notes.extend(existing.as_ref().and_then(Figures::note_of_others));
    let (table, levels) = leave_out(store, table, levels, kept.as_ref()).await?;
    if options.check_space && options.mode != RestoreMode::VerifyOnly {
        let needs = place.needs(&survey, &sentinel, manifest.is_some(), existing.as_ref());
        space::check(&needs, options.space_hint.unwrap_or(space::OTHER_PLACE))?;
    }
    let fetch = Fetch { levels, table, kept };
    let plan = RestorePlan {
        backup: backup.to_owned(),
        target: place.target,
        tablespaces: place.tablespaces,
        wal_directory: place.directories.wal.as_ref().map(|wal| wal.path.clone()),
        links: place.links,
        ancestors: links.into_iter().skip(1).map(|link| link.backup).collect(),
        recovery: options.recovery,
        outlook,
        estimate: None,
        accepts_originals: options.tablespace_map.accepts_originals(),
        archive_off: options.archive_off,
        mode: options.mode,
        owner: options.owner,
        mask: options.mask,
        databases: survey.databases,
        existing,
        major: place.major,
        sentinel,
        concurrency: options.concurrency.max(1),
        notes,
        downloads: fetch.downloads(),
        fetched_files: fetch.files(),
        manifest,
        store: store.clone(),
    };
    let held = Held {
        directories: place.directories,
        condition: place.condition,
    };
    Ok(PlannedRestore { plan, held, fetch })
}

/// Can a server of the backup's version do what it is to be told? `notes` gets what it does in another way than later ones.
fn check_version(sentinel: &Sentinel, options: &RestoreOptions, notes: &mut Vec<String>) -> Result<()> {
    let Some(recovery) = options.recovery.as_ref().filter(|_| sentinel.pg_version > 0) else {
        return Ok(());
    };
    let Some(major) = version::of_number(sentinel.pg_version) else {
        return Err(Error::refused(
            format!(
                "recovery settings are not written for a server of version {}",
                sentinel.pg_version
            ),
            format!(
                "Use --no-recovery and write recovery.conf by hand. Versions from {} on are known.",
                version::name(version::OLDEST)
            ),
        ));
    };
    let is_to_lsn = matches!(recovery.target.target, RestoreTarget::Lsn(_));
    if is_to_lsn && major < TARGET_LSN_SINCE {
        return Err(Error::refused(
            format!("PostgreSQL {} cannot recover to an LSN", version::name(major)),
            "PostgreSQL can do so from 10 on. Give a time, a restore point or a transaction ID.",
        ));
    }
    if major == version::OLDEST && recovery.pauses() {
        notes.push(
            "PostgreSQL 9.6 pauses at the target only with hot_standby = on. The default is off, and then it shuts down there."
                .to_owned(),
        );
    }
    Ok(())
}

/// Compare the files in the target, if there are any, with those of the backup.
async fn compare(
    place: Place,
    table: Option<Table>,
    options: &RestoreOptions,
) -> Result<(Place, Option<Table>, Option<Existing>)> {
    if place.condition.is_none() {
        return Ok((place, table, None));
    }
    let (owner, threads) = (options.owner, options.concurrency);
    blocking(move || {
        let intended = Intended {
            tablespaces: &place.tablespaces,
            links: &place.links,
            major: place.major,
            table: table.as_ref(),
        };
        let found = existing::compare(&place.directories, intended, owner, threads)?;
        Ok((place, table, found))
    })
    .await
}

/// Take nothing from a backup that need not be fetched.
async fn leave_out(
    store: &Store,
    table: Option<Table>,
    levels: Vec<Level>,
    kept: Option<&Bits>,
) -> Result<(Option<Table>, Vec<Level>)> {
    let Some(table) = table else { return Ok((None, levels)) };
    let Some(there) = there(&table, kept) else {
        return Ok((Some(table), levels));
    };
    let (table, levels) = narrow(store, table, levels, &there).await?;
    Ok((Some(table), levels))
}

/// All backups of the chain must be of the repository's cluster.
async fn check_cluster(store: &Store, links: &[Link]) -> Result<()> {
    let Some(owner) = cluster::owner(store).await? else {
        return Ok(());
    };
    let of = |link: &Link| link.sentinel.system_identifier.filter(|of_backup| *of_backup != 0);
    let foreign = links
        .iter()
        .find_map(|link| Some((link, of(link)?)).filter(|(_, of_backup)| *of_backup != owner.system_identifier));
    let Some((link, of_backup)) = foreign else {
        return Ok(());
    };
    Err(Error::refused(
        format!(
            "backup \"{}\" is of the cluster with system identifier {of_backup}, the repository of {}",
            link.backup, owner.system_identifier
        ),
        "One of them is not what it was. If the prefix really has backups of two clusters, copy that backup, those that it is \
         based on and their WAL to a prefix of their own, and restore from there.",
    ))
}

/// The files that need not be fetched: those that are kept, and those that a manifest allows to make without a tar.
fn there(table: &Table, kept: Option<&Bits>) -> Option<Bits> {
    let is_stub = |file: &usize| table.has_manifest && table.is_listed(*file) && table.is_left_out(*file);
    let is_kept = |file: &usize| kept.is_some_and(|kept| kept.get(*file));
    let mut files = (0..table.len())
        .filter(|file| is_stub(file) || is_kept(file))
        .peekable();
    files.peek()?;
    let there = Bits::none(table.len());
    for file in files {
        there.set(file);
    }
    Some(there)
}

/// The directories of a restore.
#[derive(Debug)]
struct Place {
    target: PathBuf,
    tablespaces: Vec<Tablespace>,
    links: Vec<MappedLink>,
    major: u32,
    /// Those of them that exist.
    directories: Directories,
    /// None if nothing is in the target.
    condition: Option<Condition>,
}

impl Place {
    async fn find(
        store: &Store,
        backup: &str,
        target: &Path,
        sentinel: &Sentinel,
        options: &RestoreOptions,
    ) -> Result<Self> {
        let source = store.object_url(&layout::sentinel(backup));
        let found = match &sentinel.tablespaces {
            Some(spec) => tablespaces::of_spec(spec, &source)?,
            None => read_tablespace_map(store, &list_tars(store, backup).await?).await?,
        };
        let mut place = Place {
            target: target.to_owned(),
            tablespaces: tablespaces::resolve(found, &options.tablespace_map, &source)?,
            links: match options.links.is_empty() {
                true => Vec::new(),
                false => options
                    .links
                    .resolve(&find_backup(store, backup).await?.metadata.links)?,
            },
            major: version::of_number(sentinel.pg_version).unwrap_or(0),
            directories: Directories::default(),
            condition: None,
        };
        place.target = match options.mode {
            RestoreMode::VerifyOnly => return Ok(place),
            mode => vacant::check_directories(target, &place.tablespaces, mode, place.major)?,
        };
        place.directories = Directories::find(&place.target, &place.tablespaces)?;
        let accepted = options.tablespace_map.accepts_originals();
        locations::confirm(&mut place.tablespaces, &place.directories, accepted, options.owner)?;
        let others = place
            .tablespaces
            .iter()
            .filter_map(|tablespace| tablespace.location.as_ref());
        let others = others
            .map(|location| tablespaces::settled(location))
            .collect::<Result<Vec<_>>>()?;
        let mut taken = [&[place.target.clone()][..], &others[..]].concat();
        place.directories.wal = wal_directory::find(
            options.wal_directory.as_deref(),
            &place.target,
            place.major,
            &place.directories,
            &taken,
            options.mode == RestoreMode::Delta,
        )?;
        if let Some(wal) = &place.directories.wal {
            taken.push(tablespaces::settled(&wal.path)?);
        }
        place.directories.links = links::find_places(&place.links, &taken, options.owner)?;
        if options.mode == RestoreMode::Delta {
            place.condition = condition::check_directories(&place.directories, &place.tablespaces, sentinel)?;
        }
        Ok(place)
    }

    fn survey(&self, databases: Databases) -> Survey {
        let mut survey = Survey::new(databases);
        survey.linked = self
            .links
            .iter()
            .map(|link| (link.path.clone().into_bytes(), 0))
            .collect();
        survey
    }

    /// The bytes that will be written to each place.
    fn needs(&self, survey: &Survey, sentinel: &Sentinel, has_manifest: bool, existing: Option<&Figures>) -> Vec<Need> {
        let places = self.tablespaces.iter().map(|tablespace| {
            let place = tablespace.location.as_ref().unwrap_or(&self.target);
            (place, tablespace.oid.parse().ok())
        });
        let places = std::iter::once((&self.target, None)).chain(places);
        let need = |(place, tablespace): (&PathBuf, Option<u32>)| Need {
            place: place.clone(),
            bytes: match (has_manifest, tablespace) {
                (true, _) => survey.bytes.get(&tablespace).copied().unwrap_or(0),
                (false, _) => 0,
            },
            room: existing
                .and_then(|existing| existing.room.get(&tablespace).copied())
                .unwrap_or(0),
            // Only the sum is known, not the place of each part.
            bytes_anywhere: match (has_manifest, tablespace) {
                (false, None) if survey.databases.is_all() => {
                    sentinel.data_catalog_size.unwrap_or(sentinel.uncompressed_size)
                }
                _ => 0,
            },
        };
        let behind_links = self.links.iter().zip(&survey.linked).map(|(link, (_, bytes))| Need {
            place: link.location.clone(),
            bytes: if has_manifest { *bytes } else { 0 },
            ..Need::default()
        });
        places.map(need).chain(behind_links).collect()
    }
}

/// The tablespaces as `pg_backup_stop` returned them, for a sentinel that does not name any.
async fn read_tablespace_map(store: &Store, tars: &[Tar]) -> Result<Vec<(String, String)>> {
    let Some(tar) = tars.iter().find(|tar| tar.kind == TarKind::Label) else {
        return Ok(Vec::new());
    };
    let content = read_with(store, &tar.key, tar.size, |source| {
        let mut found = Vec::new();
        let mut archive = tar::Archive::new((&mut *source).take(MAP_LIMIT));
        for entry in archive.entries()? {
            let mut entry = entry?;
            if MemberPath::parse(&entry.path_bytes()).is_ok_and(|path| path.is(TABLESPACE_MAP)) {
                found = whole(&mut entry, MAP_LIMIT)?;
            }
        }
        to_the_end(source, MAP_LIMIT)?;
        Ok(found)
    });
    Ok(tablespaces::of_map_file(&String::from_utf8_lossy(&content.await?)))
}
