//! The environment of this process.

use std::path::PathBuf;

use nix::unistd::{User, geteuid};

/// The environment, or what a test puts in its place. Empty values count as unset.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The user's home: that of the environment, else that of the operating system's list of users.
pub(crate) fn home(environment: Environment<'_>) -> Option<PathBuf> {
    let of_user = || Some(User::from_uid(geteuid()).ok()??.dir);
    environment("HOME").map(PathBuf::from).or_else(of_user)
}
