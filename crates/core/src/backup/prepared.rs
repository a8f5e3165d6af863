//! The steps after the copy: label, manifest and metadata, and at the very end the sentinel.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::delta::Parent;
use super::discard::discard;
use super::pack::packer::Packer;
use super::progress::{BackupProgress, Phase};
use super::read::configuration;
use super::read::corrupt::CorruptPages;
use super::read::walk::Attributes;
use super::state::{Backup, SentTar};
use super::{StopResult, TablespaceLink, lists};
use crate::blocking::blocking;
use crate::control_file::ControlFile;
use crate::data_dir::{BACKUP_LABEL, PG_CONTROL, TABLESPACE_MAP};
use crate::encrypted::metadata;
use crate::error::{Error, Result, StorageError};
use crate::formats::{ExtendedMetadata, LeftOut, Sentinel, TablespaceLocation, TablespaceSpec};
use crate::repository::inventory::missing_segments;
use crate::repository::{description, encryption, layout};
use crate::retention::{self, Mark};
use crate::wal::Segment;
use walarchive_storage::{Created, Store, UploadTask};

/// The longest that removing the claim of a complete backup may take.
const CLAIM_REMOVAL: Duration = Duration::from_secs(10);

/// What was looked at within this time before the sentinel is written need not be looked at again.
const LATELY: Duration = Duration::from_secs(5);

/// A backup of which everything is stored but the sentinel: it does not exist before [`PreparedBackup::commit`].
pub struct PreparedBackup {
    store: Store,
    name: String,
    sentinel: Bytes,
    needed: Vec<Segment>,
    /// Of a delta backup.
    parent: Option<Parent>,
    permanent: bool,
    corrupt: CorruptPages,
    left_out: Vec<LeftOut>,
    left_out_count: u64,
    claim: Arc<Claim>,
    /// The sentinel is there, and was there when nothing spoke against it any more.
    is_complete: AtomicBool,
    /// The sentinel is there.
    is_written: AtomicBool,
    /// When it was looked last whether anything speaks against the sentinel.
    checked: Mutex<Option<Instant>>,
    progress: Arc<BackupProgress>,
    cancel: CancellationToken,
}

impl std::fmt::Debug for PreparedBackup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedBackup").field("name", &self.name).finish()
    }
}

impl PreparedBackup {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pages whose checksum was wrong. They are in the backup as they are.
    pub fn corrupt_pages(&self) -> &CorruptPages {
        &self.corrupt
    }

    /// The entries of the data directory that are not in the backup: the first ones, and the number of all. They are symbolic
    /// links that are not the server's, and special files.
    pub fn left_out(&self) -> (&[LeftOut], u64) {
        (&self.left_out, self.left_out_count)
    }

    /// The WAL segments without which the backup cannot be restored, in order.
    pub fn needed_segments(&self) -> &[Segment] {
        &self.needed
    }

    /// Those of them that are not in the archive yet, by one listing.
    pub async fn missing_segments(&self, store: &Store) -> Result<Vec<Segment>> {
        self.claim.renew().await;
        missing_segments(store, &self.needed).await
    }

    /// The same when nothing is expected to be missing: what [`PreparedBackup::commit`] has to know before it writes anything is
    /// asked for at the same time.
    pub async fn last_look(&self, store: &Store) -> Result<Vec<Segment>> {
        self.claim.renew().await;
        let began = Instant::now();
        let (missing, checked, permitted) = tokio::join!(
            missing_segments(store, &self.needed),
            self.check(),
            self.store.check_fence()
        );
        // A failure is found again by the commit, which knows what to do then.
        *self.checked.lock() = (checked.is_ok() && permitted.is_ok()).then_some(began);
        missing
    }

    /// Write the sentinel, which makes the backup exist, and remove the claim. Returns the name. It may be called again
    /// after an error. If that is transient, the sentinel may be there; then so is the claim, which keeps deletions away. After
    /// any other error of the backup it is not.
    pub async fn commit(&self) -> Result<String> {
        if self.is_complete.load(Ordering::Relaxed) {
            return Ok(self.name.clone());
        }
        if let Err(error) = self.write_sentinel().await {
            return Err(if error.is_transient() {
                error
            } else {
                self.withdrawn(error).await
            });
        }
        self.is_complete.store(true, Ordering::Relaxed);
        // This matters so little that nobody should wait long for it.
        let claim = layout::backup_claim(&self.name);
        let left = match tokio::time::timeout(CLAIM_REMOVAL, self.store.delete_own(&claim)).await {
            Ok(removed) => removed.err(),
            Err(_elapsed) => Some(StorageError::timeout(
                "delete",
                self.store.object_url(&claim),
                CLAIM_REMOVAL,
            )),
        };
        if let Some(error) = left {
            tracing::warn!(backup = self.name, %error, "the backup is complete, but its claim could not be removed");
        }
        self.progress.set_phase(Phase::Done);
        Ok(self.name.clone())
    }

    /// Is the sentinel known to be written? Then the backup exists, even if nobody could have a last look at it.
    pub fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Relaxed)
    }

    /// Up to the point where it is certain that the backup exists and remains.
    async fn write_sentinel(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        // It is asked again when the sentinel is there, so this only keeps a sentinel from appearing for a moment.
        let checked = self.checked.lock().take();
        if checked.is_none_or(|at| at.elapsed() > LATELY) {
            self.check().await?;
        }
        self.keep_parent().await?;
        let key = layout::sentinel(&self.name);
        let created = metadata::create(&self.store, &key, self.sentinel.clone()).await;
        if !matches!(created, Ok(Created::Yes)) {
            // The answer to an attempt that had succeeded may be lost, and the next one then finds the sentinel there.
            let found = description::read(&self.store, &key).await;
            match (created, found) {
                (_, Ok(Some(found))) if self.is_ours(&found) => {}
                (Err(error), _) => return Err(error),
                (Ok(_), Err(error)) => return Err(error),
                (Ok(_), Ok(_)) => {
                    return Err(Error::BackupExists {
                        name: self.name.clone(),
                        reason: "Another backup wrote its sentinel first.".to_owned(),
                    });
                }
            }
        }
        self.is_written.store(true, Ordering::Relaxed);
        // A deletion looks for the sentinel once more after it has said that it begins; so one of the two gives way.
        self.check().await
    }

    /// After that error, take the sentinel back, which an earlier attempt may have written: nothing may look like a backup that
    /// cannot be restored. Returns the error to be reported.
    async fn withdrawn(&self, error: Error) -> Error {
        match self.remove_sentinel().await {
            Ok(()) => error,
            // Another attempt comes here again.
            Err(left) if left.is_transient() => left,
            Err(left) => {
                tracing::warn!(backup = self.name, error = %left, "the sentinel of the failed backup could not be removed");
                error
            }
        }
    }

    /// If it is there and ours.
    async fn remove_sentinel(&self) -> Result<()> {
        let key = layout::sentinel(&self.name);
        match description::read(&self.store, &key).await? {
            Some(found) if self.is_ours(&found) => Ok(self.store.delete(&key).await?),
            _ => Ok(()),
        }
    }

    /// Is a sentinel that was found under the name ours? Somebody may have marked the backup since then, so the bytes may differ.
    fn is_ours(&self, found: &[u8]) -> bool {
        let told = |bytes: &[u8]| {
            let sentinel = Sentinel::parse(bytes).ok()?;
            Some((
                sentinel.start_lsn,
                sentinel.finish_lsn,
                sentinel.start_time,
                sentinel.hostname,
            ))
        };
        told(found).is_some_and(|found| Some(found) == told(&self.sentinel))
    }

    /// Is the name still ours, and is there what the backup is based on?
    async fn check(&self) -> Result<()> {
        let parent = async {
            match &self.parent {
                Some(parent) => parent.check(&self.store).await,
                None => Ok(()),
            }
        };
        // Somebody may have turned encryption on while plain text was copied.
        let permitted = Box::pin(encryption::permit_to_end(&self.store));
        // If several fail, the one whose name was lost has nothing more to say.
        let (claim, parent, permitted) = tokio::join!(self.claim.check(), parent, permitted);
        claim.and(parent).and(permitted)
    }

    /// Before the sentinel: what a delta is based on is as permanent as the delta.
    async fn keep_parent(&self) -> Result<()> {
        let Some(parent) = &self.parent else { return Ok(()) };
        if self.permanent {
            for name in retention::mark(&self.store, &parent.name, Mark::Permanent).await? {
                tracing::info!("marked \"{name}\" as permanent, as \"{}\" will be", self.name);
            }
        }
        Ok(())
    }

    /// Give the backup up and remove what was stored. The error says what could not be removed.
    pub async fn abort(self) -> Result<()> {
        // After a commit whose outcome nobody knows the sentinel goes first: a backup must not exist in part.
        self.remove_sentinel().await?;
        discard(&self.store, &self.name).await
    }
}

pub(super) async fn prepare(backup: &mut Backup, stop: &StopResult) -> Result<PreparedBackup> {
    let (shared, essential) = (Arc::clone(&backup.shared), std::mem::take(&mut backup.essential));
    let known = std::mem::take(&mut backup.known);
    let incomplete = blocking(move || {
        shared.links.check(&shared.data_dir)?;
        essential.check_databases(&shared.data_dir, &known)
    });
    let incomplete_databases = incomplete.await?;
    // On a long way each request takes its time, so all that is left to store goes at once.
    let mut under_way = Vec::new();
    let mut described = describe(backup, stop, incomplete_databases, &mut under_way).await;
    // Also after a failure: what arrives after the rest was removed would stay.
    for upload in under_way {
        if let Err(error) = upload.outcome().await {
            described = described.and(Err(error.into()));
        }
    }
    let Described {
        sentinel,
        metadata,
        corrupt,
    } = described?;
    if backup.cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    Ok(PreparedBackup {
        store: backup.store.clone(),
        name: backup.name.clone(),
        sentinel: json(&sentinel)?,
        parent: backup.request.parent.clone(),
        permanent: backup.request.permanent,
        corrupt,
        left_out: metadata.left_out,
        left_out_count: metadata.left_out_count,
        claim: Arc::clone(&backup.claim),
        is_written: AtomicBool::new(false),
        is_complete: AtomicBool::new(false),
        checked: Mutex::default(),
        needed: {
            let request = &backup.request;
            Segment::range(request.timeline, request.start_lsn, stop.stop_lsn, request.segment_size)
        },
        progress: Arc::clone(&backup.progress),
        cancel: backup.cancel.clone(),
    })
}

/// What a backup says of itself.
struct Described {
    sentinel: Sentinel,
    metadata: ExtendedMetadata,
    corrupt: CorruptPages,
}

/// Store the last tars and what describes the backup. The uploads of the tars that are still on their way are in `under_way`.
async fn describe(
    backup: &mut Backup,
    stop: &StopResult,
    incomplete_databases: Vec<u32>,
    under_way: &mut Vec<UploadTask>,
) -> Result<Described> {
    let (shared, files) = (Arc::clone(&backup.shared), backup.request.configuration.clone());
    let key = layout::configuration_in(&backup.name, backup.options.compression.format());
    let taken = {
        let key = key.clone();
        blocking(move || configuration::take(&files, &shared.data_dir, &shared.links, (&shared.wrapping, &key)))
    };
    let (configuration, packed) = taken.await?.unzip();
    let control = backup.control.as_ref();
    let control = control.and_then(|(content, _)| ControlFile::parse(content).ok());
    if let Some((tar, upload)) = pack_control(backup).await? {
        backup.tars.push(tar);
        under_way.push(upload);
    }
    let (tar, upload) = pack_label(backup, stop).await?;
    backup.tars.push(tar);
    under_way.push(upload);
    backup.tars.sort_by(|left, right| left.file_name.cmp(&right.file_name));
    let sentinel = sentinel(backup, stop);
    let mut metadata = ExtendedMetadata::from(&sentinel);
    metadata.next_xid = stop.next_xid;
    let corrupt = backup.shared.corrupt.close();
    let verified = backup.shared.source.get().is_some_and(|source| source.data_checksums);
    metadata.corrupt_pages = verified.then_some(corrupt.pages);
    metadata.configuration = configuration;
    metadata.data_checksums = control.map(|control| control.data_checksums);
    metadata.links = backup.shared.links.followed();
    (metadata.left_out, metadata.left_out_count) = backup.shared.links.left_out();
    metadata.incomplete_databases = incomplete_databases;
    let (store, text) = (backup.store.clone(), json(&metadata)?);
    let configuration = async {
        match packed {
            Some(packed) => store.put(&key, Bytes::from(packed)).await,
            None => Ok(()),
        }
    };
    let metadata_key = layout::metadata(&backup.name);
    // Each is waited for, whatever becomes of the others.
    let (configuration, described, lists) = tokio::join!(
        configuration,
        metadata::put(&store, &metadata_key, text),
        lists::store(backup, stop)
    );
    configuration?;
    described?;
    lists?;
    Ok(Described {
        sentinel,
        metadata,
        corrupt,
    })
}

/// None if nothing was copied.
async fn pack_control(backup: &mut Backup) -> Result<Option<(SentTar, UploadTask)>> {
    let Some((content, owner)) = backup.control.take() else {
        return Ok(None);
    };
    backup.progress.added(content.len() as u64);
    let name = layout::pg_control_name(backup.options.compression.format());
    let fill = move |packer: &mut Packer| packer.bytes(Path::new(PG_CONTROL), &content, &owner);
    backup.start(0, name, 0, fill).await.map(Some)
}

async fn pack_label(backup: &Backup, stop: &StopResult) -> Result<(SentTar, UploadTask)> {
    let now = Utc::now();
    // If root takes the backup, the server must be able to read these files after a restore.
    let (uid, gid) = match backup.label_owner {
        Some(owner) => (owner.uid, owner.gid),
        None => {
            let data_dir = backup.request.data_dir.clone();
            let found = blocking(move || Ok(std::fs::metadata(data_dir).ok())).await?;
            found.map_or_else(
                || (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
                |meta| (meta.uid(), meta.gid()),
            )
        }
    };
    let owner = Attributes {
        mode: 0o600,
        uid,
        gid,
        modified: (now.timestamp(), now.timestamp_subsec_nanos()),
    };
    let content = stop.backup_label.clone();
    let map = stop.tablespace_map.clone().filter(|map| !map.is_empty());
    let file_name = layout::backup_label_name(backup.options.compression.format());
    let pack = backup.start(0, file_name, 0, move |packer| {
        packer.label(BACKUP_LABEL, content.as_bytes(), &owner, true)?;
        // A restore makes the links itself and writes no such file, so the manifest must not ask for it.
        map.map_or(Ok(()), |map| {
            packer.label(TABLESPACE_MAP, map.as_bytes(), &owner, false)
        })
    });
    pack.await
}

fn sentinel(backup: &Backup, stop: &StopResult) -> Sentinel {
    let request = &backup.request;
    let data_dir = request.data_dir.to_string_lossy().into_owned();
    let parent = request.parent.as_ref();
    // WAL-G calls the backup that a standby stands for by an empty name.
    let (catchup, standby) = request.catchup.as_ref().map(|catchup| (catchup, String::new())).unzip();
    Sentinel {
        start_lsn: request.start_lsn,
        finish_lsn: stop.stop_lsn,
        delta_lsn: parent
            .map(|parent| parent.start_lsn)
            .or(catchup.map(|catchup| catchup.since)),
        delta_from: parent.map(|parent| parent.name.clone()).or_else(|| standby.clone()),
        delta_full_name: parent.map(|parent| parent.full_name.clone()).or(standby),
        delta_count: parent.map(|parent| parent.count).or(catchup.map(|_| 1)),
        pg_version: request.server_version_num,
        system_identifier: Some(request.system_identifier),
        uncompressed_size: backup.tars.iter().map(|tar| tar.packed.bytes).sum(),
        compressed_size: backup.tars.iter().map(|tar| tar.packed.stored).sum(),
        data_catalog_size: Some(backup.catalog_bytes),
        tablespaces: spec(&data_dir, &backup.tablespaces),
        user_data: request.user_data.clone(),
        files_metadata_disabled: !backup.options.files_metadata,
        chkp_num: None,
        version: Sentinel::VERSION,
        start_time: request.start_time,
        finish_time: Utc::now(),
        date_fmt: Sentinel::date_format(),
        hostname: request.hostname.clone(),
        data_dir,
        is_permanent: request.permanent,
    }
}

fn spec(data_dir: &str, tablespaces: &[TablespaceLink]) -> Option<TablespaceSpec> {
    if tablespaces.is_empty() {
        return None;
    }
    let location = |tablespace: &TablespaceLink| TablespaceLocation {
        loc: tablespace.location.to_string_lossy().into_owned(),
        link: Path::new("pg_tblspc")
            .join(tablespace.oid.to_string())
            .to_string_lossy()
            .into_owned(),
    };
    let locations: BTreeMap<_, _> = tablespaces
        .iter()
        .map(|tablespace| (tablespace.oid.to_string(), location(tablespace)))
        .collect();
    Some(TablespaceSpec {
        base_prefix: data_dir.to_owned(),
        oids: tablespaces
            .iter()
            .map(|tablespace| tablespace.oid.to_string())
            .collect(),
        locations,
    })
}

fn json(value: &impl serde::Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec(value).map_err(|error| Error::defect(format!("cannot write JSON: {error}")))?;
    Ok(Bytes::from(text))
}
