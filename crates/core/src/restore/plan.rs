//! What a restore will do, before it does anything.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::fetch::{read_if_there, read_with, whole};
use super::member::{MemberPath, TABLESPACE_MAP};
use super::options::RestoreOptions;
use super::recovery::RecoverySettings;
use super::select::delta_refused;
use super::tablespaces::{self, Tablespace};
use crate::codec::Format;
use crate::error::{Error, Result};
use crate::formats::files_metadata::FilesMetadata;
use crate::formats::manifest::{self, ManifestFile};
use crate::formats::{SENTINEL_LIMIT, Sentinel};
use crate::storage::Store;
use crate::{inventory, layout};

/// More than any manifest has, in bytes: about 200 a file.
const MANIFEST_LIMIT: u64 = 4 << 30;
/// More than any tablespace map has, in bytes.
const MAP_LIMIT: u64 = 16 << 20;
/// The first version with `recovery.signal`.
const RECOVERY_SIGNAL_SINCE: u32 = 120_000;

/// A restore that was checked as far as it can be without downloading the data. [`super::apply`] carries it out; its
/// `Display` is the dry run.
#[derive(Debug)]
pub struct RestorePlan {
    /// The backup's name.
    pub backup: String,
    /// Its sentinel.
    pub sentinel: Sentinel,
    /// The data directory, absolute.
    pub target: PathBuf,
    /// Where the tablespaces go.
    pub tablespaces: Vec<Tablespace>,
    /// All tars of the backup; the one with `pg_control` is last.
    pub tars: Vec<Tar>,
    /// What recovery will be told, if anything.
    pub recovery: Option<RecoverySettings>,
    /// Tars at a time.
    pub concurrency: usize,
    /// What the user should know, as sentences.
    pub notes: Vec<String>,
    pub(crate) manifest: Option<Manifest>,
    pub(crate) files: Option<FilesMetadata>,
    pub(crate) store: Store,
}

/// One tar of a backup.
#[derive(Debug, Clone)]
pub struct Tar {
    /// Its file name.
    pub name: String,
    /// Its key.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// How it is compressed.
    pub format: Format,
    pub(crate) kind: TarKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TarKind {
    Label,
    Part,
    Control,
}

/// The backup's manifest, by path.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) text: Vec<u8>,
    pub(crate) files: HashMap<PathBuf, ManifestFile>,
}

/// Find out everything about the restore of a backup into `target`, and refuse what cannot be done. Writes nothing.
pub async fn plan(store: &Store, backup: &str, target: &Path, options: RestoreOptions) -> Result<RestorePlan> {
    let sentinel = inventory::read_sentinel(store, backup).await?;
    if sentinel.delta_from.is_some() || sentinel.delta_lsn.is_some() || backup.contains("_D_") {
        return Err(delta_refused(backup));
    }
    if options.recovery.is_some() && (1..RECOVERY_SIGNAL_SINCE).contains(&sentinel.pg_version) {
        return Err(Error::config(
            format!(
                "recovery settings are not written for a server of version {}",
                sentinel.pg_version
            ),
            "Use --no-recovery and write recovery.conf by hand, as servers before 12 want it.",
        ));
    }
    let mut notes = Vec::new();
    let tars = list_tars(store, backup).await?;
    let manifest = read_manifest(store, backup).await?;
    let files = read_files_metadata(store, backup, &sentinel, manifest.is_some(), &mut notes).await?;
    if let Some(files) = &files {
        check_files_metadata(store, backup, files, &tars)?;
    }
    if manifest.is_none() {
        notes.push("The backup has no manifest, so the content of its files cannot be compared with one.".to_owned());
    }
    let found = match &sentinel.tablespaces {
        Some(spec) => tablespaces::of_spec(spec, &store.object_url(&layout::sentinel(backup)))?,
        None => read_tablespace_map(store, &tars).await?,
    };
    let source = store.object_url(&layout::sentinel(backup));
    let tablespaces = tablespaces::resolve(found, &options.tablespace_map, &source)?;
    let target = tablespaces::check_directories(target, &tablespaces)?;
    Ok(RestorePlan {
        backup: backup.to_owned(),
        sentinel,
        target,
        tablespaces,
        tars,
        recovery: options.recovery,
        concurrency: options.concurrency.max(1),
        notes,
        manifest,
        files,
        store: store.clone(),
    })
}

/// The tars of a backup: what `pg_backup_stop` returned first, `pg_control` last, and between them the large ones first.
pub(crate) async fn list_tars(store: &Store, backup: &str) -> Result<Vec<Tar>> {
    let folder = layout::tar_folder(backup);
    let mut tars = Vec::new();
    for object in store.list_shallow(&folder).await? {
        let name = object.key.rsplit('/').next().unwrap_or_default().to_owned();
        let (format, stem) = Format::of_key(&name);
        let kind = match stem {
            "pg_control.tar" => TarKind::Control,
            "backup_label.tar" => TarKind::Label,
            _ if stem.ends_with(".tar") => TarKind::Part,
            _ => {
                tracing::warn!(object = store.object_url(&object.key), "is no tar and was ignored");
                continue;
            }
        };
        tars.push(Tar {
            name,
            key: object.key,
            size: object.size,
            format,
            kind,
        });
    }
    for (kind, what) in [(TarKind::Control, "pg_control"), (TarKind::Label, "backup_label")] {
        let count = tars.iter().filter(|tar| tar.kind == kind).count();
        if count != 1 {
            return Err(Error::damaged(
                store.object_url(&folder),
                format!("The backup has {count} tars with {what}, there should be one."),
            ));
        }
    }
    tars.sort_by(|a, b| {
        (a.kind, std::cmp::Reverse(a.size), &a.name).cmp(&(b.kind, std::cmp::Reverse(b.size), &b.name))
    });
    Ok(tars)
}

pub(crate) async fn read_manifest(store: &Store, backup: &str) -> Result<Option<Manifest>> {
    let key = layout::backup_manifest(backup);
    let Some(text) = read_if_there(store, &key, |source| whole(source, MANIFEST_LIMIT)).await? else {
        return Ok(None);
    };
    let damaged = |reason: String| Error::damaged(store.object_url(&key), reason);
    let parsed =
        manifest::parse(&text).map_err(|error| damaged(error.detail().unwrap_or_else(|| error.to_string())))?;
    let mut files = HashMap::with_capacity(parsed.files.len());
    for file in parsed.files {
        if let Some(twice) = files.insert(file.path.clone(), file) {
            return Err(damaged(format!("It lists \"{}\" twice.", twice.path.display())));
        }
    }
    Ok(Some(Manifest { text, files }))
}

/// None if the backup was taken without, or if it is lost but the manifest can stand in for it.
pub(crate) async fn read_files_metadata(
    store: &Store,
    backup: &str,
    sentinel: &Sentinel,
    has_manifest: bool,
    notes: &mut Vec<String>,
) -> Result<Option<FilesMetadata>> {
    if sentinel.files_metadata_disabled {
        return Ok(None);
    }
    let key = layout::files_metadata(backup);
    let read = |source: &mut dyn Read| FilesMetadata::read_from(source);
    if let Some(files) = read_if_there(store, &key, read).await? {
        return Ok(Some(files));
    }
    // WAL-G before 2.0 kept it in the sentinel.
    let old = store.get(&layout::sentinel(backup), SENTINEL_LIMIT).await?;
    let old = old.and_then(|content| FilesMetadata::read_from(&content[..]).ok());
    match old.filter(|files| !files.files.is_empty()) {
        Some(files) => Ok(Some(files)),
        None if has_manifest => {
            notes.push("The backup's files_metadata.json is missing; its manifest is used alone.".to_owned());
            Ok(None)
        }
        None => Err(Error::damaged(
            store.object_url(&key),
            "It is missing, though the sentinel says that the backup has one.",
        )),
    }
}

fn check_files_metadata(store: &Store, backup: &str, files: &FilesMetadata, tars: &[Tar]) -> Result<()> {
    if let Some(name) = files
        .tar_file_sets
        .keys()
        .find(|name| !tars.iter().any(|tar| tar.name == **name))
    {
        return Err(Error::damaged(
            store.object_url(&layout::tar(backup, name)),
            "It is missing, though the backup's files_metadata.json names it.",
        ));
    }
    if let Some((path, _)) = files
        .files
        .iter()
        .find(|(_, file)| file.is_incremented || file.is_skipped)
    {
        return Err(Error::damaged(
            store.object_url(&layout::files_metadata(backup)),
            format!("It says that \"{path}\" is not here in full, but the sentinel is that of a full backup."),
        ));
    }
    Ok(())
}

/// The tablespaces as `pg_backup_stop` returned them, for a sentinel that does not name any.
async fn read_tablespace_map(store: &Store, tars: &[Tar]) -> Result<Vec<(String, String)>> {
    let Some(tar) = tars.iter().find(|tar| tar.kind == TarKind::Label) else {
        return Ok(Vec::new());
    };
    let content = read_with(store, &tar.key, tar.size, |source| {
        let mut archive = tar::Archive::new(source.take(MAP_LIMIT));
        for entry in archive.entries()? {
            let mut entry = entry?;
            if MemberPath::parse(&entry.path_bytes()).is_ok_and(|path| path.is(TABLESPACE_MAP)) {
                return whole(&mut entry, MAP_LIMIT);
            }
        }
        Ok(Vec::new())
    });
    Ok(tablespaces::of_map_file(&String::from_utf8_lossy(&content.await?)))
}

impl RestorePlan {
    /// Bytes to download.
    pub fn stored_bytes(&self) -> u64 {
        self.tars.iter().map(|tar| tar.size).sum()
    }
}

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentinel = &self.sentinel;
        writeln!(f, "backup:       {} in {}", self.backup, self.store.url())?;
        writeln!(
            f,
            "taken:        {} to {}, LSN {} to {}",
            sentinel.start_time.format("%Y-%m-%d %H:%M:%S+00"),
            sentinel.finish_time.format("%Y-%m-%d %H:%M:%S+00"),
            sentinel.start_lsn,
            sentinel.finish_lsn
        )?;
        writeln!(f, "directory:    {}", self.target.display())?;
        for tablespace in &self.tablespaces {
            match &tablespace.location {
                Some(location) if Path::new(&tablespace.original) == location => {
                    writeln!(f, "tablespace:   {} at {}", tablespace.oid, location.display())?;
                }
                Some(location) => writeln!(
                    f,
                    "tablespace:   {} at {} (was {})",
                    tablespace.oid,
                    location.display(),
                    tablespace.original
                )?,
                None => writeln!(f, "tablespace:   {} inside the data directory", tablespace.oid)?,
            }
        }
        writeln!(
            f,
            "download:     {} tars, {} bytes, {} at a time",
            self.tars.len(),
            self.stored_bytes(),
            self.concurrency
        )?;
        writeln!(f, "unpacked:     {} bytes", sentinel.uncompressed_size)?;
        match &self.manifest {
            Some(manifest) => writeln!(f, "checked with: the backup manifest ({} files)", manifest.files.len())?,
            None => writeln!(f, "checked with: the checksums of the tars only")?,
        }
        match &self.recovery {
            None => writeln!(f, "recovery:     no settings are written")?,
            Some(recovery) => {
                writeln!(
                    f,
                    "recovery:     {}, and in postgresql.auto.conf:",
                    recovery.mode.file_name()
                )?;
                recovery
                    .settings()
                    .iter()
                    .try_for_each(|line| writeln!(f, "    {line}"))?;
            }
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "note:         {note}"))
    }
}
