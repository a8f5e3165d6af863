//! The output of `wal-show`.

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};
use walarchive_core::Lsn;
use walarchive_core::repository::inventory::{MissingSegments, TimelineInfo};
use walarchive_core::wal::{Segment, SegmentSize};

use super::backups::Row;
use super::boxed::boxed;
use super::json::compact;

/// A table with a row for each timeline that has WAL, with its last line feed.
pub fn timelines(timelines: &[TimelineInfo], size: SegmentSize, with_backups: bool) -> String {
    let mut header = vec![
        "TLI",
        "Parent TLI",
        "Switchpoint LSN",
        "Start segment",
        "End segment",
        "Segment range",
        "Segments count",
        "Status",
    ];
    let mut numbers = vec![0, 1, 2, 5, 6];
    if with_backups {
        header.push("Backups count");
        numbers.push(8);
    }
    let rows = with_wal(timelines).map(|timeline| {
        let mut row = vec![
            timeline.id.to_string(),
            timeline.parent_id.to_string(),
            Lsn(timeline.switch_point_lsn).to_string(),
            timeline.start_segment.clone(),
            timeline.end_segment.clone(),
            timeline.segment_range_size.to_string(),
            timeline.segments_count.to_string(),
            timeline.status.as_str().to_owned(),
        ];
        if with_backups {
            row.push(backups_of(timeline, size).len().to_string());
        }
        row
    });
    format!("{}\n", boxed(&header, &numbers, rows))
}

/// The same as JSON, with its last line feed.
pub fn timelines_json(timelines: &[TimelineInfo], size: SegmentSize, with_backups: bool) -> String {
    let rows: Vec<TimelineRow<'_>> = with_wal(timelines)
        .map(|timeline| TimelineRow {
            id: timeline.id,
            parent_id: timeline.parent_id,
            switch_point_lsn: timeline.switch_point_lsn,
            start_segment: &timeline.start_segment,
            end_segment: &timeline.end_segment,
            segments_count: timeline.segments_count,
            missing_segments: Missing {
                ranges: &timeline.missing_segments,
                size,
            },
            backups: match with_backups {
                true => backups_of(timeline, size),
                false => Vec::new(),
            },
            segment_range_size: timeline.segment_range_size,
            status: timeline.status.as_str(),
        })
        .collect();
    format!("{}\n", compact(&rows))
}

fn with_wal(timelines: &[TimelineInfo]) -> impl Iterator<Item = &TimelineInfo> {
    timelines.iter().filter(|timeline| timeline.segments_count > 0)
}

/// The backups whose WAL lies between the first and the last segment that are there.
fn backups_of(timeline: &TimelineInfo, size: SegmentSize) -> Vec<Row<'_>> {
    let segment = |lsn: u64| Segment::from_number(timeline.id, lsn / size.bytes(), size).to_string();
    let within = timeline.backups.iter().filter(|backup| {
        segment(backup.start_lsn) >= timeline.start_segment && segment(backup.finish_lsn) <= timeline.end_segment
    });
    // As WAL-G has it.
    within.rev().map(|backup| Row::new(backup, true)).collect()
}

#[derive(Serialize)]
struct TimelineRow<'a> {
    id: u32,
    parent_id: u32,
    switch_point_lsn: u64,
    start_segment: &'a str,
    end_segment: &'a str,
    segments_count: u64,
    missing_segments: Missing<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    backups: Vec<Row<'a>>,
    segment_range_size: u64,
    status: &'static str,
}

/// Every segment by its name. There may be more of them than a list of names has room for.
struct Missing<'a> {
    ranges: &'a [MissingSegments],
    size: SegmentSize,
}

impl Serialize for Missing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for range in self.ranges {
            let Ok(first) = range.start_segment.parse::<Segment>() else {
                continue;
            };
            let start = first.number(self.size);
            for number in start..start.saturating_add(range.segments_count) {
                list.serialize_element(&Segment::from_number(first.timeline, number, self.size).to_string())?;
            }
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walarchive_core::repository::inventory::TimelineStatus;

    fn timeline(segments_count: u64) -> TimelineInfo {
        TimelineInfo {
            id: 2,
            parent_id: 1,
            switch_point_lsn: 0x300_0060,
            start_segment: "000000020000000000000003".to_owned(),
            end_segment: "0000000200000001000000FF".to_owned(),
            segment_range_size: 509,
            segments_count,
            missing_segments: vec![MissingSegments {
                start_segment: "0000000200000000000000FF".to_owned(),
                end_segment: "000000020000000100000000".to_owned(),
                segments_count: 2,
            }],
            backups: Vec::new(),
            status: TimelineStatus::LostSegments,
            tail: None,
            damaged_history: None,
        }
    }

    #[test]
    fn a_timeline_is_shown_as_wal_g_does() {
        let size = SegmentSize::DEFAULT;
        assert_eq!(
            timelines(&[timeline(507), timeline(0)], size, true),
            "+-----+------------+-----------------+--------------------------+--------------------------+---------------+----------------+---------------+---------------+\n\
             | TLI | PARENT TLI | SWITCHPOINT LSN | START SEGMENT            | END SEGMENT              | SEGMENT RANGE | SEGMENTS COUNT | STATUS        | BACKUPS COUNT |\n\
             +-----+------------+-----------------+--------------------------+--------------------------+---------------+----------------+---------------+---------------+\n\
             |   2 |          1 |       0/3000060 | 000000020000000000000003 | 0000000200000001000000FF |           509 |            507 | LOST_SEGMENTS |             0 |\n\
             +-----+------------+-----------------+--------------------------+--------------------------+---------------+----------------+---------------+---------------+\n"
        );
        assert_eq!(
            timelines_json(&[timeline(507)], size, true),
            concat!(
                r#"[{"id":2,"parent_id":1,"switch_point_lsn":50331744,"start_segment":"000000020000000000000003","#,
                r#""end_segment":"0000000200000001000000FF","segments_count":507,"#,
                r#""missing_segments":["0000000200000000000000FF","000000020000000100000000"],"#,
                r#""segment_range_size":509,"status":"LOST_SEGMENTS"}]"#,
                "\n"
            )
        );
    }
}
