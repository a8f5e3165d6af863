//! Reading a relation's file in runs of whole pages, and verifying each page on the way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use super::cache::{FindResident, Footprint};
use crate::error::{Error, Result};
use crate::formats::files_metadata::{AllVisible, CorruptBlocks};
use crate::lsn::Lsn;
use crate::page::{NAMED, PAGE_BYTES, Page, Verdict};

/// How long whoever writes a page at this moment is given to finish it before it is read again.
const PAUSE: Duration = Duration::from_millis(2);

/// Neighbouring pages, as they were read.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// The number of the first, within the file.
    pub(crate) first: u32,
    /// Whole pages; only the last run of a file whose size is no multiple of a page has less at its end.
    pub(crate) bytes: &'a [u8],
}

/// Facts about a file's pages that reading has told, as files_metadata will have them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct PageFacts {
    /// The corrupt ones, by their numbers in the relation.
    pub(crate) corrupt: Option<CorruptBlocks>,
    /// Those that are all-visible, by their numbers in the file, if that was asked.
    pub(crate) all_visible: Option<AllVisible>,
}

/// One relation's file, of the size that it had when it was opened. A part that was cut off since reads as zeros, as replay of
/// the WAL will cut it off again; a part that was appended since is left out, as replay will append it again.
///
/// With data checksums a page whose checksum is wrong is read once more, as the server may have been writing it, and counts
/// as corrupt if it is wrong still. Its bytes are given as they are: part of a page may be all that is left of the rows.
#[derive(Debug)]
pub(crate) struct PageReader {
    file: File,
    /// For messages.
    path: PathBuf,
    /// In the relation, the number of the file's first page.
    first_in_relation: u32,
    size: u64,
    start: Lsn,
    data_checksums: bool,
    /// The beginning of the next run, in bytes.
    position: u64,
    corrupt: CorruptBlocks,
    /// So many corrupt pages are named at most.
    named: usize,
    /// The corrupt pages of the last run, by their numbers in the file.
    corrupt_here: Vec<u32>,
    /// The pages that are all-visible, if that is asked.
    all_visible: Option<AllVisible>,
    footprint: Option<Footprint>,
}

impl PageReader {
    /// `first_in_relation` is what [`first_page`](crate::page::first_page) says, `start` the LSN at which the backup began;
    /// pages are verified if `data_checksums` is true.
    pub(crate) fn new(
        file: File,
        path: PathBuf,
        first_in_relation: u32,
        size: u64,
        start: Lsn,
        data_checksums: bool,
    ) -> Self {
        PageReader {
            file,
            path,
            first_in_relation,
            size,
            start,
            data_checksums,
            position: 0,
            corrupt: CorruptBlocks::default(),
            named: NAMED,
            corrupt_here: Vec::new(),
            all_visible: None,
            footprint: None,
        }
    }

    /// The same, leaving the page cache as it is if `find_resident` is there.
    pub(crate) fn sparing(mut self, find_resident: Option<FindResident>) -> Self {
        self.footprint = find_resident.map(Footprint::new);
        self
    }

    /// The same, naming every corrupt page of the file.
    pub(crate) fn naming_all_corrupt(mut self) -> Self {
        self.named = usize::MAX;
        self
    }

    /// The same, noting which pages are all-visible.
    pub(crate) fn noting_all_visible(mut self) -> Self {
        self.all_visible = Some(AllVisible::default());
        self
    }

    /// Go on with that page of the file: the next run begins there.
    pub(crate) fn seek(&mut self, page: u32) {
        self.position = u64::from(page) * PAGE_BYTES as u64;
    }

    /// The bytes that the next run has in a buffer of so many; 0 at the end.
    pub(crate) fn next_length(&self, buffer: usize) -> usize {
        let left = self.size.saturating_sub(self.position);
        let whole = buffer - buffer % PAGE_BYTES;
        usize::try_from(left).map_or(whole, |left| left.min(whole))
    }

    /// The next run, as long as the buffer is, which has room for one page at least. None at the end.
    pub(crate) fn next<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<Run<'b>>> {
        let length = self.next_length(buffer.len());
        if length == 0 {
            return Ok(None);
        }
        let first = u32::try_from(self.position / PAGE_BYTES as u64).map_err(|_| {
            Error::damaged(
                self.path.display().to_string(),
                "It has more pages than a relation can have.",
            )
        })?;
        let (position, size) = (self.position, self.size);
        self.spare(|footprint, file| footprint.look(file, position, size));
        let bytes = &mut buffer[..length];
        let read = self.read_at(bytes, self.position)?;
        bytes[read..].fill(0);
        self.corrupt_here.clear();
        if self.data_checksums {
            // Behind the end of the file there is nothing to verify.
            let (pages, _) = bytes[..read].as_chunks_mut::<PAGE_BYTES>();
            for (page, number) in pages.iter_mut().zip(first..) {
                self.verify(page, number)?;
            }
        }
        if let Some(all_visible) = &mut self.all_visible {
            let pages = bytes.as_chunks::<PAGE_BYTES>().0.iter().zip(first..);
            pages
                .filter(|(page, _)| Page(page).is_all_visible())
                .for_each(|(_, number)| all_visible.insert(number));
        }
        self.position += length as u64;
        let (end, size) = (self.position, self.size);
        self.spare(|footprint, file| {
            footprint.read(end);
            if end == size { footprint.wipe(file) } else { Ok(()) }
        });
        Ok(Some(Run { first, bytes }))
    }

    /// Was that page of the file, one of the last run, corrupt?
    pub(crate) fn is_corrupt(&self, page: u32) -> bool {
        self.corrupt_here.contains(&page)
    }

    /// Facts about the pages that were read.
    pub(crate) fn into_facts(mut self) -> PageFacts {
        // Not all may have been read.
        self.spare(Footprint::wipe);
        PageFacts {
            corrupt: Some(self.corrupt).filter(|corrupt| corrupt.count > 0),
            all_visible: self.all_visible.and_then(AllVisible::into_some),
        }
    }

    /// That the cache cannot be spared does not end a backup.
    fn spare(&mut self, act: impl FnOnce(&mut Footprint, &File) -> io::Result<()>) {
        if let Some(footprint) = &mut self.footprint
            && let Err(error) = act(footprint, &self.file)
        {
            tracing::debug!(file = %self.path.display(), %error, "could not spare the page cache");
            self.footprint = None;
        }
    }

    fn verify(&mut self, page: &mut [u8; PAGE_BYTES], number: u32) -> Result<()> {
        let in_relation = self.first_in_relation.wrapping_add(number);
        if Page(page).verdict(in_relation, self.start) != Verdict::Wrong {
            return Ok(());
        }
        // A relation that is damaged all over must not cost a pause for each of its pages.
        if self.corrupt.count < NAMED as u64 {
            std::thread::sleep(PAUSE);
        }
        let mut again = [0; PAGE_BYTES];
        let read = self.read_at(&mut again, u64::from(number) * PAGE_BYTES as u64)?;
        if read < PAGE_BYTES {
            // It was cut off in the meantime.
            page.fill(0);
            return Ok(());
        }
        *page = again;
        if Page(page).verdict(in_relation, self.start) == Verdict::Wrong {
            self.corrupt.count += 1;
            self.corrupt_here.push(number);
            if self.corrupt.some.len() < self.named {
                self.corrupt.some.push(in_relation);
            }
        }
        Ok(())
    }

    /// Read until the buffer is full or the file ends. Returns the bytes read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::page::tests::sample;

    const START: Lsn = Lsn(0x500_0000);
    const OLD: Lsn = Lsn(0x400_0000);

    /// A file of those pages, and its reader.
    fn reader(content: &[u8], first_in_relation: u32) -> (File, PageReader) {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("written");
        let read = file.try_clone().expect("a second descriptor");
        let size = content.len() as u64;
        let reader = PageReader::new(read, "base/5/1".into(), first_in_relation, size, START, true);
        (file, reader)
    }

    fn read_all(reader: &mut PageReader) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), vec![1; 3 * PAGE_BYTES + 100]);
        while let Some(run) = reader.next(&mut buffer).expect("read") {
            assert_eq!(u64::from(run.first) * PAGE_BYTES as u64, all.len() as u64);
            all.extend_from_slice(run.bytes);
        }
        all
    }

    #[test]
    fn corrupt_pages_are_counted_and_the_first_are_named() {
        let first = 131_072;
        let mut pages: Vec<_> = (0..20).map(|number| sample(OLD, first + number, 5)).collect();
        for page in &mut pages[7..19] {
            page[4000] ^= 1;
        }
        let content = pages.concat();
        let (_, mut reader) = reader(&content, first);
        assert!(read_all(&mut reader) == content);
        let corrupt = reader.into_facts().corrupt.expect("some are corrupt");
        assert_eq!(corrupt.count, 12);
        assert_eq!(corrupt.some, (first + 7..first + 17).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_right_new_changed_or_not_to_be_verified_is_no_failure() {
        let mut changed = sample(START, 2, 1);
        changed[8000] ^= 1;
        let content = [sample(OLD, 0, 5), [0; PAGE_BYTES], changed].concat();
        let (_, mut reader1) = reader(&content, 0);
        assert!(read_all(&mut reader1) == content);
        assert_eq!(reader1.into_facts().corrupt, None);
        // Not whole pages, and without checksums anything.
        let content = [&sample(OLD, 0, 5)[..], &[9; 100]].concat();
        let (_, mut reader2) = reader(&content, 0);
        assert!(read_all(&mut reader2) == content);
        assert_eq!(reader2.into_facts().corrupt, None);
        let (file, _) = reader(&[9; 2 * PAGE_BYTES], 0);
        let mut reader3 = PageReader::new(file, "x".into(), 0, 2 * PAGE_BYTES as u64, START, false);
        assert_eq!(read_all(&mut reader3), [9; 2 * PAGE_BYTES]);
        assert_eq!(reader3.into_facts().corrupt, None);
    }

    #[test]
    fn a_torn_page_is_read_once_more() {
        let whole = sample(OLD, 1, 5);
        for (now, corrupt) in [(whole, 0), (sample(START, 1, 7), 0), (sample(OLD, 3, 5), 1)] {
            let mut torn = whole;
            torn[4096..].fill(6);
            let (file, mut reader) = reader(&[sample(OLD, 0, 5), torn].concat(), 0);
            // As if the server wrote the page between the two readings.
            file.write_all_at(&now, PAGE_BYTES as u64).expect("written");
            reader.verify(&mut torn, 1).expect("read");
            assert!(torn == now);
            assert_eq!(reader.corrupt.count, corrupt);
        }
        let mut torn = whole;
        torn[4096..].fill(6);
        let (file, mut reader) = reader(&[sample(OLD, 0, 5), torn].concat(), 0);
        file.set_len(PAGE_BYTES as u64).expect("cut off");
        reader.verify(&mut torn, 1).expect("read");
        assert!(torn == [0; PAGE_BYTES]);
        assert_eq!(reader.corrupt.count, 0);
    }

    #[test]
    fn the_size_stays_what_it_was() {
        let content = [sample(OLD, 0, 5), sample(OLD, 1, 5), sample(OLD, 2, 5)].concat();
        for length in [PAGE_BYTES, PAGE_BYTES + 100, 4 * PAGE_BYTES] {
            let (file, mut reader) = reader(&content, 0);
            file.set_len(length as u64).expect("cut off or grown");
            let mut expected = content.clone();
            expected.truncate(length);
            expected.resize(content.len(), 0);
            assert!(read_all(&mut reader) == expected, "{length}");
            assert_eq!(reader.into_facts().corrupt, None, "{length}");
        }
    }

    #[test]
    fn single_pages_can_be_read() {
        let content: Vec<u8> = (0..5).flat_map(|number| sample(OLD, number, number as u8)).collect();
        let (_, mut reader) = reader(&content, 0);
        let mut buffer = [0; PAGE_BYTES];
        for number in [3, 1, 4] {
            reader.seek(number);
            let run = reader.next(&mut buffer).expect("read").expect("a page");
            assert_eq!(run.first, number);
            assert!(run.bytes == sample(OLD, number, number as u8));
        }
        assert_eq!(reader.next_length(PAGE_BYTES), 0);
        assert!(reader.next(&mut buffer).expect("read").is_none());
        assert_eq!(reader.into_facts().corrupt, None);
    }
}
