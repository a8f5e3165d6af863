//! `flags`.

use walarchive_core::Result;

use crate::{listing, print, repository};

/// Variables of walarchive's own.
const OWN: [(&str, &str); 7] = [
    ("WALARCHIVE_STORAGE", "the storage"),
    ("WALARCHIVE_STORAGE_OPTIONS", "options of the storage"),
    (
        "WALARCHIVE_CREDENTIALS_FILE",
        "a file with the credentials of the storage",
    ),
    ("WALARCHIVE_ENCRYPTION", "how new objects are encrypted"),
    ("WALARCHIVE_ENCRYPTION_KEY_FILE", "files of keys"),
    ("WALARCHIVE_ENCRYPTION_KEY_COMMAND", "a program that prints keys"),
    (
        "WALARCHIVE_ENCRYPTION_ACCEPT_PLAIN",
        "plain text is read where everything is encrypted",
    ),
];

/// Print the flags of all verbs, and all variables that have an effect.
pub fn flags(command: &clap::Command) -> Result<()> {
    let mut lines = Vec::new();
    let global = command.get_arguments().filter(|argument| argument.is_global_set());
    for argument in global.chain(command.get_arguments().filter(|argument| !argument.is_global_set())) {
        let Some(long) = argument.get_long() else { continue };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        lines.push(vec![format!("--{long}"), help]);
    }
    print::out("Flags of all verbs (see \"walarchive help VERB\" for the others):")?;
    print::piece(&listing::tabbed(&lines))?;
    print::out("\nVariables, in the environment, in --envdir or in the configuration file:")?;
    let own = OWN.map(|(name, what)| (name.to_owned(), what.to_owned()));
    let variables = own.into_iter().chain(repository::variables());
    let lines: Vec<Vec<String>> = variables.map(|(name, what)| vec![name, what]).collect();
    print::piece(&listing::tabbed(&lines))?;
    print::out("\nEach variable of WAL-G, a store or libpq is a flag, too: --walg-file-prefix is WALG_FILE_PREFIX.")
}
