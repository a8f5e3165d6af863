//! Writing: under a temporary name, flushed, then published.

use std::sync::Arc;

use object_store::PutPayload;
use russh_sftp::protocol::{FileAttributes, OpenFlags};

use super::failure::Failure;
use super::pool::Pool;
use super::retry;
use super::session::{OpenFile, Session};
use super::temporary::Temporary;

/// How often a directory may be removed by somebody else between our making it and our using it.
const VANISHED: usize = 10;

/// The way to deal with a file that is under the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publish {
    New,
    Over,
}

/// Writes a file as a whole.
pub(super) async fn put(pool: &Arc<Pool>, key: &str, payload: &PutPayload, publish: Publish) -> Result<(), Failure> {
    let target = pool.path(key);
    let mut written = None;
    let mut unsure = false;
    let mut attempts = pool.begin();
    loop {
        let attempt = async {
            let session = pool.session().await?;
            if written.is_none() {
                // Else all of it might be sent for nothing. Only the publishing counts.
                if publish == Publish::New && session.exists(&target).await? {
                    return Err(Failure::Exists);
                }
                written = Some(write(pool, &session, key, &target, payload).await?);
            }
            let temporary = written.as_mut().ok_or(Failure::NotFound)?;
            let again = std::mem::replace(&mut unsure, true);
            self::publish(&session, temporary, &target, publish, again).await
        };
        match attempt.await {
            Err(failure) if failure.is_transient() && retry::again(&mut attempts, &failure).await => {
                tracing::debug!(target, %failure, "trying again to write to the SFTP server");
            }
            result => return result,
        }
    }
}

async fn write(
    pool: &Arc<Pool>,
    session: &Arc<Session>,
    key: &str,
    target: &str,
    payload: &PutPayload,
) -> Result<Temporary, Failure> {
    let (temporary, file) = create(pool, session, key, target).await?;
    let done = async {
        file.write(0, payload).await?;
        file.finish().await
    };
    match done.await {
        Ok(()) => Ok(temporary),
        Err(failure) => Err(session.explain(failure).await),
    }
}

/// A new temporary file beside the target, in a directory that is made if need be.
pub(super) async fn create(
    pool: &Arc<Pool>,
    session: &Arc<Session>,
    key: &str,
    target: &str,
) -> Result<(Temporary, OpenFile), Failure> {
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
    let mut left = VANISHED;
    loop {
        let mut temporary = Temporary::beside(pool, target);
        match session.open(temporary.path(), flags).await {
            Ok(file) => return Ok((temporary, file)),
            Err(Failure::NotFound) if left > 0 => {
                temporary.is_gone();
                left -= 1;
                make_parents(pool, session, key).await?;
            }
            Err(failure) => return Err(session.explain(failure).await),
        }
    }
}

/// The folders of a key, but never the directory of the URL: that one missing is more often a file system that is not
/// mounted than a new repository.
pub(super) async fn make_parents(pool: &Pool, session: &Session, key: &str) -> Result<(), Failure> {
    session.check_root().await?;
    for (end, _) in key.match_indices('/') {
        let path = pool.path(&key[..end]);
        match session.ask(session.raw().mkdir(&path, FileAttributes::empty())).await {
            // "Failure" is also a server's answer for one that is there. The next use of the directory will tell. The next
            // attempt makes a directory again that its parent has lost in the meantime.
            Ok(_) | Err(Failure::Server(_) | Failure::NotFound) => {}
            // Some say so also of one that is there.
            Err(Failure::Denied) if session.exists(&path).await? => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// Gives a written file its name. `again`: an attempt before this one was cut off, so it may have succeeded.
pub(super) async fn publish(
    session: &Session,
    temporary: &mut Temporary,
    target: &str,
    publish: Publish,
    again: bool,
) -> Result<(), Failure> {
    let from = temporary.path();
    let result = match publish {
        Publish::New => publish_new(session, from, target, again).await,
        Publish::Over => publish_over(session, from, target).await,
    };
    match result {
        Ok(linked) => {
            if !linked || session.remove(from).await.is_ok() {
                temporary.is_gone();
            }
            Ok(())
        }
        // Only we know the temporary name, so who renamed it is us.
        Err(Failure::NotFound | Failure::Exists)
            if again && !session.exists(from).await? && session.exists(target).await? =>
        {
            temporary.is_gone();
            Ok(())
        }
        Err(failure) => Err(session.explain(failure).await),
    }
}

/// True: the file has both names now.
async fn publish_new(session: &Session, from: &str, target: &str, again: bool) -> Result<bool, Failure> {
    if session.features.hardlink {
        match session.hardlink(from, target).await {
            Ok(()) => return Ok(true),
            Err(failure @ (Failure::Server(_) | Failure::Denied)) => {
                if again && session.exists(target).await? && is_same_file(session, from, target).await? {
                    return Ok(true);
                }
                tracing::debug!(target, %failure, "the SFTP server made no link");
            }
            Err(failure) => return Err(failure),
        }
    }
    // The protocol forbids a rename to replace anything, and some servers do it.
    if session.exists(target).await? {
        return Err(Failure::Exists);
    }
    match session.rename(from, target).await {
        Ok(()) => Ok(false),
        Err(Failure::Server(_)) if session.exists(target).await? => Err(Failure::Exists),
        Err(failure) => Err(failure),
    }
}

async fn publish_over(session: &Session, from: &str, target: &str) -> Result<bool, Failure> {
    if session.features.posix_rename {
        return session.posix_rename(from, target).await.map(|()| false);
    }
    match session.rename(from, target).await {
        Err(Failure::Server(_)) if session.exists(from).await? => {
            match session.remove(target).await {
                Ok(()) | Err(Failure::NotFound) => {}
                Err(failure) => return Err(failure),
            }
            session.rename(from, target).await.map(|()| false)
        }
        result => result.map(|()| false),
    }
}

/// Are these two names of one file? The protocol does not tell, so leave a mark on one and look for it on the other.
async fn is_same_file(session: &Session, one: &str, other: &str) -> Result<bool, Failure> {
    let before = session.stat(one).await?;
    let mark = before.mtime.saturating_sub(1 + rand::random_range(0..86_000));
    let times = |mtime| FileAttributes {
        atime: Some(mtime),
        mtime: Some(mtime),
        ..FileAttributes::empty()
    };
    match session.ask(session.raw().setstat(one, times(mark))).await {
        Ok(_) => {}
        Err(failure) if failure.is_transient() => return Err(failure),
        Err(_) => return Ok(false),
    }
    let found = session.stat(other).await?.mtime == mark;
    session.ask(session.raw().setstat(one, times(before.mtime))).await?;
    Ok(found)
}
