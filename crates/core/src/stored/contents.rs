//! Reading what a backup and its ancestors say of their files, as streams into one [`Table`].

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use super::chain::{Link, without_metadata};
use super::facts::Stored;
use super::fetch::read_with;
use super::level::{Kinds, Level, Taken, announced};
use super::metadata::{FileFlags, LIMIT, listen_to, metadata_object};
use super::names::{ListSource, NAMED, names};
use super::survey::Survey;
use super::table::{Table, TableBuilder, Twice};
use super::tars::{Tar, TarKind, list_tars};
use crate::error::{Error, Result};
use crate::formats::files_metadata::Listener;
use crate::formats::{FILES_LIMIT, manifest};
use crate::printable::counted;
use crate::repository::layout::{self, Key};
use walarchive_storage::Store;

/// The files to take, and the backups to take them from.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The files of the newest backup; none if it has neither files metadata nor a manifest: then all members count.
    pub(crate) table: Option<Table>,
    /// The newest first.
    pub(crate) levels: Vec<Level>,
    pub(crate) manifest: Option<ManifestInfo>,
    pub(crate) survey: Survey,
}

/// The manifest that was read, to tell it when it is read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestInfo {
    pub(crate) key: Key,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) checksum: String,
    pub(crate) files: u64,
}

/// Everything about a chain, the newest backup first. `notes` gets what the user should know.
pub(crate) async fn read(store: &Store, links: &[Link], survey: Survey, notes: &mut Vec<String>) -> Result<Contents> {
    let Some((newest, older)) = links.split_first() else {
        return Err(Error::damaged(store.url(), "A chain has no backup."));
    };
    let is_delta = !older.is_empty();
    if is_delta && let Some(link) = links.iter().find(|link| link.sentinel.files_metadata_disabled) {
        return Err(without_metadata(&link.backup, &newest.backup));
    }
    let tars = list_tars(store, &newest.backup).await?;
    let base = if is_delta { Base::Parent } else { Base::Nothing };
    let own = read_own(store, newest, &tars, base, survey, notes).await?;
    check_sets(store, &newest.backup, &own.missing_tars)?;
    let mut levels = vec![Level {
        depth: 0,
        backup: newest.backup.clone(),
        tars,
        taken: own.table.as_ref().map_or_else(Kinds::default, take_newest),
        most: announced(&newest.sentinel).filter(|_| own.manifest.is_none()),
    }];
    let mut table = own.table;
    if let Some(newest_table) = table.take() {
        let mut known = newest_table;
        let is_open = |file| matches!(known.stored(file), Some(Stored::Increment | Stored::Skipped));
        let mut open: Vec<u8> = (0..known.len()).map(|file| u8::from(is_open(file))).collect();
        for (at, link) in older.iter().enumerate() {
            let is_last = at + 1 == older.len();
            let level;
            (known, open, level) = read_older(store, link, at + 1, is_last, known, open).await?;
            check_seen(store, newest, link, &known, &open).await?;
            open.iter_mut().for_each(|open| *open = u8::from(*open == SEEN));
            levels.push(level);
        }
        table = Some(known);
    }
    Ok(Contents {
        table,
        levels,
        manifest: own.manifest,
        survey: own.survey,
    })
}

/// Without files metadata, all that the manifest lists is there in full.
fn take_newest(table: &Table) -> Kinds {
    let mut taken = Kinds::none(table.len());
    for file in 0..table.len() {
        let how = match table.has_metadata {
            true => table.stored(file).and_then(Stored::taken),
            false => Some(Taken::Full),
        };
        if let Some(how) = how {
            taken.take(file, how);
        }
    }
    taken
}

/// The tars of a backup, as its files metadata names them.
#[derive(Default)]
pub(crate) struct Sets {
    numbers: HashMap<String, usize>,
    pub(crate) current: Option<usize>,
    /// Of those that it names and that are not there, the first few.
    missing: Vec<String>,
}

impl Sets {
    pub(crate) fn new(tars: &[Tar]) -> Self {
        let numbers = tars.iter().enumerate().map(|(number, tar)| (tar.name.clone(), number));
        Sets {
            numbers: numbers.collect(),
            current: None,
            missing: Vec::new(),
        }
    }

    pub(crate) fn tar(&mut self, name: &str) {
        self.current = self.numbers.get(name).copied();
        if self.current.is_none() && self.missing.len() < NAMED {
            self.missing.push(name.to_owned());
        }
    }
}

/// All tars that the sets of a backup name must be there.
fn check_sets(store: &Store, backup: &str, missing: &[String]) -> Result<()> {
    let Some(name) = missing.first() else { return Ok(()) };
    Err(Error::damaged(
        store.object_url(&layout::tar(backup, name)),
        MISSING_TAR,
    ))
}

/// The finding on a tar that is missing.
pub(crate) const MISSING_TAR: &str = "It is missing, though the backup's files_metadata.json names it.";

/// Fills the table.
struct Newest {
    builder: TableBuilder,
    survey: Survey,
    files: u64,
    sets: Sets,
    /// The first file that is not there in full.
    partial: Option<String>,
}

impl Listener for Newest {
    type File = FileFlags;

    fn file(&mut self, path: &str, file: FileFlags) -> Result<(), String> {
        if self.builder.is_full() {
            return Err(too_many());
        }
        let stored = file.stored();
        if stored != Stored::Full && self.partial.is_none() {
            self.partial = Some(path.to_owned());
        }
        // The manifest will tell the size, and the file is counted then.
        let content = self.survey.look_at(path.trim_matches('/').as_bytes(), 0);
        self.builder.describe(path, stored, content);
        self.files += 1;
        Ok(())
    }

    fn tar(&mut self, name: &str) -> Result<(), String> {
        self.sets.tar(name);
        Ok(())
    }

    fn database(&mut self, _: &str, oid: u32) -> Result<(), String> {
        self.survey.essential.name(oid);
        Ok(())
    }
}

/// A backup's description of itself.
pub(crate) struct Own {
    /// None if it has neither files metadata nor a manifest.
    pub(crate) table: Option<Table>,
    pub(crate) manifest: Option<ManifestInfo>,
    /// Tars that files metadata names and that are not there: the first few.
    pub(crate) missing_tars: Vec<String>,
    pub(crate) survey: Survey,
}

/// The backups that a backup may be based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing: it is a full backup.
    Nothing,
    Parent,
}

/// Read what one backup says of itself.
pub(crate) async fn read_own(
    store: &Store,
    link: &Link,
    tars: &[Tar],
    base: Base,
    survey: Survey,
    notes: &mut Vec<String>,
) -> Result<Own> {
    let mut listener = Newest {
        builder: TableBuilder::default(),
        survey,
        files: 0,
        sets: Sets::new(tars),
        partial: None,
    };
    let manifest_key = layout::backup_manifest(&link.backup);
    let manifest_size = store.size(&manifest_key).await?;
    if !link.sentinel.files_metadata_disabled {
        let (key, size) = metadata_object(store, &link.backup).await?;
        listener = listen_to(store, &key, size, listener).await?;
        let object = store.object_url(&layout::files_metadata(&link.backup));
        if listener.files > 0 || key == layout::files_metadata(&link.backup) {
            let all = listener.builder.all_described();
            all.map_err(|Twice| Error::damaged(&object, "It has the same file twice."))?;
        } else if manifest_size.is_some() && base == Base::Nothing {
            notes.push("The backup's files_metadata.json is missing; its manifest is used alone.".to_owned());
        } else {
            return Err(Error::damaged(
                object,
                "It is missing, though the sentinel says that the backup has one.",
            ));
        }
        if let Some(path) = listener.partial.as_ref().filter(|_| base == Base::Nothing) {
            return Err(not_in_full(store, &link.backup, path));
        }
    }
    let mut manifest = None;
    let (mut builder, mut survey) = (listener.builder, listener.survey);
    if let Some(size) = manifest_size {
        let info;
        (builder, survey, info) = read_manifest(store, &manifest_key, size, builder, survey).await?;
        manifest = Some(info);
    }
    Ok(Own {
        table: builder.finish(),
        manifest,
        missing_tars: listener.sets.missing,
        survey,
    })
}

fn too_many() -> String {
    format!("it lists more than {FILES_LIMIT} files")
}

fn not_in_full(store: &Store, backup: &str, path: &str) -> Error {
    Error::damaged(
        store.object_url(&layout::files_metadata(backup)),
        format!(
            "It says that \"{}\" is not here in full, but the sentinel is that of a full backup.",
            path.escape_debug()
        ),
    )
}

async fn read_manifest(
    store: &Store,
    key: &Key,
    size: u64,
    mut builder: TableBuilder,
    mut survey: Survey,
) -> Result<(TableBuilder, Survey, ManifestInfo)> {
    let (object, name) = (store.object_url(key), key.to_owned());
    let read = move |source: &mut dyn Read| {
        let damaged = |reason: String| Error::damaged(&object, reason);
        let list = |file: manifest::ManifestFile| {
            if builder.is_full() {
                return Err(damaged(format!("It cannot be read: {}.", too_many())));
            }
            let path = |file: manifest::ManifestFile| file.path.display().to_string().escape_debug().to_string();
            let content = survey.look_at(file.path.as_os_str().as_bytes(), file.size);
            let listed = builder.list(&file, content);
            listed.map_err(|Twice| damaged(format!("It lists \"{}\" twice.", path(file))))
        };
        let listened = manifest::listen(source.take(LIMIT), list);
        let summary = listened.map_err(|error| damaged(error.detail().unwrap_or_else(|| error.to_string())))??;
        let all = builder.all_listed();
        all.map_err(|Twice| damaged("It lists a file twice.".to_owned()))?;
        let info = ManifestInfo {
            key: name,
            size,
            checksum: summary.checksum,
            files: summary.files,
        };
        Ok((builder, survey, info))
    };
    read_with(store, key, size, read).await
}

/// The file is open: a newer backup has it in part or not at all.
const OPEN: u8 = 1;
/// It is open, and this backup has it, but not in full.
const SEEN: u8 = 2;

/// Finds what is taken from an ancestor.
struct Older {
    table: Table,
    open: Vec<u8>,
    taken: Kinds,
    sets: Sets,
    /// Of each tar, whether something in it is needed. None if its files metadata does not name it.
    needed: Vec<Option<bool>>,
    files: u64,
    /// The tars were named before the files, so what is needed of them could not be told.
    out_of_order: bool,
    partial: Option<String>,
}

impl Listener for Older {
    type File = FileFlags;

    fn file(&mut self, path: &str, file: FileFlags) -> Result<(), String> {
        self.files += 1;
        let Some(number) = self.table.find(path.trim_matches('/').as_bytes()) else {
            return Ok(());
        };
        if self.open[number] != OPEN {
            return Ok(());
        }
        let stored = file.stored();
        if let Some(how) = stored.taken() {
            self.taken.take(number, how);
        }
        self.open[number] = match stored {
            Stored::Full => 0,
            Stored::Increment | Stored::Skipped => SEEN,
        };
        if stored != Stored::Full && self.partial.is_none() {
            self.partial = Some(path.to_owned());
        }
        Ok(())
    }

    fn tar(&mut self, name: &str) -> Result<(), String> {
        self.out_of_order |= self.files == 0;
        self.sets.tar(name);
        if let Some(number) = self.sets.current {
            self.needed[number].get_or_insert(false);
        }
        Ok(())
    }

    fn member(&mut self, path: &str) -> Result<(), String> {
        let Some(tar) = self.sets.current else { return Ok(()) };
        let number = self.table.find(path.trim_matches('/').as_bytes());
        if number.is_some_and(|number| self.taken.get(number).is_some()) {
            self.needed[tar] = Some(true);
        }
        Ok(())
    }
}

async fn read_older(
    store: &Store,
    link: &Link,
    depth: usize,
    is_last: bool,
    table: Table,
    open: Vec<u8>,
) -> Result<(Table, Vec<u8>, Level)> {
    let tars = list_tars(store, &link.backup).await?;
    let (key, size) = metadata_object(store, &link.backup).await?;
    let listener = Older {
        taken: Kinds::none(table.len()),
        table,
        open,
        sets: Sets::new(&tars),
        needed: vec![None; tars.len()],
        files: 0,
        out_of_order: false,
        partial: None,
    };
    let listener = listen_to(store, &key, size, listener).await?;
    if listener.files == 0 {
        return Err(Error::damaged(
            store.object_url(&layout::files_metadata(&link.backup)),
            "It is missing or empty, and without it no delta backup can be restored that is based on this one.",
        ));
    }
    check_sets(store, &link.backup, &listener.sets.missing)?;
    if let Some(path) = listener.partial.as_ref().filter(|_| is_last) {
        return Err(not_in_full(store, &link.backup, path));
    }
    let is_needed = |number: usize, tar: &Tar| {
        tar.kind == TarKind::Part && (listener.out_of_order || listener.needed[number].unwrap_or(true))
    };
    let tars = tars.into_iter().enumerate();
    let level = Level {
        depth,
        backup: link.backup.clone(),
        tars: tars
            .filter_map(|(number, tar)| is_needed(number, &tar).then_some(tar))
            .collect(),
        taken: listener.taken,
        most: announced(&link.sentinel),
    };
    Ok((listener.table, listener.open, level))
}

/// A file that a backup has only in part must be in its parent.
async fn check_seen(store: &Store, newest: &Link, link: &Link, table: &Table, open: &[u8]) -> Result<()> {
    let unseen = |file: &usize| open[*file] == OPEN;
    let missing = (0..table.len()).filter(unseen).count();
    if missing == 0 {
        return Ok(());
    }
    let keys = (0..table.len()).filter(unseen).take(NAMED).map(|file| table.key(file));
    let (keys, source) = (keys.collect(), layout::files_metadata(&newest.backup));
    let names = names(
        store,
        &newest.backup,
        ListSource::FilesMetadata,
        table.keys().clone(),
        keys,
    )
    .await?;
    Err(Error::damaged(
        store.object_url(&layout::files_metadata(&link.backup)),
        format!(
            "It does not have {} that \"{source}\" has only in part, for example \"{}\".",
            counted(missing, "file"),
            names.first().map_or("", String::as_str)
        ),
    ))
}
