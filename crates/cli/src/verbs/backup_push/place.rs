//! Is the data directory that of the server to which the session leads? A backup of another one could not be restored.

use std::path::{Path, PathBuf};

use walarchive_client::server::{self, Facts};
use walarchive_client::{Params, Session};
use walarchive_core::control_file::ControlFile;
use walarchive_core::data_dir::{POSTMASTER_PID, is_data_dir};
use walarchive_core::{Error, Result};

/// The postmaster notes its start here, and tells another one by SQL, when it is ready. In seconds.
const START_MAY_TAKE: f64 = 600.0;

/// The lines of `postmaster.pid` that a running server writes.
#[derive(Debug, PartialEq)]
struct Postmaster {
    pid: String,
    /// In seconds since 1970.
    started: f64,
    port: u16,
    /// The first directory with a socket, if there is one.
    socket_directory: String,
}

impl Postmaster {
    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        Some(Postmaster {
            pid: (*lines.first()?).to_owned(),
            started: lines.get(2)?.parse().ok()?,
            port: lines.get(3)?.parse().ok()?,
            socket_directory: (*lines.get(4)?).to_owned(),
        })
    }

    fn read(data_dir: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(data_dir.join(POSTMASTER_PID)).ok()?)
    }
}

/// If nothing names the server, it is that of the data directory.
pub fn name_server(params: &mut Params, data_dir: &Path) {
    if !params.names_server()
        && let Some(postmaster) = Postmaster::read(data_dir)
        && postmaster.socket_directory.starts_with('/')
    {
        params.set_server(&postmaster.socket_directory, postmaster.port);
    }
}

/// The data directory as backups name it: as the server does, if both are the same path.
pub fn named_by_server(facts: &Facts, data_dir: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(data_dir).map_err(|error| Error::io("open", data_dir, error))?;
    let canonical = |path: &Path| path.canonicalize().ok();
    let of_server = facts.setting("data_directory").map(PathBuf::from);
    Ok(of_server
        .filter(|path| canonical(path).is_some() && canonical(path) == canonical(&absolute))
        .unwrap_or(absolute))
}

/// Refuse a data directory that is not the server's.
pub async fn check(session: &mut Session, facts: &Facts, data_dir: &Path) -> Result<()> {
    if !is_data_dir(data_dir) {
        return Err(Error::config(
            format!("\"{}\" is not a data directory that can be read", data_dir.display()),
            "Give the server's data directory, and run this as its owner or as root.",
        ));
    }
    let other = |what: String| {
        Err(Error::refused(
            format!(
                "\"{}\" is not the data directory of the server at {}: {what}",
                data_dir.display(),
                session.server()
            ),
            "Give that server's data directory, or connect to the server that runs on this one: see PGHOST and PGPORT.",
        ))
    };
    let control = ControlFile::read(data_dir)?;
    if control.system_identifier != facts.system_identifier {
        return other(format!(
            "its system identifier is {}, and the server's is {}",
            control.system_identifier, facts.system_identifier
        ));
    }
    // A standby has the same, and so has a copy.
    let text = std::fs::read_to_string(data_dir.join(POSTMASTER_PID)).unwrap_or_default();
    let Some(here) = Postmaster::parse(&text) else {
        return other("no server runs on it".to_owned());
    };
    let server_says = facts.setting("port").and_then(|port| port.parse().ok());
    if server_says.is_some_and(|port: u16| port != here.port) {
        return other(format!("the server that runs on it has port {}", here.port));
    }
    if here.started > facts.started + 1.0 || facts.started - here.started > START_MAY_TAKE {
        return other("the server that runs on it was started at another time".to_owned());
    }
    let there = server::read_file(session, facts, POSTMASTER_PID).await?;
    match there.as_deref().map(Postmaster::parse) {
        Some(Some(there)) if there != here => {
            let message = format!(
                "the server that runs on it is process {}, and not {}",
                here.pid, there.pid
            );
            Err(Error::refused(
                format!(
                    "\"{}\" is not the data directory of the server at {}: {message}",
                    data_dir.display(),
                    session.server()
                ),
                "Give that server's data directory, or connect to the server that runs on this one: see PGHOST and PGPORT.",
            ))
        }
        // The role may not read it.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_postmaster_says_where_it_is() {
        let text = "4711\n/data\n1700000000\n5433\n/run/pg\n\n  5432001  12\nready   \n";
        let postmaster = Postmaster::parse(text).expect("read");
        assert_eq!((postmaster.pid.as_str(), postmaster.port), ("4711", 5433));
        assert_eq!(postmaster.socket_directory, "/run/pg");
        assert_eq!(Postmaster::parse("4711\n/data\n"), None);
        assert_eq!(Postmaster::parse(""), None);
    }
}
