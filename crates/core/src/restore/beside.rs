//! A restore beside its original, and tablespaces that replay makes where the original has them.

use std::path::Path;

use super::directory::tablespaces::{Tablespace, settled};
use super::outlook::Outlook;
use crate::control_file::ControlFile;
use crate::data_dir::POSTMASTER_PID;
use crate::formats::Sentinel;
use crate::repository::inventory::CreatedTablespace;

/// Notes, as sentences, for the user who is about to start a server on the copy.
pub(super) fn notes(
    sentinel: &Sentinel,
    target: &Path,
    tablespaces: &[Tablespace],
    outlook: Option<&Outlook>,
) -> Vec<String> {
    let mut notes = Vec::new();
    let original = Path::new(&sentinel.data_dir);
    if is_beside(original, sentinel, target) {
        let runs = match original.join(POSTMASTER_PID).exists() {
            true => "; a server seems to run there",
            false => "",
        };
        notes.push(format!(
            "The original is on this machine: directory {original:?} belongs to the same cluster{runs}. If the WAL to \
             be replayed creates or drops a tablespace, the copy does this in the original's directory."
        ));
    }
    for CreatedTablespace { oid, location, .. } in outlook.into_iter().flat_map(|outlook| &outlook.tablespaces) {
        let known = tablespaces.iter().find(|tablespace| tablespace.oid == oid.to_string());
        let place = known.and_then(|tablespace| tablespace.location.as_deref());
        let created = Path::new(location);
        // One in place is inside the copy, and one that goes to where it was is the copy's own.
        if !created.is_absolute() || place == Some(created) {
            continue;
        }
        let mapped = place.map(|place| format!(", whatever is in {place:?}"));
        notes.push(match created.is_dir() {
            true => format!(
                "The WAL to be replayed creates tablespace {oid}, and its directory {location:?} exists on this \
                 machine: the server will use it{}, and delete in it. If it is in use by another server, restore on \
                 another machine, or only to a target before that.",
                mapped.unwrap_or_default()
            ),
            false => format!(
                "The WAL to be replayed creates tablespace {oid}. Recovery stops there unless its directory \
                 {location:?} exists; create it, empty, before the server is started."
            ),
        });
    }
    notes
}

/// Is the directory of the backup's server on this machine, or one that is at its place?
fn is_beside(original: &Path, sentinel: &Sentinel, target: &Path) -> bool {
    let Some(of_backup) = sentinel.system_identifier.filter(|_| original.is_absolute()) else {
        return false;
    };
    let is_other = settled(original).is_ok_and(|original| original != target);
    is_other && ControlFile::read(original).is_ok_and(|control| control.system_identifier == of_backup)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::control_file::tests::{SYSTEM_IDENTIFIER, sample};
    use crate::lsn::Lsn;
    use crate::restore::outlook::TargetSeen;

    fn sentinel(data_dir: &Path) -> Sentinel {
        let text = format!(
            r#"{{"LSN": 1, "FinishLSN": 2, "SystemIdentifier": {SYSTEM_IDENTIFIER}, "DataDir": {data_dir:?}}}"#
        );
        serde_json::from_str(&text).expect("a sentinel")
    }

    #[test]
    fn the_original_on_this_machine_is_said_loudly() {
        let place = tempfile::tempdir().expect("a directory");
        let original = place.path().canonicalize().expect("real").join("original");
        let said = |target: &Path| notes(&sentinel(&original), target, &[], None);
        let copy = place.path().join("copy");
        assert_eq!(said(&copy), [""; 0], "it is not here");
        std::fs::create_dir_all(original.join("global")).expect("created");
        std::fs::write(original.join("global/pg_control"), sample(16 << 20, 288)).expect("written");
        assert_eq!(said(&original), [""; 0], "it is that one");
        let notes = said(&copy);
        assert!(
            notes.len() == 1 && notes[0].starts_with("The original is on this machine"),
            "{notes:?}"
        );
        assert!(!notes[0].contains("seems to run"));
        std::fs::write(original.join("postmaster.pid"), "1").expect("written");
        assert!(said(&copy)[0].contains("seems to run"));
    }

    #[test]
    fn tablespaces_that_replay_makes_are_named() {
        let place = tempfile::tempdir().expect("a directory");
        let here = place.path().display().to_string();
        let outlook = Outlook {
            end: Lsn(0),
            timeline: 1,
            last_time: None,
            target: TargetSeen::Yes,
            wal: Vec::new(),
            wal_bytes: 0,
            stop: None,
            hole: None,
            unreadable: None,
            tail_stored: None,
            parameters: None,
            damaged: None,
            unread: None,
            last_record: None,
            looked_at: None,
            tablespaces: [
                (1, here.clone()),
                (2, format!("{here}/none")),
                (3, String::new()),
                (4, here.clone()),
                (5, here.clone()),
            ]
            .map(|(oid, location)| CreatedTablespace {
                oid,
                location,
                segment: "000000010000000000000001".parse().expect("a segment"),
            })
            .into(),
        };
        let tablespace = |oid: &str, location: &str| Tablespace {
            oid: oid.to_owned(),
            original: here.clone(),
            location: Some(PathBuf::from(location)),
            confirmed: true,
        };
        let tablespaces = [tablespace("4", &here), tablespace("5", "/elsewhere")];
        let notes = notes(&sentinel(Path::new("")), place.path(), &tablespaces, Some(&outlook));
        let [first, second, fifth] = &notes[..] else {
            panic!("{notes:?}")
        };
        assert!(
            first.starts_with("The WAL to be replayed creates tablespace 1,") && !first.contains("whatever"),
            "{first}"
        );
        assert!(
            second.starts_with("The WAL to be replayed creates tablespace 2. ") && second.contains("create it, empty"),
            "{second}"
        );
        assert!(
            fifth.contains("tablespace 5") && fifth.contains("whatever is in \"/elsewhere\""),
            "{fifth}"
        );
    }
}
