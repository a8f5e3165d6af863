//! The manifest's way into the target, and what is checked with it at the end.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use parking_lot::Mutex;

use super::context::Context;
use crate::data_dir::BACKUP_MANIFEST;
use crate::error::{Error, Result};
use crate::files::copy;
use crate::formats::manifest;
use crate::restore::directory::output::Output;
use crate::restore::directory::tree::Flush;
use crate::stored::contents::ManifestInfo;
use crate::stored::facts::Sum;
use crate::stored::fetch::read_with;
use crate::stored::member::MemberPath;
use crate::stored::members::Stop;
use walarchive_storage::Store;

/// Write the manifest into the target, if `is_written`. Files that were put together from several backups and have a SHA-256 are read once more
/// and compared with it, so many at a time; CRCs were compared while the pages came.
pub(crate) async fn finish_manifest(
    context: &Arc<Context>,
    store: &Store,
    info: &ManifestInfo,
    is_written: bool,
    threads: usize,
) -> Result<()> {
    let (context, expected, object) = (Arc::clone(context), info.checksum.clone(), store.object_url(&info.key));
    let read = move |source: &mut dyn Read| {
        let name =
            MemberPath::parse(BACKUP_MANIFEST.as_bytes()).map_err(|reason| Error::damaged(BACKUP_MANIFEST, reason))?;
        let output = match is_written {
            true => context.create(&name)?,
            false => Output::Nowhere,
        };
        let mut tee = Tee {
            source,
            output,
            failure: None,
        };
        let (sender, receiver) = sync_channel(64);
        let receiver = Mutex::new(receiver);
        let (listened, checked) = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| check_files(&context, &receiver)))
                .collect();
            let listened = manifest::listen(&mut tee, |file| {
                let path = file.path.as_os_str().as_bytes();
                if is_to_be_read(&context, path) {
                    // The receivers go on until this ends.
                    let _ = sender.send(path.to_vec());
                }
                Ok(())
            });
            drop(sender);
            let checked = workers.into_iter().map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            (listened, checked.collect::<Result<Vec<()>>>())
        });
        if let Some(failure) = tee.failure {
            return Err(Stop::Other(failure));
        }
        let summary = listened.map_err(|error| {
            let reason = error.detail().unwrap_or_else(|| error.to_string());
            Stop::Other(Error::damaged(&object, reason))
        })??;
        checked?;
        if summary.checksum != expected {
            return Err(Stop::Other(Error::damaged(
                object,
                "It was changed during the restore.",
            )));
        }
        Ok(tee.output.keep(0o600, Flush::Now)?)
    };
    read_with(store, &info.key, info.size, read).await
}

fn is_to_be_read(context: &Context, path: &[u8]) -> bool {
    let Some(table) = context.table.as_ref().filter(|_| context.tree.is_some()) else {
        return false;
    };
    table.find(path).is_some_and(|file| {
        let sum = table.expected(file).and_then(|expected| expected.sum);
        context.assembled.get(file) && matches!(sum, Some(Sum::Sha256(_)))
    })
}

fn check_files(context: &Context, paths: &Mutex<Receiver<Vec<u8>>>) -> Result<()> {
    let mut result = Ok(());
    loop {
        let next = paths.lock().recv();
        let Ok(path) = next else { return result };
        if context.cancel.is_cancelled() {
            result = Err(Error::Cancelled);
        }
        // After a failure the rest is only received, so that the sender is not held up.
        if result.is_ok() {
            result = check_file(context, &path);
        }
    }
}

fn check_file(context: &Context, path: &[u8]) -> Result<()> {
    let sum = context
        .table
        .as_ref()
        .and_then(|table| table.expected(table.find(path)?)?.sum);
    let member = MemberPath::parse(path).ok();
    let (Some(tree), Some(sum), Some(member)) = (&context.tree, sum, member) else {
        return Ok(());
    };
    let (file, full) = tree.open_file(&member)?;
    let mut content = sum.begin();
    copy(file, |bytes| content.update(bytes)).map_err(|error| Error::io("read", &full, error))?;
    match sum.is(content) {
        true => Ok(()),
        false => Err(Error::damaged(
            full.display().to_string(),
            "It was put together from several backups, and its checksum is another than in the backup manifest.",
        )),
    }
}

/// Writes what is read.
struct Tee<'a> {
    source: &'a mut dyn Read,
    output: Output,
    /// The failure of a write.
    failure: Option<Error>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.source.read(buffer)?;
        self.output.write(&buffer[..bytes]).map_err(|error| {
            let text = error.to_string();
            self.failure = Some(error);
            io::Error::other(text)
        })?;
        Ok(bytes)
    }
}
