//! The places of the data directory and its tablespaces.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::TablespaceSpec;

/// A tablespace of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID: digits.
    pub oid: String,
    /// Its former place.
    pub original: String,
    /// The directory it goes to. None for one inside the data directory (`allow_in_place_tablespaces`), which has no link.
    pub location: Option<PathBuf>,
    /// The user knows of this place; one that only the repository names must be confirmed before anything is written there.
    pub confirmed: bool,
}

/// `--tablespace-map OLD=NEW`, any number of times. OLD is a directory or an OID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablespaceMap {
    each: Vec<(String, PathBuf)>,
    all: Option<PathBuf>,
    originals: bool,
}

impl TablespaceMap {
    /// Add one `OLD=NEW`. A `=` in a path is written `\=`, as for `pg_basebackup`.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let invalid = |message: String| {
            Error::config(
                message,
                "Write OLD=NEW, where OLD is the tablespace's directory or OID, and NEW an absolute path.",
            )
        };
        let Some((old, new)) = halves(text) else {
            return Err(invalid(format!("\"{text}\" is not a tablespace mapping")));
        };
        if old.is_empty() || !Path::new(&new).is_absolute() {
            return Err(invalid(format!(
                "\"{text}\" does not map a tablespace to an absolute path"
            )));
        }
        let old = old.trim_end_matches('/').to_owned();
        if self.each.iter().any(|(known, _)| *known == old) {
            return Err(invalid(format!("tablespace \"{old}\" is mapped twice")));
        }
        self.each.push((old, PathBuf::from(new)));
        Ok(())
    }

    /// Add what a restore specification of WAL-G's says, a JSON object such as
    /// `{"base_prefix": "/data", "tablespaces": ["16384"], "16384": {"loc": "/fast", "link": "pg_tblspc/16384"}}`.
    /// `target` is the data directory, which it must name, if it names one.
    pub fn add_specification(&mut self, text: &str, target: &Path) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Specification {
            base_prefix: Option<PathBuf>,
            #[serde(default)]
            tablespaces: Vec<String>,
            #[serde(flatten)]
            places: std::collections::BTreeMap<String, serde_json::Value>,
        }
        const HINT: &str = "Write it like {\"base_prefix\": \"/data\", \"tablespaces\": [\"16384\"], \"16384\": {\"loc\": \
                            \"/fast\", \"link\": \"pg_tblspc/16384\"}}.";
        let specification: Specification = serde_json::from_str(text).map_err(|error| {
            Error::config(
                format!(
                    "the restore specification cannot be read: line {} is wrong",
                    error.line()
                ),
                HINT,
            )
        })?;
        let settled = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if let Some(base) = &specification.base_prefix
            && settled(base).components().ne(settled(target).components())
        {
            return Err(Error::config(
                format!(
                    "the restore specification is for directory \"{}\", and not for \"{}\"",
                    base.display(),
                    target.display()
                ),
                "Correct its base_prefix, or restore into that directory.",
            ));
        }
        for oid in &specification.tablespaces {
            let place = specification
                .places
                .get(oid)
                .and_then(|place| place.get("loc")?.as_str());
            let Some(place) = place.filter(|place| Path::new(place).is_absolute()) else {
                return Err(Error::config(
                    format!(
                        "the restore specification does not say where tablespace \"{}\" goes",
                        oid.escape_debug()
                    ),
                    HINT,
                ));
            };
            if self.each.iter().any(|(known, _)| known == oid) {
                return Err(Error::config(
                    format!("tablespace \"{}\" has two places", oid.escape_debug()),
                    "Name it in the restore specification or with --tablespace-map, and not in both.",
                ));
            }
            self.each.push((oid.clone(), PathBuf::from(place)));
        }
        Ok(())
    }

    /// Put all the others into directories below this one, each under its OID.
    pub fn put_all(&mut self, directory: &Path) -> Result<()> {
        if !directory.is_absolute() {
            return Err(Error::config(
                format!("\"{}\" is not an absolute path", directory.display()),
                "The links to tablespaces need one.",
            ));
        }
        self.all = Some(directory.to_owned());
        Ok(())
    }

    /// A tablespace stays where it is, whatever else was said.
    pub(crate) fn keep(&mut self, oid: &str, location: &Path) {
        self.each.insert(0, (oid.to_owned(), location.to_owned()));
    }

    /// Put the others where the repository says that they were.
    pub fn accept_originals(&mut self) {
        self.originals = true;
    }

    /// Are they to go to where they were?
    pub(crate) fn accepts_originals(&self) -> bool {
        self.originals
    }

    fn matches(old: &str, oid: &str, location: &str) -> bool {
        old == oid || (!location.is_empty() && old == location.trim_end_matches('/'))
    }
}

/// The two sides of `OLD=NEW`. A `=` in a path is written `\=`.
pub(crate) fn halves(text: &str) -> Option<(String, String)> {
    let mut halves = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'=') => halves.last_mut().into_iter().for_each(|half| half.push('=')),
            '=' => {
                halves.push(String::new());
                continue;
            }
            _ => halves.last_mut().into_iter().for_each(|half| half.push(c)),
        }
        if c == '\\' && chars.peek() == Some(&'=') {
            chars.next();
        }
    }
    let [old, new]: [String; 2] = halves.try_into().ok()?;
    Some((old, new))
}

/// The tablespaces by OID and location, as the sentinel's `Spec` has them. `object` is for messages.
pub(crate) fn of_spec(spec: &TablespaceSpec, object: &str) -> Result<Vec<(String, String)>> {
    spec.oids
        .iter()
        .map(|oid| {
            let location = spec
                .locations
                .get(oid)
                .ok_or_else(|| Error::damaged(object, format!("It does not say where tablespace \"{oid}\" was.")))?;
            Ok((oid.clone(), location.loc.clone()))
        })
        .collect()
}

/// The tablespaces of a `tablespace_map`: lines of OID, space, location; a backslash keeps the character after it.
pub(crate) fn of_map_file(content: &str) -> Vec<(String, String)> {
    let mut lines = vec![String::new()];
    let mut chars = content.chars();
    while let Some(c) = chars.next() {
        let kept = match c {
            '\n' | '\r' => {
                lines.push(String::new());
                continue;
            }
            '\\' => chars.next(),
            c => Some(c),
        };
        if let Some(line) = lines.last_mut() {
            line.extend(kept);
        }
    }
    lines
        .iter()
        .filter_map(|line| line.split_once(' '))
        .map(|(oid, location)| (oid.to_owned(), location.to_owned()))
        .collect()
}

/// Apply the map. The repository's entries are checked: OIDs are digits, locations absolute paths.
pub(crate) fn resolve(found: Vec<(String, String)>, map: &TablespaceMap, object: &str) -> Result<Vec<Tablespace>> {
    for (old, _) in &map.each {
        if !found
            .iter()
            .any(|(oid, location)| TablespaceMap::matches(old, oid, location))
        {
            let known: Vec<String> = found
                .iter()
                .map(|(oid, location)| format!("{oid} at \"{location}\""))
                .collect();
            return Err(Error::refused(
                format!("the backup has no tablespace \"{old}\""),
                match known.is_empty() {
                    true => "It has no tablespaces of its own at all.".to_owned(),
                    false => format!("It has {}.", known.join(", ")),
                },
            ));
        }
    }
    let mut tablespaces: Vec<Tablespace> = Vec::new();
    for (oid, original) in found {
        if oid.is_empty() || oid.len() > 10 || !oid.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::damaged(
                object,
                format!("It names a tablespace \"{oid}\", which is not an OID."),
            ));
        }
        if tablespaces.iter().any(|known| known.oid == oid) {
            return Err(Error::damaged(object, format!("It names tablespace {oid} twice.")));
        }
        let mapped = map
            .each
            .iter()
            .find(|(old, _)| TablespaceMap::matches(old, &oid, &original));
        let confirmed = mapped.is_some() || map.all.is_some() || is_in_place(&original, &oid);
        let location = match mapped {
            Some((_, new)) => Some(new.clone()),
            None if !is_in_place(&original, &oid) && map.all.is_some() => map.all.as_ref().map(|all| all.join(&oid)),
            None if is_in_place(&original, &oid) => None,
            None => Some(PathBuf::from(&original)),
        };
        if location.as_ref().is_some_and(|location| !location.is_absolute()) {
            return Err(Error::damaged(
                object,
                format!("The location \"{original}\" of tablespace {oid} is not absolute."),
            ));
        }
        tablespaces.push(Tablespace {
            oid,
            original,
            location,
            confirmed,
        });
    }
    Ok(tablespaces)
}

/// Inside the data directory, by `allow_in_place_tablespaces`.
fn is_in_place(original: &str, oid: &str) -> bool {
    original.is_empty() || original == format!("pg_tblspc/{oid}")
}

/// The absolute path with the links of the part that exists resolved.
pub(crate) fn settled(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).map_err(|error| Error::io("open", path, error))?;
    if absolute.components().any(|component| component == Component::ParentDir) {
        return Err(Error::config(
            format!("\"{}\" has \"..\" in it", path.display()),
            "Write the path without.",
        ));
    }
    for ancestor in absolute.ancestors() {
        match ancestor.canonicalize() {
            Ok(real) if ancestor == absolute => return Ok(real),
            Ok(real) => return Ok(real.join(absolute.strip_prefix(ancestor).unwrap_or(Path::new("")))),
            // A dangling link is not an absent directory: creating it would fail in a way that is hard to understand.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !ancestor.is_symlink() => {}
            Err(error) => return Err(Error::io("open", ancestor, error)),
        }
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(texts: &[&str]) -> TablespaceMap {
        let mut map = TablespaceMap::default();
        texts.iter().for_each(|text| map.add(text).expect("a mapping"));
        map
    }

    fn found() -> Vec<(String, String)> {
        vec![
            ("16400".to_owned(), "/ts/a".to_owned()),
            ("16401".to_owned(), "/ts=b".to_owned()),
        ]
    }

    #[test]
    fn a_restore_specification_says_where_tablespaces_go() {
        let target = Path::new("/new");
        let read = |text: &str| {
            let mut map = TablespaceMap::default();
            map.add_specification(text, target)
                .map(|()| map.each)
                .map_err(|error| error.to_string())
        };
        let whole = r#"{"base_prefix": "/new/", "tablespaces": ["16384"], "16384": {"loc": "/fast", "link": "pg_tblspc/16384"}}"#;
        assert_eq!(read(whole), Ok(vec![("16384".to_owned(), PathBuf::from("/fast"))]));
        assert_eq!(read(r#"{"tablespaces": []}"#), Ok(vec![]));
        for (text, says) in [
            ("[]", "cannot be read"),
            (r#"{"base_prefix": "/old", "tablespaces": []}"#, "is for directory"),
            (r#"{"tablespaces": ["1"]}"#, "does not say where"),
            (r#"{"tablespaces": ["1"], "1": {"loc": "here"}}"#, "does not say where"),
            (r#"{"tablespaces": ["1", "1"], "1": {"loc": "/a"}}"#, "two places"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_map_takes_directories_and_oids() {
        let locations = |map: &TablespaceMap| {
            resolve(found(), map, "x").map(|all| all.into_iter().filter_map(|one| one.location).collect::<Vec<_>>())
        };
        let expected = |a: &str, b: &str| vec![PathBuf::from(a), PathBuf::from(b)];
        assert_eq!(locations(&map(&[])).expect("resolved"), expected("/ts/a", "/ts=b"));
        assert_eq!(
            locations(&map(&["16400=/n", "/ts\\=b=/m\\=m"])).expect("resolved"),
            expected("/n", "/m=m")
        );
        assert_eq!(
            locations(&map(&["/ts/a/=/n"])).expect("resolved"),
            expected("/n", "/ts=b")
        );
        let unknown = locations(&map(&["/other=/n"])).expect_err("refused");
        assert!(unknown.hint().is_some_and(|hint| hint.contains("16400 at \"/ts/a\"")));
        for text in ["", "a", "a=b", "=/b", "a=/b=c", "16400"] {
            assert!(TablespaceMap::default().add(text).is_err(), "{text}");
        }
        assert!(map(&["1=/a"]).add("1=/b").is_err());
    }

    #[test]
    fn what_the_repository_says_is_checked() {
        for (oid, location) in [("../x", "/a"), ("", "/a"), ("1", "a/b"), ("12345678901", "/a")] {
            let result = resolve(vec![(oid.to_owned(), location.to_owned())], &map(&[]), "x");
            assert!(matches!(result, Err(Error::Damaged { .. })), "{oid} {location}");
        }
        let in_place = resolve(vec![("1".to_owned(), "pg_tblspc/1".to_owned())], &map(&[]), "x").expect("resolved");
        assert_eq!(in_place[0].location, None);
    }

    #[test]
    fn a_tablespace_map_is_read() {
        assert_eq!(
            of_map_file("16400 /a b\n16401 /back\\\\slash\\\nnewline\n\n"),
            [
                ("16400".to_owned(), "/a b".to_owned()),
                ("16401".to_owned(), "/back\\slash\nnewline".to_owned())
            ]
        );
    }
}
