//! The configuration files that were outside of the data directory, and what else a user should know of where things were.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::directory::owner::Owner;
use super::directory::root::{Root, failed, give};
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::formats::{Configuration, ExtendedMetadata};
use crate::printable::counted;
use crate::stored::configuration::{ConfigFile, members};
use walarchive_storage::Store;

/// So many of a kind are named in a note.
const NAMED: usize = 8;

/// Notes on a backup whose server did not have all its files in its data directory. `is_written`: the configuration is put
/// somewhere.
pub fn notes_on_places(metadata: &ExtendedMetadata, is_written: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let links = metadata.links.iter().map(|link| {
        let kind = if link.is_directory { "directory" } else { "file" };
        format!(
            "\"{}\" (to \"{}\", now a {kind})",
            link.path.escape_debug(),
            link.target.escape_debug()
        )
    });
    if let Some(links) = some_of(links.collect(), metadata.links.len() as u64) {
        notes.push(format!(
            "The backup followed symbolic links. The restore puts their content in the place of the links: {links}."
        ));
    }
    let left_out = metadata.left_out.iter().map(ToString::to_string).collect();
    if let Some(left_out) = some_of(left_out, metadata.left_out_count) {
        notes.push(format!(
            "The backup does not have these entries of the original data directory: {left_out}."
        ));
    }
    if let Some(configuration) = metadata.configuration.as_ref().filter(|_| !is_written) {
        let files = configuration
            .files
            .iter()
            .map(|file| format!("\"{}\"", file.path.escape_debug()));
        let files = some_of(files.collect(), configuration.files.len() as u64).unwrap_or_default();
        notes.push(format!(
            "The configuration of the server was outside of its data directory, and is not restored: {files}. Use \
             --config-dir DIR to have these files written there."
        ));
    }
    notes
}

fn some_of(all: Vec<String>, count: u64) -> Option<String> {
    let named = all.len().min(NAMED);
    let more = count.max(all.len() as u64) - named as u64;
    match (named, more) {
        (0, 0) => None,
        (_, 0) => Some(all[..named].join(", ")),
        _ => Some(format!("{} and {more} more", all[..named].join(", "))),
    }
}

/// The files, and where they are to go. Nothing is written before [`ConfigurationPlan::write`].
pub struct ConfigurationPlan {
    directory: PathBuf,
    /// The directory of all of them.
    base: PathBuf,
    files: Vec<ConfigFile>,
    configuration: Configuration,
}

impl ConfigurationPlan {
    /// Read the configuration of a backup, and see that nothing is in the way in `directory`. None if the backup has none of its
    /// own, as it all was in the data directory.
    pub async fn read(
        store: &Store,
        backup: &str,
        metadata: &ExtendedMetadata,
        directory: &Path,
    ) -> Result<Option<Self>> {
        let Some(configuration) = metadata.configuration.clone() else {
            return Ok(None);
        };
        let members = members(store, backup).await?;
        let common = common(
            members
                .iter()
                .map(|member| &member.path[..member.path.len().saturating_sub(1)]),
        );
        let base = common
            .iter()
            .fold(PathBuf::from("/"), |base, name| base.join(OsStr::from_bytes(name)));
        let files = members.into_iter().map(|member| ConfigFile {
            path: member.path[common.len()..].to_vec(),
            ..member
        });
        let plan = ConfigurationPlan {
            directory: directory.to_owned(),
            base,
            files: files.filter(|file| !file.path.is_empty()).collect(),
            configuration,
        };
        plan.check()?;
        Ok(Some(plan))
    }

    fn check(&self) -> Result<()> {
        for file in &self.files {
            let full = self.place(&file.path);
            if std::fs::symlink_metadata(&full).is_ok() {
                return Err(Error::refused(
                    format!("file \"{}\" exists already", full.display()),
                    "Use --config-dir with a directory that has none of the configuration files.",
                ));
            }
        }
        Ok(())
    }

    fn place(&self, path: &[Vec<u8>]) -> PathBuf {
        let join = |place: PathBuf, name: &Vec<u8>| place.join(OsStr::from_bytes(name));
        path.iter().fold(self.directory.clone(), join)
    }

    /// Write them, durably. Files that have come there by now are not overwritten.
    pub async fn write(self, owner: Option<Owner>) -> Result<String> {
        blocking(move || self.write_all(owner)).await
    }

    fn write_all(&self, owner: Option<Owner>) -> Result<String> {
        let root = Root::create(&self.directory, owner)?;
        for file in &self.files {
            let Some((name, parents)) = file.path.split_last() else {
                continue;
            };
            let directory = root.descend(parents, owner)?;
            let full = self.place(&file.path);
            let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_CREAT | OFlag::O_EXCL;
            let mode = Mode::from_bits_truncate(0o600);
            let mut new = openat(&directory, OsStr::from_bytes(name), flags, mode)
                .map(File::from)
                .map_err(|error| failed("create", full.clone(), error))?;
            give(&new, owner, &full)?;
            let written = new
                .write_all(&file.content)
                .and_then(|()| new.set_permissions(Permissions::from_mode(file.mode & 0o644 | 0o600)))
                .and_then(|()| new.sync_all())
                .and_then(|()| directory.sync_all());
            written.map_err(|error| Error::io("write", &full, error))?;
        }
        Ok(format!(
            "wrote {} into \"{}\" with their paths below \"{}\"",
            counted(self.files.len(), "configuration file"),
            self.directory.display(),
            self.base.display()
        ))
    }

    /// The settings with which a server of a data directory is started on these files: they name the places of the original.
    pub fn settings(&self, data_dir: &Path) -> Vec<String> {
        let place = |original: &Option<String>| {
            let original = Path::new(original.as_ref()?);
            let below = original.strip_prefix(&self.base).ok()?;
            Some(self.directory.join(below))
        };
        let of = &self.configuration;
        let named = [
            ("config_file", place(&of.config_file)),
            ("data_directory", Some(data_dir.to_owned())),
            ("hba_file", place(&of.hba_file)),
            ("ident_file", place(&of.ident_file)),
        ];
        let given = named.into_iter().filter_map(|(name, path)| Some((name, path?)));
        given.map(|(name, path)| format!("{name}={}", path.display())).collect()
    }
}

impl std::fmt::Display for ConfigurationPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "configuration: {} from below \"{}\", into \"{}\"",
            counted(self.files.len(), "file"),
            self.base.display(),
            self.directory.display()
        )
    }
}

/// The components that all paths begin with.
fn common<'a>(mut paths: impl Iterator<Item = &'a [Vec<u8>]>) -> Vec<Vec<u8>> {
    let mut common = paths.next().unwrap_or_default().to_vec();
    for path in paths {
        let same = common.iter().zip(path).take_while(|(one, other)| one == other);
        let same = same.count();
        common.truncate(same);
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn what_was_in_one_directory_comes_into_one() {
        let path = |text: &str| text.split('/').map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
        let paths = ["etc/pg/15/main", "etc/pg/15/main/conf.d", "etc/pg/15"].map(path);
        assert_eq!(common(paths.iter().map(Vec::as_slice)), path("etc/pg/15"));
        assert_eq!(
            common([path("a"), path("b")].iter().map(Vec::as_slice)),
            Vec::<Vec<u8>>::new()
        );
        assert_eq!(common(std::iter::empty()), Vec::<Vec<u8>>::new());
    }
}
