//! The requests: WAL-G's `delete` with its modifiers, and some beyond it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::span::Span;
use crate::error::{Error, Result};
use crate::restore::RestoreTarget;

/// Which backups a count counts, and whether a delta may be where the line is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// All backups; a delta at the line is an error, since its parents are beyond it.
    #[default]
    Any,
    /// `FULL`: full backups, each with its deltas.
    Full,
    /// `FIND_FULL`: all backups; if a delta is at the line, the line is moved to its full backup.
    FindFull,
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim().to_ascii_uppercase().as_str() {
            "" => Ok(Mode::Any),
            "FULL" => Ok(Mode::Full),
            "FIND_FULL" => Ok(Mode::FindFull),
            _ => Err(Error::config(
                format!("\"{text}\" is not a mode of deletion"),
                "Use FULL, FIND_FULL or no mode.",
            )),
        }
    }
}

impl Mode {
    /// For the verbs that know only `FIND_FULL` and nothing.
    pub fn is_find_full(self) -> Result<bool> {
        match self {
            Mode::Any => Ok(false),
            Mode::FindFull => Ok(true),
            Mode::Full => Err(Error::config(
                "the mode FULL applies only to \"retain\"",
                "Use FIND_FULL, or no mode.",
            )),
        }
    }
}

/// The argument of `delete before`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// The oldest backup that stays.
    Name(String),
    /// Backups that started before it go.
    Time(DateTime<Utc>),
}

impl FromStr for Before {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with("base_") {
            return Ok(Before::Name(text.to_owned()));
        }
        time(text).map(Before::Time).map_err(|_| {
            Error::config(
                format!("\"{text}\" is neither a backup's name nor a time with an offset from UTC"),
                "Name a backup, as in \"base_000000010000000000000002\", or a time, as in \"2026-11-20 10:00:00+00\".",
            )
        })
    }
}

/// A time with its offset from UTC.
pub fn time(text: &str) -> Result<DateTime<Utc>> {
    match RestoreTarget::time(text)? {
        RestoreTarget::Time(time) => Ok(time.with_timezone(&Utc)),
        _ => Err(Error::config(
            format!("\"{text}\" is not a time"),
            "Write it like \"2026-11-20 10:00:00+00\".",
        )),
    }
}

/// The scope of `delete garbage`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Garbage {
    /// Both.
    #[default]
    All,
    /// WAL that no backup needs.
    Archives,
    /// Folders of backups that never were completed, or not wholly deleted.
    Backups,
}

impl FromStr for Garbage {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim().to_ascii_uppercase().as_str() {
            "" => Ok(Garbage::All),
            "ARCHIVES" => Ok(Garbage::Archives),
            "BACKUPS" => Ok(Garbage::Backups),
            _ => Err(Error::config(
                format!("\"{text}\" is not a kind of garbage"),
                "Say ARCHIVES, BACKUPS, or nothing for both.",
            )),
        }
    }
}

/// Grandfather, father, son: of how many days, weeks, months and years having a backup the newest one is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Gfs {
    pub days: u32,
    pub weeks: u32,
    pub months: u32,
    pub years: u32,
}

impl FromStr for Gfs {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Option<Vec<u32>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
        match numbers.as_deref() {
            Some([days, weeks, months, years]) => Gfs::new(*days, *weeks, *months, *years),
            _ => Err(Error::config(
                format!("\"{text}\" is not four numbers of days, weeks, months and years"),
                "Write four numbers like \"7,4,12,5\".",
            )),
        }
    }
}

impl Gfs {
    /// One of them at least must not be 0.
    pub fn new(days: u32, weeks: u32, months: u32, years: u32) -> Result<Self> {
        if [days, weeks, months, years] == [0; 4] {
            return Err(Error::config(
                "all four numbers of periods are 0",
                "One of the four numbers must be greater than 0; to delete all backups there is \"delete everything\".",
            ));
        }
        Ok(Gfs {
            days,
            weeks,
            months,
            years,
        })
    }
}

/// A rule that says which backups stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The newest backups stay, as many as `count` says.
    Retain {
        /// At least 1.
        count: u32,
        /// The backups that count.
        mode: Mode,
        /// Backups that started then or later stay too.
        after: Option<DateTime<Utc>>,
    },
    /// Everything that is older than a backup or a time goes.
    Before {
        /// The line.
        target: Before,
        /// If the first backup that stays is a delta: so does its full one, and what is newer than that. An error without.
        find_full: bool,
    },
    /// Everything that no restore to a moment of this last span of time needs.
    OutsideWindow(Span),
    /// Every backup that is not the newest of its day, week, month or year.
    Gfs(Gfs),
}

/// The objects to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Objects that a rule does not keep.
    Rule(Rule),
    /// Objects that are of no use to any backup. WAL is only deleted if a backup is there that is not permanent.
    Garbage(Garbage),
    /// The same, and without such a backup all WAL but that of the permanent ones.
    GarbageWithoutBackups(Garbage),
    /// One backup, with its dependants. WAL stays.
    Target {
        /// The backup.
        name: String,
        /// If it is a delta: its full backup goes too, with all dependants of that.
        find_full: bool,
    },
    /// All backups and all WAL.
    Everything {
        /// Permanent backups too, and all that walarchive keeps in the repository for itself.
        force: bool,
    },
}

impl Request {
    /// `delete retain`; 0 would be "everything", which is to be asked for by its name.
    pub fn retain(count: i64, mode: Mode, after: Option<DateTime<Utc>>) -> Result<Self> {
        match u32::try_from(count) {
            Ok(count) if count > 0 => Ok(Request::Rule(Rule::Retain { count, mode, after })),
            _ => Err(Error::config(
                format!("{count} is not a number of backups to retain"),
                "At least 1 must stay; to delete all backups there is \"delete everything\".",
            )),
        }
    }
}

/// The policy of `walarchive.retention`, to be applied after each backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `window 14 days`.
    Window(Span),
    /// `full 7`.
    Full(u32),
    /// `gfs 7,4,12,5`.
    Gfs(Gfs),
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match word.to_ascii_lowercase().as_str() {
            "window" => rest.parse().map(Policy::Window),
            "full" => match rest.trim().parse::<u32>() {
                Ok(count) if count > 0 => Ok(Policy::Full(count)),
                _ => Err(Error::config(
                    format!("\"{rest}\" is not a number of full backups to keep"),
                    "Write it like \"full 7\"; at least 1 must stay.",
                )),
            },
            "gfs" => rest.parse().map(Policy::Gfs),
            _ => Err(Error::config(
                format!("\"{text}\" is not a retention policy"),
                "A policy is like \"window 14 days\", \"full 7\" or \"gfs 7,4,12,5\".",
            )),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Window(span) => write!(f, "window {span}"),
            Policy::Full(count) => write!(f, "full {count}"),
            Policy::Gfs(gfs) => write!(f, "gfs {},{},{},{}", gfs.days, gfs.weeks, gfs.months, gfs.years),
        }
    }
}

impl From<Policy> for Request {
    fn from(policy: Policy) -> Self {
        Request::Rule(match policy {
            Policy::Window(span) => Rule::OutsideWindow(span),
            Policy::Full(count) => Rule::Retain {
                count,
                mode: Mode::Full,
                after: None,
            },
            Policy::Gfs(gfs) => Rule::Gfs(gfs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_what_it_prints_and_nothing_else() {
        for text in [
            "window 14 days",
            "full 7",
            "gfs 7,4,12,5",
            "window 1 mons 2 days 3600 secs",
        ] {
            assert_eq!(text.parse::<Policy>().expect("a policy").to_string(), text);
        }
        assert_eq!("FULL  3".parse::<Policy>().expect("a policy"), Policy::Full(3));
        for text in [
            "",
            "7",
            "full",
            "full 0",
            "full -1",
            "full x",
            "window",
            "window 0 days",
            "window 14",
            "window -1 day",
            "gfs 7",
            "gfs 0,0,0,0",
            "gfs 1,2,3,x",
            "gfs 1,2,3,4,5",
            "keep 7",
            "full 7 days",
        ] {
            let error = text.parse::<Policy>().expect_err(text);
            assert!(error.hint().is_some(), "{text}");
        }
    }

    #[test]
    fn wal_g_s_words_are_known_in_any_case() {
        assert_eq!("find_full".parse::<Mode>().expect("a mode"), Mode::FindFull);
        assert_eq!("Full".parse::<Mode>().expect("a mode"), Mode::Full);
        assert!("all".parse::<Mode>().is_err() && Mode::Full.is_find_full().is_err());
        assert_eq!("archives".parse::<Garbage>().expect("garbage"), Garbage::Archives);
        assert!("wal".parse::<Garbage>().is_err());
        assert!(Request::retain(0, Mode::Any, None).is_err() && Request::retain(-1, Mode::Any, None).is_err());
        assert!(matches!("2026-11-20T10:00:00Z".parse(), Ok(Before::Time(_))));
        assert!(matches!("base_x".parse(), Ok(Before::Name(_))));
        assert!("yesterday".parse::<Before>().is_err() && "2026-11-20 10:00:00".parse::<Before>().is_err());
    }
}
