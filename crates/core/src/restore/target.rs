//! How far recovery goes.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, FixedOffset, SecondsFormat};

use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// PostgreSQL's limit for the name of a restore point, in bytes (`MAXFNAMELEN` less one).
const NAME_LIMIT: usize = 63;

/// The point at which recovery stops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RestoreTarget {
    /// At the end of the archive.
    #[default]
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// At a time.
    Time(DateTime<FixedOffset>),
    /// At a position in the WAL.
    Lsn(Lsn),
    /// At a restore point of `pg_create_restore_point`.
    Name(String),
    /// At a transaction, by its ID with or without the epoch.
    Xid(u64),
}

impl RestoreTarget {
    /// A restore point. Refuses a name that `pg_create_restore_point` would refuse.
    pub fn name(name: &str) -> Result<Self> {
        if name.is_empty() || name.len() > NAME_LIMIT || name.chars().any(char::is_control) {
            return Err(Error::config(
                "the name of the restore point is empty, too long or has control characters",
                format!("A restore point's name has 1 to {NAME_LIMIT} bytes."),
            ));
        }
        Ok(RestoreTarget::Name(name.to_owned()))
    }

    /// A time in ISO form with its offset from UTC: `2026-11-20 10:00:00+00`, `2026-11-20T10:00:00.5Z`.
    pub fn time(text: &str) -> Result<Self> {
        let mut normal = text.trim().to_owned();
        for utc in ["Z", "z", " UTC", " GMT", "UTC", "GMT"] {
            if let Some(stem) = normal.strip_suffix(utc) {
                normal = format!("{}+00", stem.trim_end());
                break;
            }
        }
        if normal
            .get(10..11)
            .is_some_and(|between| between.eq_ignore_ascii_case("t"))
        {
            normal.replace_range(10..11, " ");
        }
        // The space that may stand before the offset.
        if let Some(at) = normal
            .rfind([' '])
            .filter(|at| normal[at + 1..].starts_with(['+', '-']))
        {
            normal.remove(at);
        }
        ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"]
            .iter()
            .find_map(|format| DateTime::parse_from_str(&normal, format).ok())
            .map(RestoreTarget::Time)
            .ok_or_else(|| {
                Error::config(
                    format!("\"{text}\" is not a time with its offset from UTC"),
                    "Write it like \"2026-11-20 10:00:00+00\" or \"2026-11-20T11:00:00+01:00\". Without the offset the time \
                     would depend on the time zone that this machine and the server happen to have.",
                )
            })
    }

    /// The setting that belongs to it, and its value; none for [`RestoreTarget::Latest`].
    pub(super) fn setting(&self) -> Option<(&'static str, String)> {
        Some(match self {
            RestoreTarget::Latest => return None,
            RestoreTarget::Immediate => ("recovery_target", "immediate".to_owned()),
            RestoreTarget::Time(time) => (
                "recovery_target_time",
                time.to_rfc3339_opts(SecondsFormat::AutoSi, false).replacen('T', " ", 1),
            ),
            RestoreTarget::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
            RestoreTarget::Name(name) => ("recovery_target_name", name.clone()),
            RestoreTarget::Xid(xid) => ("recovery_target_xid", xid.to_string()),
        })
    }
}

impl fmt::Display for RestoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreTarget::Latest => f.write_str("the end of the archive"),
            RestoreTarget::Immediate => f.write_str("the end of the backup"),
            RestoreTarget::Time(time) => write!(f, "time {}", time.to_rfc3339_opts(SecondsFormat::AutoSi, false)),
            RestoreTarget::Lsn(lsn) => write!(f, "LSN {lsn}"),
            RestoreTarget::Name(name) => write!(f, "restore point \"{name}\""),
            RestoreTarget::Xid(xid) => write!(f, "transaction {xid}"),
        }
    }
}

/// `recovery_target_timeline`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest one in the archive that the backup's leads to.
    #[default]
    Latest,
    /// The one that the backup was taken on.
    Current,
    /// A timeline ID.
    Number(u32),
}

impl FromStr for TargetTimeline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "latest" => Ok(TargetTimeline::Latest),
            "current" => Ok(TargetTimeline::Current),
            _ => match text.parse() {
                Ok(number) if number > 0 && !text.starts_with('+') => Ok(TargetTimeline::Number(number)),
                _ => Err(Error::config(
                    format!("\"{text}\" is not a timeline"),
                    "Use \"latest\", \"current\" or a timeline ID, as a decimal number.",
                )),
            },
        }
    }
}

impl fmt::Display for TargetTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetTimeline::Latest => f.write_str("latest"),
            TargetTimeline::Current => f.write_str("current"),
            TargetTimeline::Number(number) => write!(f, "{number}"),
        }
    }
}

/// `recovery_target_action`: what the server does when it has reached the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TargetAction {
    /// Wait, readable, until somebody decides (PostgreSQL's default).
    #[default]
    Pause,
    /// Begin to accept writes, on a new timeline.
    Promote,
    /// Stop.
    Shutdown,
}

impl fmt::Display for TargetAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        })
    }
}

/// A target and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryTarget {
    /// The point at which recovery stops.
    pub target: RestoreTarget,
    /// Just after the target (PostgreSQL's default), or just before it. Has a meaning for times, LSNs and transactions.
    pub inclusive: bool,
    /// Along which timeline.
    pub timeline: TargetTimeline,
    /// The action at the target.
    pub action: TargetAction,
}

impl Default for RecoveryTarget {
    fn default() -> Self {
        RecoveryTarget {
            target: RestoreTarget::Latest,
            inclusive: true,
            timeline: TargetTimeline::Latest,
            action: TargetAction::Pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_an_offset() {
        for (text, written) in [
            ("2026-11-20 10:00:00+00", "2026-11-20 10:00:00+00:00"),
            ("2026-11-20T10:00:00Z", "2026-11-20 10:00:00+00:00"),
            ("2026-11-20 10:00:00.123456 UTC", "2026-11-20 10:00:00.123456+00:00"),
            ("2026-11-20 10:00:00 -05:30", "2026-11-20 10:00:00-05:30"),
            ("2026-11-20 10:00+0130", "2026-11-20 10:00:00+01:30"),
        ] {
            let target = RestoreTarget::time(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(target.setting().expect("a setting").1, written);
        }
        for text in [
            "",
            "now",
            "2026-11-20",
            "2026-11-20 10:00:00",
            "2026-13-20 10:00:00Z",
            "2026-11-20T10:00:00é",
        ] {
            assert!(RestoreTarget::time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn timelines_and_names_are_checked() {
        assert_eq!(
            "7".parse::<TargetTimeline>().expect("a timeline"),
            TargetTimeline::Number(7)
        );
        for text in ["", "0", "+1", "-1", "Latest", "4294967296"] {
            assert!(text.parse::<TargetTimeline>().is_err(), "{text}");
        }
        assert!(RestoreTarget::name(&"x".repeat(64)).is_err());
        assert!(RestoreTarget::name("a\nb").is_err());
        assert!(RestoreTarget::name("before 'the' mistake").is_ok());
    }
}
