//! Listing objects and folders.

use chrono::{DateTime, Utc};
use walarchive_core::{Error, Result, StorageError};
use walarchive_storage::{Listed, Store};

use crate::print::plain;
use crate::repository::{self, Storage};
use crate::{listing, print};

/// `st ls`.
pub async fn list(storage: &Storage, folder: &str, recursive: bool, glob: bool) -> Result<()> {
    let store = repository::store(storage).await?;
    if !glob {
        return print::piece(&lines(&store, folder.trim_matches('/'), recursive).await?);
    }
    for folder in matching(&store, folder).await?.folders {
        print::out(&format!("{}:", plain(&folder)))?;
        print::out(&lines(&store, &folder, recursive).await?)?;
    }
    Ok(())
}

/// `st stat`.
pub async fn stat(storage: &Storage, path: &str) -> Result<()> {
    let store = repository::store(storage).await?;
    let path = path.trim_start_matches('/');
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let objects = store.list_shallow(folder).await?;
    match objects.into_iter().find(|object| object.key == path) {
        Some(object) => print::piece(&table(&[], &[object], folder)),
        None => Err(missing(&store, path)),
    }
}

/// `st check read`.
pub async fn check_read(storage: &Storage, files: &[String]) -> Result<()> {
    let store = repository::store(storage).await?;
    store.list_folder("").await?;
    for file in files {
        let key = file.trim_matches('/');
        if store.size(key).await?.is_none() {
            return Err(missing(&store, key));
        }
    }
    eprintln!("walarchive: the storage can be read");
    Ok(())
}

pub(super) fn missing(store: &Store, key: &str) -> Error {
    StorageError::NotFound {
        object: store.object_url(key),
    }
    .into()
}

async fn lines(store: &Store, folder: &str, recursive: bool) -> Result<String> {
    let (mut objects, mut folders) = match recursive {
        true => (store.list(folder).await?, Vec::new()),
        false => store.list_folder(folder).await?,
    };
    // Objects that are higher up come first.
    let depth = |object: &Listed| object.key.matches('/').count();
    objects.sort_by(|a, b| (depth(a), &a.key).cmp(&(depth(b), &b.key)));
    folders.sort();
    Ok(table(&folders, &objects, folder))
}

/// As WAL-G prints it: names are relative to the folder, and two columns for versions, which no object has here, are empty.
fn table(folders: &[String], objects: &[Listed], folder: &str) -> String {
    let name = |key: &str| {
        let below = key.strip_prefix(folder).unwrap_or(key);
        plain(below.trim_start_matches('/'))
    };
    let header = ["type", "size", "last modified", "name"].map(str::to_owned).to_vec();
    let row = |kind: &str, size: u64, time: String, name: String| {
        vec![
            kind.to_owned(),
            size.to_string(),
            time,
            name,
            String::new(),
            String::new(),
        ]
    };
    let folders = folders.iter().map(|folder| {
        let never = "0001-01-01 00:00:00 +0000 UTC".to_owned();
        row("dir", 0, never, format!("{}/", name(folder)))
    });
    let objects = objects
        .iter()
        .map(|object| row("obj", object.size, time(object.last_modified), name(&object.key)));
    listing::tabbed(
        &std::iter::once(header)
            .chain(folders)
            .chain(objects)
            .collect::<Vec<_>>(),
    )
}

/// As Go prints a time.
fn time(time: DateTime<Utc>) -> String {
    let fraction = format!(".{:09}", time.timestamp_subsec_nanos());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{}{fraction} +0000 UTC", time.format("%Y-%m-%d %H:%M:%S"))
}

/// The objects and folders that match a pattern.
#[derive(Debug, Default)]
pub(super) struct Matching {
    pub(super) objects: Vec<Listed>,
    pub(super) folders: Vec<String>,
}

/// All that matches, from folder to folder: no folder is listed that cannot match.
pub(super) async fn matching(store: &Store, pattern: &str) -> Result<Matching> {
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let mut found = Matching {
        objects: Vec::new(),
        folders: vec![String::new()],
    };
    for (at, part) in parts.iter().enumerate() {
        let part = glob::Pattern::new(part).map_err(|_| {
            Error::config(
                format!("\"{}\" is not a pattern of names", plain(part)),
                "Write it as a shell has it, for example 'wal_005/*.history.*'.",
            )
        })?;
        let takes = |key: &str| part.matches(key.rsplit('/').next().unwrap_or_default());
        let mut next = Vec::new();
        for folder in std::mem::take(&mut found.folders) {
            let (objects, folders) = store.list_folder(&folder).await?;
            next.extend(folders.into_iter().filter(|folder| takes(folder)));
            if at + 1 == parts.len() {
                found
                    .objects
                    .extend(objects.into_iter().filter(|object| takes(&object.key)));
            }
        }
        found.folders = next;
    }
    found.objects.sort_by(|a, b| a.key.cmp(&b.key));
    found.folders.sort();
    Ok(found)
}
