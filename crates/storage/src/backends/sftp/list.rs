//! Listings.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{File, StatusCode};

use super::failure::Failure;
use super::pool::Pool;
use super::read::meta;
use super::session::{Attributes, Session};
use super::temporary::{ABANDONED_AFTER, is_temporary};
use crate::odd::escaped;

/// Requests for the next entries of one directory that are on their way at a time. A server answers each with some hundred.
const READ_AHEAD: usize = 4;

/// Is the directory of the URL known to be there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    /// It was seen.
    Known,
    /// A folder that is missing makes us look.
    Check,
}

/// A directory's content, as keys.
#[derive(Default)]
struct Folder {
    files: VecDeque<ObjectMeta>,
    folders: Vec<Path>,
}

/// All files below a folder. Directories are read one after the other, each as a whole.
pub(super) fn all(pool: &Arc<Pool>, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
    let start = prefix.cloned().unwrap_or_default();
    let walk = (pool.clone(), vec![start.clone()], VecDeque::new(), Root::Check);
    stream::try_unfold(walk, move |(pool, mut folders, mut files, root)| async move {
        let mut root = root;
        loop {
            if let Some(file) = files.pop_front() {
                return Ok(Some((file, (pool, folders, files, root))));
            }
            let Some(folder) = folders.pop() else {
                return Ok(None);
            };
            let found = read(&pool, &folder, root)
                .await
                .map_err(|failure| failure.at(&folder))?;
            root = Root::Known;
            folders.extend(found.folders);
            files = found.files;
        }
    })
    .boxed()
}

/// The entries directly in a folder.
pub(super) async fn shallow(pool: &Arc<Pool>, prefix: Option<&Path>) -> object_store::Result<ListResult> {
    let folder = prefix.cloned().unwrap_or_default();
    let found = read(pool, &folder, Root::Check)
        .await
        .map_err(|failure| failure.at(&folder))?;
    Ok(ListResult {
        common_prefixes: found.folders,
        objects: found.files.into(),
        extensions: Default::default(),
    })
}

/// A folder that is not there is an empty one, as in any object store, if the directory of the URL is there.
async fn read(pool: &Arc<Pool>, folder: &Path, root: Root) -> Result<Folder, Failure> {
    let path = pool.path_of(folder);
    let entries = pool
        .run(|session, _| {
            let path = &path;
            async move {
                match entries(&session, path).await {
                    Err(Failure::NotFound) if root == Root::Check => session.check_root().await.map(|()| Vec::new()),
                    Err(Failure::NotFound) => Ok(Vec::new()),
                    entries => entries,
                }
            }
        })
        .await?;
    let mut found = Folder::default();
    for entry in entries {
        if is_temporary(&entry.filename) {
            if is_abandoned(&entry) {
                tracing::info!(folder = %folder, name = entry.filename, "removing an abandoned temporary file");
                pool.remove_some_time(format!("{path}/{}", entry.filename));
            }
            continue;
        }
        let key = match folder.as_ref() {
            "" => entry.filename.clone(),
            folder => format!("{folder}/{}", entry.filename),
        };
        // A name that no key can have is nothing of ours. The library puts a mark in the place of bytes that are no text.
        let is_text = !key.contains(char::REPLACEMENT_CHARACTER);
        let Some(key) = Path::parse(&key).ok().filter(|path| path.as_ref() == key && is_text) else {
            pool.odd.meet(&pool.path(""), &escaped(key.as_bytes()));
            continue;
        };
        let attributes = Attributes::of(&entry.attrs);
        if attributes.is_dir {
            found.folders.push(key);
        } else if attributes.is_file {
            found.files.push_back(meta(key, attributes));
        }
    }
    Ok(found)
}

/// By our clock; one that is a day ahead costs an upload that is under way, which then fails and is tried again.
fn is_abandoned(entry: &File) -> bool {
    let written = entry.attrs.modified().ok();
    let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
    age.is_some_and(|age| age > ABANDONED_AFTER)
}

/// The entries of a directory, with the attributes of links rather than of their targets.
async fn entries(session: &Arc<Session>, path: &str) -> Result<Vec<File>, Failure> {
    let opened = session.ask(session.raw().opendir(path)).await?;
    let handle = opened.handle.as_str();
    let read = async || match session.raw().readdir(handle).await {
        Ok(name) => Ok(Some(name.files)),
        Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Ok(None),
        Err(error) => Err(error),
    };
    let mut found = Vec::new();
    let mut pending: FuturesUnordered<_> = (0..READ_AHEAD).map(|_| read()).collect();
    let mut at_end = false;
    let mut result = Ok(());
    while !pending.is_empty() {
        match session.ask(pending.try_next()).await {
            Ok(Some(Some(files))) => found.extend(files),
            Ok(_) => at_end = true,
            Err(failure) => {
                result = Err(failure);
                break;
            }
        }
        if !at_end {
            pending.push(read());
        }
    }
    drop(pending);
    let closed = session.ask(session.raw().close(handle)).await;
    result?;
    if let Err(failure) = closed
        && failure.is_transient()
    {
        return Err(failure);
    }
    found.retain(|entry| entry.filename != "." && entry.filename != "..");
    Ok(found)
}
