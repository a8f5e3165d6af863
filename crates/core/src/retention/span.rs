//! A span of time as PostgreSQL's `interval` has it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Days, Months, TimeDelta, Utc};

use crate::error::{Error, Result};

/// Months, days and microseconds. None of them can be told in the others: `now() - interval` goes back by each in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    months: u32,
    days: u32,
    micros: u64,
}

impl Span {
    /// From the parts of an `interval`. It must lead into the past.
    pub fn new(months: i64, days: i64, micros: i64) -> Result<Self> {
        let span = (|| {
            Some(Span {
                months: u32::try_from(months).ok()?,
                days: u32::try_from(days).ok()?,
                micros: u64::try_from(micros).ok()?,
            })
        })();
        span.filter(|_| months > 0 || days > 0 || micros > 0).ok_or_else(|| {
            Error::config(
                "the span of time is empty or negative",
                "Write it like \"14 days\" or \"1 month 12 hours\".",
            )
        })
    }

    /// The moment that is this span before `now`; the beginning of time if there is none.
    pub fn before(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let micros = i64::try_from(self.micros).unwrap_or(i64::MAX);
        now.checked_sub_months(Months::new(self.months))
            .and_then(|time| time.checked_sub_days(Days::new(self.days.into())))
            .and_then(|time| time.checked_sub_signed(TimeDelta::microseconds(micros)))
            .unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

impl FromStr for Span {
    type Err = Error;

    /// Whole numbers with their units: `14 days`, `1 month 12 hours`, `36h`.
    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            Error::config(
                format!("\"{text}\" is not a span of time"),
                "Write whole numbers with their units, like \"14 days\", \"2 weeks\" or \"1 month 12 hours\".",
            )
        })
    }
}

fn parse(text: &str) -> Option<Span> {
    /// In microseconds.
    const SECOND: i64 = 1_000_000;
    let (mut months, mut days, mut micros) = (0i64, 0i64, 0i64);
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].trim_start();
        let end = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
        let (sum, factor) = match unit[..end].to_ascii_lowercase().as_str() {
            "s" | "sec" | "secs" | "second" | "seconds" => (&mut micros, SECOND),
            "min" | "mins" | "minute" | "minutes" => (&mut micros, 60 * SECOND),
            "h" | "hour" | "hours" => (&mut micros, 3600 * SECOND),
            "d" | "day" | "days" => (&mut days, 1),
            "w" | "week" | "weeks" => (&mut days, 7),
            "mon" | "mons" | "month" | "months" => (&mut months, 1),
            "y" | "year" | "years" => (&mut months, 12),
            _ => return None,
        };
        *sum = sum.checked_add(number.checked_mul(factor)?)?;
        rest = unit[end..].trim_start();
    }
    Span::new(months, days, micros).ok()
}

/// In a form that is read again.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (u64::from(self.months), "mons"),
            (u64::from(self.days), "days"),
            (self.micros / 1_000_000, "secs"),
        ];
        let said: Vec<String> = parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, unit)| format!("{number} {unit}"))
            .collect();
        match said.is_empty() {
            true => f.write_str("less than a second"),
            false => f.write_str(&said.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_as_long_as_it_is() {
        let now = "2026-03-31T12:00:00Z".parse::<DateTime<Utc>>().expect("a time");
        let before = |text: &str| text.parse::<Span>().expect(text).before(now).to_rfc3339();
        assert_eq!(before("1 month"), "2026-02-28T12:00:00+00:00");
        assert_eq!(before("2 weeks 1d 36h"), "2026-03-15T00:00:00+00:00");
        assert_eq!(before("1 year 30 min 1 second"), "2025-03-31T11:29:59+00:00");
        assert_eq!(
            "9999999 years".parse::<Span>().expect("a span").before(now),
            DateTime::<Utc>::MIN_UTC
        );
        for text in [
            "",
            "14",
            "days",
            "0 days",
            "-1 day",
            "1.5 days",
            "1 fortnight",
            "99999999999999999999 d",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert!(Span::new(0, 0, 0).is_err() && Span::new(1, -1, 0).is_err());
    }
}
