//! `backup-push`: the server takes the backup if it has the extension. Else this program does: beside a data directory that is
//! on this machine, or over the replication protocol.

mod args;
mod by_server;
mod by_sql;
mod end;
mod names;
mod online;
mod options;
mod place;
mod report;
mod streamed;

use tokio_util::sync::CancellationToken;
use walarchive_client::server::Facts;
use walarchive_client::{Mode, Params, Session, server};
use walarchive_core::backup::Catchup;
use walarchive_core::{Error, Result};

use crate::{print, signals};
use options::Wanted;

pub use args::{BackupPush, parse_time};

const ON_CANCEL: &str = "the backup ends, and what was stored of it is removed";

/// Take a backup, and print its name.
pub async fn run(args: &BackupPush) -> Result<()> {
    let cancel = signals::cancelled_by_signals(ON_CANCEL)?;
    let name = Box::pin(take(args, &cancel)).await?;
    print::out(&print::plain(&name))
}

/// Take a backup that brings a standby up, and return its place. Whether the server has the extension does not matter.
pub async fn catch_up(args: &BackupPush, catchup: Catchup) -> Result<String> {
    let cancel = signals::cancelled_by_signals(ON_CANCEL)?;
    let Some(data_dir) = &args.pgdata else {
        return Err(Error::defect(
            "a backup for a standby is taken without a data directory",
        ));
    };
    let mut params = Params::find()?;
    place::name_server(&mut params, data_dir);
    let (session, facts) = signals::unless(&cancel, connect(&params)).await?;
    let wanted = Wanted::of(args)?.for_standby(catchup);
    Box::pin(by_sql::take(args, &wanted, session, &facts, data_dir, &cancel)).await
}

async fn take(args: &BackupPush, cancel: &CancellationToken) -> Result<String> {
    let mut params = Params::find()?;
    if let Some(data_dir) = &args.pgdata {
        place::name_server(&mut params, data_dir);
    }
    let connected = signals::unless(cancel, connect(&params)).await;
    let (mut session, facts) = match connected {
        Ok(connected) => connected,
        // A role may be allowed to replicate, and nothing else. Any other fault shows there, too.
        Err(error) if args.pgdata.is_none() && !cancel.is_cancelled() => {
            tracing::info!(%error, "no SQL can be run on the server");
            return Box::pin(streamed::take(args, &params, None, cancel)).await;
        }
        Err(error) => return Err(error),
    };
    let schema = signals::unless(cancel, by_server::schema(&mut session, &facts, args)).await?;
    match (schema, &args.pgdata) {
        (Some(schema), _) => Box::pin(by_server::take(args, session, &facts, &params, &schema, cancel)).await,
        (None, Some(data_dir)) => {
            let wanted = Wanted::of(args)?;
            Box::pin(by_sql::take(args, &wanted, session, &facts, data_dir, cancel)).await
        }
        (None, None) => Box::pin(streamed::take(args, &params, Some((session, facts)), cancel)).await,
    }
}

/// A session for SQL, and what the server is.
async fn connect(params: &Params) -> Result<(Session, Facts)> {
    let mut session = Session::connect(params, Mode::Sql).await?;
    server::prepare(&mut session).await?;
    let facts = server::facts(&mut session).await?;
    Ok((session, facts))
}
