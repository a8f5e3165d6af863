//! The command line of `backup-push`: WAL-G's flags.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::repository::Storage;

/// `backup-push`.
#[derive(Debug, Clone, clap::Args)]
pub struct BackupPush {
    /// The data directory of the server, on this machine. Without it the backup is taken over the replication protocol, from
    /// whatever machine the server is on.
    pub pgdata: Option<PathBuf>,
    /// Take a full backup, whatever WALG_DELTA_MAX_STEPS says.
    #[arg(short, long)]
    pub full: bool,
    /// Mark the backup as permanent, so that nothing deletes it.
    #[arg(short, long)]
    pub permanent: bool,
    /// Attach this JSON to the backup, to find it again. Comes before WALG_SENTINEL_USER_DATA.
    #[arg(long, value_name = "JSON")]
    pub add_user_data: Option<String>,
    /// Base a delta backup on the backup of this name.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["full", "delta_from_user_data"])]
    pub delta_from_name: Option<String>,
    /// Base a delta backup on the backup that has exactly this JSON attached.
    #[arg(long, value_name = "JSON", conflicts_with = "full")]
    pub delta_from_user_data: Option<String>,
    /// Verify page checksums. They always are, where the cluster has them.
    #[arg(short, long)]
    pub verify: bool,
    /// List all pages with a wrong checksum in the files metadata, and not only the first few of each file.
    #[arg(short, long)]
    pub store_all_corrupt: bool,
    /// Store no files metadata. No delta backup can be based on such a backup.
    #[arg(long)]
    pub without_files_metadata: bool,
    /// Accepted for WAL-G's sake: the tars are always composed in the same way.
    #[arg(short, long)]
    pub rating_composer: bool,
    /// Accepted for WAL-G's sake: the tars are always composed in the same way.
    #[arg(short, long)]
    pub copy_composer: bool,
    /// Accepted for WAL-G's sake: the tars are always composed in the same way.
    #[arg(short = 'b', long)]
    pub database_composer: bool,
    /// How long to wait until the WAL of the backup is archived, such as 90s, 10m or 2h. By default one hour; five minutes if
    /// archive_mode is off. Comes before WALG_STOP_BACKUP_TIMEOUT.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub archive_timeout: Option<Duration>,
    /// Show no progress bar.
    #[arg(short, long)]
    pub quiet: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
}

impl BackupPush {
    /// Of a backup that brings a standby up. The rest is as the variables say.
    pub fn for_catchup(pgdata: &Path, archive_timeout: Option<Duration>, quiet: bool, storage: &Storage) -> Self {
        BackupPush {
            pgdata: Some(pgdata.to_owned()),
            full: true,
            permanent: false,
            add_user_data: None,
            delta_from_name: None,
            delta_from_user_data: None,
            verify: false,
            store_all_corrupt: false,
            without_files_metadata: false,
            rating_composer: false,
            copy_composer: false,
            database_composer: false,
            archive_timeout,
            quiet,
            storage: storage.clone(),
        }
    }
}

/// A time as WAL-G's settings have it: `90s`, `1h30m`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a time such as 90s, 10m or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let milliseconds: u64 = match unit.trim() {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(milliseconds).ok_or_else(wrong)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(wrong)?;
        rest = after;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, seconds) in [
            ("90s", 90),
            ("10m", 600),
            ("1h30m", 5400),
            ("0s", 0),
            ("2d", 172_800),
            (" 5min ", 300),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_time("250ms"), Ok(Duration::from_millis(250)));
        for text in [
            "",
            "10",
            "s",
            "1x",
            "-1s",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
