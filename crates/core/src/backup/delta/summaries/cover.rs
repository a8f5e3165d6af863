//! Which summaries are needed, and whether they are there.

use std::fmt;
use std::str::FromStr;

use crate::lsn::Lsn;
use crate::wal::TimelineHistory;

/// A stretch of one timeline's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) struct Stretch {
    pub(super) timeline: u32,
    pub(super) start: Lsn,
    /// The byte after its last.
    pub(super) end: Lsn,
}

/// The WAL from `start` on `timeline` to `end` on the timeline of `history`. None if that has not come from there.
pub(in crate::backup) fn stretches(
    history: &TimelineHistory,
    timeline: u32,
    start: Lsn,
    end: Lsn,
) -> Option<Vec<Stretch>> {
    let lives = history.ancestors.iter().copied().chain([(history.timeline, end)]);
    let mut found: Vec<Stretch> = Vec::new();
    for (of, until) in lives {
        if of == timeline || !found.is_empty() {
            let start = found.last().map_or(start, |last| last.end);
            let stretch = Stretch {
                timeline: of,
                start,
                end: until,
            };
            (stretch.start <= stretch.end).then(|| found.push(stretch))?;
        }
    }
    (!found.is_empty()).then_some(found)
}

/// The name of a summary: what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary(Stretch);

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stretch { timeline, start, end } = self.0;
        write!(f, "{timeline:08X}{:016X}{:016X}.summary", start.0, end.0)
    }
}

impl FromStr for Summary {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let digits = name.strip_suffix(".summary").ok_or(())?;
        let upper = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
        if digits.len() != 40 || !digits.bytes().all(upper) {
            return Err(());
        }
        let number = |from: usize, to: usize| u64::from_str_radix(&digits[from..to], 16).map_err(|_| ());
        Ok(Summary(Stretch {
            timeline: u32::try_from(number(0, 8)?).map_err(|_| ())?,
            start: Lsn(number(8, 24)?),
            end: Lsn(number(24, 40)?),
        }))
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    /// By these files.
    Whole(Vec<Summary>),
    /// Up to here; the rest may still come.
    UpTo(Lsn),
    /// Why not, half a sentence.
    Gap(String),
}

/// Do the files cover all of the stretches?
pub(super) fn cover(files: &[Summary], stretches: &[Stretch]) -> Coverage {
    let mut needed = Vec::new();
    for stretch in stretches {
        let mut usable: Vec<&Summary> = files
            .iter()
            .filter(|file| {
                file.0.timeline == stretch.timeline && file.0.end > stretch.start && file.0.start < stretch.end
            })
            .collect();
        usable.sort_by_key(|file| (file.0.start, file.0.end));
        let mut reached = stretch.start;
        for file in usable {
            if file.0.start > reached {
                return Coverage::Gap(format!(
                    "no WAL summary covers {reached} on timeline {}",
                    stretch.timeline
                ));
            }
            reached = reached.max(file.0.end);
            needed.push(*file);
        }
        if reached < stretch.end {
            return Coverage::UpTo(reached);
        }
    }
    Coverage::Whole(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(timeline: u32, start: u64, end: u64) -> Stretch {
        Stretch {
            timeline,
            start: Lsn(start),
            end: Lsn(end),
        }
    }

    #[test]
    fn names_are_those_of_postgresql() {
        let name = "0000000100000000010000280000000001033520.summary";
        let summary: Summary = name.parse().expect("a summary");
        assert_eq!(summary.0, stretch(1, 0x100_0028, 0x103_3520));
        assert_eq!(summary.to_string(), name);
        for other in [
            "temp.summary",
            "0000000100000000010000280000000001033520",
            "000000010000000001000028000000000103352.summary",
            "000000010000000001000028000000000103352g.summary",
            "+000000100000000010000280000000001033520.summary",
        ] {
            assert!(other.parse::<Summary>().is_err(), "{other}");
        }
    }

    #[test]
    fn stretches_follow_the_timelines() {
        let history = TimelineHistory {
            timeline: 4,
            ancestors: vec![(1, Lsn(100)), (3, Lsn(200))],
        };
        let from = |timeline, start| stretches(&history, timeline, Lsn(start), Lsn(300));
        assert_eq!(
            from(1, 50),
            Some(vec![stretch(1, 50, 100), stretch(3, 100, 200), stretch(4, 200, 300)])
        );
        assert_eq!(from(3, 150), Some(vec![stretch(3, 150, 200), stretch(4, 200, 300)]));
        assert_eq!(from(4, 250), Some(vec![stretch(4, 250, 300)]));
        assert_eq!(from(2, 50), None);
        assert_eq!(from(1, 101), None);
    }

    #[test]
    fn every_byte_must_be_covered() {
        let files: Vec<Summary> = [(1, 0, 60), (1, 60, 100), (2, 100, 150), (2, 150, 260), (3, 0, 900)]
            .map(|(timeline, start, end)| Summary(stretch(timeline, start, end)))
            .to_vec();
        let wanted = [stretch(1, 50, 100), stretch(2, 100, 250)];
        assert_eq!(cover(&files, &wanted), Coverage::Whole(files[..4].to_vec()));
        assert_eq!(cover(&files[..3], &wanted), Coverage::UpTo(Lsn(150)));
        assert_eq!(cover(&files[..1], &wanted), Coverage::UpTo(Lsn(60)));
        assert_eq!(cover(&[], &wanted), Coverage::UpTo(Lsn(50)));
        for missing in [0, 2] {
            let mut files = files.clone();
            files.remove(missing);
            assert!(matches!(cover(&files, &wanted), Coverage::Gap(_)), "{missing}");
        }
        assert_eq!(cover(&files, &[stretch(1, 100, 100)]), Coverage::Whole(Vec::new()));
    }
}
