//! What a restored server needs to find the same keys.

use std::path::Path;

use walarchive_storage::crypt::WAL_G_KEYS;

use super::settings::flags;
use super::sources::settings_of_file;

/// WAL-G's variables about keys that are set here, and stand in no file that the flags of a later call name: so the environment of
/// that call must have them as well.
pub fn only_in_environment() -> Vec<&'static str> {
    let flags = flags();
    let is_in_file = |name: &str| {
        flags.windows(2).any(|pair| match (pair[0].as_str(), &pair[1]) {
            ("--config", file) => {
                settings_of_file(Path::new(file)).is_ok_and(|settings| settings.iter().any(|(known, _)| known == name))
            }
            ("--envdir", directory) => Path::new(directory).join(name).exists(),
            _ => false,
        })
    };
    set().into_iter().filter(|name| !is_in_file(name)).collect()
}

/// Those of them that name a file by a relative path.
pub fn relative() -> Vec<&'static str> {
    let is_relative = |name: &&str| std::env::var_os(name).is_some_and(|path| Path::new(&path).is_relative());
    set()
        .into_iter()
        .filter(|name| name.ends_with("_PATH"))
        .filter(is_relative)
        .collect()
}

fn set() -> Vec<&'static str> {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    WAL_G_KEYS.into_iter().filter(is_set).collect()
}
