//! The files of the parent, in a form that is compact enough for millions of them.
//!
//! # Why a file may be left out
//!
//! A file whose [`Identity`](crate::formats::files_metadata::Identity) is what it was when the parent copied it has the same
//! content. The time of modification would not prove that: any program can set it, and the server can write twice within the
//! clock's resolution. Therefore three things must agree:
//!
//! - the time at which the inode changed, in nanoseconds. The kernel sets it with every write, truncation and rename, and
//!   with every attempt to set the time of modification; no program can set it to something else;
//! - the number of the inode, so that another file that was moved to the name is not taken for it;
//! - the size.
//!
//! A second write that comes so soon after the first that the clock says the same is excluded when the parent is taken: a
//! file has an identity only if its last change was seconds old by then, and if it was the same when it had been read.

use sha2::{Digest, Sha256};

use crate::formats::files_metadata::AllVisible;
use crate::formats::manifest::ChecksumAlgorithm;

/// The parent's knowledge of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) struct ParentFile<'a> {
    /// In bytes.
    pub(in crate::backup) size: u64,
    /// Inode, size and time of change: they tell that the file was not written since, if the parent knows them.
    pub(in crate::backup) known: Option<Known<'a>>,
}

/// The inode as it was, and the checksum of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backup) struct Known<'a> {
    /// In bytes.
    pub(in crate::backup) size: u64,
    pub(in crate::backup) inode: u64,
    /// In nanoseconds since 1970.
    pub(in crate::backup) changed: i64,
    /// None if nobody knows it.
    pub(in crate::backup) checksum: Option<(ChecksumAlgorithm, &'a [u8])>,
}

/// The regular files of the parent. It takes less than 60 bytes a file, or 90 with SHA-256; some 20 more of one with pages
/// that are all-visible, and 17 kB more at the most of one of 1 GB.
#[derive(Debug, Default)]
pub(in crate::backup) struct ParentFiles {
    /// Ordered by key.
    entries: Vec<KnownFile>,
    /// The checksums, one after the other.
    sums: Vec<u8>,
    /// The pages that are all-visible: of each file that has some the bytes, after their number.
    marks: Vec<u8>,
    /// The `PG_VERSION` of each database.
    pub(super) versions: Vec<crate::backup::delta::databases::Version>,
}

#[derive(Debug, Clone, Copy)]
struct KnownFile {
    key: PathHash,
    size: u64,
    inode: u64,
    changed: i64,
    /// The place of its checksum, or one of the marks.
    sum: u32,
    /// The place of its all-visible pages, or [`UNMARKED`].
    marks: u32,
}

/// The beginning of the path's SHA-256: no two paths of any repository share it.
type PathHash = [u8; 16];

/// The manifest has it, and the files metadata does not.
const UNDESCRIBED: u32 = u32::MAX;
/// The parent does not know more of it than its size.
const FRESH: u32 = u32::MAX - 1;
/// The parent knows its inode, and no checksum.
const UNSUMMED: u32 = u32::MAX - 3;

/// The parent does not know of any page that is all-visible.
const UNMARKED: u32 = u32::MAX;

/// Which of the algorithms is told by the first bit of the place: places are multiples of two.
const SHA256: u32 = 1;

impl ParentFiles {
    /// The file of that path, which is relative to the data directory.
    pub(in crate::backup) fn get(&self, path: &str) -> Option<ParentFile<'_>> {
        let entry = &self.entries[self.find(path)?];
        let known = (entry.sum < FRESH).then(|| Known {
            size: entry.size,
            inode: entry.inode,
            changed: entry.changed,
            checksum: (entry.sum < UNSUMMED).then(|| {
                let algorithm = match entry.sum & SHA256 {
                    0 => ChecksumAlgorithm::Crc32c,
                    _ => ChecksumAlgorithm::Sha256,
                };
                let start = (entry.sum & !SHA256) as usize;
                (algorithm, &self.sums[start..start + algorithm.length()])
            }),
        });
        (entry.sum != UNDESCRIBED).then_some(ParentFile {
            size: entry.size,
            known,
        })
    }

    /// Note which of a file's pages are all-visible.
    pub(super) fn mark(&mut self, path: &str, marked: &AllVisible) {
        let Some(at) = self.find(path) else { return };
        let place = u32::try_from(self.marks.len()).ok().filter(|place| *place < UNMARKED);
        let bytes = marked.to_bytes();
        // If there is no room for a file, as with 200 TB of tables, nothing is known of it.
        if let (Some(place), Ok(length)) = (place, u32::try_from(bytes.len())) {
            self.entries[at].marks = place;
            self.marks.extend_from_slice(&length.to_le_bytes());
            self.marks.extend_from_slice(&bytes);
        }
    }

    /// The pages of a file that are all-visible. None if nothing is known of any.
    pub(super) fn all_visible(&self, path: &str) -> Option<AllVisible> {
        let place = self.entries[self.find(path)?].marks;
        let (length, rest) = self.marks.get(place as usize..)?.split_first_chunk()?;
        AllVisible::of_bytes(rest.get(..u32::from_le_bytes(*length) as usize)?)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Take in what the files metadata says of a path. A path that the manifest does not list is no regular file.
    pub(super) fn describe(&mut self, path: &str, known: Option<Known<'_>>) {
        let Some(at) = self.find(path) else { return };
        let entry = &mut self.entries[at];
        entry.sum = FRESH;
        let Some(known) = known.filter(|known| known.size == entry.size) else {
            return;
        };
        let place = match known.checksum {
            None => UNSUMMED,
            Some((algorithm, sum)) => {
                // No place is beyond 32 bits with less than a hundred million files.
                let place = u32::try_from(self.sums.len()).ok().filter(|place| *place < UNSUMMED);
                let Some(place) = place.filter(|_| sum.len() == algorithm.length()) else {
                    return;
                };
                self.sums.extend_from_slice(sum);
                match algorithm {
                    ChecksumAlgorithm::Crc32c => place,
                    ChecksumAlgorithm::Sha256 => place | SHA256,
                }
            }
        };
        (entry.inode, entry.changed, entry.sum) = (known.inode, known.changed, place);
    }

    fn find(&self, path: &str) -> Option<usize> {
        let key = key(path);
        self.entries.binary_search_by(|entry| entry.key.cmp(&key)).ok()
    }
}

/// The table while the manifest is read.
#[derive(Debug, Default)]
pub(super) struct Listed(Vec<KnownFile>);

impl Listed {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A file, relative to the data directory.
    pub(super) fn add(&mut self, path: &str, size: u64) {
        self.0.push(KnownFile {
            key: key(path),
            size,
            inode: 0,
            changed: 0,
            sum: UNDESCRIBED,
            marks: UNMARKED,
        });
    }

    /// That was all of them. One that was listed twice, which no manifest of ours does, counts as empty: nothing of it is
    /// relied on.
    pub(super) fn finish(mut self) -> ParentFiles {
        self.0.sort_unstable_by_key(|entry| entry.key);
        self.0.dedup_by(|later, earlier| {
            let twice = later.key == earlier.key;
            if twice {
                earlier.size = 0;
            }
            twice
        });
        ParentFiles {
            entries: self.0,
            ..ParentFiles::default()
        }
    }
}

fn key(path: &str) -> PathHash {
    let digest = Sha256::digest(path.as_bytes());
    let mut key = PathHash::default();
    key.copy_from_slice(&digest[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(files: impl Iterator<Item = (String, u64)>) -> ParentFiles {
        let mut listed = Listed::default();
        files.for_each(|(path, size)| listed.add(&path, size));
        listed.finish()
    }

    #[test]
    fn what_was_put_in_comes_out() {
        let paths: Vec<String> = (0..1000).map(|number| format!("base/5/{number}")).collect();
        let sizes = paths.iter().zip(0..).map(|(path, size)| (path.clone(), size * 8192));
        let mut files = listed(sizes.chain([("twice".to_owned(), 5), ("twice".to_owned(), 6)]));
        assert_eq!(files.len(), 1001);
        let sum = |number: usize, length| vec![number as u8; length];
        for (number, path) in paths.iter().enumerate().skip(1) {
            let algorithm = match number % 3 {
                0 => None,
                1 => Some(ChecksumAlgorithm::Crc32c),
                _ => Some(ChecksumAlgorithm::Sha256),
            };
            let checksum = algorithm.map(|algorithm| (algorithm, sum(number, algorithm.length())));
            let known = (number >= 10).then(|| Known {
                size: number as u64 * 8192,
                inode: number as u64,
                changed: -(number as i64),
                checksum: checksum.as_ref().map(|(algorithm, sum)| (*algorithm, &sum[..])),
            });
            files.describe(path, known);
        }
        files.describe("twice", None);
        files.describe("base/5", None);
        assert_eq!(files.get("base/5/0"), None, "the files metadata does not have it");
        assert_eq!(files.get("base/5"), None, "the manifest does not have it");
        assert_eq!(files.get("twice").map(|file| file.size), Some(0));
        for (number, path) in paths.iter().enumerate().skip(1) {
            let file = files.get(path).expect("there");
            assert_eq!(file.size, number as u64 * 8192);
            match file.known {
                None => assert!(number < 10),
                Some(known) => {
                    assert_eq!((known.inode, known.changed), (number as u64, -(number as i64)));
                    match known.checksum {
                        None => assert_eq!(number % 3, 0),
                        Some((algorithm, found)) => {
                            assert_eq!(found, sum(number, algorithm.length()), "{number}");
                            assert_eq!(algorithm == ChecksumAlgorithm::Sha256, number % 3 == 2);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_contradicts_itself_is_not_known() {
        let mut files = listed([("f".to_owned(), 1)].into_iter());
        for (size, sum) in [(1, &[0; 32][..]), (2, &[0; 4])] {
            let known = Known {
                size,
                inode: 1,
                changed: 1,
                checksum: Some((ChecksumAlgorithm::Crc32c, sum)),
            };
            files.describe("f", Some(known));
            assert_eq!(files.get("f"), Some(ParentFile { size: 1, known: None }));
        }
    }

    #[test]
    fn marked_pages_are_known_again() {
        let mut files = listed((0..3).map(|number| (number.to_string(), 8192)));
        let [some, others] = [[1, 5, 6], [0, 1, 2]].map(|pages| pages.into_iter().collect::<AllVisible>());
        files.mark("2", &some);
        files.mark("0", &others);
        files.mark("unknown", &others);
        assert_eq!(files.all_visible("2"), Some(some));
        assert_eq!(files.all_visible("0"), Some(others));
        assert_eq!(files.all_visible("1"), None);
        assert_eq!(files.all_visible("unknown"), None);
    }

    #[test]
    fn it_is_compact() {
        assert_eq!(size_of::<KnownFile>(), 48);
    }
}
