//! `catchup-push`, on the primary.

use std::path::PathBuf;
use std::time::Duration;

use walarchive_core::backup::Catchup;
use walarchive_core::repository::layout;
use walarchive_core::{Lsn, Result};

use crate::print;
use crate::repository::Storage;
use crate::verbs::backup_push;
use crate::verbs::backup_push::{BackupPush, parse_time};

/// `catchup-push`.
#[derive(Debug, clap::Args)]
pub struct CatchupPush {
    /// The data directory of the server, on this machine.
    pub pgdata: PathBuf,
    /// The standby has all changes before this LSN: the REDO location of its latest checkpoint, as pg_controldata shows it. As
    /// 16/B374D848, or as a number, as WAL-G has it.
    #[arg(long, value_name = "LSN", value_parser = parse_lsn)]
    pub from_lsn: Lsn,
    /// Take the files of this database whole, by its OID: it was made or moved after that LSN by copying its files. May be
    /// repeated.
    #[arg(long, value_name = "OID")]
    pub whole_database: Vec<u32>,
    /// How long to wait until the WAL of the backup is archived, such as 90s, 10m or 2h; by default one hour. Where
    /// archive_mode is off, there is no wait. Comes before WALG_STOP_BACKUP_TIMEOUT.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub archive_timeout: Option<Duration>,
    /// Show no progress bar.
    #[arg(short, long)]
    pub quiet: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

/// An LSN as PostgreSQL prints it, or as a number: WAL-G takes decimal ones, and hexadecimal ones with 0x.
fn parse_lsn(text: &str) -> Result<Lsn, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let lsn = number.map(Lsn).or_else(|_| text.parse());
    lsn.map_err(|_: walarchive_core::Error| format!("\"{text}\" is not an LSN such as 16/B374D848, nor a number"))
}

/// Take the backup, and print its name.
pub async fn run(args: &CatchupPush) -> Result<()> {
    let catchup = Catchup {
        since: args.from_lsn,
        whole_databases: args.whole_database.clone(),
    };
    let push = BackupPush::for_catchup(&args.pgdata, args.archive_timeout, args.quiet, &args.storage);
    let place = Box::pin(backup_push::catch_up(&push, catchup)).await?;
    print::out(&print::plain(layout::backup_name(&place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_written_in_two_ways() {
        for (text, lsn) in [("16/B374D848", 0x16_B374_D848), ("100", 100), ("0x1F", 31), ("0/0", 0)] {
            assert_eq!(parse_lsn(text), Ok(Lsn(lsn)), "{text}");
        }
        for text in ["", "x", "-1", "0x", "1/2/3", "18446744073709551616"] {
            assert!(parse_lsn(text).is_err(), "{text}");
        }
    }
}
