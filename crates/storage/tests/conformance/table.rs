//! The table in docs/stores.md.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::checks::{CHECKS, RACE};
use crate::stores::STORES;
use crate::suite::Outcome;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/stores.md");
const BEGIN: &str = "<!-- table: begin -->\n";
const END: &str = "<!-- table: end -->\n";

/// Cells by store and capability.
type Cells = BTreeMap<(String, String), String>;

/// Tests of several stores run at a time, and each writes its column.
static WRITING: Mutex<()> = Mutex::new(());

/// Panics unless the store's column says what was found.
#[track_caller]
pub fn compare(store: &str, found: &[(&str, Outcome)]) {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let text = std::fs::read_to_string(FILE).unwrap_or_else(|e| panic!("could not read {FILE}: {e}"));
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("no table in {FILE}"));
    let (table, after) = rest
        .split_once(END)
        .unwrap_or_else(|| panic!("no end of the table in {FILE}"));
    let mut cells = parse(table);
    if std::env::var_os("WALARCHIVE_WRITE_TABLE").is_some() {
        for (capability, outcome) in found {
            let cell = (store.to_owned(), (*capability).to_owned());
            if !lucky(capability, *outcome, cells.get(&cell)) {
                cells.insert(cell, outcome.to_string());
            }
        }
        let text = format!("{before}{BEGIN}{}{END}{after}", print(&cells));
        std::fs::write(FILE, text).unwrap_or_else(|e| panic!("could not write {FILE}: {e}"));
        return;
    }
    let mut wrong = Vec::new();
    for (capability, outcome) in found {
        let cell = cells.remove(&(store.to_owned(), (*capability).to_owned()));
        if lucky(capability, *outcome, cell.as_ref()) {
            continue;
        }
        let says = cell.unwrap_or_else(|| "nothing".to_owned());
        if says != outcome.to_string() {
            wrong.push(format!("{capability}: {outcome}, the table says {says}"));
        }
    }
    let unknown = cells.keys().filter(|(column, _)| column == store);
    wrong.extend(unknown.map(|(_, capability)| format!("{capability}: only in the table")));
    assert!(
        wrong.is_empty(),
        "{store} and docs/stores.md differ (WALARCHIVE_WRITE_TABLE=1 writes the table):\n{}",
        wrong.join("\n")
    );
}

/// A race that somebody won by chance, at a store that is known to let several win.
fn lucky(capability: &str, outcome: Outcome, known: Option<&String>) -> bool {
    capability == RACE
        && outcome == Outcome::Supported
        && known.is_some_and(|known| *known == Outcome::Ignored.to_string())
}

fn parse(table: &str) -> Cells {
    let mut rows = table
        .lines()
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let header = rows.next().unwrap_or_default();
    let mut cells = Cells::new();
    for row in rows.skip(1) {
        for (store, cell) in header.iter().zip(&row).skip(1) {
            cells.insert(((*store).to_owned(), row[0].to_owned()), (*cell).to_owned());
        }
    }
    cells
}

/// Stores and capabilities that are no more are left out.
fn print(cells: &Cells) -> String {
    let mut text = format!("| capability | {} |\n|---|", STORES.join(" | "));
    text.push_str(&"---|".repeat(STORES.len()));
    text.push('\n');
    for (capability, _) in CHECKS {
        text.push_str(&format!("| {capability} |"));
        for store in STORES {
            let cell = cells.get(&(store.to_owned(), (*capability).to_owned()));
            text.push_str(&format!(" {} |", cell.map_or("?", String::as_str)));
        }
        text.push('\n');
    }
    text
}

#[test]
fn what_is_printed_is_read_back() {
    let mut cells = Cells::new();
    for store in STORES {
        for (capability, _) in CHECKS {
            cells.insert((store.to_owned(), (*capability).to_owned()), "yes".to_owned());
        }
    }
    assert_eq!(parse(&print(&cells)), cells);
}
