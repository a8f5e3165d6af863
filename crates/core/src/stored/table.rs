//! Knowledge of each file of a backup, in about 32 bytes a file: clusters have millions.
//!
//! Paths themselves are not kept, only 128 bits of a hash with a random key: nobody can make two that collide, and by chance
//! none do. For a message that names a file, the object that listed it is read once more.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::ffi::OsStrExt;

use super::facts::{Content, Expected, Found, Stored, Sum};
use super::member::MemberPath;
use crate::formats::FILES_LIMIT;
use crate::formats::manifest::ManifestFile;

/// Stands for a path.
pub(crate) type PathHash = u128;

/// Makes keys of paths.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys(RandomState);

impl Keys {
    /// Of a path below the data directory, with slashes between its components and none around them.
    pub(crate) fn of(&self, path: &[u8]) -> PathHash {
        let half = |which: u8| {
            let mut hasher = self.0.build_hasher();
            hasher.write(&[which]);
            hasher.write(path);
            u128::from(hasher.finish())
        };
        half(0) << 64 | half(1)
    }
}

/// One file.
#[derive(Debug, Clone, Copy)]
struct FileRow {
    key: PathHash,
    /// Of the manifest.
    size: u64,
    /// A CRC-32C, or where in the table's list the SHA-256 is.
    sum: u32,
    flags: u8,
}

/// Files metadata has it.
const DESCRIBED: u8 = 1;
/// In files metadata: its member is an increment.
const INCREMENTED: u8 = 2;
/// In files metadata: unchanged since the parent.
const SKIPPED: u8 = 4;
/// The manifest has it.
const LISTED: u8 = 8;
const HAS_CRC: u8 = 16;
const HAS_SHA: u8 = 32;
/// It comes back without its content.
const LEFT_OUT: u8 = 64;

impl FileRow {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The manifest's knowledge of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    /// There is no manifest.
    NoManifest,
    /// The manifest does not list the file.
    Unlisted,
    /// The manifest says this of it.
    Listed(Expected),
}

impl Listing {
    /// Of a member; without a table there is no manifest either.
    pub(crate) fn of(table: Option<&Table>, found: Found) -> Self {
        let Some(table) = table.filter(|table| table.has_manifest) else {
            return Listing::NoManifest;
        };
        let expected = found.own.and_then(|file| table.expected(file));
        expected.map_or(Listing::Unlisted, Listing::Listed)
    }

    /// None if the manifest says nothing of the file.
    pub(crate) fn expected(self) -> Option<Expected> {
        match self {
            Listing::Listed(expected) => Some(expected),
            Listing::NoManifest | Listing::Unlisted => None,
        }
    }
}

/// The files of a backup by path. Files are numbered from 0.
#[derive(Debug)]
pub(crate) struct Table {
    keys: Keys,
    entries: Vec<FileRow>,
    shas: Vec<[u8; 32]>,
    pub(crate) has_metadata: bool,
    pub(crate) has_manifest: bool,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn key(&self, file: usize) -> PathHash {
        self.entries[file].key
    }

    /// The number of a file, by its path with slashes between its components and none around them.
    pub(crate) fn find(&self, path: &[u8]) -> Option<usize> {
        let key = self.keys.of(path);
        self.entries.binary_search_by_key(&key, |entry| entry.key).ok()
    }

    /// That of a tar's member. JSON cannot have names that are not UTF-8, so files metadata has what is left of them; the
    /// manifest has them as they are.
    pub(crate) fn find_member(&self, path: &MemberPath) -> Found {
        let own = self.find(&path.joined());
        match path.is_text() {
            true => Found { own, described: own },
            false => Found {
                own,
                described: self.find(path.key().trim_start_matches('/').as_bytes()),
            },
        }
    }

    /// How the files metadata says that the file is stored; none if it does not mention it.
    pub(crate) fn stored(&self, file: usize) -> Option<Stored> {
        let entry = &self.entries[file];
        entry.has(DESCRIBED).then(|| {
            if entry.has(SKIPPED) {
                Stored::Skipped
            } else if entry.has(INCREMENTED) {
                Stored::Increment
            } else {
                Stored::Full
            }
        })
    }

    /// The manifest's entry for the file; none if it does not list it.
    pub(crate) fn expected(&self, file: usize) -> Option<Expected> {
        let entry = &self.entries[file];
        entry.has(LISTED).then(|| Expected {
            size: entry.size,
            sum: match entry.flags & (HAS_CRC | HAS_SHA) {
                HAS_CRC => Some(Sum::Crc32c(entry.sum)),
                HAS_SHA => self.shas.get(entry.sum as usize).copied().map(Sum::Sha256),
                _ => None,
            },
        })
    }

    /// Does it come back as a file of zeros?
    pub(crate) fn is_left_out(&self, file: usize) -> bool {
        self.entries[file].has(LEFT_OUT)
    }

    pub(crate) fn is_listed(&self, file: usize) -> bool {
        self.entries[file].has(LISTED)
    }
}

fn flag(content: Content) -> u8 {
    match content {
        Content::Whole => 0,
        Content::LeftOut => LEFT_OUT,
    }
}

/// Fills a [`Table`]: first from files metadata, then from a manifest.
#[derive(Debug)]
pub(crate) struct TableBuilder {
    keys: Keys,
    /// So many entries at the most.
    limit: usize,
    entries: Vec<FileRow>,
    shas: Vec<[u8; 32]>,
    /// So many are in order, to be found.
    sorted: usize,
    has_metadata: bool,
    has_manifest: bool,
}

impl Default for TableBuilder {
    fn default() -> Self {
        TableBuilder {
            keys: Keys::default(),
            limit: FILES_LIMIT,
            entries: Vec::new(),
            shas: Vec::new(),
            sorted: 0,
            has_metadata: false,
            has_manifest: false,
        }
    }
}

/// The same path came twice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Twice;

impl TableBuilder {
    /// A file as its files metadata says.
    pub(crate) fn describe(&mut self, path: &str, stored: Stored, content: Content) {
        self.entries.push(FileRow {
            key: self.keys.of(path.trim_matches('/').as_bytes()),
            size: 0,
            sum: 0,
            flags: flag(content)
                | match stored {
                    Stored::Full => DESCRIBED,
                    Stored::Increment => DESCRIBED | INCREMENTED,
                    Stored::Skipped => DESCRIBED | SKIPPED,
                },
        });
    }

    /// All files of the files metadata were described.
    pub(crate) fn all_described(&mut self) -> Result<(), Twice> {
        self.has_metadata = true;
        self.sort()
    }

    /// May no more files be added? Their entries would take more memory than anybody plans with.
    pub(crate) fn is_full(&self) -> bool {
        // A SHA-256 takes as much as an entry: both together stay below 1 GB.
        self.entries.len() >= self.limit || self.entries.len() + self.shas.len() >= self.limit * 7 / 4
    }

    #[cfg(test)]
    pub(crate) fn with_limit(limit: usize) -> Self {
        TableBuilder {
            limit,
            ..TableBuilder::default()
        }
    }

    /// A file of the manifest.
    pub(crate) fn list(&mut self, file: &ManifestFile, content: Content) -> Result<(), Twice> {
        let key = self.keys.of(file.path.as_os_str().as_bytes());
        let (mut flags, mut sum) = (LISTED, 0);
        match file
            .checksum
            .as_ref()
            .and_then(|(algorithm, sum)| Sum::of(*algorithm, sum))
        {
            None => {}
            Some(Sum::Crc32c(crc)) => (flags, sum) = (LISTED | HAS_CRC, crc),
            Some(Sum::Sha256(sha)) => {
                (flags, sum) = (LISTED | HAS_SHA, self.shas.len() as u32);
                self.shas.push(sha);
            }
        }
        flags |= flag(content);
        let known = self.entries[..self.sorted].binary_search_by_key(&key, |entry| entry.key);
        match known.ok().and_then(|at| self.entries.get_mut(at)) {
            Some(entry) if entry.has(LISTED) => return Err(Twice),
            Some(entry) => {
                entry.flags |= flags;
                (entry.size, entry.sum) = (file.size, sum);
            }
            None => self.entries.push(FileRow {
                key,
                size: file.size,
                sum,
                flags,
            }),
        }
        Ok(())
    }

    /// All files of the manifest were listed.
    pub(crate) fn all_listed(&mut self) -> Result<(), Twice> {
        self.has_manifest = true;
        self.sort()
    }

    fn sort(&mut self) -> Result<(), Twice> {
        self.entries.sort_unstable_by_key(|entry| entry.key);
        self.sorted = self.entries.len();
        match self.entries.is_sorted_by(|a, b| a.key < b.key) {
            true => Ok(()),
            false => Err(Twice),
        }
    }

    /// None if neither files metadata nor a manifest was given.
    pub(crate) fn finish(mut self) -> Option<Table> {
        self.entries.shrink_to_fit();
        (self.has_metadata || self.has_manifest).then_some(Table {
            keys: self.keys,
            entries: self.entries,
            shas: self.shas,
            has_metadata: self.has_metadata,
            has_manifest: self.has_manifest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::manifest::ChecksumAlgorithm;

    fn listed(path: &str, checksum: Option<(ChecksumAlgorithm, Vec<u8>)>) -> ManifestFile {
        ManifestFile {
            path: path.into(),
            size: path.len() as u64,
            last_modified: chrono::DateTime::UNIX_EPOCH,
            checksum,
        }
    }

    #[test]
    fn both_sources_meet_in_one_entry() {
        let mut builder = TableBuilder::default();
        builder.describe("/a", Stored::Full, Content::Whole);
        builder.describe("/b/c", Stored::Increment, Content::Whole);
        builder.describe("backup_label", Stored::Skipped, Content::Whole);
        builder.all_described().expect("once each");
        let crc = Some((ChecksumAlgorithm::Crc32c, vec![1, 2, 3, 4]));
        builder.list(&listed("b/c", crc), Content::Whole).expect("new");
        let sha = Some((ChecksumAlgorithm::Sha256, vec![7; 32]));
        builder.list(&listed("only", sha), Content::Whole).expect("new");
        builder.list(&listed("a", None), Content::Whole).expect("new");
        builder.all_listed().expect("once each");
        let table = builder.finish().expect("a table");
        assert_eq!(table.len(), 4);
        let find = |path: &str| table.find(path.as_bytes()).expect(path);
        assert_eq!(table.stored(find("b/c")), Some(Stored::Increment));
        assert_eq!(table.stored(find("backup_label")), Some(Stored::Skipped));
        assert_eq!(table.expected(find("backup_label")), None);
        assert_eq!(table.stored(find("only")), None);
        let sums = ["a", "b/c", "only"].map(|path| {
            let expected = table.expected(find(path)).expect(path);
            assert_eq!(expected.size, path.len() as u64);
            expected.sum
        });
        let crc = Some(Sum::Crc32c(0x0403_0201));
        assert_eq!(sums, [None, crc, Some(Sum::Sha256([7; 32]))]);
        assert_eq!(table.find(b"/a"), None);
    }

    #[test]
    fn what_no_manifest_says_is_told_from_what_it_does_not_list() {
        let mut builder = TableBuilder::default();
        builder.describe("/a", Stored::Full, Content::Whole);
        builder.describe("/b", Stored::Full, Content::Whole);
        builder.all_described().expect("once each");
        let of = |table: &Table, path: &[u8]| {
            let file = table.find(path);
            let found = Found {
                own: file,
                described: file,
            };
            Listing::of(Some(table), found)
        };
        let mut with_manifest = TableBuilder::default();
        with_manifest.list(&listed("a", None), Content::Whole).expect("new");
        with_manifest.all_listed().expect("once");
        let table = builder.finish().expect("a table");
        assert_eq!(of(&table, b"a"), Listing::NoManifest);
        let table = with_manifest.finish().expect("a table");
        assert_eq!(of(&table, b"b"), Listing::Unlisted);
        let expected = Expected { size: 1, sum: None };
        assert_eq!(of(&table, b"a"), Listing::Listed(expected));
        assert_eq!(of(&table, b"a").expected(), Some(expected));
    }

    #[test]
    fn nothing_comes_twice() {
        let mut builder = TableBuilder::default();
        builder.describe("/a", Stored::Full, Content::Whole);
        builder.describe("a", Stored::Full, Content::Whole);
        assert_eq!(builder.all_described(), Err(Twice));
        let mut builder = TableBuilder::default();
        builder.describe("/a", Stored::Full, Content::Whole);
        builder.all_described().expect("once");
        builder.list(&listed("a", None), Content::Whole).expect("once");
        assert_eq!(builder.list(&listed("a", None), Content::Whole), Err(Twice));
        builder.list(&listed("b", None), Content::Whole).expect("once");
        builder.list(&listed("b", None), Content::Whole).expect("not seen yet");
        assert_eq!(builder.all_listed(), Err(Twice));
        assert!(TableBuilder::default().finish().is_none());
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut builder = TableBuilder::with_limit(2);
        builder.describe("/a", Stored::Full, Content::Whole);
        assert!(!builder.is_full());
        builder.describe("/b", Stored::Full, Content::Whole);
        assert!(builder.is_full());
        let mut builder = TableBuilder::with_limit(8);
        for number in 0..7 {
            assert!(!builder.is_full(), "{number}");
            let sha = Some((ChecksumAlgorithm::Sha256, vec![7; 32]));
            builder
                .list(&listed(&number.to_string(), sha), Content::Whole)
                .expect("new");
        }
        assert!(builder.is_full());
        // As many as the limit allows take less than 1 GB while they are being put in order.
        assert!(size_of::<FileRow>() * FILES_LIMIT <= 512 << 20);
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<FileRow>(), 32);
    }
}
