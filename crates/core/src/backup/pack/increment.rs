//! Packing an increment: the pages of a file that have changed, read as they are found or once more.

use std::path::Path;

use super::input::{Incremented, Input};
use super::packer::{CHUNK, Packer, Reading};
use crate::backup::delta::Way;
use crate::backup::delta::changes::{KEPT, Question, Scan, scan};
use crate::backup::read::pages::PageReader;
use crate::error::{Error, Result};
use crate::formats::files_metadata::AllVisible;
use crate::formats::increment::IncrementHeader;
use crate::page::PAGE_BYTES;

impl Packer {
    /// Add the member of an increment. None: the file is to go in full, and nothing was written.
    pub(crate) fn increment(&mut self, input: &Input<'_>, way: Way) -> Result<Option<Incremented>> {
        match way {
            Way::Full => Ok(None),
            Way::Scan(question) => self.scanned(input, question),
            Way::Blocks(blocks) => self.listed(input, blocks).map(Some),
        }
    }

    /// First read all of it, then write the pages that have changed. Few of them are kept in memory, the others are read again;
    /// what they have become in the meantime is as good, as the WAL of this time will be replayed.
    fn scanned(&mut self, input: &Input<'_>, question: Question) -> Result<Option<Incremented>> {
        let question = Question {
            all_visible: self
                .may_be_marked(input.path)
                .then(|| self.all_visible_before(input.path)),
            ..question
        };
        let mut reader = self.reader(input, Reading::First)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let (shared, algorithm) = (self.shared.clone(), self.shared.algorithm);
        let scanned = scan(&mut reader, input.size, &question, algorithm, &mut buffer, |bytes| {
            shared.limiter.wait_for(bytes, &shared.stop)?;
            self.ahead += bytes;
            shared.progress.read(bytes);
            Ok(())
        });
        self.buffer = buffer;
        let Some(Scan {
            blocks,
            kept,
            others,
            sum,
        }) = scanned?
        else {
            return Ok(None);
        };
        self.ahead = 0;
        let mut found = reader.into_facts();
        // A page can be marked and not be taken: its table's visibility map, which comes whole, does not say so yet.
        found.all_visible = self.held_all_visible(input, found.all_visible, &blocks);
        let header = IncrementHeader {
            file_size: input.size,
            blocks,
        };
        self.begin(input, &header)?;
        let written = self.tar.content(&kept);
        self.written(written)?;
        drop(kept);
        let (mut again, mut crcs, mut same) = (self.reader(input, Reading::Again)?, others.iter(), true);
        let rest = &header.blocks[header.blocks.len().min(KEPT)..];
        self.pages(&mut again, rest, |page| {
            same &= crcs.next() == Some(&crc32c::crc32c(page))
        })?;
        self.end(&header)?;
        let provable = self.shared.is_provable() && found.corrupt.is_none() && same;
        Ok(Some(Incremented {
            sum: provable.then_some(sum),
            found,
        }))
    }

    /// May pages have become all-visible since the parent was taken without a new LSN? Not if pages have checksums, nor if the
    /// visibility map is what it was.
    fn may_be_marked(&self, path: &Path) -> bool {
        if !self.notes_all_visible(path) {
            return false;
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let node = name.split_once('.').map_or(name, |(node, _)| node);
        let map = path.with_file_name(format!("{node}_vm"));
        // A table with so large a map has 32 TB.
        let second = path.with_file_name(format!("{node}_vm.1"));
        let find = |path: &Path| std::fs::symlink_metadata(self.shared.data_dir.join(path));
        let delta = self.shared.delta.get();
        let is_there =
            |found: std::io::Result<_>| !found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        match find(&map) {
            Ok(found) => is_there(find(&second)) || delta.is_none_or(|delta| delta.unchanged(&map, &found).is_none()),
            missing => is_there(missing),
        }
    }

    /// The pages of a file that the chain holds marked with this increment, which has the pages `taken`, and of them those
    /// marked that were `read` so.
    fn held_all_visible(&self, input: &Input<'_>, read: Option<AllVisible>, taken: &[u32]) -> Option<AllVisible> {
        if !self.notes_all_visible(input.path) {
            return None;
        }
        let pages = u32::try_from(input.size / PAGE_BYTES as u64).unwrap_or(u32::MAX);
        let before = self.all_visible_before(input.path);
        read.unwrap_or_default().over(&before, taken, pages).into_some()
    }

    /// The pages of a file that the parent has noted as all-visible.
    fn all_visible_before(&self, path: &Path) -> AllVisible {
        let delta = self.shared.delta.get();
        delta.and_then(|delta| delta.all_visible(path)).unwrap_or_default()
    }

    /// Nothing but these pages is read.
    fn listed(&mut self, input: &Input<'_>, blocks: Vec<u32>) -> Result<Incremented> {
        let header = IncrementHeader {
            file_size: input.size,
            blocks,
        };
        self.begin(input, &header)?;
        let mut reader = self.reader(input, Reading::First)?;
        self.pages(&mut reader, &header.blocks, |_| ())?;
        self.end(&header)?;
        self.shared.progress.read(input.size);
        let mut found = reader.into_facts();
        // Of the pages that were not read no record of the WAL tells, and VACUUM writes one.
        found.all_visible = self.held_all_visible(input, found.all_visible, &header.blocks);
        Ok(Incremented { sum: None, found })
    }

    fn begin(&mut self, input: &Input<'_>, header: &IncrementHeader) -> Result<()> {
        self.begin_member(input.path, header.member_size(), input.owner)?;
        let written = self.tar.content(&header.to_bytes());
        self.written(written)
    }

    fn end(&mut self, header: &IncrementHeader) -> Result<()> {
        let written = self.tar.pad(header.member_size());
        self.written(written)?;
        self.packed.bytes += header.member_size();
        Ok(())
    }

    /// Add these pages of the file, neighbours with one request.
    fn pages(
        &mut self,
        reader: &mut PageReader,
        mut blocks: &[u32],
        mut each: impl FnMut(&[u8; PAGE_BYTES]),
    ) -> Result<()> {
        while let Some(first) = blocks.first() {
            let neighbours = blocks.iter().zip(*first..).take_while(|(block, next)| *block == next);
            let count = neighbours.take(CHUNK / PAGE_BYTES).count();
            let bytes = count * PAGE_BYTES;
            self.shared.limiter.wait_for(bytes as u64, &self.shared.stop)?;
            reader.seek(*first);
            let run = reader.next(&mut self.buffer[..bytes])?;
            let run = run
                .filter(|run| run.bytes.len() == bytes)
                .ok_or_else(|| Error::defect("a page to be copied is beyond the end of its file"))?;
            run.bytes.as_chunks().0.iter().for_each(&mut each);
            let written = self.tar.content(run.bytes);
            self.written(written)?;
            blocks = &blocks[count..];
        }
        Ok(())
    }
}
