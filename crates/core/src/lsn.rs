//! Log sequence numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A position in the WAL: a byte offset since the cluster's first record, printed as PostgreSQL prints it (`16/B374D848`).
/// In the repository's JSON it is a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| {
            (1..=8)
                .contains(&part.len())
                .then(|| u32::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+')))?
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?))))
            .ok_or_else(|| {
                Error::config(
                    format!("\"{text}\" is not an LSN"),
                    "An LSN looks like \"16/B374D848\".",
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints_and_nothing_else() {
        for (text, value) in [
            ("0/0", 0),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse::<Lsn>().expect("an LSN"), Lsn(value));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for text in ["", "16", "/", "1/", "/1", "1/2/3", "123456789/0", "1/+2", "x/1", "1/ 2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
