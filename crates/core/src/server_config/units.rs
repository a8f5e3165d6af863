//! Settings with a unit of time.

use std::time::Duration;

/// A setting whose unit is the second, as the server reads it: a whole number or one with a fraction, and a unit perhaps. None if the server
/// would refuse it.
pub(super) fn seconds(value: &str) -> Option<Duration> {
    time(value, 1.0)
}

/// The same for a setting whose unit is the millisecond.
pub(super) fn milliseconds(value: &str) -> Option<Duration> {
    time(value, 1e-3)
}

/// At least one of its unit, which is so many seconds.
fn time(value: &str, own: f64) -> Option<Duration> {
    let value = value.trim();
    let end = value
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(end);
    let factor = match unit.trim() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" => own,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    let count = (number.parse::<f64>().ok()? * factor / own).round();
    (count >= 1.0)
        .then(|| Duration::try_from_secs_f64(count * own).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_postgresql_reads_them() {
        for (value, expected) in [
            ("30", Some(30)),
            (" 45s ", Some(45)),
            ("2min", Some(120)),
            ("2 min", Some(120)),
            ("1.5min", Some(90)),
            ("1h", Some(3600)),
            ("2500ms", Some(3)),
            ("1d", Some(86400)),
            ("0", None),
            ("-1", None),
            ("", None),
            ("min", None),
            ("2 minutes", None),
            ("2MIN", None),
        ] {
            assert_eq!(seconds(value), expected.map(Duration::from_secs), "{value}");
        }
        for (value, expected) in [
            ("5000", Some(5000)),
            ("5s", Some(5000)),
            ("100ms", Some(100)),
            ("0.2", None),
        ] {
            assert_eq!(milliseconds(value), expected.map(Duration::from_millis), "{value}");
        }
    }
}
