//! Writing what a backup says of its files: the manifest and the files metadata.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::StopResult;
use super::pack::spool::Lines;
use super::pack::stream::{sink_error, store_stream};
use super::read::unlogged::Unlogged;
use super::state::Backup;
use crate::blocking::blocking;
use crate::encrypted::{Wrapped, Wrapping};
use crate::error::Result;
use crate::formats::files_metadata::{FileEntry, FilesMetadataWriter, RelationEntry};
use crate::formats::manifest::{ManifestFile, ManifestWriter, WalRange};
use crate::repository::layout;
use crate::repository::layout::Key;
use walarchive_storage::{Store, Upload};

/// Store both, after `pg_backup_stop`.
pub(super) async fn store(backup: &mut Backup, stop: &StopResult) -> Result<()> {
    let (known, data_dir) = (std::mem::take(&mut backup.unlogged), backup.request.data_dir.clone());
    let late = blocking(move || known.since(&data_dir)).await?;
    if late.len() > 0 {
        tracing::debug!(relations = late.len(), "relations have turned out to be unlogged");
    }
    let late = Arc::new(late);
    let manifest = store_manifest(backup, stop, Arc::clone(&late));
    let is_wanted = backup.options.files_metadata;
    let files_metadata = is_wanted.then(|| store_files_metadata(backup, late));
    let files_metadata = async {
        match files_metadata {
            Some(files_metadata) => files_metadata.await,
            None => Ok(()),
        }
    };
    // Each is waited for, whatever becomes of the other.
    let (manifest, files_metadata) = tokio::join!(manifest, files_metadata);
    manifest.and(files_metadata)
}

/// Is a file left out? Its path is asked for only where some are.
fn is_late(late: &Unlogged, path: impl FnOnce() -> io::Result<String>) -> io::Result<bool> {
    Ok(late.len() > 0 && late.has(Path::new(path()?.trim_start_matches('/'))))
}

/// All that it needs is taken from the backup before anything is done.
fn store_manifest(
    backup: &mut Backup,
    stop: &StopResult,
    late: Arc<Unlogged>,
) -> impl Future<Output = Result<()>> + use<> {
    let files: Vec<Lines> = backup
        .tars
        .iter_mut()
        .map(|tar| &mut tar.packed)
        .chain([&mut backup.left_out])
        .map(|packed| std::mem::take(&mut packed.manifest))
        .collect();
    let key = layout::backup_manifest(&backup.name);
    let object = backup.store.object_url(&key);
    let (major, system_identifier) = (backup.request.major_version(), backup.request.system_identifier);
    let range = WalRange {
        timeline: backup.request.timeline,
        start: backup.request.start_lsn,
        end: stop.stop_lsn,
    };
    let (store, cancel) = (backup.store.clone(), backup.cancel.clone());
    let produce = move |upload: Wrapped<Upload>| {
        let written = || {
            let mut writer = ManifestWriter::new(upload, major, system_identifier)?;
            files.iter().try_for_each(|lines| {
                lines.each(|line| match is_late(&late, || ManifestFile::path_of_line(line))? {
                    true => Ok(()),
                    false => writer.line(line),
                })
            })?;
            writer.finish(&[range])?.finish()?.finish()
        };
        written().map_err(|error| sink_error(&object, error))
    };
    async move { store_metadata(&store, &key, &cancel, produce).await }
}

/// Likewise.
fn store_files_metadata(backup: &mut Backup, late: Arc<Unlogged>) -> impl Future<Output = Result<()>> + use<> {
    let tars: Vec<(String, Lines)> = backup
        .tars
        .iter_mut()
        .map(|tar| (tar.file_name.clone(), std::mem::take(&mut tar.packed.members)))
        .collect();
    let left_out = std::mem::take(&mut backup.left_out.members);
    let databases = std::mem::take(&mut backup.databases);
    let relations = std::mem::take(&mut backup.relations);
    let key = layout::files_metadata(&backup.name);
    let object = backup.store.object_url(&key);
    let (store, cancel) = (backup.store.clone(), backup.cancel.clone());
    let produce = move |upload: Wrapped<Upload>| {
        let each = |members: &Lines, take: &mut dyn FnMut(FileEntry<'_>) -> io::Result<()>| {
            members.each(|line| {
                let entry = FileEntry::of_line(line)?;
                match is_late(&late, || entry.name())? {
                    true => Ok(()),
                    false => take(entry),
                }
            })
        };
        let written = || {
            let mut files = FilesMetadataWriter::new(upload)?;
            for members in tars.iter().map(|(_, members)| members).chain([&left_out]) {
                each(members, &mut |entry| files.file(entry))?;
            }
            let mut sets = files.tar_file_sets()?;
            for (tar, members) in &tars {
                sets.tar(tar)?;
                each(members, &mut |entry| sets.member(entry))?;
            }
            let mut names = sets.databases()?;
            for (name, oid) in &databases {
                names.database(name, *oid)?;
                if let Some(relations) = relations.get(oid) {
                    relations.each(|line| names.relation(RelationEntry::of_line(line)?))?;
                }
            }
            names.finish()?.finish()?.finish()
        };
        written().map_err(|error| sink_error(&object, error))
    };
    async move { store_metadata(&store, &key, &cancel, produce).await }
}

/// As a stream, encrypted if the settings ask for that.
async fn store_metadata(
    store: &Store,
    key: &Key,
    cancel: &CancellationToken,
    produce: impl FnOnce(Wrapped<Upload>) -> Result<()> + Send + 'static,
) -> Result<()> {
    let wrapping = Wrapping::of_metadata(store).await?;
    let (name, object) = (key.clone(), store.object_url(key));
    let begin = move |upload| match wrapping.begin(&name, upload, 0) {
        Ok(wrapped) => produce(wrapped),
        Err(error) => Err(sink_error(&object, error)),
    };
    store_stream(store, key, cancel, begin).await.map(|_| ())
}
