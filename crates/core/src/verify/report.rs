//! Which checks are asked for, and their answers together.

use serde::Serialize;

use super::{Content, Integrity, Names, Selection, TimelineCheck, VerifyStatus};
use crate::error::{Error, Result};
use crate::printable::counted;

/// Segments of a sample, unless another number is asked for.
const SAMPLE: usize = 32;

/// The parts to verify.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checks {
    /// Is every segment there?
    pub integrity: bool,
    /// Does the repository follow the server's timeline?
    pub timeline: bool,
    /// Is every object what its name says?
    pub content: Option<Selection>,
}

impl Checks {
    /// From words: `integrity`, `timeline`, `content` (what is new), `content:all`, `content:sample` or
    /// `content:sample=N`. Without any: `integrity` and `timeline`.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut checks = Checks::default();
        for word in words {
            match word {
                "integrity" => checks.integrity = true,
                "timeline" => checks.timeline = true,
                _ => checks.content = Some(selection(word).ok_or_else(|| unknown(word))?),
            }
        }
        if checks == Checks::default() {
            (checks.integrity, checks.timeline) = (true, true);
        }
        Ok(checks)
    }

    /// Is one of those asked for that look at names alone?
    pub fn names(&self) -> bool {
        self.integrity || self.timeline
    }
}

fn selection(word: &str) -> Option<Selection> {
    match word.strip_prefix("content")? {
        "" | ":new" => Some(Selection::New),
        ":all" => Some(Selection::All),
        ":sample" => Some(Selection::Sample(SAMPLE)),
        sample => {
            let count = sample.strip_prefix(":sample=")?.parse().ok()?;
            (count > 0).then_some(Selection::Sample(count))
        }
    }
}

fn unknown(word: &str) -> Error {
    Error::config(
        format!("there is no check named \"{}\"", word.escape_debug()),
        "The checks are integrity, timeline, content, content:all, content:sample and content:sample=N.",
    )
}

/// The answers that were asked for, in the shape of `wal-g wal-verify --json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WalReport {
    #[allow(missing_docs)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
    #[allow(missing_docs)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineCheck>,
    #[allow(missing_docs)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
}

/// One row of the answer as a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalRow {
    /// The check's name.
    pub check: &'static str,
    /// The result of the whole check.
    pub status: &'static str,
    /// The row's timeline; for `timeline` that of the server.
    pub timeline: Option<u32>,
    /// Of a range of segments.
    pub start_segment: Option<String>,
    #[allow(missing_docs)]
    pub end_segment: Option<String>,
    #[allow(missing_docs)]
    pub segments_count: Option<u64>,
    /// The verdict on these segments.
    pub segment_status: Option<&'static str>,
    /// Their faults.
    pub detail: Option<String>,
}

impl WalReport {
    /// Those of the answers that were asked for.
    pub fn new(checks: &Checks, names: Option<Names>, content: Option<Content>) -> Self {
        let (integrity, timeline) = match names {
            Some(names) => (Some(names.integrity), Some(names.timeline)),
            None => (None, None),
        };
        WalReport {
            integrity: integrity.filter(|_| checks.integrity),
            timeline: timeline.filter(|_| checks.timeline),
            content,
        }
    }

    /// The worst of all.
    pub fn status(&self) -> VerifyStatus {
        let integrity = self.integrity.as_ref().map(|found| found.status);
        let timeline = self.timeline.as_ref().map(|found| found.status);
        let content = self.content.as_ref().map(|found| found.status);
        [integrity, timeline, content]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(VerifyStatus::Ok)
    }

    /// As a table. A check that found nothing to look at has one row.
    pub fn rows(&self) -> Vec<WalRow> {
        let mut rows = Vec::new();
        if let Some(integrity) = &self.integrity {
            let (check, status) = ("integrity", integrity.status.as_str());
            rows.extend(integrity.details.iter().map(|row| WalRow {
                check,
                status,
                timeline: Some(row.segments.first.timeline),
                start_segment: Some(row.segments.first.to_string()),
                end_segment: Some(row.segments.last.to_string()),
                segments_count: Some(row.segments.count),
                segment_status: Some(row.status.as_str()),
                detail: None,
            }));
            if integrity.details.is_empty() {
                rows.push(nothing(check, status, "There is no WAL to look at."));
            }
        }
        if let Some(timeline) = &self.timeline {
            let highest = timeline.details.highest_storage_timeline_id;
            rows.push(WalRow {
                check: "timeline",
                status: timeline.status.as_str(),
                timeline: timeline.details.current_timeline_id,
                detail: Some(match highest {
                    Some(highest) => {
                        let beside = timeline.branches.iter().map(|branch| format!(" Beside it: {branch}."));
                        format!(
                            "The highest timeline in the repository is {highest}.{}",
                            beside.collect::<String>()
                        )
                    }
                    None => "There is no WAL in the repository.".to_owned(),
                }),
                ..WalRow::default()
            });
        }
        if let Some(content) = &self.content {
            let (check, status) = ("content", content.status.as_str());
            rows.extend(content.details.iter().map(|row| WalRow {
                check,
                status,
                timeline: Some(row.timeline_id),
                start_segment: row.start_segment.clone(),
                end_segment: row.end_segment.clone(),
                segments_count: Some(row.segments_count),
                segment_status: Some(row.status.as_str()),
                detail: row.detail.clone(),
            }));
            if content.details.is_empty() {
                let known = counted(content.known_count, "segment");
                let known = format!("Nothing is new. Verified before: {known}.");
                rows.push(nothing(check, status, &known));
            }
        }
        rows
    }
}

fn nothing(check: &'static str, status: &'static str, detail: &str) -> WalRow {
    WalRow {
        check,
        status,
        detail: Some(detail.to_owned()),
        ..WalRow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_words() {
        let checks = |words: &[&str]| Checks::parse(words.iter().copied());
        let default = checks(&[]).expect("parsed");
        assert_eq!(default, checks(&["timeline", "integrity"]).expect("parsed"));
        let content = |word| checks(&[word]).expect("parsed").content;
        assert_eq!(content("content"), Some(Selection::New));
        assert_eq!(content("content:all"), Some(Selection::All));
        assert_eq!(content("content:sample=5"), Some(Selection::Sample(5)));
        assert!(!checks(&["content"]).expect("parsed").names());
        for word in [
            "",
            "contents",
            "content:",
            "content:sample=0",
            "content:sample=x",
            "INTEGRITY",
        ] {
            assert!(checks(&[word]).is_err(), "{word}");
        }
    }
}
