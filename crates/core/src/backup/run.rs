//! The three steps of a backup.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::delta::{Delta, Parent, leave_out};
use super::discard::discard;
use super::names::RelationNames;
use super::pack::limiter::Limiter;
use super::pack::notes::Packed;
use super::pack::packer::{Packer, Shared};
use super::pack::stream::start_stream;
use super::plan::Group;
use super::prepared::PreparedBackup;
use super::progress::{BackupProgress, Phase};
use super::read::corrupt::Findings;
use super::read::essential::{Databases, Essential};
use super::read::files::FileList;
use super::read::links::Links;
use super::read::source::SourceFacts;
use super::read::unlogged::Unlogged;
use super::read::walk;
use super::read::walk::{Attributes, DataDirectory, Directory};
use super::state::{Backup, SentTar};
use super::{BackupOptions, BackupRequest, StopResult, catchup, label, plan, prepared};
use crate::blocking::blocking;
use crate::control_file::{ControlFile, PG_CONTROL_BYTES};
use crate::data_dir::PG_CONTROL;
use crate::encrypted::Wrapping;
use crate::error::{Error, Result};
use crate::lease::LOOK;
use crate::repository::{encryption, layout};
use walarchive_storage::{Store, UploadTask};

impl Backup {
    /// Take the name, after `pg_backup_start` and before the first byte. Must be called within a tokio runtime.
    /// [`Error::BackupExists`] if the name is taken; then nothing was written.
    pub async fn begin(
        store: &Store,
        request: BackupRequest,
        options: BackupOptions,
        progress: Arc<BackupProgress>,
        cancel: CancellationToken,
    ) -> Result<Self> {
        Self::is_free(store, &request).await?;
        Self::begin_free(store, request, options, progress, cancel).await
    }

    /// An error if the name is taken. This only reads.
    pub async fn is_free(store: &Store, request: &BackupRequest) -> Result<()> {
        Claim::look(store, &request.name()).await
    }

    /// [`Backup::begin`] after a successful [`Backup::is_free`].
    pub async fn begin_free(
        store: &Store,
        mut request: BackupRequest,
        options: BackupOptions,
        progress: Arc<BackupProgress>,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let name = request.name();
        request.configuration.keys.extend(store.keyring().files());
        let wrapping = Wrapping::of(store, options.compression).await?;
        Box::pin(encryption::permit(store)).await?;
        // A cancel waits for the answer: else nobody would remove a claim that was written.
        let claim = Claim::take(store, &request, &name).await?;
        if cancel.is_cancelled() {
            discard(store, &name).await?;
            return Err(Error::Cancelled);
        }
        // From now on no deletion takes it; one may have done so before.
        if let Some(parent) = &request.parent
            && let Err(error) = parent.check(store).await
        {
            discard(store, &name).await?;
            return Err(error);
        }
        let shared = Shared {
            data_dir: request.data_dir.clone(),
            start: request.start_lsn,
            source: OnceLock::new(),
            delta: OnceLock::new(),
            corrupt: Findings::new(options.on_checksum_failure),
            find_resident: options.find_resident,
            wrapping,
            algorithm: options.checksum_algorithm,
            limiter: Limiter::new(options.rate_limit),
            network: Limiter::new(options.network_rate_limit),
            all_corrupt_pages: options.all_corrupt_pages,
            links: Links::default(),
            progress: Arc::clone(&progress),
            stop: cancel.child_token(),
        };
        Ok(Backup {
            store: store.clone(),
            request,
            options,
            progress,
            cancel,
            name,
            claim: Arc::new(claim),
            tars: Vec::new(),
            control: None,
            tablespaces: Vec::new(),
            unlogged: Unlogged::default(),
            catalog_bytes: 0,
            left_out: Packed::default(),
            databases: BTreeMap::new(),
            relations: BTreeMap::new(),
            known: Databases::default(),
            essential: Essential::default(),
            label_owner: None,
            shared: Arc::new(shared),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Write down what the databases are called, with their OIDs, so that a restore can be told them by name.
    pub fn name_databases(&mut self, databases: BTreeMap<String, u32>) {
        self.databases = databases;
    }

    /// Write down what the relations of these databases are called, too, so that a restore can be told tables by name.
    pub fn name_relations(&mut self, names: RelationNames) {
        self.relations = names.into_lines();
    }

    /// The OIDs of all databases when the backup began.
    pub fn databases_before(&mut self, oids: impl IntoIterator<Item = u32>) {
        self.known.before = oids.into_iter().collect();
    }

    /// The OIDs of all databases after [`Backup::copy`]. One that was there before too must be in the backup.
    pub fn databases_after(&mut self, oids: impl IntoIterator<Item = u32>) {
        self.known.after = Some(oids.into_iter().collect());
    }

    /// Copy the data directory and its tablespaces, `pg_control` last. To be called once, between `pg_backup_start` and
    /// `pg_backup_stop`. The first failure stops everything.
    pub async fn copy(&mut self) -> Result<()> {
        // If the caller drops the future, the threads end too.
        let guard = self.shared.stop.clone().drop_guard();
        let (claim, store, stop) = (Arc::clone(&self.claim), self.store.clone(), self.shared.stop.clone());
        let mut copying = Box::pin(self.copy_all());
        let copied = tokio::select! {
            copied = &mut copying => copied,
            never = claim.keep() => match never {},
            never = keep_permitted(&store) => match never {},
            refused = Box::pin(encryption::until_refused(&store, encryption::AGREED_FOR)) => {
                // No upload outlives this.
                stop.cancel();
                let _ = copying.as_mut().await;
                Err(refused)
            }
        };
        drop(copying);
        if copied.is_ok() {
            guard.disarm();
        }
        // A failure that a cancel has caused is not the reason.
        copied.map_err(|error| {
            if self.cancel.is_cancelled() {
                Error::Cancelled
            } else {
                error
            }
        })
    }

    async fn copy_all(&mut self) -> Result<()> {
        self.progress.set_phase(Phase::Planning);
        let (request, cancel) = (self.request.clone(), self.cancel.clone());
        let shared = Arc::clone(&self.shared);
        let planned = blocking(move || {
            let source = SourceFacts::look(&request.data_dir)?;
            Ok((source, walk::walk(&request, &shared.links, &cancel)?))
        });
        let (source, tree) = planned.await?;
        self.shared.source.get_or_init(|| source);
        let DataDirectory {
            directories,
            files,
            tablespaces,
            unlogged,
            essential,
        } = tree;
        (self.tablespaces, self.unlogged, self.essential) = (tablespaces, unlogged, essential);
        self.catalog_bytes = files.sizes().sum::<u64>() + PG_CONTROL_BYTES;
        let files = match (self.request.parent.clone(), &self.request.catchup) {
            (Some(parent), _) => self.compare(parent, files, source.segment_pages).await?,
            (None, Some(catchup)) => {
                self.shared.delta.get_or_init(|| Delta::of_standby(catchup));
                catchup::without_configuration(&files)
            }
            (None, None) => files,
        };
        self.progress.set_total(files.len() as u64, files.sizes().sum::<u64>());
        self.progress.set_phase(Phase::Copying);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let groups = plan::group(&files, self.options.tar_bytes, self.options.concurrency, cores);
        self.pack_groups(directories, files, groups).await?;
        self.read_control().await
    }

    /// Find out what has changed since the parent was taken. Returns the files that may have.
    async fn compare(&mut self, parent: Parent, files: FileList, segment_pages: u32) -> Result<FileList> {
        let delta = Delta::new(
            &self.request,
            &self.options,
            parent,
            &files,
            segment_pages,
            &self.cancel,
        );
        let delta = delta.await?;
        let (shared, cancel) = (Arc::clone(&self.shared), self.cancel.clone());
        shared.delta.get_or_init(|| delta);
        let (files, left_out) = blocking(move || leave_out(&shared, &files, &cancel)).await?;
        self.left_out = left_out;
        Ok(files)
    }

    /// Store what `pg_backup_stop` returned, the manifest and the metadata.
    pub async fn finish(mut self, stop: StopResult) -> Result<PreparedBackup> {
        self.progress.set_phase(Phase::Finishing);
        label::check(&stop.backup_label, &self.request)?;
        prepared::prepare(&mut self, &stop).await
    }

    /// Give the backup up and remove what was stored. The error says what could not be removed.
    pub async fn abort(self) -> Result<()> {
        self.shared.stop.cancel();
        discard(&self.store, &self.name).await
    }

    /// The directories go into the first tar.
    async fn pack_groups(&mut self, directories: Vec<Directory>, files: FileList, groups: Vec<Group>) -> Result<()> {
        let format = self.options.compression.format();
        let files = Arc::new(files);
        let mut directories = Some(directories);
        let mut waiting = groups.into_iter().enumerate();
        let mut running = JoinSet::new();
        let mut failure = None;
        loop {
            while failure.is_none() && running.len() < self.options.concurrency.max(1) {
                let Some((index, group)) = waiting.next() else { break };
                let directories = directories.take().unwrap_or_default();
                let (file_name, threads) = (layout::part_name(index + 1, format), group.threads);
                let group_bytes = group.bytes;
                let files = Arc::clone(&files);
                let fill = move |packer: &mut Packer| {
                    directories.iter().try_for_each(|entry| packer.directory(entry))?;
                    group.files.iter().try_for_each(|file| packer.file(&files.get(*file)))
                };
                running.spawn(self.pack(group_bytes, file_name, threads, fill));
            }
            let Some(done) = running.join_next().await else { break };
            match done.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Cancelled),
            }) {
                Ok(tar) => self.tars.push(tar),
                // The others are told to stop, and waited for: they remove the parts that they uploaded.
                Err(error) => {
                    self.shared.stop.cancel();
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// As the documentation of the low level API asks for: after everything else.
    async fn read_control(&mut self) -> Result<()> {
        let data_dir = self.request.data_dir.clone();
        let expected = self.request.system_identifier;
        let (content, owner) = blocking(move || read_control(&data_dir, expected)).await?;
        self.control = Some((content, owner));
        Ok(())
    }

    /// Pack and upload one tar with what `fill` puts into it, about that many bytes before it is compressed.
    fn pack(
        &self,
        bytes: u64,
        file_name: String,
        threads: u32,
        fill: impl FnOnce(&mut Packer) -> Result<()> + Send + 'static,
    ) -> impl Future<Output = Result<SentTar>> + Send + 'static {
        let begun = self.start(bytes, file_name, threads, fill);
        async move {
            let (tar, task) = begun.await?;
            task.outcome().await?;
            Ok(tar)
        }
    }

    /// The same, but this returns when it is packed. The caller must wait for the end of its upload in any case.
    pub(super) fn start(
        &self,
        bytes: u64,
        file_name: String,
        threads: u32,
        fill: impl FnOnce(&mut Packer) -> Result<()> + Send + 'static,
    ) -> impl Future<Output = Result<(SentTar, UploadTask)>> + Send + 'static {
        let (store, shared) = (self.store.clone(), Arc::clone(&self.shared));
        let key = layout::tar(&self.name, &file_name);
        async move {
            let stop = shared.stop.clone();
            let object = store.object_url(&key);
            let (packed, task) = start_stream(&store, &key.clone(), &stop, move |mut upload| {
                upload.expect(shared.wrapping.at_most(bytes));
                let mut packer = Packer::new(shared, (&key, object), upload, threads)?;
                fill(&mut packer)?;
                packer.finish()
            })
            .await?;
            Ok((SentTar { file_name, packed }, task))
        }
    }
}

/// Ask, again and again, whether this server may still write, so that no upload has to wait for the answer. Whoever may not any more is
/// told by the next write.
async fn keep_permitted(store: &Store) -> Infallible {
    loop {
        tokio::time::sleep(AHEAD).await;
        // The answer counts for all that write.
        let _ = store.check_fence().await;
    }
}

/// The permission to write is asked for again after this while files are copied: before the last answer is too old, and no sooner
/// than it is worth another.
const AHEAD: Duration = Duration::from_secs(LOOK.as_secs() * 3 / 5);

/// An intact copy, and that of the right cluster.
fn read_control(data_dir: &Path, expected: u64) -> Result<(Vec<u8>, Attributes)> {
    let path = data_dir.join(PG_CONTROL);
    let (control, content) = ControlFile::read_with_content(data_dir)?;
    if control.system_identifier != expected {
        return Err(Error::damaged(
            path.display().to_string(),
            format!(
                "It belongs to system identifier {}, not {expected}.",
                control.system_identifier
            ),
        ));
    }
    let meta = std::fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?;
    Ok((content, Attributes::from(&meta)))
}
