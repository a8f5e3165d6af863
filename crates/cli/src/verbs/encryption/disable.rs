//! `encryption-disable`.

use walarchive_core::repository::encryption;
use walarchive_core::{Error, Result};

use crate::print;
use crate::repository::Storage;
use crate::repository::writer::writable_in_plain_text;

/// `encryption-disable`.
#[derive(Debug, clap::Args)]
pub struct EncryptionDisable {
    /// Do it: new objects may be plain text from now on.
    #[arg(long)]
    confirm: bool,
    #[command(flatten)]
    storage: Storage,
}

/// Let new objects be plain text.
pub async fn disable(args: &EncryptionDisable) -> Result<()> {
    if !args.confirm {
        return Err(Error::refused(
            "without --confirm the repository stays encrypted",
            "With it, whoever is set to encrypt nothing writes plain text into the repository from now on.",
        ));
    }
    let store = writable_in_plain_text(&args.storage).await?;
    match encryption::disable(&store).await? {
        None => print::out("the repository is not encrypted"),
        Some(_) => print::out(
            "new objects may be plain text from now on, if no server is set to encrypt them; keep the keys as long as there are \
             objects that are encrypted",
        ),
    }
}
