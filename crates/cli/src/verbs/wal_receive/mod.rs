//! `wal-receive`: a server sends its WAL over the replication protocol, and it is archived as the server's own archiver would do it.

mod gap;
mod line;
mod queue;
mod server;
mod stream;

use tokio_util::sync::CancellationToken;
use walarchive_client::server::check_slots;
use walarchive_client::{Mode, Params, Session, slot};
use walarchive_core::archive::Archive;
use walarchive_core::repository::cluster::ClusterIdentity;
use walarchive_core::{Error, Result};
use walarchive_storage::Store;

use self::line::Line;
use self::queue::Queue;
use self::server::Server;
use crate::repository::data_dir::usual_data_dir;
use crate::repository::{SLOT, Settings, Storage, find, refuse_plain_text};
use crate::signals::{cancelled_by_signals, unless};

/// The slot, as WAL-G calls it.
const DEFAULT_SLOT: &str = "walg";

/// The longest name of a slot, in bytes.
const LONGEST_NAME: usize = 63;

/// `wal-receive`.
#[derive(Debug, clap::Args)]
pub struct WalReceive {
    /// The replication slot. It is made if there is none of that name. Comes before WALG_SLOTNAME; by default "walg".
    #[arg(long, value_name = "NAME")]
    pub slot: Option<String>,
    /// Use no replication slot: the server may remove WAL that has not been received yet.
    #[arg(long, conflicts_with = "slot")]
    pub no_slot: bool,
    /// Remove the replication slot, and do nothing else. Do so when this server is received from no more: a slot that nobody uses
    /// fills the server's disk.
    #[arg(long, conflicts_with_all = ["no_slot", "allow_gap"])]
    pub drop_slot: bool,
    /// If the server no longer has the WAL that comes next, go on with what it has. The repository has a gap then.
    #[arg(long)]
    pub allow_gap: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// Receive until a signal comes.
pub async fn run(args: &WalReceive) -> Result<()> {
    let slot = slot_name(args, std::env::var(SLOT).ok())?;
    let params = Params::find()?;
    if args.drop_slot {
        return drop_slot(&params, &slot).await;
    }
    let settings = find(&args.storage, usual_data_dir().as_deref())?;
    refuse_plain_text(&settings)?;
    let cancel = cancelled_by_signals("no more WAL is received, and what is on its way is stored")?;
    let slot = Some(slot).filter(|_| !args.no_slot);
    match Box::pin(receive(args, params, slot, &settings, &cancel)).await {
        Err(Error::Cancelled) if cancel.is_cancelled() => Ok(()),
        ended => ended,
    }
}

async fn receive(
    args: &WalReceive,
    params: Params,
    slot: Option<String>,
    settings: &Settings,
    cancel: &CancellationToken,
) -> Result<()> {
    let session = unless(cancel, Session::connect(&params, Mode::Replication)).await?;
    let server = unless(cancel, Server::ask(session, None)).await?;
    check_slots(server.version_num)?;
    let store = Store::open(&settings.storage)?;
    let identity = ClusterIdentity {
        system_identifier: server.system_identifier,
        major_version: server.version_num / 10_000,
        segment_size: server.branch.segment_size(),
    };
    // The server's own archiver may store the same files.
    let archive = Archive::new(store.clone(), identity, settings.compression).beside_others();
    unless(cancel, async { archive.claim().await }).await?;
    // Nothing waits for the server either when the task that stores has ended.
    let stop = cancel.child_token();
    let (queue, storing) = Queue::begin(
        archive,
        identity.segment_size,
        settings.upload_concurrency,
        stop.clone(),
    );
    let mut line = Line::new(params, slot.clone(), args.allow_gap, store, queue, stop);
    let ended = Box::pin(line.run(server)).await;
    // Whatever has come is stored, if the store takes it.
    storing.end(line.into_queue(), slot.as_deref(), ended).await
}

async fn drop_slot(params: &Params, name: &str) -> Result<()> {
    let mut session = Session::connect(params, Mode::Replication).await?;
    match slot::remove(&mut session, name).await? {
        true => println!("replication slot \"{name}\" is removed"),
        false => println!("there is no replication slot \"{name}\""),
    }
    Ok(())
}

fn slot_name(args: &WalReceive, variable: Option<String>) -> Result<String> {
    let variable = variable.filter(|name| !name.is_empty());
    let name = args.slot.clone().or(variable);
    let name = name.unwrap_or_else(|| DEFAULT_SLOT.to_owned());
    let is_good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    if !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_good) {
        return Ok(name);
    }
    Err(Error::config(
        format!("\"{}\" cannot be the name of a replication slot", name.escape_debug()),
        "It has lower-case letters, digits and underscores, at most 63.",
    ))
}
