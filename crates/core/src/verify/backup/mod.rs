//! Is a base backup whole? Every tar is read to its end, and every file compared with the manifest.

mod findings;
mod members;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::Utc;
use futures::StreamExt;
use serde::Serialize;

use self::findings::Findings;
use self::members::{Context, read_tar};
use super::VerifyStatus;
use super::record::VerifiedBackup;
use crate::blocking::blocking;
use crate::data_dir::{BACKUP_LABEL, PG_CONTROL, TABLESPACE_MAP};
use crate::encrypted::{self, refuse_unread};
use crate::error::{Error, Result};
use crate::printable::counted;
use crate::repository::inventory::{BackupInfo, Inventory};
use crate::repository::{encryption, inventory, layout};
use crate::stored::chain::Link;
use crate::stored::configuration;
use crate::stored::contents::{Base, MISSING_TAR, Own, read_own};
use crate::stored::essential::Essential;
use crate::stored::facts::Stored;
use crate::stored::names::{ListSource, NAMED, names};
use crate::stored::progress::ReadProgress;
use crate::stored::survey::Survey;
use crate::stored::tars::{Tar, TarKind, list_tars};
use crate::version;
use walarchive_storage::Store;

/// Tars at a time, each with some 40 MB in memory.
const CONCURRENCY: usize = 4;

pub use self::findings::BackupFinding;

/// The findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupReport {
    /// The backup.
    pub backup_name: String,
    /// The worst of the findings.
    pub status: VerifyStatus,
    /// One for each thing.
    pub details: Vec<BackupFinding>,
}

/// Read all of a backup. Faults are in the report; an error means that the store could not be asked, or that there is no such
/// backup. A backup that is in order is remembered as such in the repository.
pub async fn verify_backup(
    store: &Store,
    inventory: &Inventory,
    name: &str,
    progress: Arc<ReadProgress>,
) -> Result<BackupReport> {
    refuse_unread(store).await?;
    encryption::refuse_without_right_key(store).await?;
    let backup = match inventory.backup(name) {
        Some(backup) => backup.clone(),
        None => inventory::find_backup(store, name).await?,
    };
    let mut findings = Findings::default();
    look_at_sentinel(store, inventory, &backup, &mut findings);
    if backup.damaged.is_none() {
        look_at_wal(inventory, &backup, &mut findings);
        look_at_tars(store, &backup, &mut findings, &progress).await?;
        if let Some(described) = &backup.metadata.configuration {
            let (status, detail) = match configuration::check(store, &backup.name, described).await? {
                Some(wrong) => (VerifyStatus::Failure, wrong),
                None => (
                    VerifyStatus::Ok,
                    format!("It holds {} of the server.", counted(described.files.len(), "file")),
                ),
            };
            findings.add("configuration", status, layout::configuration(&backup.name), detail);
        }
    }
    let report = BackupReport {
        backup_name: backup.name.clone(),
        status: findings.worst,
        details: findings.into_rows(),
    };
    // A user who may only read is told the findings all the same.
    if let Err(error) = VerifiedBackup::write(store, &backup, report.status, Utc::now()).await {
        tracing::warn!("could not remember what was verified: {error}");
    }
    Ok(report)
}

fn look_at_sentinel(store: &Store, inventory: &Inventory, backup: &BackupInfo, findings: &mut Findings) {
    let path = layout::sentinel(&backup.name);
    if let Some(damaged) = &backup.damaged {
        findings.add("sentinel", VerifyStatus::Failure, path, damaged.clone());
        return;
    }
    let of_backup = backup.metadata.system_identifier;
    if let (Some(of_backup), Some(of_repository)) = (of_backup, inventory.system_identifier)
        && of_backup != of_repository
    {
        let detail = format!("The backup is of cluster {of_backup}, the repository of {of_repository}.");
        findings.add("sentinel", VerifyStatus::Failure, path, detail);
    } else if let Err(parent) = inventory.chain(backup) {
        let detail = format!("Its ancestor \"{parent}\" is not in \"{}\".", store.url());
        findings.add("sentinel", VerifyStatus::Failure, path, detail);
    } else {
        findings.add("sentinel", VerifyStatus::Ok, path, "It can be read.");
    }
}

fn look_at_wal(inventory: &Inventory, backup: &BackupInfo, findings: &mut Findings) {
    let Some(needed) = inventory.needed(backup) else {
        let detail = "The backup's name has no timeline, so its WAL is not known.";
        findings.add("wal", VerifyStatus::Warning, backup.name.clone(), detail);
        return;
    };
    let missing = inventory.missing(backup);
    for range in &missing {
        let missing = match range.count {
            1 => "This segment is missing".to_owned(),
            count => format!("{count} segments from here to {} are missing", range.last),
        };
        let detail = format!("{missing}: the backup cannot be made consistent.");
        findings.add("wal", VerifyStatus::Failure, range.first.to_string(), detail);
    }
    if missing.is_empty() {
        let detail = match needed.count {
            1 => "The only segment that the backup needs is there.".to_owned(),
            count => format!("{count} segments to {} are there.", needed.last),
        };
        findings.add("wal", VerifyStatus::Ok, needed.first.to_string(), detail);
    }
}

async fn look_at_tars(
    store: &Store,
    backup: &BackupInfo,
    findings: &mut Findings,
    progress: &Arc<ReadProgress>,
) -> Result<()> {
    let Some(tars) = unless_damaged(list_tars(store, &backup.name).await, "tar", findings)? else {
        return Ok(());
    };
    let link = Link {
        sentinel: inventory::read_sentinel(store, &backup.name).await?,
        backup: backup.name.clone(),
    };
    let base = match link.sentinel.delta_from {
        None => Base::Nothing,
        Some(_) => Base::Parent,
    };
    let own = read_own(store, &link, &tars, base, Survey::default(), &mut Vec::new()).await;
    let Some(own) = unless_damaged(own, "manifest", findings)? else {
        return Ok(());
    };
    let Own {
        table,
        manifest,
        missing_tars,
        survey,
    } = own;
    let path = layout::backup_manifest(&backup.name);
    let detail = match &manifest {
        Some(manifest) => format!("It is intact and lists {}.", counted(manifest.files, "file")),
        None => "The backup has none, like all backups of WAL-G: the content of files is not compared.".to_owned(),
    };
    findings.add("manifest", VerifyStatus::Ok, path, detail);
    for name in missing_tars {
        findings.add(
            "tar",
            VerifyStatus::Failure,
            layout::tar(&backup.name, &name),
            MISSING_TAR,
        );
    }
    let total = tars.iter().map(|tar| tar.size).sum();
    progress.bytes_total.fetch_add(total, Ordering::Relaxed);
    let context = Context::new(
        table,
        backup.metadata.start_lsn,
        std::mem::take(findings),
        Arc::clone(progress),
    );
    let context = Arc::new(context);
    // `pg_control` tells whether the pages have checksums.
    let (control, others): (Vec<Tar>, Vec<Tar>) = tars.into_iter().partition(|tar| tar.kind == TarKind::Control);
    let mut result = Ok(());
    for tars in [control, others] {
        let mut work = futures::stream::iter(tars)
            .map(|tar| look_at_tar(store, Arc::clone(&context), tar))
            .buffer_unordered(CONCURRENCY);
        while let Some(looked) = work.next().await {
            if looked.is_err() {
                result = looked;
                break;
            }
        }
        drop(work);
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() && !context.is_encrypted.load(Ordering::Relaxed) {
        result = conclude_files(store, &context, backup).await;
        conclude(&context, backup);
        // The list was compared with the tars.
        match &context.table {
            Some(_) => conclude_essential(&context, &survey.essential, backup),
            None => conclude_essential(&context, &context.essential.lock(), backup),
        }
    }
    *findings = std::mem::take(&mut context.findings.lock());
    result
}

/// A damaged object is a finding; anything else that went wrong is an error.
fn unless_damaged<T>(result: Result<T>, what: &'static str, findings: &mut Findings) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match (error.content_finding(), &error) {
            (
                Some(finding),
                Error::Damaged { object, .. } | Error::Encrypted { object, .. } | Error::Sealed { object, .. },
            ) => {
                findings.add(what, VerifyStatus::Failure, object.clone(), finding);
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

async fn look_at_tar(store: &Store, context: Arc<Context>, tar: Tar) -> Result<()> {
    let reader = encrypted::reader(store, &tar.key, tar.size);
    blocking(move || read_tar(&context, &tar, reader)).await
}

/// Is anything missing? Can be said only when all tars were read.
async fn conclude_files(store: &Store, context: &Context, backup: &BackupInfo) -> Result<()> {
    let Some(table) = &context.table else { return Ok(()) };
    let map = table.find(TABLESPACE_MAP.as_bytes());
    let (source, status) = match table.has_manifest {
        true => (ListSource::Manifest, VerifyStatus::Failure),
        // WAL-G lists files that vanished while it packed them.
        false => (ListSource::FilesMetadata, VerifyStatus::Warning),
    };
    // A skipped file is in no tar of this backup.
    let is_missing = |file: &usize| {
        Some(*file) != map
            && table.stored(*file) != Some(Stored::Skipped)
            && (table.is_listed(*file) || !table.has_manifest)
    };
    let keys: Vec<_> = context
        .unseen()
        .filter(is_missing)
        .map(|file| table.key(file))
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    let (count, some) = (keys.len(), keys.into_iter().take(NAMED).collect());
    let names = names(store, &backup.name, source, table.keys().clone(), some).await?;
    let mut findings = context.findings.lock();
    if source == ListSource::FilesMetadata {
        let first = names.first().map_or("", String::as_str);
        let detail = format!(
            "{} of the backup's files metadata cannot be found in any tar. The first is \"{first}\".",
            counted(count, "file")
        );
        findings.add("file", status, layout::files_metadata(&backup.name), detail);
        return Ok(());
    }
    // A tar that cannot be read takes many with it.
    let named = names.len();
    for path in names {
        let detail = "It is in the backup manifest, and cannot be found in any tar.";
        findings.add("file", status, path, detail);
    }
    if count > named {
        let detail = format!(
            "{} of the backup manifest cannot be found in any tar.",
            counted(count - named, "more file")
        );
        findings.add("file", status, layout::backup_manifest(&backup.name), detail);
    }
    Ok(())
}

/// Is everything in it without which no server starts?
fn conclude_essential(context: &Context, essential: &Essential, backup: &BackupInfo) {
    let mut findings = context.findings.lock();
    let major = version::of_number(backup.metadata.pg_version).unwrap_or(0);
    for (path, detail) in essential.missing(&backup.metadata.incomplete_databases, major) {
        findings.add("file", VerifyStatus::Failure, path, detail);
    }
}

/// The other findings need all tars to be read.
fn conclude(context: &Context, backup: &BackupInfo) {
    let mut findings = context.findings.lock();
    for needed in [PG_CONTROL, BACKUP_LABEL] {
        let table = context.table.as_ref();
        let is_listed = table.is_some_and(|table| {
            let file = table.find(needed.as_bytes());
            file.is_some_and(|file| table.is_listed(file))
        });
        if !context.has_seen(needed) && !is_listed {
            findings.add("file", VerifyStatus::Failure, needed, "It is in no tar.");
        }
    }
    if let Some(control) = &*context.control.lock() {
        let pages = context.pages.lock();
        let detail = match control.data_checksums {
            false => "The cluster has no page checksums.".to_owned(),
            true => format!("{} page checksums were looked at.", pages.checked),
        };
        if pages.bad == 0 {
            findings.add("pages", VerifyStatus::Ok, backup.name.clone(), detail);
        }
        let of_backup = backup.metadata.system_identifier;
        if of_backup.is_some_and(|of_backup| of_backup != control.system_identifier) {
            let detail = format!(
                "It is of cluster {}, the sentinel says otherwise.",
                control.system_identifier
            );
            findings.add("file", VerifyStatus::Failure, PG_CONTROL, detail);
        }
    }
}
