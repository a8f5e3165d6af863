//! Whether a repository is encrypted: the mark in `cluster.json`, and who may write beside it.
//!
//! A writer asks before its first byte, and again from time to time while it goes on. What is encrypted never gets plain text
//! beside it by accident, and never objects that whoever has the key of the mark cannot read.

mod hands;

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use walarchive_storage::Store;
use walarchive_storage::crypt::{HEAD_OF_KEY, Under};

use self::hands::{Hands, one_opens_all, opens_token};
use super::cluster_file::{ClusterFile, LIMIT};
pub use super::cluster_file::{KeyName, Mark, State, method_name};
use super::plain_text::{self, Beside};
use crate::blocking::blocking;
use crate::encrypted;
use crate::error::{Error, Result};
use crate::repository::layout;

/// Is the repository encrypted, by what its mark says? Needs no key.
pub async fn state(store: &Store) -> Result<State> {
    Ok(match ClusterFile::read(store).await? {
        Some(file) => file.state(store)?,
        None => State::Unclaimed,
    })
}

/// An error if all of the repository is encrypted, and the store has no key. Of an object that libsodium has encrypted nobody can tell
/// that it is; a mark that cannot be read tells nothing.
pub async fn refuse_without_key(store: &Store) -> Result<()> {
    if !store.keyring().is_empty() {
        return Ok(());
    }
    match state(store).await {
        Ok(State::Encrypted(mark)) if !mark.plain_before => Err(Error::Encrypted {
            object: store.url().to_owned(),
            reason: format!("Its cluster.json says that it is encrypted by {}.", mark.key.method),
        }),
        _ => Ok(()),
    }
}

/// The same, or all of it is encrypted with one key, which the store has not. The keys are read.
pub async fn refuse_without_right_key(store: &Store) -> Result<()> {
    refuse_without_key(store).await?;
    let Ok(State::Encrypted(mark)) = state(store).await else {
        return Ok(());
    };
    if mark.plain_before || !mark.former_keys.is_empty() || opens(store, &mark).await? {
        return Ok(());
    }
    Err(Error::refused(
        format!(
            "\"{}\" is encrypted by {}, and not with a key that is configured",
            store.url(),
            mark.key.method
        ),
        "Give the key that it was encrypted with, with --encryption-key-file for example. With OpenPGP that is the secret key.",
    ))
}

/// New objects may be in plain text from now on, and a writer with a key turns encryption on again. Returns the mark that was
/// there; none if the repository was not encrypted.
pub async fn disable(store: &Store) -> Result<Option<Mark>> {
    let Some(file) = ClusterFile::read(store).await? else {
        return Ok(None);
    };
    let state = file.state(store)?;
    let former_keys = state.keys();
    let State::Encrypted(mark) = state else { return Ok(None) };
    let content = file.with(State::Plain { former_keys }).content()?;
    store.put(&layout::CLUSTER, content).await?;
    tracing::info!(
        repository = store.url(),
        "the repository is no longer marked as encrypted"
    );
    Ok(Some(mark))
}

/// All objects are encrypted with the key that new ones get here, so nobody needs a former one any more. False: the mark names another
/// key by now.
pub(crate) async fn forget_former_keys(store: &Store) -> Result<bool> {
    let Some(file) = ClusterFile::read(store).await? else {
        return Ok(true);
    };
    let State::Encrypted(mark) = file.state(store)? else {
        return Ok(false);
    };
    let (repository, keyring, key) = (store.url().to_owned(), store.keyring().clone(), mark.key.clone());
    let is_ours = blocking(move || Ok(Hands::new(repository, keyring, 0)?.is_key(&key))).await?;
    if !is_ours || !mark.plain_before && mark.former_keys.is_empty() {
        return Ok(is_ours);
    }
    let mark = Mark {
        plain_before: false,
        former_keys: Vec::new(),
        ..mark
    };
    let content = file.with(State::Encrypted(mark)).content()?;
    store.put(&layout::CLUSTER, content).await?;
    Ok(true)
}

/// An error if whoever has this store may not write into the repository because of its encryption. Writes nothing.
pub async fn permit(store: &Store) -> Result<()> {
    permit_found(store, store.get(&layout::CLUSTER, LIMIT).await?.as_ref()).await
}

/// The same, after `cluster.json` was read; none if it is not there.
pub(crate) async fn permit_found(store: &Store, content: Option<&Bytes>) -> Result<()> {
    let file = content.map(|content| ClusterFile::parse(store, content)).transpose()?;
    // What the token holds does not matter where there is none to compare.
    let system_identifier = file.as_ref().map_or(0, |file| file.system_identifier);
    let state = match &file {
        Some(file) => file.state(store)?,
        None => State::Unclaimed,
    };
    judge(store, &state, system_identifier).await.map(drop)
}

/// The same for work that has begun: it may end if its key was that of the repository before, as whoever has the key of the mark
/// needs that one, too, for what is there.
pub(crate) async fn permit_to_end(store: &Store) -> Result<()> {
    match permit(store).await {
        Err(error) if !error.is_transient() && was_key(store).await? => {
            tracing::debug!(%error, "work that had begun before goes on");
            Ok(())
        }
        outcome => outcome,
    }
}

/// Is the key that new objects are encrypted with a former one of the repository?
async fn was_key(store: &Store) -> Result<bool> {
    let State::Encrypted(mark) = state(store).await? else {
        return Ok(false);
    };
    let (repository, keyring) = (store.url().to_owned(), store.keyring().clone());
    if keyring.writes().is_none() {
        return Ok(false);
    }
    let was_key = move || {
        let hands = Hands::new(repository, keyring, 0)?;
        Ok(mark.former_keys.iter().any(|key| hands.is_key(key)))
    };
    blocking(was_key).await
}

/// Goes on for as long as work that has begun may end, which is asked so often; then returns the reason. A store that cannot be
/// asked is none.
pub(crate) async fn until_refused(store: &Store, every: Duration) -> Error {
    loop {
        tokio::time::sleep(every).await;
        match permit_to_end(store).await {
            Err(error) if !error.is_transient() => return error,
            Ok(()) | Err(_) => {}
        }
    }
}

/// For so long whoever writes need not look again whether the repository is encrypted as he writes.
pub(crate) const AGREED_FOR: Duration = Duration::from_secs(30);

/// The same, and the mark of a repository that has an owner is made to say what the store's keys are. Returns what it says now.
pub async fn settle(store: &Store) -> Result<State> {
    match store.get(&layout::CLUSTER, LIMIT).await? {
        Some(content) => {
            let content = settle_found(store, content).await?;
            ClusterFile::parse(store, &content)?.state(store)
        }
        None => {
            judge(store, &State::Unclaimed, 0).await?;
            Ok(State::Unclaimed)
        }
    }
}

/// The same, after `cluster.json` was read. Returns its content as it is now.
pub(super) async fn settle_found(store: &Store, mut content: Bytes) -> Result<Bytes> {
    // Somebody else may settle it at the same time, and the last one wins.
    for _ in 0..ATTEMPTS {
        let file = ClusterFile::parse(store, &content)?;
        let state = file.state(store)?;
        let Some(mark) = judge(store, &state, file.system_identifier).await? else {
            return Ok(content);
        };
        tell(store, &state, &mark);
        content = file.with(State::Encrypted(mark)).content()?;
        store.put(&layout::CLUSTER, content.clone()).await?;
        content = store.get(&layout::CLUSTER, LIMIT).await?.unwrap_or(content);
    }
    Err(Error::refused(
        format!(
            "somebody else changes the encryption of \"{}\" at the same time",
            store.url()
        ),
        "Give all servers that write into the repository the same keys, in the same order.",
    ))
}

/// Objects of a repository of that state are to come into another one, as they are. Returns the content of `cluster.json` there. An
/// error if whoever has the key of that one could not read them.
pub(super) async fn join((from, of_source): (&Store, &State), to: &Store, content: Bytes) -> Result<Bytes> {
    let file = ClusterFile::parse(to, &content)?;
    let (there, system_identifier) = (file.state(to)?, file.system_identifier);
    let new = match (of_source, &there) {
        (State::Encrypted(here), State::Encrypted(mark)) if here.key == mark.key => there.clone(),
        (State::Encrypted(here), State::Encrypted(mark)) => {
            let keyrings = [to.keyring().clone(), from.keyring().clone()];
            let marks = [here.clone(), mark.clone()];
            if !blocking(move || one_opens_all(&keyrings, &marks, system_identifier)).await? {
                return Err(Error::refused(
                    format!(
                        "\"{}\" and \"{}\" are encrypted with different keys, as far as is known",
                        from.url(),
                        to.url()
                    ),
                    "Name the key files of both by WALARCHIVE_ENCRYPTION_KEY_FILE in one of the configuration files, or copy to another prefix.",
                ));
            }
            State::Encrypted(Mark {
                plain_before: mark.plain_before,
                former_keys: united(&mark.former_keys, of_source.keys()),
                ..mark.clone()
            })
        }
        (State::Encrypted(here), State::Unclaimed | State::Plain { .. }) => State::Encrypted(Mark {
            plain_before: true,
            former_keys: united(&here.former_keys, there.keys()),
            ..here.clone()
        }),
        (State::Unclaimed | State::Plain { .. }, State::Encrypted(mark)) => State::Encrypted(Mark {
            former_keys: united(&mark.former_keys, of_source.keys()),
            ..mark.clone()
        }),
        (State::Unclaimed | State::Plain { .. }, State::Unclaimed | State::Plain { .. }) => State::Plain {
            former_keys: united(&there.keys(), of_source.keys()),
        },
    };
    if new == there {
        return Ok(content);
    }
    let content = file.with(new).content()?;
    to.put(&layout::CLUSTER, content.clone()).await?;
    Ok(content)
}

fn united(keys: &[KeyName], others: Vec<KeyName>) -> Vec<KeyName> {
    let new = others.into_iter().filter(|key| !keys.contains(key));
    keys.iter().cloned().chain(new).collect()
}

/// Two that settle it at the same time need two attempts, and each further one another.
const ATTEMPTS: usize = 5;

/// What becomes of the mark, before it does.
pub(super) fn tell(store: &Store, before: &State, mark: &Mark) {
    let (repository, method, key_id) = (store.url(), &mark.key.method, &mark.key.key_id);
    match before {
        State::Unclaimed => {
            tracing::info!(
                repository,
                method,
                key_id,
                "the repository is encrypted from its first object on"
            );
        }
        State::Plain { .. } => {
            tracing::info!(
                repository,
                method,
                key_id,
                "encryption is turned on; what was stored before stays as it is"
            );
        }
        State::Encrypted(old) => {
            let (old_method, old_key_id) = (&old.key.method, &old.key.key_id);
            tracing::info!(
                repository,
                method,
                key_id,
                old_method,
                old_key_id,
                "new objects are encrypted with another key from now on"
            );
        }
    }
}

/// The mark that the repository must get before whoever has this store writes; none if it needs no other. An error if he must not
/// write.
pub(super) async fn judge(store: &Store, state: &State, system_identifier: u64) -> Result<Option<Mark>> {
    let plain_before = match state {
        State::Unclaimed => beside(store).await?,
        State::Plain { .. } => true,
        State::Encrypted(mark) => mark.plain_before,
    };
    let (repository, keyring, state) = (store.url().to_owned(), store.keyring().clone(), state.clone());
    if keyring.seals_metadata() {
        let keyring = keyring.clone();
        blocking(move || Ok(keyring.metadata_sealer()?)).await?;
    }
    if keyring.writes().is_none() {
        return match state {
            State::Encrypted(mark) => Err(in_plain_text(&repository, &mark)),
            State::Unclaimed | State::Plain { .. } => Ok(None),
        };
    }
    let mark = move || {
        let hands = Hands::new(repository, keyring, system_identifier)?;
        match state {
            State::Encrypted(mark) => hands.compare(mark),
            State::Unclaimed | State::Plain { .. } => Ok(Some(hands.mark(plain_before, state.keys())?)),
        }
    };
    blocking(mark).await
}

/// Is there plain text in a repository that nobody has claimed? An error if there is what whoever has this store must not write
/// beside.
async fn beside(store: &Store) -> Result<bool> {
    if store.keyring().writes().is_none() {
        plain_text::refuse_beside_encrypted(store).await?;
        return Ok(true);
    }
    let (key, size) = match plain_text::beside(store).await? {
        Beside::Nothing => return Ok(false),
        Beside::PlainText => return Ok(true),
        Beside::Encrypted { key, size } => (key, size),
    };
    let Some(why) = unreadable(store, &key, size).await? else {
        return Ok(false);
    };
    // Another process of this server may have begun, or WAL-G has the same public keys.
    if is_for_own_recipients(store, &key, size).await? {
        return Ok(false);
    }
    Err(Error::refused(
        format!(
            "\"{}\" is encrypted, and not with a key that is configured, so nothing is written beside it ({why})",
            store.object_url(&key)
        ),
        "Give the key that it was encrypted with, or use a prefix of its own.",
    ))
}

/// Is the object encrypted to the public keys that new objects get here?
async fn is_for_own_recipients(store: &Store, key: &str, size: u64) -> Result<bool> {
    let head = store.get_range(key, 0..size.min(HEAD_OF_KEY)).await?;
    let (keyring, key) = (store.keyring().clone(), key.to_owned());
    let under = blocking(move || Ok(keyring.under(&head, &[], |head| encrypted::is_plain(&key, head))?));
    Ok(matches!(under.await?, Under::Writing(..)))
}

/// Why the object does not open with the keys of the store; none if it does.
async fn unreadable(store: &Store, key: &str, size: u64) -> Result<Option<String>> {
    let mut reader = encrypted::reader(store, key, size);
    blocking(move || match reader.read(&mut [0; 1]) {
        Ok(_) => Ok(None),
        Err(error) => match reader.take_failure().map(Error::from) {
            Some(failure) if !failure.is_content() => Err(failure),
            failure => {
                let why = failure.and_then(|failure| failure.content_finding());
                let why = why.unwrap_or_else(|| error.to_string());
                Ok(Some(why.trim_end_matches('.').to_owned()))
            }
        },
    })
    .await
}

/// Can what is encrypted with the key of the mark be decrypted with the keys of the store?
pub(crate) async fn opens(store: &Store, mark: &Mark) -> Result<bool> {
    let Some(file) = ClusterFile::read(store).await? else {
        return Ok(false);
    };
    let (keyring, mark) = (store.keyring().clone(), mark.clone());
    blocking(move || opens_token(&keyring, &mark, file.system_identifier)).await
}

fn in_plain_text(repository: &str, mark: &Mark) -> Error {
    Error::refused(
        format!(
            "\"{repository}\" is encrypted by {}, and new objects are to be stored in plain text",
            mark.key.method
        ),
        "Set walarchive.encryption to that method, and give the key. If plain text is wanted from now on, run walarchive \
         encryption-disable --confirm.",
    )
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
