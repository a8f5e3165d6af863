//! Finding the configuration file of a data directory that does not have it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::read_file;

/// That of the last start. None if its command line names none that is there.
pub(super) fn config_file_of_last_start(data_dir: &Path) -> Option<PathBuf> {
    let args = arguments_of_last_start(data_dir);
    let config_file = settings(&args).rfind(|(name, _)| name == "config_file");
    let directory = || {
        let directory = options(&args, "-D").last()?;
        Some(Path::new(&directory).join("postgresql.conf"))
    };
    let found = config_file.map(|(_, file)| PathBuf::from(file)).or_else(directory)?;
    (found.is_absolute() && found.is_file()).then_some(found)
}

/// The settings on the command line of the last start.
pub(super) fn settings_of_last_start(data_dir: &Path) -> Vec<(String, String)> {
    settings(&arguments_of_last_start(data_dir)).collect()
}

/// `postmaster.opts` holds the command line, each argument in quotes:
/// `/usr/…/postgres "-D" "/data" "-c" "config_file=/etc/…/postgresql.conf"`.
fn arguments_of_last_start(data_dir: &Path) -> Vec<String> {
    let line = std::fs::read_to_string(data_dir.join("postmaster.opts")).unwrap_or_default();
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The values of an option, as `-D /data` or `-D/data`.
fn options<'a>(args: &'a [String], flag: &'a str) -> impl DoubleEndedIterator<Item = String> + 'a {
    args.iter()
        .enumerate()
        .filter_map(move |(at, arg)| match arg.strip_prefix(flag)? {
            "" => args.get(at + 1).cloned(),
            value => Some(value.to_owned()),
        })
}

/// `-c name=value` and `--name=value`.
fn settings(args: &[String]) -> impl DoubleEndedIterator<Item = (String, String)> {
    let long = args.iter().filter_map(|arg| arg.strip_prefix("--").map(str::to_owned));
    let all: Vec<(String, String)> = options(args, "-c")
        .chain(long)
        .filter_map(|setting| {
            let (name, value) = setting.split_once('=')?;
            Some((name.replace('-', "_"), value.to_owned()))
        })
        .collect();
    all.into_iter()
}

/// That of the cluster with this data directory.
pub(super) fn config_file_among(root: &Path, data_dir: &Path) -> Option<PathBuf> {
    let data_dir = data_dir.canonicalize().ok()?;
    let is_it = |(_, of_cluster): &(PathBuf, PathBuf)| of_cluster.canonicalize().is_ok_and(|found| found == data_dir);
    let found = clusters(root).into_iter().find(is_it);
    found.map(|(config_file, _)| config_file)
}

/// The configuration files `MAJOR/NAME/postgresql.conf`, and the data directories that they name. Files that cannot be read are
/// passed over.
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
