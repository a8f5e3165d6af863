//! How far the reading of a backup is.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

/// How far a restore is; read it from any thread.
#[derive(Debug, Default)]
pub struct ReadProgress {
    /// Stored bytes that were downloaded.
    pub bytes_done: AtomicU64,
    /// Stored bytes to download.
    pub bytes_total: AtomicU64,
    /// Bytes that were written into files.
    pub bytes_written: AtomicU64,
    /// Files that are complete.
    pub files_done: AtomicU64,
    /// The directories are not what they were any more, and not what they are to be: no server can start on them.
    pub is_writing: AtomicBool,
}

/// Counts downloaded bytes.
pub(crate) struct Counted<'a, R> {
    source: R,
    progress: &'a ReadProgress,
    cancel: Option<&'a CancellationToken>,
}

impl<'a, R: Read> Counted<'a, R> {
    pub(crate) fn new(source: R, progress: &'a ReadProgress) -> Self {
        Counted {
            source,
            progress,
            cancel: None,
        }
    }

    /// Reading fails once this is cancelled.
    pub(crate) fn until(mut self, cancel: &'a CancellationToken) -> Self {
        self.cancel = Some(cancel);
        self
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_some_and(CancellationToken::is_cancelled) {
            return Err(io::Error::other("canceled"));
        }
        let bytes = self.source.read(buffer)?;
        self.progress.bytes_done.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_until_reading_is_cancelled() {
        let (progress, cancel) = (ReadProgress::default(), CancellationToken::new());
        let mut source = Counted::new(&[7; 10][..], &progress).until(&cancel);
        let mut buffer = [0; 4];
        assert_eq!(source.read(&mut buffer).expect("read"), 4);
        assert_eq!(progress.bytes_done.load(Ordering::Relaxed), 4);
        cancel.cancel();
        assert!(source.read(&mut buffer).is_err());
        assert_eq!(progress.bytes_done.load(Ordering::Relaxed), 4);
    }
}
