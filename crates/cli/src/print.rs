//! Printing on stdout.

use std::io::Write;

use chrono::{DateTime, Utc};
use serde::Serialize;
use walarchive_core::{Error, Result, printable};

/// A text and a line feed.
pub fn out(text: &str) -> Result<()> {
    piece(text).and_then(|()| piece("\n"))
}

/// A text as it is. It is not a failure if the reader has closed the pipe.
pub fn piece(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("write", "stdout", error)),
        _ => Ok(()),
    }
}

/// Pretty JSON.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// A table with a line below its header.
pub fn table(header: Vec<&str>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    table.to_string()
}

/// Text of a repository, so that a terminal prints it and does not obey it.
pub fn plain(text: &str) -> String {
    printable::line(text).into_owned()
}

/// A time in UTC, to the second, as PostgreSQL reads it back.
pub fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%d %H:%M:%S+00").to_string()
}

/// Bytes with a unit.
pub fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
