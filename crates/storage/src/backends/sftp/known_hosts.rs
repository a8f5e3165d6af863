//! Is the server the one it should be? Only the files of known hosts tell; nobody is trusted on first sight.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey};
use sha1::Sha1;

use super::config::KnownHostsFiles;
use super::failure::Failure;

/// The files' entries for one server. Lines of certificate authorities are not used, as no host certificates are asked for.
#[derive(Debug)]
pub(super) struct HostKeys {
    host: String,
    port: u16,
    /// Keys recorded for the host and its port.
    known: Vec<Recorded>,
    /// Keys recorded for the host without a port, if there are none with it. Enough to trust one, not to distrust another.
    of_any_port: Vec<Recorded>,
    revoked: Vec<Recorded>,
    /// The place where a key is to be added.
    file: PathBuf,
}

#[derive(Debug)]
struct Recorded {
    key: PublicKey,
    file: PathBuf,
    line: usize,
}

impl HostKeys {
    pub(super) fn read(files: &KnownHostsFiles, host: &str, port: u16) -> Result<Self, Failure> {
        let (paths, must_exist) = match files {
            KnownHostsFiles::Given(path) => (std::slice::from_ref(path), true),
            KnownHostsFiles::Usual(paths) => (paths.as_slice(), false),
        };
        let mut keys = HostKeys {
            host: host.to_owned(),
            port,
            known: Vec::new(),
            of_any_port: Vec::new(),
            revoked: Vec::new(),
            file: paths.first().cloned().unwrap_or_default(),
        };
        for path in paths {
            match std::fs::read(path) {
                Ok(bytes) => keys.add(path, &String::from_utf8_lossy(&bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {}
                Err(error) => {
                    return Err(Failure::Config {
                        message: format!("could not read the known hosts file \"{}\": {error}", path.display()),
                        hint: "Correct sftp_known_hosts in walarchive.storage_options, or the file's owner and mode."
                            .to_owned(),
                    });
                }
            }
        }
        Ok(keys)
    }

    fn add(&mut self, path: &Path, text: &str) {
        let with_port = match self.port {
            22 => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        };
        for (index, line) in text.lines().enumerate() {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Ok(entry) = line.parse::<Entry>() else {
                tracing::debug!(file = %path.display(), line = index + 1, "passed over a line of known hosts");
                continue;
            };
            let here = matches(entry.host_patterns(), &with_port);
            let any_port = self.port != 22 && matches(entry.host_patterns(), &self.host);
            let recorded = Recorded {
                key: entry.public_key().clone(),
                file: path.to_owned(),
                line: index + 1,
            };
            match entry.marker() {
                Some(Marker::Revoked) if here || any_port => self.revoked.push(recorded),
                None if here => self.known.push(recorded),
                None if any_port => self.of_any_port.push(recorded),
                _ => {}
            }
        }
    }

    /// The algorithms to ask the server for, first those that we have a key for: it has several, and proves only one.
    pub(super) fn algorithms(&self) -> Cow<'static, [Algorithm]> {
        let mut all = vec![
            Algorithm::Ed25519,
            ecdsa(EcdsaCurve::NistP256),
            ecdsa(EcdsaCurve::NistP384),
            ecdsa(EcdsaCurve::NistP521),
            // Not the one with SHA-1.
            Algorithm::Rsa {
                hash: Some(HashAlg::Sha512),
            },
            Algorithm::Rsa {
                hash: Some(HashAlg::Sha256),
            },
        ];
        let known = if self.known.is_empty() {
            &self.of_any_port
        } else {
            &self.known
        };
        all.sort_by_key(|algorithm| {
            let same = |recorded: &Recorded| match (recorded.key.algorithm(), algorithm) {
                (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
                (known, algorithm) => known == *algorithm,
            };
            !known.iter().any(same)
        });
        Cow::Owned(all)
    }

    pub(super) fn check(&self, key: &PublicKey) -> Result<(), Failure> {
        let is = |recorded: &&Recorded| recorded.key.key_data() == key.key_data();
        let server = format!("{}:{}", self.host, self.port);
        let presented = format!("{} key {}", key.algorithm(), key.fingerprint(HashAlg::Sha256));
        if let Some(revoked) = self.revoked.iter().find(is) {
            return Err(Failure::Config {
                message: format!(
                    "the host key of SFTP server \"{server}\" was revoked by line {} of \"{}\"",
                    revoked.line,
                    revoked.file.display()
                ),
                hint: format!(
                    "It presents the {presented}, which somebody else may have by now. Ask the server's administrator."
                ),
            });
        }
        if self.known.iter().chain(&self.of_any_port).any(|recorded| is(&recorded)) {
            return Ok(());
        }
        let name = match self.port {
            22 => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        };
        match self.known.first() {
            Some(expected) => Err(Failure::Config {
                message: format!(
                    "the host key of SFTP server \"{server}\" has changed: somebody may be intercepting the connection"
                ),
                hint: format!(
                    "It presents the {presented}, but line {} of \"{file}\" expects the {} key {}. Nothing was sent. Only if \
                     its administrator confirms the new fingerprint, remove the old key with: ssh-keygen -f {file} -R \
                     '{name}', and add the new one.",
                    expected.line,
                    expected.key.algorithm(),
                    expected.key.fingerprint(HashAlg::Sha256),
                    file = expected.file.display(),
                ),
            }),
            None => Err(Failure::Config {
                message: format!("the host key of SFTP server \"{server}\" is not known: it presents the {presented}"),
                hint: format!(
                    "First compare that fingerprint with the one on the server (ssh-keygen -lf on its host key). If it is \
                     the same, add the key: ssh-keyscan -p {} {} >> {}",
                    self.port,
                    self.host,
                    self.file.display()
                ),
            }),
        }
    }
}

fn ecdsa(curve: EcdsaCurve) -> Algorithm {
    Algorithm::Ecdsa { curve }
}

fn matches(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
            .is_ok_and(|hmac| hmac.chain_update(name.as_bytes()).verify_slice(hash).is_ok()),
        HostPatterns::Patterns(patterns) => {
            let mut found = false;
            for pattern in patterns {
                let pattern = pattern.to_ascii_lowercase();
                match pattern.strip_prefix('!') {
                    // An excluded host stays excluded, whatever else the line says.
                    Some(pattern) if is_like(pattern.as_bytes(), name.as_bytes()) => return false,
                    Some(_) => {}
                    None => found |= is_like(pattern.as_bytes(), name.as_bytes()),
                }
            }
            found
        }
    }
}

/// `*` and `?` as a shell knows them.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    // The place to go on if the last star has to take one byte more.
    let mut star = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                in_name = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK2pr+Bfus1hvPof4Wb/plZCzSbqadHH0u+/f4ODtKnE";

    fn check(text: &str, host: &str, port: u16) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let keys = HostKeys::read(&KnownHostsFiles::Given(file.path().to_owned()), host, port).expect("read");
        let key = A.parse().expect("a key");
        keys.check(&key).map_err(|failure| failure.to_string())
    }

    #[test]
    fn names_ports_and_patterns() {
        for (names, host, port) in [
            ("host", "host", 22),
            ("other,host", "host", 22),
            ("[host]:2222", "host", 2222),
            ("host", "host", 2222),
            ("*.example.org", "a.b.example.org", 22),
            ("h?st", "host", 22),
            ("HOST", "host", 22),
        ] {
            assert_eq!(
                check(&format!("# c\n\n{names}\t{A} me\n"), host, port),
                Ok(()),
                "{names}"
            );
        }
        for (names, host, port) in [
            ("host", "hos", 22),
            ("[host]:2222", "host", 22),
            ("*.example.org,!bad.example.org", "bad.example.org", 22),
            ("@cert-authority host", "host", 22),
        ] {
            let error = check(&format!("{names} {A}\n"), host, port).expect_err(names);
            assert!(error.contains("is not known"), "{names}: {error}");
        }
    }

    #[test]
    fn a_changed_and_a_revoked_key_are_told_apart() {
        let error = check(&format!("host {B}\n"), "host", 22).expect_err("changed");
        assert!(error.contains("has changed"), "{error}");
        assert_eq!(check(&format!("host {B}\nhost {A}\n"), "host", 22), Ok(()));
        let error = check(&format!("host {A}\n@revoked * {A}\n"), "host", 22).expect_err("revoked");
        assert!(error.contains("was revoked by line 2"), "{error}");
        // The same machine may run another server beside it.
        let error = check(&format!("host {B}\n"), "host", 2222).expect_err("unknown");
        assert!(error.contains("is not known"), "{error}");
    }

    #[test]
    fn known_algorithms_are_asked_for_first() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMxBTpMIGvo7CnordO7wP0QQRqpB\
                     wUjOLl4eMhfucfE1sjTYyK5wmTl1UqoSDS1PtRVTBdl+0+9pquFb46U7fwg=";
        std::fs::write(file.path(), format!("host {ecdsa}\n")).expect("written");
        let keys = HostKeys::read(&KnownHostsFiles::Given(file.path().to_owned()), "host", 22).expect("read");
        assert_eq!(keys.algorithms()[0], super::ecdsa(EcdsaCurve::NistP256));
        assert_eq!(keys.algorithms().len(), 6);
    }
}
