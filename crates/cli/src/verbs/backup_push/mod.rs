//! `backup-push`: the server takes the backup if it has the extension. Else this program does: beside a data directory that is
//! on this machine, or over the replication protocol.

mod args;
mod by_sql;
mod end;
mod online;
mod options;
mod place;
mod report;
mod signals;

use walarchive_client::{Mode, Params, Session, server};
use walarchive_core::{Error, Result};

use crate::print;

pub use args::BackupPush;

/// Take a backup, and print its name.
pub async fn run(args: &BackupPush) -> Result<()> {
    let cancel = signals::cancelled_by_signals()?;
    let mut params = Params::find()?;
    if let Some(data_dir) = &args.pgdata {
        place::name_server(&mut params, data_dir);
    }
    let Some(data_dir) = &args.pgdata else {
        return Err(Error::config(
            "give the data directory of the server",
            "As the first argument.",
        ));
    };
    let connected = async {
        let mut session = Session::connect(&params, Mode::Sql).await?;
        server::prepare(&mut session).await?;
        let facts = server::facts(&mut session).await?;
        Ok((session, facts))
    };
    let (session, facts) = signals::unless(&cancel, connected).await?;
    let name = Box::pin(by_sql::take(args, session, &facts, data_dir, &cancel)).await?;
    print::out(&print::plain(&name))
}
