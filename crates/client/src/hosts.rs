//! The places where the server may be: a list of hosts, each a directory with a socket or a name.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use walarchive_core::{Error, Result};

use crate::params::Params;

/// The directories that are searched for a socket if nothing names a host. The first is Debian's and Red Hat's, the second
/// PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

const DEFAULT_PORT: u16 = 5432;

/// One place where the server may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) place: Place,
    pub(crate) port: u16,
    /// As the password file names it.
    pub(crate) in_passfile: String,
}

/// How it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The directory of its Unix socket.
    Socket(PathBuf),
    /// Its name, for the resolver and for its certificate, and its address, if that is given.
    Network {
        name: Option<String>,
        address: Option<IpAddr>,
    },
}

impl Host {
    /// The Unix socket, if it has one.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Socket(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
            Place::Network { .. } => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.socket()) {
            (_, Some(socket)) => write!(f, "socket \"{}\"", socket.display()),
            (Place::Network { name: Some(name), .. }, _) => write!(f, "\"{name}\", port {}", self.port),
            (
                Place::Network {
                    address: Some(address), ..
                },
                _,
            ) => write!(f, "{address}, port {}", self.port),
            _ => write!(f, "port {}", self.port),
        }
    }
}

/// The hosts of the parameters, in the order in which they are tried.
pub(crate) fn hosts(params: &Params) -> Result<Vec<Host>> {
    let list = |keyword: &str| -> Vec<String> {
        let text = params.get(keyword).unwrap_or_default();
        match text.is_empty() {
            true => Vec::new(),
            false => text.split(',').map(|part| part.trim().to_owned()).collect(),
        }
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.len().max(addresses.len()).max(1);
    let is_odd = |list: &Vec<String>| !list.is_empty() && list.len() != count;
    if is_odd(&names) || is_odd(&addresses) || (is_odd(&ports) && ports.len() != 1) {
        return Err(Error::config(
            format!(
                "PGHOST, PGHOSTADDR and PGPORT have {}, {} and {} entries",
                names.len(),
                addresses.len(),
                ports.len()
            ),
            "Lists must be of the same length; one port may serve all hosts.",
        ));
    }
    let mut hosts = Vec::new();
    for index in 0..count {
        let port = port(ports.get(if ports.len() == 1 { 0 } else { index }))?;
        let name = names.get(index).filter(|name| !name.is_empty());
        let address = addresses.get(index).filter(|address| !address.is_empty());
        let address = address.map(|address| self::address(address)).transpose()?;
        match (name, address) {
            (None, None) => hosts.extend(usual(port)),
            (Some(name), None) if name.starts_with('/') => hosts.push(socket(Path::new(name), port)),
            (name, address) => hosts.push(Host {
                in_passfile: name
                    .cloned()
                    .or(address.map(|address| address.to_string()))
                    .unwrap_or_default(),
                place: Place::Network {
                    name: name.cloned(),
                    address,
                },
                port,
            }),
        }
    }
    Ok(hosts)
}

fn port(text: Option<&String>) -> Result<u16> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_PORT);
    };
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        Error::config(
            format!("the port \"{}\" is not a number from 1 to 65535", text.escape_debug()),
            "Set PGPORT to the server's port.",
        )
    })
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| {
        Error::config(
            format!("\"{}\" in PGHOSTADDR is not an IP address", text.escape_debug()),
            "Give names by PGHOST.",
        )
    })
}

fn socket(directory: &Path, port: u16) -> Host {
    let usual = SOCKET_DIRECTORIES.iter().any(|usual| Path::new(usual) == directory);
    Host {
        // libpq calls its default directory so; which one that is differs from build to build.
        in_passfile: match usual {
            true => "localhost".to_owned(),
            false => directory.to_string_lossy().into_owned(),
        },
        place: Place::Socket(directory.to_owned()),
        port,
    }
}

/// The usual directories that have a socket of that port; if none has one, the first, for the message.
fn usual(port: u16) -> Vec<Host> {
    let all = SOCKET_DIRECTORIES.map(|directory| socket(Path::new(directory), port));
    let there: Vec<Host> = all
        .iter()
        .filter(|host| host.socket().is_some_and(|socket| socket.exists()))
        .cloned()
        .collect();
    match there.is_empty() {
        true => all.into_iter().take(1).collect(),
        false => there,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<Vec<String>> {
        let params = Params::find_in(&|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })?;
        let shown = |host: &Host| format!("{host} ({})", host.in_passfile);
        Ok(hosts(&params)?.iter().map(shown).collect())
    }

    #[test]
    fn hosts_are_tried_in_order() {
        let expected = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            found(&[("PGHOST", "a,/run/x,b"), ("PGPORT", "1,2,3")]).expect("found"),
            expected(&[
                "\"a\", port 1 (a)",
                "socket \"/run/x/.s.PGSQL.2\" (/run/x)",
                "\"b\", port 3 (b)"
            ])
        );
        assert_eq!(
            found(&[("PGHOST", "a,b"), ("PGPORT", "7")]).expect("found"),
            expected(&["\"a\", port 7 (a)", "\"b\", port 7 (b)"])
        );
        assert_eq!(
            found(&[("PGHOSTADDR", "127.0.0.1")]).expect("found"),
            expected(&["127.0.0.1, port 5432 (127.0.0.1)"])
        );
        assert_eq!(
            found(&[("PGHOST", "h"), ("PGHOSTADDR", "::1")]).expect("found"),
            expected(&["\"h\", port 5432 (h)"])
        );
        assert_eq!(
            found(&[("PGPORT", "1")]).expect("found"),
            expected(&["socket \"/var/run/postgresql/.s.PGSQL.1\" (localhost)"])
        );
        for wrong in [
            &[("PGHOST", "a,b"), ("PGPORT", "1,2,3")][..],
            &[("PGPORT", "0")],
            &[("PGPORT", "x")],
            &[("PGHOSTADDR", "h")],
        ] {
            assert!(found(wrong).is_err(), "{wrong:?}");
        }
    }
}
