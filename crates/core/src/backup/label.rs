//! The content of `backup_label`, compared with the facts with which the backup began.

use super::BackupRequest;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::Segment;

/// The first major version whose labels have the timeline.
const TIMELINE_SINCE: u32 = 11;

/// Refuse a label that is not of this backup: the name of the backup and its WAL range would be wrong.
pub(super) fn check(label: &str, request: &BackupRequest) -> Result<()> {
    let field = |name: &str| {
        let rest = label
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
        rest.split_whitespace().next()
    };
    let start: Option<Lsn> = field("START WAL LOCATION").and_then(|text| text.parse().ok());
    // Before, only the name of the segment tells the timeline.
    let of_segment = || {
        let (_, file) = label.split_once("(file ")?;
        let segment: Segment = file.split(')').next()?.parse().ok()?;
        Some(segment.timeline)
    };
    let timeline = match field("START TIMELINE") {
        Some(text) => text.parse().ok(),
        None if request.major_version() < TIMELINE_SINCE => of_segment(),
        None => None,
    };
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::control_file::ControlFile;
    use crate::control_file::tests::sample;

    #[test]
    fn the_label_of_each_version_is_understood() {
        let control = ControlFile::parse(&sample(16 << 20, 288)).expect("intact");
        let request = BackupRequest {
            timeline: 3,
            ..BackupRequest::full(PathBuf::new(), &control, 90_624, Lsn(0x200_0028))
        };
        let first = "START WAL LOCATION: 0/2000028 (file 000000030000000000000002)\n";
        let other = "START WAL LOCATION: 0/2000028 (file 000000040000000000000002)\n";
        let checked = |label: &str| check(label, &request).map_err(|error| error.to_string());
        assert_eq!(checked(first), Ok(()));
        assert_eq!(checked(&format!("{first}START TIMELINE: 3\n")), Ok(()));
        for label in [other.to_owned(), format!("{first}START TIMELINE: 4\n")] {
            let error = checked(&label).expect_err("another timeline");
            assert!(error.contains("its label says timeline 4"), "{error}");
        }
        for label in [
            "",
            "START WAL LOCATION: 0/2000028\n",
            "START WAL LOCATION: 0/2000028 (file x)\n",
        ] {
            let error = checked(label).expect_err("no timeline");
            assert!(error.contains("no start WAL location or no start timeline"), "{error}");
        }
    }
}
