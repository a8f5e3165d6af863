//! The arguments of `wal-fetch`.

use std::path::PathBuf;

use walarchive_core::archive::prefetch::MOST_SEGMENTS;
use walarchive_core::wal::{Segment, WalFileName};
use walarchive_core::{Error, Result};

use crate::repository::data_dir::data_dir_of;
use crate::repository::{Settings, Storage, find};

/// `wal-fetch`.
#[derive(Debug, clap::Args)]
pub struct WalFetch {
    /// The name of the WAL file (%f).
    pub name: String,
    /// Where to put it (%p).
    pub path: PathBuf,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub storage: Storage,
    /// Take a segment that is missing for the end of the archive, even if the archive has later WAL.
    #[arg(long)]
    pub allow_gap: bool,
    /// How long recovery waits for a store that fails, before it stops. A standby does not wait: it asks again.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub patience: u16,
    /// Segments to fetch ahead of recovery, at most; 0 for none. By default as walarchive.prefetch says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=MOST_SEGMENTS as i64))]
    pub prefetch: Option<u16>,
    /// The last segment that is given out; what comes later, and newer timelines than its own, are not there.
    #[arg(long, value_name = "SEGMENT", value_parser = segment)]
    pub until: Option<Segment>,
    /// wal-fetch calls itself with this flag: fetch ahead of recovery until nothing more is asked for.
    #[arg(long, hide = true)]
    pub prefetcher: bool,
}

fn segment(name: &str) -> Result<Segment> {
    match name.parse() {
        Ok(WalFileName::Segment(segment)) => Ok(segment),
        _ => Err(Error::config(
            format!("\"{}\" is not the name of a WAL segment", name.escape_debug()),
            "Give its 24 hexadecimal digits.",
        )),
    }
}

impl WalFetch {
    /// Is the file later than the last one that is given out?
    pub fn is_beyond(&self, name: &WalFileName) -> bool {
        let Some(until) = self.until else { return false };
        let place = |segment: Segment| Segment { timeline: 0, ..segment };
        name.timeline() > until.timeline || name.segment().is_some_and(|segment| place(segment) > place(until))
    }

    /// Where the archive is.
    pub fn settings(&self) -> Result<Settings> {
        find(&self.storage, data_dir_of(&self.path).as_deref())
    }

    /// Segments to fetch ahead of recovery.
    pub fn ahead(&self, settings: &Settings) -> usize {
        self.prefetch.map_or(settings.prefetch, usize::from)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Call {
        #[command(flatten)]
        fetch: WalFetch,
    }

    #[test]
    fn nothing_after_the_last_segment_is_given_out() {
        let call = |until: &[&str]| {
            let args = ["wal-fetch", "x", "y"].iter().chain(until);
            Call::try_parse_from(args).map(|call| call.fetch)
        };
        let pinned = call(&["--until", "000000020000000100000005"]).expect("arguments");
        let is_beyond = |name: &str| pinned.is_beyond(&name.parse().expect("a name"));
        for name in [
            "000000010000000100000005",
            "0000000200000000000000FF",
            "00000002.history",
        ] {
            assert!(!is_beyond(name), "{name}");
        }
        for name in [
            "000000010000000100000006",
            "000000020000000200000000",
            "000000030000000100000001",
            "00000003.history",
        ] {
            assert!(is_beyond(name), "{name}");
        }
        let free = call(&[]).expect("arguments");
        assert!(!free.is_beyond(&"00000003.history".parse().expect("a name")));
        assert!(call(&["--until", "00000003.history"]).is_err());
    }
}
