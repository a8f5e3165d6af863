//! PostgreSQL's major versions, as one number each: 15 for 15.4. Before 10 the number had two parts. Of those versions only 9.6
//! is known, and it is 9 here, so that versions compare as they should.

/// The oldest one whose clusters can be archived, backed up and restored.
pub const OLDEST: u32 = 9;

/// The oldest one with archive modules, into which the extension can be loaded.
pub const OLDEST_WITH_MODULE: u32 = 15;

/// The first one whose servers and tools know `backup_manifest`.
const MANIFEST_SINCE: u32 = 13;

/// The smallest `server_version_num` of the oldest one.
const OLDEST_NUMBER: u32 = 90_600;

/// That of a `server_version_num`, for example 150018 or 90624. None for one that is too old, or for 0, where nothing is known.
pub fn of_number(server_version_num: u32) -> Option<u32> {
    (server_version_num >= OLDEST_NUMBER).then_some(server_version_num / 10_000)
}

/// That of a `PG_VERSION` file, such as `15` or `9.6`.
pub fn parse(text: &str) -> Option<u32> {
    match text.trim() {
        "9.6" => Some(OLDEST),
        text => text.parse().ok().filter(|major| *major > OLDEST),
    }
}

/// As people and `PG_VERSION` write it.
pub fn name(major: u32) -> String {
    match major {
        OLDEST => "9.6".to_owned(),
        major => major.to_string(),
    }
}

/// Is `backup_manifest` in a data directory something that it knows? If the version is not known (0), yes.
pub fn has_manifest(major: u32) -> bool {
    !(1..MANIFEST_SINCE).contains(&major)
}

/// How the name of its directory in a tablespace begins; the catalog version follows.
pub fn tablespace_prefix(major: u32) -> String {
    format!("PG_{}_", name(major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_a_number_and_a_name() {
        for (number, major, written) in [(90_624, 9, "9.6"), (100_023, 10, "10"), (150_018, 15, "15")] {
            assert_eq!(of_number(number), Some(major));
            assert_eq!(name(major), written);
            assert_eq!(parse(&format!("{written}\n")), Some(major));
        }
        assert_eq!((of_number(90_524), of_number(0)), (None, None));
        for text in ["", "9", "9.5", "9.60", "x", "15.2", "0"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(tablespace_prefix(9), "PG_9.6_");
    }
}
