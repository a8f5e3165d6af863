//! When backups are due: cron expressions, and the plan that decides from one.

mod plan;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, Local, Utc};
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, CronDateTime};

use crate::error::{Error, Result};
use crate::repository::inventory::BackupInfo;

pub use plan::{Attempts, Decision, LONGEST_PAUSE, Reason};

/// A cron expression, as crontab has it: minute, hour, day of month, month, day of week; with six fields, seconds come first.
/// `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` stand for their expressions.
///
/// The fields are those of the operating system's local time, as in crontab.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    cron: Cron,
    /// None: local time.
    zone: Option<FixedOffset>,
}

impl Schedule {
    /// The same with the fields being those of that zone.
    pub fn in_zone(self, zone: FixedOffset) -> Self {
        Schedule {
            zone: Some(zone),
            ..self
        }
    }

    /// The first scheduled time after this one.
    pub fn after(&self, time: DateTime<Utc>) -> DateTime<Utc> {
        let next = match &self.zone {
            None => self.find(&time.with_timezone(&Local)).map(|next| next.to_utc()),
            Some(zone) => self.find(&time.with_timezone(zone)).map(|next| next.to_utc()),
        };
        // No time within some thousand years means no time at all.
        next.unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn find<T: CronDateTime>(&self, time: &T) -> Option<T> {
        self.cron.find_next_occurrence(time, false).ok()
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl Eq for Schedule {}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(text).map_err(|error| refused(text, &reason(&error)))?;
        // The 31st of February is well-formed.
        if cron.find_next_occurrence(&DateTime::UNIX_EPOCH, false).is_err() {
            return Err(refused(text, "no date is ever like that"));
        }
        Ok(Schedule {
            text: text.to_owned(),
            cron,
            zone: None,
        })
    }
}

fn refused(text: &str, reason: &str) -> Error {
    Error::config(
        format!("\"{text}\" is not a cron expression: {reason}"),
        "Write minute, hour, day of month, month and day of week, as in \"0 2 * * *\" for every night at two, or @hourly, \
         @daily, @weekly or @monthly.",
    )
}

/// The parser's words, in the form of our messages.
fn reason(error: &CronError) -> String {
    let text = match error {
        CronError::InvalidPattern(text) | CronError::IllegalCharacters(text) | CronError::ComponentError(text) => {
            text.clone()
        }
        other => other.to_string(),
    };
    let text = text
        .replace("CronPattern", "it")
        .replace("Pattern", "it")
        .replace(" when years are disallowed", "");
    let mut letters = text.trim_end_matches('.').chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "it is invalid".to_owned(),
    }
}

/// When the newest usable backup of the cluster was complete; none if there is none. `backups` are those of the repository.
pub fn newest_backup(backups: &[BackupInfo], system_identifier: u64) -> Option<DateTime<Utc>> {
    backups
        .iter()
        .filter(|backup| backup.damaged.is_none())
        .filter(|backup| {
            // WAL-G 1.x did not write it.
            let of = backup.metadata.system_identifier;
            of.is_none_or(|of| of == system_identifier)
        })
        .map(BackupInfo::finished)
        .max()
}

#[cfg(test)]
mod tests {
    use chrono::Offset;
    use proptest::prelude::*;

    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn after(schedule: &str, time: &str) -> String {
        let schedule: Schedule = schedule.parse().expect("a schedule");
        schedule
            .in_zone(Utc.fix())
            .after(utc(time))
            .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
    }

    #[test]
    fn expressions_are_those_of_crontab() {
        // 2026-11-21 is a Saturday.
        let now = "2026-11-21T10:30:00Z";
        for (schedule, expected) in [
            ("0 2 * * *", "2026-11-22T02:00:00Z"),
            ("30 10 * * *", "2026-11-22T10:30:00Z"),
            ("*/15 * * * *", "2026-11-21T10:45:00Z"),
            ("0 3 * * 0", "2026-11-22T03:00:00Z"),
            ("0 3 * * 7", "2026-11-22T03:00:00Z"),
            ("0 3 * * 1", "2026-11-23T03:00:00Z"),
            ("0 3 * * mon-fri", "2026-11-23T03:00:00Z"),
            ("0 0 1 * *", "2026-12-01T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            // As in crontab, one of both suffices.
            ("0 0 1 * mon", "2026-11-23T00:00:00Z"),
            ("@hourly", "2026-11-21T11:00:00Z"),
            ("@daily", "2026-11-22T00:00:00Z"),
            ("@weekly", "2026-11-22T00:00:00Z"),
            ("@monthly", "2026-12-01T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z"),
            ("*/5 * * * * *", "2026-11-21T10:30:05Z"),
            (" 0  2 * * * ", "2026-11-22T02:00:00Z"),
        ] {
            assert_eq!(after(schedule, now), expected, "{schedule}");
        }
        assert_eq!(after("30 10 * * *", "2026-11-21T10:29:59.999Z"), "2026-11-21T10:30:00Z");
        assert_eq!(after("30 10 * * *", "2026-11-21T10:30:00.001Z"), "2026-11-22T10:30:00Z");
    }

    #[test]
    fn the_fields_are_local_time() {
        let schedule: Schedule = "0 2 * * *".parse().expect("a schedule");
        let now = utc("2026-11-21T10:30:00Z");
        let zone = FixedOffset::east_opt(5 * 3600 + 1800).expect("an offset");
        let next = schedule.clone().in_zone(zone).after(now);
        assert_eq!(next, utc("2026-11-21T20:30:00Z"));
        // The machine's own zone, whatever it is.
        let next = schedule.after(now).with_timezone(&Local);
        assert_eq!(next.format("%H:%M:%S").to_string(), "02:00:00");
    }

    #[test]
    fn what_is_no_expression_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("0 2 * *", "expression: it must have 5 or 6 fields"),
            ("0 0 2 * * * 2027", "5 or 6 fields"),
            ("61 2 * * *", "out of bounds"),
            ("0 2 * * someday", "illegal character"),
            ("daily", "5 or 6 fields"),
            ("@reboot", "5 or 6 fields"),
            ("0 0 31 2 *", "no date is ever like that"),
        ] {
            let error = text.parse::<Schedule>().expect_err(text);
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("\"{text}\" is not a cron expression: ")),
                "{message}"
            );
            assert!(message.contains(reason) && !message.ends_with('.'), "{message}");
            assert!(error.hint().is_some_and(|hint| hint.contains("0 2 * * *")), "{error:?}");
        }
    }

    #[test]
    fn a_schedule_is_shown_as_it_was_written() {
        for text in ["0 2 * * mon", "@daily"] {
            let schedule: Schedule = text.parse().expect("a schedule");
            assert_eq!(schedule.to_string(), text);
            assert_eq!(schedule.to_string().parse::<Schedule>().expect("again"), schedule);
        }
    }

    #[test]
    fn the_newest_backup_is_one_that_helps_this_cluster() {
        let backup = |day: u32, system_identifier: Option<u64>, damaged: bool| {
            let mut backup = BackupInfo::example(&format!("base_0000000100000000000000{day:02X}"));
            backup.metadata.system_identifier = system_identifier;
            backup.metadata.finish_time = utc(&format!("2026-11-{day:02}T10:00:00Z"));
            backup.damaged = damaged.then(|| "It is.".to_owned());
            backup
        };
        assert_eq!(newest_backup(&[], 7), None);
        let backups = [
            backup(9, Some(7), false),
            backup(11, None, false),
            backup(10, Some(7), false),
            backup(12, Some(8), false),
            backup(13, Some(7), true),
        ];
        assert_eq!(newest_backup(&backups, 7), Some(utc("2026-11-11T10:00:00Z")));
        assert_eq!(newest_backup(&backups[3..4], 7), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}|[-0-9*/,#LW?+@a-zA-Z ]{0,30}|([-0-9*/,#LW?]{1,4} ){4,6}[-0-9*/,#LW?]{1,4}") {
            if let Ok(schedule) = text.parse::<Schedule>() {
                let now = utc("2026-11-21T10:30:00Z");
                prop_assert!(schedule.after(now) > now);
            }
        }
    }
}
