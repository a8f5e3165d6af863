//! `pg_service.conf`: parameters under a name.

use std::path::{Path, PathBuf};

use walarchive_core::{Error, Result};

use crate::environment::{Environment, home};

/// The largest file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// The parameters of a service, as pairs of keyword and value: from the user's file, else from the system's.
pub(crate) fn find(name: &str, environment: Environment<'_>) -> Result<Vec<(String, String)>> {
    let user = environment("PGSERVICEFILE").map(PathBuf::from);
    let user = user.or_else(|| home(environment).map(|home| home.join(".pg_service.conf")));
    let folder = environment("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    for file in user.into_iter().chain([Path::new(&folder).join("pg_service.conf")]) {
        if !file.is_file() {
            continue;
        }
        let meta = std::fs::metadata(&file).map_err(|error| Error::io("open", &file, error))?;
        if meta.len() > LIMIT {
            continue;
        }
        let text = std::fs::read_to_string(&file).map_err(|error| Error::io("read", &file, error))?;
        if let Some(found) = section(&file, &text, name)? {
            return Ok(found);
        }
    }
    Err(Error::config(
        format!("there is no definition of service \"{name}\""),
        "Name one by PGSERVICE that is in ~/.pg_service.conf, or in the file that PGSERVICEFILE names.",
    ))
}

/// The lines from `[name]` up to the next section; none if there is no such section.
fn section(file: &Path, text: &str, name: &str) -> Result<Option<Vec<(String, String)>>> {
    let mut found: Option<Vec<(String, String)>> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if title.strip_suffix(']') == Some(name) {
                found = Some(Vec::new());
            }
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        match line.split_once('=') {
            // As libpq does: nothing is trimmed at the value's side, and one service does not name another.
            Some((keyword, value)) if keyword != "service" => pairs.push((keyword.trim().to_owned(), value.to_owned())),
            // The line itself may hold a password.
            _ => {
                return Err(Error::config(
                    format!(
                        "service file \"{}\" cannot be read: line {} is wrong",
                        file.display(),
                        index + 1
                    ),
                    "Each line of a service is keyword=value.",
                ));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_the_next_one_begins() {
        let text = "# services\n[other]\nhost=o\n\n[mine]\nhost=/a b\n# a comment\npassword= x=y \n[last]\nport=1\n";
        let found = section(Path::new("f"), text, "mine").expect("read").expect("there");
        let expected = [("host", "/a b"), ("password", " x=y")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(found, expected);
        assert_eq!(section(Path::new("f"), text, "none").expect("read"), None);
        let error = section(Path::new("f"), "[a]\nhunter2\n", "a").expect_err("refused");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.to_string().contains("line 2 "), "{error}");
    }

    #[test]
    fn the_users_file_comes_before_the_systems() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        std::fs::write(at("mine"), "[a]\nport=1\n").expect("written");
        std::fs::write(at("pg_service.conf"), "[a]\nport=2\n[b]\nport=3\n").expect("written");
        let environment = |name: &str| match name {
            "PGSERVICEFILE" => Some(at("mine")),
            "PGSYSCONFDIR" => Some(at("")),
            _ => None,
        };
        let port = |name: &str| find(name, &environment).map(|pairs| pairs[0].1.clone());
        assert_eq!(port("a").expect("found"), "1");
        assert_eq!(port("b").expect("found"), "3");
        assert!(port("c").is_err());
    }
}
