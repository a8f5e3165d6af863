//! The output of `wal-verify`.

use walarchive_core::verify::{Integrity, TimelineCheck, WalReport, WalRow};

use super::boxed::boxed;
use crate::print::plain;

/// For each check its status and what was found, with the last line feed.
pub fn verified(report: &WalReport) -> String {
    let mut text = String::new();
    let mut add = |check: &str, status: &str, details: String| {
        text.push_str(&format!(
            "[wal-verify] {check} check status: {status}\n[wal-verify] {check} check details:\n{details}\n"
        ));
    };
    if let Some(integrity) = &report.integrity {
        add("integrity", integrity.status.as_str(), segments(integrity));
    }
    if let Some(timeline) = &report.timeline {
        add("timeline", timeline.status.as_str(), timelines(timeline));
    }
    if let Some(content) = &report.content {
        let rows = report.rows().into_iter().filter(|row| row.check == "content");
        add("content", content.status.as_str(), contents(rows));
    }
    text
}

fn segments(integrity: &Integrity) -> String {
    let header = ["TLI", "Start", "End", "Segments count", "Status"];
    let rows = integrity.details.iter().map(|row| {
        vec![
            row.segments.first.timeline.to_string(),
            row.segments.first.to_string(),
            row.segments.last.to_string(),
            row.segments.count.to_string(),
            row.status.as_str().to_owned(),
        ]
    });
    boxed(&header, &[0, 3, 4], rows)
}

fn timelines(timeline: &TimelineCheck) -> String {
    let known = |timeline: Option<u32>| timeline.map_or_else(|| "not known".to_owned(), |number| number.to_string());
    let mut text = format!(
        "Highest timeline found in storage: {}\nCurrent cluster timeline: {}",
        known(timeline.details.highest_storage_timeline_id),
        known(timeline.details.current_timeline_id)
    );
    for branch in &timeline.branches {
        text.push_str(&format!("\nBeside it: {}", plain(branch)));
    }
    text
}

fn contents(rows: impl Iterator<Item = WalRow>) -> String {
    let header = ["TLI", "Start", "End", "Segments count", "Status", "Detail"];
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let rows = rows.map(|row| {
        vec![
            number(row.timeline.map(u64::from)),
            row.start_segment.unwrap_or_default(),
            row.end_segment.unwrap_or_default(),
            number(row.segments_count),
            row.segment_status.unwrap_or_default().to_owned(),
            plain(&row.detail.unwrap_or_default()),
        ]
    });
    boxed(&header, &[0, 3, 4], rows)
}
