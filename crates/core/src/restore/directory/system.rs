//! Directories of the operating system.

use std::path::Path;

/// Directories of the system: nobody has a tablespace there.
const OF_THE_SYSTEM: [&str; 15] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/systemd",
    "/var/spool",
];

/// Below those, and yet places for data.
const FOR_DATA: [&str; 2] = ["/dev/shm", "/usr/local"];

/// Is it a directory of the system, or in one? The path is without links.
pub(crate) fn is_of_the_system(real: &Path) -> bool {
    let is_below = |directories: &[&str]| directories.iter().any(|directory| real.starts_with(directory));
    is_below(&OF_THE_SYSTEM) && !is_below(&FOR_DATA)
}
