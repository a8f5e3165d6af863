//! How each file goes into a delta backup.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::changes::{Question, pays};
use super::files::ParentFiles;
use super::relation::RelationFile;
use super::summaries::ChangedBlocks;
use super::{Parent, databases, summaries};
use crate::backup::read::files::FileList;
use crate::backup::read::source::changed;
use crate::backup::{BackupOptions, BackupRequest, Catchup};
use crate::error::Result;
use crate::formats::files_metadata::{AllVisible, Identity};
use crate::formats::manifest::{ChecksumAlgorithm, hex};
use crate::lsn::Lsn;
use crate::page::PAGE_BYTES;

/// The knowledge of the changes since the parent was taken.
#[derive(Debug)]
pub(in crate::backup) struct Delta {
    /// What was changed before this LSN is in what the backup is based on.
    since: Lsn,
    /// The files that are known to be there.
    files: Arc<ParentFiles>,
    same_primary: bool,
    /// `RELSEG_SIZE`.
    segment_pages: u32,
    source: Source,
}

/// The source that tells which pages have changed.
#[derive(Debug)]
enum Source {
    /// Each page by its LSN, in the databases of these OIDs.
    Pages(HashSet<u32>),
    /// The server's summaries of its WAL.
    Summaries(ChangedBlocks),
    /// Each page by its LSN, in all databases but these: nobody here knows the files of a standby.
    Standby(Vec<u32>),
}

/// How a file is stored.
#[derive(Debug, PartialEq)]
pub(in crate::backup) enum Way {
    /// As a whole.
    Full,
    /// As an increment, if asking its pages tells that this pays.
    Scan(Question),
    /// As an increment with the pages of these numbers.
    Blocks(Vec<u32>),
}

/// A file that is in the parent as it is now.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::backup) struct Unchanged {
    /// As it is there.
    pub(in crate::backup) identity: Identity,
    /// Likewise, if it is known.
    pub(in crate::backup) checksum: Option<(ChecksumAlgorithm, Vec<u8>)>,
}

impl Delta {
    /// Find out who can tell. `files` are all that there are, relative to the data directory.
    pub(in crate::backup) async fn new(
        request: &BackupRequest,
        options: &BackupOptions,
        parent: Parent,
        files: &FileList,
        segment_pages: u32,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let summaries = match options.wal_summaries {
            true => summarized(request, &parent, cancel).await?,
            false => None,
        };
        let source = match summaries {
            Some(changed) => Source::Summaries(changed),
            None => {
                let paths = (0..files.len()).map(|index| files.get(index).path);
                let homes: Vec<PathBuf> = paths.filter(|path| databases::of_version(path).is_some()).collect();
                let (versions, start) = (&parent.files.versions, parent.start_time);
                Source::Pages(databases::same(&homes, &request.data_dir, versions, start)?)
            }
        };
        Ok(Delta {
            since: parent.start_lsn,
            files: parent.files,
            same_primary: parent.same_primary,
            segment_pages,
            source,
        })
    }

    /// The knowledge of the changes that a standby does not have.
    pub(in crate::backup) fn of_standby(catchup: &Catchup) -> Self {
        Delta {
            since: catchup.since,
            files: Arc::default(),
            same_primary: false,
            segment_pages: 0,
            source: Source::Standby(catchup.whole_databases.clone()),
        }
    }

    /// Does the backup note which pages are all-visible, and compare? Nobody knows that of a standby: who brings it up looks.
    pub(in crate::backup) fn compares_all_visible(&self) -> bool {
        !matches!(self.source, Source::Standby(_))
    }

    /// Is the file, which was found like this after the start of the backup, certainly what the parent has?
    pub(in crate::backup) fn unchanged(&self, path: &Path, found: &Metadata) -> Option<Unchanged> {
        let known = self.files.get(path.to_str()?)?.known?;
        let same = found.is_file()
            && found.len() == known.size
            && found.ino() == known.inode
            && changed(found) == known.changed;
        let checksum = known.checksum;
        same.then(|| Unchanged {
            identity: Identity {
                size: known.size,
                inode: known.inode,
                changed: known.changed,
                checksum: checksum.map_or_else(String::new, |(algorithm, sum)| format!("{algorithm}:{}", hex(sum))),
            },
            checksum: checksum.map(|(algorithm, sum)| (algorithm, sum.to_vec())),
        })
    }

    /// The pages of a file that the parent has noted as all-visible.
    pub(in crate::backup) fn all_visible(&self, path: &Path) -> Option<AllVisible> {
        self.files.all_visible(path.to_str()?)
    }

    /// Could the file be unchanged, so that it is worth a look?
    pub(in crate::backup) fn may_be_unchanged(&self, path: &Path) -> bool {
        let there = path.to_str().and_then(|path| self.files.get(path));
        there.is_some_and(|file| file.known.is_some())
    }

    /// How a file of `size` bytes is stored, which was perhaps changed.
    pub(in crate::backup) fn way(&self, path: &Path, size: u64) -> Way {
        self.increment(path, size).unwrap_or(Way::Full)
    }

    fn increment(&self, path: &Path, size: u64) -> Option<Way> {
        let file = RelationFile::of(path)?;
        if size == 0 || !size.is_multiple_of(PAGE_BYTES as u64) {
            return None;
        }
        let count = u32::try_from(size / PAGE_BYTES as u64).ok()?;
        if let Source::Standby(whole) = &self.source {
            return (!whole.contains(&file.locator.database)).then_some(Way::Scan(Question {
                since: self.since,
                known: u32::MAX,
                all_visible: None,
            }));
        }
        let there = self.files.get(path.to_str()?)?;
        let known = u32::try_from(there.size / PAGE_BYTES as u64).ok()?;
        match &self.source {
            Source::Standby(_) => None,
            Source::Pages(databases) => databases
                .contains(&file.locator.database)
                .then_some(Way::Scan(Question {
                    since: self.since,
                    known,
                    all_visible: None,
                })),
            Source::Summaries(changed) => {
                let first = file.segment.checked_mul(self.segment_pages)?;
                let mut blocks = changed.of(file.locator, first, count)?;
                // As with LSNs: what is beyond the parent's copy is not left to anybody.
                blocks.truncate(blocks.partition_point(|block| *block < known));
                blocks.extend(known..count);
                pays(blocks.len(), size).then_some(Way::Blocks(blocks))
            }
        }
    }

    /// Are the pages that are left out, if their checksums are right, the same bytes in the parent? Elsewhere hints differ that
    /// no WAL record tells about.
    pub(in crate::backup) fn same_bytes(&self) -> bool {
        self.same_primary
    }
}

/// None, and the log is told why, if the summaries do not tell everything.
async fn summarized(
    request: &BackupRequest,
    parent: &Parent,
    cancel: &CancellationToken,
) -> Result<Option<ChangedBlocks>> {
    let stretches = summaries::stretches(&parent.history, parent.timeline, parent.start_lsn, request.start_lsn);
    let found = match stretches {
        Some(stretches) => summaries::changed_blocks(&request.data_dir, &stretches, cancel).await?,
        None => Err("the timelines do not lead here".to_owned()),
    };
    match found {
        Ok(changed) => {
            tracing::info!("WAL summaries show what has changed since \"{}\"", parent.name);
            Ok(Some(changed))
        }
        Err(why) => {
            tracing::info!(
                "all files are read to find what has changed since \"{}\": {why}",
                parent.name
            );
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::delta::files::{Known, Listed};

    /// A delta whose parent knows this of the file "f".
    fn delta(known: Known<'_>) -> Delta {
        let mut listed = Listed::default();
        listed.add("f", known.size);
        let mut files = listed.finish();
        files.describe("f", Some(known));
        Delta {
            since: Lsn(1),
            files: Arc::new(files),
            same_primary: true,
            segment_pages: 131_072,
            source: Source::Pages(HashSet::new()),
        }
    }

    #[test]
    fn everything_must_agree() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        std::fs::write(&path, "content").expect("written");
        let found = std::fs::metadata(&path).expect("there");
        let known = Known {
            size: found.len(),
            inode: found.ino(),
            changed: changed(&found),
            checksum: Some((ChecksumAlgorithm::Crc32c, &[1, 2, 3, 4])),
        };
        let unchanged = |known| delta(known).unchanged(Path::new("f"), &found);
        let same = unchanged(known).expect("it is the same");
        assert_eq!(same.identity.checksum, "crc32c:01020304");
        assert_eq!(same.checksum, Some((ChecksumAlgorithm::Crc32c, vec![1, 2, 3, 4])));
        let unsummed = Known {
            checksum: None,
            ..known
        };
        assert_eq!(unchanged(unsummed).expect("it is the same").identity.checksum, "");
        for other in [
            Known { size: 8, ..known },
            Known {
                inode: known.inode + 1,
                ..known
            },
            Known {
                changed: known.changed - 1,
                ..known
            },
        ] {
            assert_eq!(unchanged(other), None, "{other:?}");
        }
        assert_eq!(delta(known).unchanged(Path::new("g"), &found), None);
        let directory = std::fs::metadata(dir.path()).expect("there");
        let known = Known {
            size: directory.len(),
            inode: directory.ino(),
            changed: changed(&directory),
            ..known
        };
        assert_eq!(delta(known).unchanged(Path::new("f"), &directory), None);
    }
}
