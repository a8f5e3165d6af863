//! The content of `backup_label`, compared with the facts with which the backup began.

use super::BackupRequest;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// Refuse a label that is not of this backup: the name of the backup and its WAL range would be wrong.
pub(super) fn check(label: &str, request: &BackupRequest) -> Result<()> {
    let field = |name: &str| {
        let rest = label
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
        rest.split_whitespace().next()
    };
    let start: Option<Lsn> = field("START WAL LOCATION").and_then(|text| text.parse().ok());
    let timeline: Option<u32> = field("START TIMELINE").and_then(|text| text.parse().ok());
    let (Some(start), Some(timeline)) = (start, timeline) else {
        return Err(Error::server(
            "the backup label has no start WAL location or no start timeline",
            "Take the backup again; if this persists, report it.",
        ));
    };
    if timeline != request.timeline {
        return Err(Error::server(
            format!(
                "the backup began on timeline {}, its label says timeline {timeline}",
                request.timeline
            ),
            "The server was promoted during the backup, which makes it useless. Take another backup.",
        ));
    }
    if start != request.start_lsn {
        return Err(Error::server(
            format!("the backup began at {}, its label says {start}", request.start_lsn),
            "The label is of another backup. Take the backup again.",
        ));
    }
    Ok(())
}
