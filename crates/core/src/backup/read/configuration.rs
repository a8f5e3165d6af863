//! Configuration files that are not in the data directory, as on Debian: a tar of their own beside those of the data directory.
//! WAL-G does not know it.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use super::links::Links;
use super::rules;
use super::walk::Attributes;
use crate::backup::pack::tar_stream::TarStream;
use crate::encrypted::Wrapping;
use crate::error::{Error, Result};
use crate::formats::{Configuration, ConfigurationFile};
use crate::repository::layout::Key;
use crate::server_config;

/// The largest file that is taken for one of a configuration, in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// All of them together, in bytes.
pub(crate) const LIMIT: u64 = 32 << 20;

/// So many of them.
const COUNT_LIMIT: usize = 2000;

/// PostgreSQL's own bound for files that include files.
const MAX_DEPTH: usize = 10;

/// The places of the configuration, as the server has said. All paths are absolute.
#[derive(Debug, Clone, Default)]
pub struct ConfigurationFiles {
    /// `config_file`.
    pub config: Option<PathBuf>,
    /// `hba_file`.
    pub hba: Option<PathBuf>,
    /// `ident_file`.
    pub ident: Option<PathBuf>,
    /// Files with secrets, such as that of `ssl_key_file`: they are never taken, though an include may name them.
    pub secrets: Vec<PathBuf>,
    /// Files with keys of the repository. They are never taken, even from the data directory: who has a backup and the key that it
    /// was encrypted with need not get any other.
    pub keys: Vec<PathBuf>,
}

/// Take the files outside the data directory, with those that they include, into an object with this key; none if all are in it. Files that cannot be taken are
/// noted as left out.
pub(crate) fn take(
    files: &ConfigurationFiles,
    data_dir: &Path,
    links: &Links,
    (wrapping, key): (&Wrapping, &Key),
) -> Result<Option<(Configuration, Vec<u8>)>> {
    let (config, hba, ident) = (files.config.as_deref(), files.hba.as_deref(), files.ident.as_deref());
    let mut found = BTreeSet::new();
    if let Some(config) = config {
        found.extend(server_config::files_of(config).iter().map(|file| plain(file)));
    }
    for file in [hba, ident].into_iter().flatten() {
        with_included(file, 0, &mut found);
    }
    let taker = Taker {
        data_dir,
        canonical: data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned()),
        secrets: files
            .secrets
            .iter()
            .chain(&files.keys)
            .filter_map(|path| path.canonicalize().ok())
            .collect(),
        links,
    };
    let failed = |error: io::Error| Error::io("pack the configuration of", data_dir, error);
    let mut tar = TarStream::new(wrapping.begin(key, Vec::new(), 0).map_err(failed)?);
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for path in found {
        let Some((meta, content)) = taker.read(&path, LIMIT - bytes, taken.len()) else {
            continue;
        };
        let size = content.len() as u64;
        let written = tar
            .file(path.as_os_str().as_encoded_bytes(), size, &Attributes::from(&meta))
            .and_then(|()| tar.content(&content))
            .and_then(|()| tar.pad(size));
        written.map_err(failed)?;
        bytes += size;
        taken.push(ConfigurationFile {
            path: path.to_string_lossy().into_owned(),
            size,
        });
    }
    if taken.is_empty() {
        return Ok(None);
    }
    let text = |path: Option<&Path>| path.map(|path| path.to_string_lossy().into_owned());
    let configuration = Configuration {
        config_file: text(config),
        hba_file: text(hba),
        ident_file: text(ident),
        files: taken,
    };
    let mut packed = tar.finish().and_then(|encoder| encoder.finish()).map_err(failed)?;
    packed.flush().map_err(failed)?;
    Ok(Some((configuration, packed)))
}

struct Taker<'a> {
    data_dir: &'a Path,
    canonical: PathBuf,
    secrets: BTreeSet<PathBuf>,
    links: &'a Links,
}

impl Taker<'_> {
    /// None if the file is in the backup anyway, or cannot be taken.
    fn read(&self, path: &Path, room: u64, count: usize) -> Option<(Metadata, Vec<u8>)> {
        let target = path.canonicalize().ok()?;
        let in_place = path.strip_prefix(self.data_dir).is_ok_and(rules::is_of_server);
        if in_place || target.starts_with(&self.canonical) {
            return None;
        }
        if self.secrets.contains(&target) {
            self.links.name(path, "file with secrets");
            return None;
        }
        let meta = std::fs::metadata(&target).ok()?;
        if !meta.is_file() || meta.len() > FILE_LIMIT.min(room) || count >= COUNT_LIMIT {
            self.links.name(path, "no plain configuration file, or too large");
            return None;
        }
        let mut content = Vec::new();
        let read = std::fs::File::open(&target).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut content));
        match read {
            Ok(_) => Some((meta, content)),
            Err(error) => {
                self.links.name(path, &format!("cannot be read: {error}"));
                None
            }
        }
    }
}

/// The file, and what it includes: by the directives that PostgreSQL 16 brought, or by `@file` in the place of names.
fn with_included(path: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    let path = &plain(path);
    if depth > MAX_DEPTH || found.len() > COUNT_LIMIT || !path.is_file() || !found.insert(path.to_owned()) {
        return;
    }
    let mut content = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut content));
    if read.is_err() {
        return;
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    for line in String::from_utf8_lossy(&content).lines() {
        let tokens = tokens(line);
        match &tokens[..] {
            [directive, file] if directive == "include" || directive == "include_if_exists" => {
                with_included(&folder.join(file), depth + 1, found);
            }
            [directive, directory] if directive == "include_dir" => {
                for file in server_config::files_of_directory(&folder.join(directory)).unwrap_or_default() {
                    with_included(&file, depth + 1, found);
                }
            }
            _ => {}
        }
        for file in tokens.iter().filter_map(|token| token.strip_prefix('@')) {
            with_included(&folder.join(file), depth + 1, found);
        }
    }
}

/// The path without `.` and `..` in it: no restore takes these.
fn plain(path: &Path) -> PathBuf {
    let goes_up = path.components().any(|part| part == Component::ParentDir);
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) if goes_up => folder.join(name),
        _ => path.components().collect(),
    }
}

/// The words of a line, as `hba.c` splits them: by white space and commas, with quotes, up to a comment.
fn tokens(line: &str) -> Vec<String> {
    let (mut tokens, mut token, mut quoted) = (Vec::new(), String::new(), false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            '#' if !quoted => break,
            ',' if !quoted => tokens.push(std::mem::take(&mut token)),
            _ if letter.is_whitespace() && !quoted => tokens.push(std::mem::take(&mut token)),
            _ => token.push(letter),
        }
    }
    tokens.push(token);
    tokens.retain(|token| !token.is_empty());
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Format};
    use crate::repository::layout;

    fn key() -> Key {
        layout::configuration_in("base_1", Format::Zstd)
    }

    fn members(packed: &[u8]) -> Vec<String> {
        let decoder = Format::Zstd.decoder(packed).expect("a decoder");
        let mut archive = tar::Archive::new(decoder);
        let entries = archive.entries().expect("a tar");
        let name = |entry: std::io::Result<tar::Entry<'_, _>>| {
            String::from_utf8_lossy(&entry.expect("a member").path_bytes()).into_owned()
        };
        entries.map(name).collect()
    }

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn what_lies_outside_is_taken_with_what_it_includes() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("there");
        let (etc, data) = (real.join("etc"), real.join("data"));
        for (path, text) in [
            (
                "postgresql.conf",
                "include_dir 'conf.d'\ninclude_if_exists 'none'\ninclude '../data/in.conf'\ninclude 'key'\n",
            ),
            ("conf.d/10.conf", "port = 1\n"),
            ("conf.d/notes.txt", "not read"),
            (
                "pg_hba.conf",
                "local all @admins,u trust # @comment\ninclude \"more hba.conf\"\ninclude_dir hba.d\n",
            ),
            ("admins", "a\nb\n"),
            ("comment", "not read"),
            ("more hba.conf", "local all all trust\n"),
            ("hba.d/1.conf", "include ../pg_hba.conf\n"),
            ("key", "# secret\n"),
        ] {
            write(&etc.join(path), text);
        }
        write(&data.join("in.conf"), "work_mem = 1MB\n");
        write(&data.join("pg_ident.conf"), "");
        let files = ConfigurationFiles {
            config: Some(etc.join("postgresql.conf")),
            hba: Some(etc.join("pg_hba.conf")),
            ident: Some(data.join("pg_ident.conf")),
            secrets: vec![etc.join("key")],
            keys: Vec::new(),
        };
        let links = Links::default();
        let taken = take(&files, &data, &links, (&Wrapping::plain(Compression::Zstd(1)), &key())).expect("taken");
        let (configuration, packed) = taken.expect("something");
        let expected: Vec<String> = [
            "admins",
            "conf.d/10.conf",
            "hba.d/1.conf",
            "more hba.conf",
            "pg_hba.conf",
            "postgresql.conf",
        ]
        .map(|path| etc.join(path).display().to_string())
        .to_vec();
        let listed: Vec<String> = configuration.files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(listed, expected);
        assert_eq!(members(&packed), expected);
        assert!(
            configuration
                .ident_file
                .is_some_and(|path| path.ends_with("data/pg_ident.conf"))
        );
        let (left_out, _) = links.left_out();
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].path.ends_with("/key"), "{left_out:?}");
    }

    #[test]
    fn of_a_usual_data_directory_nothing_is_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        write(&dir.path().join("elsewhere.conf"), "port = 1\n");
        write(&data.join("pg_hba.conf"), "");
        // It is followed, and comes back in its place.
        std::os::unix::fs::symlink("../elsewhere.conf", data.join("postgresql.conf")).expect("linked");
        let files = ConfigurationFiles {
            config: Some(data.join("postgresql.conf")),
            hba: Some(data.join("pg_hba.conf")),
            ..ConfigurationFiles::default()
        };
        let taken = take(
            &files,
            &data,
            &Links::default(),
            (&Wrapping::plain(Compression::Plain), &key()),
        )
        .expect("taken");
        assert!(taken.is_none(), "{taken:?}");
    }
}
