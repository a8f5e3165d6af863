//! What a backup that brings a standby up leaves out beside unchanged pages.

use std::path::Path;

use super::read::files::FileList;

/// A standby has its own, and WAL-G would write over it.
const CONFIGURATION: [&str; 4] = [
    "postgresql.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "pg_ident.conf",
];

/// The files but for the configuration in the data directory.
pub(super) fn without_configuration(files: &FileList) -> FileList {
    let is_configuration = |path: &Path| CONFIGURATION.iter().any(|name| path == Path::new(name));
    let mut left = FileList::default();
    for file in (0..files.len()).map(|index| files.get(index)) {
        if !is_configuration(&file.path) {
            left.push(&file.path, file.size);
        }
    }
    left
}
