//! The pages with a wrong checksum that a backup met.

use std::fmt;
use std::path::Path;

use parking_lot::Mutex;

use crate::backup::progress::BackupProgress;
use crate::error::{Error, Result};
use crate::formats::files_metadata::CorruptBlocks;

/// Files that are named, in the log and in the result.
const FILES_NAMED: usize = 10;

/// `walarchive.on_checksum_failure`: what a page with a wrong checksum means to a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnChecksumFailure {
    /// It is copied as it is, and reported.
    #[default]
    Warning,
    /// It ends the backup.
    Error,
}

/// Corrupt pages in all files of a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorruptPages {
    /// Files that have any.
    pub files: u64,
    /// Pages.
    pub pages: u64,
    /// The first ten files, each by its path relative to the data directory and the numbers that some of its corrupt pages
    /// have in the relation: `base/5/16384.1 (blocks 131079, 131080)`.
    pub some: Vec<String>,
}

impl CorruptPages {
    fn add(&mut self, file: &Path, found: &CorruptBlocks) {
        self.files += 1;
        self.pages += found.count;
        if self.some.len() < FILES_NAMED {
            self.some.push(format!("{} ({})", file.display(), Blocks(found)));
        }
    }

    /// Files that are not named.
    fn unnamed(&self) -> u64 {
        self.files - self.some.len() as u64
    }
}

impl fmt::Display for CorruptPages {
    /// The files that are named, and how many more there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.some.join(", "))?;
        match self.unnamed() {
            0 => Ok(()),
            1 => f.write_str(", and one more file"),
            more => write!(f, ", and {more} more files"),
        }
    }
}

/// The numbers of some corrupt pages, and how many more there are.
struct Blocks<'a>(&'a CorruptBlocks);

impl fmt::Display for Blocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CorruptBlocks { count, some } = self.0;
        f.write_str(if *count == 1 { "block " } else { "blocks " })?;
        for (index, number) in some.iter().enumerate() {
            write!(f, "{}{number}", if index == 0 { "" } else { ", " })?;
        }
        match count.saturating_sub(some.len() as u64) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Gathers what the tars of a backup find.
#[derive(Debug)]
pub(crate) struct Findings {
    on_failure: OnChecksumFailure,
    found: Mutex<CorruptPages>,
}

impl Findings {
    pub(crate) fn new(on_failure: OnChecksumFailure) -> Self {
        Findings {
            on_failure,
            found: Mutex::default(),
        }
    }

    /// A file has corrupt pages. [`Error::CorruptPages`] if that is to end the backup.
    pub(crate) fn add(&self, file: &Path, found: &CorruptBlocks, progress: &BackupProgress) -> Result<()> {
        if self.on_failure == OnChecksumFailure::Error {
            return Err(Error::CorruptPages {
                file: file.to_owned(),
                reason: format!("The checksum of {} is wrong, also when read again.", Blocks(found)),
            });
        }
        progress.corrupt(found.count);
        let is_named = {
            let mut all = self.found.lock();
            all.add(file, found);
            all.unnamed() == 0
        };
        if is_named {
            tracing::warn!(file = %file.display(), pages = %Blocks(found), "pages with a wrong checksum were copied as they are");
        }
        Ok(())
    }

    /// All that was found. To be called once, when the last file was read.
    pub(crate) fn close(&self) -> CorruptPages {
        let all = self.found.lock().clone();
        if all.unnamed() > 0 {
            tracing::warn!(
                files = all.files,
                pages = all.pages,
                "more files than those that were named have pages with a wrong checksum"
            );
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(count: u64, some: &[u32]) -> CorruptBlocks {
        CorruptBlocks {
            count,
            some: some.to_vec(),
        }
    }

    #[test]
    fn some_are_named_and_all_are_counted() {
        let (findings, progress) = (Findings::new(OnChecksumFailure::Warning), BackupProgress::default());
        assert_eq!(findings.close(), CorruptPages::default());
        let add = |file: &str, blocks| {
            findings
                .add(Path::new(file), &blocks, &progress)
                .expect("no more than a warning");
        };
        add("base/5/1", found(1, &[7]));
        add("base/5/2.1", found(12, &[131_072, 131_073]));
        let all = findings.close();
        let text = "base/5/1 (block 7), base/5/2.1 (blocks 131072, 131073 and 10 more)";
        assert_eq!((all.files, all.pages, all.to_string().as_str()), (2, 13, text));
        for file in 0..8 {
            add(&format!("base/6/{file}"), found(1, &[0]));
        }
        assert!(findings.close().to_string().ends_with("base/6/7 (block 0)"));
        add("base/7/1", found(1, &[0]));
        assert!(findings.close().to_string().ends_with(", and one more file"));
        add("base/7/2", found(1, &[0]));
        let all = findings.close();
        assert_eq!((all.files, all.pages, all.some.len()), (12, 23, 10));
        assert!(
            all.to_string().ends_with("base/6/7 (block 0), and 2 more files"),
            "{all}"
        );
        assert_eq!(progress.snapshot().corrupt_pages, 23);
    }

    #[test]
    fn they_end_the_backup_where_that_is_wanted() {
        let findings = Findings::new(OnChecksumFailure::Error);
        let error = findings
            .add(Path::new("base/5/1"), &found(2, &[3, 4]), &BackupProgress::default())
            .expect_err("it ends");
        assert_eq!(error.to_string(), "file \"base/5/1\" has pages with a wrong checksum");
        let detail = "The checksum of blocks 3, 4 is wrong, also when read again.";
        assert_eq!(error.detail().as_deref(), Some(detail));
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("walarchive.on_checksum_failure"))
        );
        assert!(!error.is_transient());
    }
}
