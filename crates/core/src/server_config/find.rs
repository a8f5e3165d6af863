//! Finding the configuration file of a data directory in which it is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::read_file;

/// That of the last start. `postmaster.opts` holds the command line, each argument in quotes:
/// `/usr/…/postgres "-D" "/data" "-c" "config_file=/etc/…/postgresql.conf"`. None if it names none that is there.
pub(super) fn config_file_of_last_start(data_dir: &Path) -> Option<PathBuf> {
    let line = std::fs::read_to_string(data_dir.join("postmaster.opts")).ok()?;
    let args: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
    let (mut config_file, mut directory) = (None, None);
    for (at, arg) in args.iter().enumerate() {
        let after = |flag: &str| match arg.strip_prefix(flag) {
            Some("") => args.get(at + 1).copied(),
            rest => rest,
        };
        let setting = arg.strip_prefix("--").or_else(|| after("-c"));
        if let Some((name, value)) = setting.and_then(|setting| setting.split_once('='))
            && name.replace('-', "_") == "config_file"
        {
            config_file = Some(PathBuf::from(value));
        }
        if let Some(value) = after("-D") {
            directory = Some(Path::new(value).join("postgresql.conf"));
        }
    }
    let found = config_file.or(directory)?;
    (found.is_absolute() && found.is_file()).then_some(found)
}

/// That of the cluster with this data directory.
pub(super) fn config_file_among(root: &Path, data_dir: &Path) -> Option<PathBuf> {
    let data_dir = data_dir.canonicalize().ok()?;
    let is_it = |(_, of_cluster): &(PathBuf, PathBuf)| of_cluster.canonicalize().is_ok_and(|found| found == data_dir);
    let found = clusters(root).into_iter().find(is_it);
    found.map(|(config_file, _)| config_file)
}

/// The configuration files `MAJOR/NAME/postgresql.conf`, and the data directories that they name. What cannot be read is passed
/// over.
pub(super) fn clusters(root: &Path) -> Vec<(PathBuf, PathBuf)> {
    let below = |directory: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let mut found = Vec::new();
    for cluster in below(root).iter().flat_map(|major| below(major)) {
        let (config_file, mut values) = (cluster.join("postgresql.conf"), BTreeMap::new());
        let read = config_file.is_file() && read_file(&config_file, 0, &mut values, &mut Vec::new()).is_ok();
        if let Some(data_dir) = values.remove("data_directory").filter(|_| read) {
            found.push((config_file, PathBuf::from(data_dir)));
        }
    }
    found
}
