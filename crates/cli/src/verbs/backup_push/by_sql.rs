//! The backup that this program takes itself, beside a server that goes on working: begun and ended by SQL, copied from the data
//! directory.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use walarchive_client::Session;
use walarchive_client::server::{self, Facts};
use walarchive_core::archive::Archive;
use walarchive_core::backup::delta::{self, Choice, WantedParent};
use walarchive_core::backup::{Backup, BackupProgress, BackupRequest, Database, PreparedBackup};
use walarchive_core::lease::{Situation, Writer};
use walarchive_core::repository::cluster::ClusterIdentity;
use walarchive_core::wal::SegmentSize;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use super::args::BackupPush;
use super::end::{Outcome, clean_up, commit, wait_for_wal};
use super::options::Wanted;
use super::report;
use super::report::Archiving;
use super::{names, online, place};
use crate::progress;
use crate::repository::writer::{situation, writer};
use crate::repository::{find, first_answer, refuse_plain_text};
use crate::signals::unless;

/// The recovery settings of a standby are in a file of its own from this version on.
const SIGNAL_FILES: u32 = 120_000;

/// Take the backup. Returns its name.
pub async fn take(
    args: &BackupPush,
    wanted: &Wanted,
    mut session: Session,
    facts: &Facts,
    data_dir: &Path,
    cancel: &CancellationToken,
) -> Result<String> {
    place::check(&mut session, facts, data_dir).await?;
    let data_dir = place::named_by_server(facts, data_dir)?;
    let settings = find(&args.storage, Some(&data_dir))?;
    refuse_plain_text(&settings)?;
    let (store, kept, writing) = unless(cancel, open(&settings, facts, &data_dir)).await?;
    let archiving = Archiving::of(facts);
    match wanted.needs_archive(&archiving) {
        true => archiving.tell(),
        false => report::note("the server archives nothing, so the standby must get the WAL from now on by streaming"),
    }
    let mut taker = Taker {
        session,
        facts,
        cancel,
        store,
        writing,
        name: None,
        quiet: args.quiet,
    };
    let parent = unless(cancel, Box::pin(wanted.parent(&taker.store))).await?;
    let outcome = taker
        .take(wanted, &parent, &data_dir, settings.compression, &archiving)
        .await;
    drop(kept);
    match outcome {
        Outcome::Complete(name) => Ok(name),
        Outcome::Unknown(error) => Err(error),
        Outcome::Failed(error) => {
            // The server leaves backup mode when the session ends.
            let Taker {
                session, store, name, ..
            } = taker;
            drop(session);
            if let Some(name) = name {
                clean_up(&store, &name).await;
            }
            Err(error)
        }
    }
}

/// The repository, into which only what this server may write now is written.
async fn open(
    settings: &crate::repository::Settings,
    facts: &Facts,
    data_dir: &Path,
) -> Result<(Store, Archive, (Arc<Writer>, Situation))> {
    let store = Store::open_settled(&settings.storage.for_backup()).await?;
    first_answer(&store).await?;
    let identity = ClusterIdentity {
        system_identifier: facts.system_identifier,
        major_version: facts.major(),
        segment_size: SegmentSize::new(facts.segment_bytes)?,
    };
    let writer = writer(&store, data_dir, facts.timeline);
    let by_files = situation(&store, data_dir, facts.timeline);
    let situation = Situation {
        in_recovery: facts.in_recovery,
        is_standby: facts.in_recovery && (by_files.is_standby || facts.version_num < SIGNAL_FILES),
        ..by_files
    };
    writer.set_situation(situation);
    let archive = Archive::new(store.clone(), identity, settings.compression);
    let archive = archive.with_writer(Arc::clone(&writer));
    archive.claim().await?;
    Ok((writer.fenced(&store), archive, (writer, situation)))
}

/// State that the steps share.
struct Taker<'a> {
    session: Session,
    facts: &'a Facts,
    cancel: &'a CancellationToken,
    store: Store,
    /// As which server it is written.
    writing: (Arc<Writer>, Situation),
    /// Once anything may be stored under it.
    name: Option<String>,
    quiet: bool,
}

impl Taker<'_> {
    async fn take(
        &mut self,
        wanted: &Wanted,
        parent: &WantedParent,
        data_dir: &Path,
        compression: walarchive_core::codec::Compression,
        archiving: &Archiving,
    ) -> Outcome {
        let prepared = self.prepare(wanted, parent, data_dir, compression);
        let prepared = match Box::pin(prepared).await {
            Ok(prepared) => prepared,
            Err(error) => return Outcome::Failed(error),
        };
        report::findings(&prepared);
        if !wanted.needs_archive(archiving) {
            return commit(&prepared).await;
        }
        let patience = wanted.archive_timeout(archiving.archives());
        if let Err(error) = wait_for_wal(&prepared, &self.store, self.cancel, patience, archiving.hint()).await {
            return Outcome::Failed(error);
        }
        commit(&prepared).await
    }

    /// Everything up to the end of backup mode, and all objects but the sentinel.
    async fn prepare(
        &mut self,
        wanted: &Wanted,
        parent: &WantedParent,
        data_dir: &Path,
        compression: walarchive_core::codec::Compression,
    ) -> Result<PreparedBackup> {
        // Before the checkpoint: a database that is moved after this is either in its new place when the backup starts, or its
        // move is replayed.
        let databases = server::databases(&mut self.session).await?;
        let mut request = self.begin(data_dir).await?;
        // A standby that lives from the archive tells its timeline only after that checkpoint.
        let (writer, situation) = &self.writing;
        writer.set_situation(Situation {
            timeline: situation.timeline.max(request.timeline),
            ..*situation
        });
        wanted.adorn(&mut request)?;
        unless(
            self.cancel,
            Box::pin(choose_parent(&self.store, self.facts, &mut request, parent)),
        )
        .await?;
        let timeline = request.timeline;
        let options = walarchive_core::backup::BackupOptions {
            wal_summaries: self.facts.setting("summarize_wal") == Some("on"),
            ..wanted.options(compression)
        };
        let progress = Arc::new(BackupProgress::default());
        self.name = Some(request.name());
        let stop = self.cancel.child_token();
        let begun = Backup::begin(&self.store, request, options, Arc::clone(&progress), stop.clone());
        let mut backup = match begun.await {
            Ok(backup) => backup,
            Err(error) => {
                // It has removed what was its own.
                self.name = None;
                return Err(error);
            }
        };
        backup.name_databases(Database::oids_by_name(&databases));
        backup.databases_before(Database::oids(&databases));
        let names = names::collect_until(
            self.cancel,
            self.session.door(),
            names::server(self.facts),
            wanted,
            &databases,
        );
        let quiet = self.quiet;
        let copying = async { tokio::try_join!(self.copy(&mut backup, &stop), async { Ok(names.await) }) };
        let ((), names) = progress::show_backup(&progress, quiet, Box::pin(copying)).await?;
        names.tell();
        backup.name_relations(names.of_relations);
        let (stopped, after) = self.finish(timeline, &databases).await?;
        backup.databases_after(Database::oids(&after));
        // It looks for a cancel by itself, and no upload outlives it.
        backup.finish(stopped).await
    }

    async fn begin(&mut self, data_dir: &Path) -> Result<BackupRequest> {
        let canceller = self.session.canceller();
        let begun = online::begin(&mut self.session, self.facts, data_dir);
        tokio::select! {
            begun = begun => begun,
            () = self.cancel.cancelled() => {
                // Else the server would go on with its checkpoint.
                let _ = canceller.cancel().await;
                Err(Error::Cancelled)
            }
        }
    }

    /// Copy all files. The backup ends if the server, or the session, does: then the copy is of no use.
    async fn copy(&mut self, backup: &mut Backup, stop: &CancellationToken) -> Result<()> {
        let mut copying = std::pin::pin!(backup.copy());
        tokio::select! {
            copied = &mut copying => copied,
            error = self.session.lost() => {
                // No upload may outlive this: what is stored will be removed.
                stop.cancel();
                let _ = copying.await;
                Err(error)
            }
        }
    }

    async fn finish(
        &mut self,
        timeline: u32,
        databases: &[Database],
    ) -> Result<(walarchive_core::backup::StopResult, Vec<Database>)> {
        let canceller = self.session.canceller();
        tokio::select! {
            ended = online::end(&mut self.session, self.facts, timeline, databases) => ended,
            () = self.cancel.cancelled() => {
                let _ = canceller.cancel().await;
                Err(Error::Cancelled)
            }
        }
    }
}

/// Decide whether it is a delta, and what it is based on. If there was a choice, it is told.
async fn choose_parent(store: &Store, facts: &Facts, request: &mut BackupRequest, wanted: &WantedParent) -> Result<()> {
    let limit = match wanted {
        WantedParent::Automatic { max_steps, .. } => format!(" of at most {max_steps}"),
        _ => String::new(),
    };
    match delta::choose(store, request, facts.in_recovery, wanted).await? {
        Choice::Full { why: None } => {}
        Choice::Full { why: Some(why) } => report::note(&format!("full backup: {why}")),
        Choice::Delta(parent) => {
            report::note(&format!(
                "delta backup based on \"{}\" (step {}{limit})",
                parent.name, parent.count
            ));
            request.parent = Some(parent);
        }
    }
    Ok(())
}
