//! A segment of the spool that is being fetched.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{FallocateFlags, fallocate};

/// The end of its name.
pub(super) const SUFFIX: &str = "part";

/// So often the lock of a new file is tried.
const TRIES: usize = 20;

/// For so long a segment is not read again before it is served: the file system still has in memory what was written.
const SEALED: Duration = Duration::from_secs(60);

const NANOSECONDS: u32 = 1_000_000_000;

/// Mark a segment that is whole and flushed: the time of its last change ends with its checksum. Each later write sets another time.
fn seal(file: &File, sum: u32) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = Duration::new(now.as_secs().saturating_sub(1), sum % NANOSECONDS);
    file.set_modified(UNIX_EPOCH + before)
}

/// Has nobody written to the segment since it was flushed, a moment ago?
pub(super) fn is_sealed(meta: &Metadata, sum: u32) -> bool {
    let Ok(changed) = meta.modified() else { return false };
    let part = changed.duration_since(UNIX_EPOCH).map(|since| since.subsec_nanos());
    part.is_ok_and(|part| part == sum % NANOSECONDS) && changed.elapsed().is_ok_and(|age| age < SEALED)
}

/// Ends the downloads of a prefetcher, which run on threads that nobody else can end.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The file, locked. It is removed when this is dropped before it is whole.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    path: PathBuf,
    /// The name of the whole segment but for its checksum.
    whole: PathBuf,
    sum: u32,
    stop: Stop,
}

impl Part {
    /// Of a segment with so many bytes.
    pub(super) fn create(path: &Path, whole: &Path, bytes: u64, stop: &Stop) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        // Another process's is left alone. Who only looks whether it is locked is gone in no time.
        let mut tries = 0;
        while let Err(error) = file.try_lock() {
            tries += 1;
            if tries == TRIES {
                return Err(error.into());
            }
            std::thread::yield_now();
        }
        file.set_len(0)?;
        // One request for all of its room costs less than one for each page. Not each file system can, and none has to.
        let _ = fallocate(
            &file,
            FallocateFlags::FALLOC_FL_KEEP_SIZE,
            0,
            i64::try_from(bytes).unwrap_or(0),
        );
        Ok(Part {
            file,
            path: path.to_owned(),
            whole: whole.to_owned(),
            sum: 0,
            stop: stop.clone(),
        })
    }

    /// All of it is here: flush it, and give it its name.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.stop.is_set() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        // Not each file system can. Then it is read again.
        let _ = seal(&self.file, self.sum);
        let mut name = self.whole.as_os_str().to_owned();
        name.push(format!(".{:08x}", self.sum));
        // After that there is no part any more that could be removed.
        fs::rename(&self.path, name)
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_set() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let written = self.file.write(bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_writes_to_a_segment_breaks_its_seal() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("segment");
        for sum in [5, 17, u32::MAX] {
            fs::write(&path, "content").expect("written");
            let meta = || fs::metadata(&path).expect("there");
            assert!(!is_sealed(&meta(), sum));
            let file = OpenOptions::new().write(true).open(&path).expect("opened");
            seal(&file, sum).expect("sealed");
            drop(file);
            fs::rename(&path, dir.path().join("whole")).expect("renamed");
            fs::rename(dir.path().join("whole"), &path).expect("renamed");
            assert!(is_sealed(&meta(), sum) && !is_sealed(&meta(), sum ^ 1));
            let mut file = OpenOptions::new().write(true).open(&path).expect("opened");
            file.write_all(b"C").expect("written");
            assert!(!is_sealed(&meta(), sum));

            let long_ago = SystemTime::now() - SEALED * 2;
            let since = long_ago.duration_since(UNIX_EPOCH).expect("after 1970");
            let old = UNIX_EPOCH + Duration::new(since.as_secs(), sum % NANOSECONDS);
            file.set_modified(old).expect("set");
            assert!(!is_sealed(&meta(), sum), "too long ago");
        }
    }
}
