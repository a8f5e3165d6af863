//! A backup that is being taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use walarchive_storage::Store;

use super::claim::Claim;
use super::pack::notes::Packed;
use super::pack::packer::Shared;
use super::pack::spool::Lines;
use super::progress::BackupProgress;
use super::read::essential::{Databases, Essential};
use super::read::unlogged::Unlogged;
use super::read::walk::Attributes;
use super::{BackupOptions, BackupRequest, TablespaceLink};

/// A backup that is being taken. If a step fails, nothing but [`Backup::abort`] makes sense any more.
pub struct Backup {
    pub(super) store: Store,
    pub(super) request: BackupRequest,
    pub(super) options: BackupOptions,
    pub(super) progress: Arc<BackupProgress>,
    pub(super) cancel: CancellationToken,
    pub(super) name: String,
    pub(super) claim: Arc<Claim>,
    pub(super) tars: Vec<SentTar>,
    /// `pg_control` as it was after everything else was copied, and whose it is. It is stored with the label.
    pub(super) control: Option<(Vec<u8>, Attributes)>,
    pub(super) tablespaces: Vec<TablespaceLink>,
    /// Relations that were known as unlogged when the data directory was walked.
    pub(super) unlogged: Unlogged,
    /// Bytes of all files when the data directory was walked.
    pub(super) catalog_bytes: u64,
    /// Of a delta backup: the files that are in no tar.
    pub(super) left_out: Packed,
    /// OIDs, by name.
    pub(super) databases: BTreeMap<String, u32>,
    /// The names of their relations, by the OID of the database.
    pub(super) relations: BTreeMap<u32, Lines>,
    /// Which databases there were and are.
    pub(super) known: Databases,
    pub(super) essential: Essential,
    /// To whom `backup_label` belongs, if that is not whom the data directory belongs to.
    pub(super) label_owner: Option<Attributes>,
    pub(super) shared: Arc<Shared>,
}

/// A tar that is in the store.
pub(super) struct SentTar {
    pub(super) file_name: String,
    pub(super) packed: Packed,
}
