//! The backup of a server on another machine: it sends its files over the replication protocol, and they are stored in the
//! repository's format. It is always a full one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::Utc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use walarchive_client::replication::{self, BaseBackup};
use walarchive_client::server::Facts;
use walarchive_client::{Door, Mode, Params, Session, relations};
use walarchive_core::archive::Archive;
use walarchive_core::backup::delta::WantedParent;
use walarchive_core::backup::{
    Backup, BackupProgress, BackupRequest, ConfigurationFiles, Database, Piece, PreparedBackup, StopResult,
    TablespaceLink, emptied_directory,
};
use walarchive_core::codec::Compression;
use walarchive_core::repository::cluster::ClusterIdentity;
use walarchive_core::server_config::encryption;
use walarchive_core::wal::SegmentSize;
use walarchive_core::{Error, Lsn, Result, lease};
use walarchive_storage::Store;

use super::args::BackupPush;
use super::end::{Outcome, clean_up, commit, wait_for_wal};
use super::names;
use super::options::Wanted;
use super::report;
use super::report::Archiving;
use crate::progress;
use crate::repository::data_dir::usual_data_dir;
use crate::repository::{find, first_answer, refuse_plain_text};
use crate::signals::unless;

/// The server's name for the backup.
const LABEL: &str = "walarchive";

/// Pieces of at most 64 kB that have come and are not packed yet.
const AHEAD: usize = 32;

/// Take the backup. Returns its name. With a session for SQL, too, databases and relations can be named.
pub async fn take(
    args: &BackupPush,
    params: &Params,
    sql: Option<(Session, Facts)>,
    cancel: &CancellationToken,
) -> Result<String> {
    let settings = find(&args.storage, usual_data_dir().as_deref())?;
    refuse_plain_text(&settings)?;
    let wanted = Wanted::of(args)?;
    refuse_delta(&wanted)?;
    let session = unless(cancel, Session::connect(params, Mode::Replication)).await?;
    let mut taker = Taker {
        server: unless(cancel, Server::ask(session)).await?,
        cancel,
        name: None,
        quiet: args.quiet,
        verify: wanted.verify,
    };
    let store = unless(cancel, open(&settings, &taker.server)).await?;
    let cluster = match sql {
        Some((session, facts)) if facts.system_identifier == taker.server.system_identifier => {
            Some(unless(cancel, Cluster::ask(session, &facts)).await?)
        }
        _ => None,
    };
    match taker.take(&wanted, &store, settings.compression, cluster).await {
        Outcome::Complete(name) => Ok(name),
        Outcome::Unknown(error) => Err(error),
        Outcome::Failed(error) => {
            let Taker { server, name, .. } = taker;
            // The server stops sending when the session ends.
            drop(server);
            if let Some(name) = name {
                clean_up(&store, &name).await;
            }
            Err(error)
        }
    }
}

fn refuse_delta(wanted: &Wanted) -> Result<()> {
    match wanted.parent {
        _ if wanted.asks_by_user_data() => {}
        WantedParent::Named(_) => {}
        WantedParent::Automatic { max_steps, .. } if max_steps > 0 => {
            report::note("full backup: over the replication protocol no other can be taken");
            return Ok(());
        }
        WantedParent::Automatic { .. } | WantedParent::Full => return Ok(()),
    }
    Err(Error::config(
        "a delta backup cannot be taken over the replication protocol",
        "Run this on the server's machine, and give the data directory.",
    ))
}

/// The repository, for whichever server writes into it.
async fn open(settings: &crate::repository::Settings, server: &Server) -> Result<Store> {
    let store = lease::follower(&Store::open_settled(&settings.storage.for_backup()).await?);
    first_answer(&store).await?;
    let identity = ClusterIdentity {
        system_identifier: server.system_identifier,
        major_version: server.version_num / 10_000,
        segment_size: server.segment_size,
    };
    Archive::new(store.clone(), identity, settings.compression)
        .claim()
        .await?;
    Ok(store)
}

/// The databases, and the way to them.
struct Cluster {
    door: Door,
    server: relations::Server,
    databases: Vec<Database>,
}

impl Cluster {
    async fn ask(mut session: Session, facts: &Facts) -> Result<Self> {
        Ok(Cluster {
            databases: walarchive_client::server::databases(&mut session).await?,
            door: session.door(),
            server: names::server(facts),
        })
    }
}

/// A session, and what the server has said of itself.
struct Server {
    session: Session,
    version_num: u32,
    system_identifier: u64,
    segment_size: SegmentSize,
    /// Empty if the role may not see it.
    data_directory: String,
    /// The directory of the server's log, if it collects that.
    log_directory: Option<String>,
    /// As the server names them.
    key_files: Vec<PathBuf>,
    archiving: Archiving,
}

impl Server {
    async fn ask(mut session: Session) -> Result<Self> {
        let identity = replication::identify(&mut session).await?;
        let version_num = replication::version_num(&session)?;
        let segment_size = replication::segment_size(&mut session).await?;
        let collects = replication::show(&mut session, "logging_collector").await?;
        let log_directory = replication::show(&mut session, "log_directory").await?;
        let key_files = replication::show(&mut session, "walarchive.encryption_key_file").await?;
        Ok(Server {
            // The server takes no other value.
            key_files: encryption::key_files(&key_files.unwrap_or_default()).unwrap_or_default(),
            version_num,
            system_identifier: identity.system_identifier,
            segment_size,
            data_directory: replication::show(&mut session, "data_directory")
                .await?
                .unwrap_or_default(),
            log_directory: log_directory.filter(|_| collects.as_deref() == Some("on")),
            archiving: Archiving {
                mode: replication::show(&mut session, "archive_mode").await?,
                is_configured: None,
                in_recovery: session.parameter("in_hot_standby") == Some("on"),
            },
            session,
        })
    }

    fn request(&self, start: Lsn, timeline: u32) -> BackupRequest {
        let data_dir = Path::new(&self.data_directory).to_owned();
        let log = self.log_directory.as_deref();
        BackupRequest {
            emptied: log
                .and_then(|log| emptied_directory(&data_dir, log))
                .into_iter()
                .collect(),
            data_dir,
            start_lsn: start,
            timeline,
            segment_size: self.segment_size,
            server_version_num: self.version_num,
            system_identifier: self.system_identifier,
            hostname: self.session.host(),
            permanent: false,
            user_data: None,
            start_time: Utc::now(),
            tablespaces: Vec::new(),
            configuration: ConfigurationFiles {
                keys: self.key_files.clone(),
                ..ConfigurationFiles::default()
            },
            parent: None,
            catchup: None,
        }
    }
}

struct Taker<'a> {
    server: Server,
    cancel: &'a CancellationToken,
    /// Once anything may be stored under it.
    name: Option<String>,
    quiet: bool,
    verify: bool,
}

impl Taker<'_> {
    async fn take(
        &mut self,
        wanted: &Wanted,
        store: &Store,
        compression: Compression,
        cluster: Option<Cluster>,
    ) -> Outcome {
        self.server.archiving.tell();
        let prepared = match Box::pin(self.prepare(wanted, store, compression, cluster)).await {
            Ok(prepared) => prepared,
            Err(error) => return Outcome::Failed(error),
        };
        let patience = wanted.archive_timeout(self.server.archiving.archives());
        let hint = self.server.archiving.hint();
        if let Err(error) = wait_for_wal(&prepared, store, self.cancel, patience, hint).await {
            return Outcome::Failed(error);
        }
        commit(&prepared).await
    }

    async fn prepare(
        &mut self,
        wanted: &Wanted,
        store: &Store,
        compression: Compression,
        cluster: Option<Cluster>,
    ) -> Result<PreparedBackup> {
        // The request needs the server, and the backup its session.
        let mut request = self.server.request(Lsn(0), 0);
        wanted.adorn(&mut request)?;
        let begun = BaseBackup::begin(&mut self.server.session, LABEL, self.verify);
        let mut sent = unless(self.cancel, begun).await?;
        (request.start_lsn, request.timeline) = (sent.start, sent.timeline);
        let progress = Arc::new(BackupProgress::default());
        self.name = Some(request.name());
        let begun = Backup::begin(
            store,
            request,
            wanted.options(compression),
            Arc::clone(&progress),
            self.cancel.child_token(),
        );
        let mut backup = match begun.await {
            Ok(backup) => backup,
            Err(error) => {
                // It has removed what was its own.
                self.name = None;
                return Err(error);
            }
        };
        if let Some(cluster) = &cluster {
            backup.name_databases(Database::oids_by_name(&cluster.databases));
        }
        let names = async {
            match cluster {
                Some(cluster) => {
                    let (door, server) = (cluster.door, cluster.server);
                    names::collect_until(self.cancel, door, server, wanted, &cluster.databases).await
                }
                None => names::Names::default(),
            }
        };
        let quiet = self.quiet;
        let copying = async { tokio::try_join!(copy(&mut backup, &mut sent, self.cancel), async { Ok(names.await) }) };
        let (stopped, names) = progress::show_backup(&progress, quiet, Box::pin(copying)).await?;
        names.tell();
        backup.name_relations(names.of_relations);
        // It looks for a cancel by itself, and no upload outlives it.
        backup.finish(stopped).await
    }
}

/// Take what the server sends, to its end.
async fn copy(backup: &mut Backup, sent: &mut BaseBackup<'_>, cancel: &CancellationToken) -> Result<StopResult> {
    let (sender, pieces) = mpsc::channel(AHEAD);
    let tablespaces = sent.tablespaces.iter().map(|tablespace| TablespaceLink {
        oid: tablespace.oid,
        location: tablespace.location.clone().into(),
    });
    let (tablespaces, bytes) = (tablespaces.collect(), sent.bytes);
    let taking = backup.copy_stream(tablespaces, bytes, pieces);
    let (fed, taken) = tokio::join!(unless(cancel, feed(sent, sender)), taking);
    let (stop_lsn, labels) = match (fed, taken) {
        (Ok(Some(lsn)), Ok(labels)) => (lsn, labels),
        // The taking side has given up first, and tells why.
        (Ok(None), Err(error)) | (Ok(Some(_)), Err(error)) | (Err(error), _) => return Err(error),
        (Ok(None), Ok(_)) => return Err(Error::defect("the base backup was taken without its end")),
    };
    Ok(StopResult {
        stop_lsn,
        backup_label: labels.backup_label,
        tablespace_map: labels.tablespace_map,
        next_xid: None,
    })
}

/// Pass on what the server sends. Returns where the backup ends; none if nobody takes it any more.
async fn feed(sent: &mut BaseBackup<'_>, sender: mpsc::Sender<Piece>) -> Result<Option<Lsn>> {
    loop {
        let (piece, end) = match sent.next().await? {
            replication::Piece::Archive(tablespace) => (Piece::Archive(tablespace), None),
            replication::Piece::Bytes(bytes) => (Piece::Bytes(bytes), None),
            replication::Piece::End(lsn) => (Piece::End, Some(lsn)),
        };
        if sender.send(piece).await.is_err() {
            return Ok(None);
        }
        if end.is_some() {
            return Ok(end);
        }
    }
}
