//! A tar as a stream, with members under the paths of the repository format. The `tar` crate refuses to write absolute
//! paths, so the names go into the headers as bytes.

use std::io::{self, Write};

use tar::{EntryType, Header};

use crate::backup::read::walk::Attributes;

const BLOCK: u64 = 512;
/// The bytes that a header has for the name.
const NAME_BYTES: usize = 100;
/// GNU tar's name for a member that holds the name of the next one.
const LONG_LINK: &[u8] = b"././@LongLink";

/// Writes members one after the other. It must be [finished](TarStream::finish).
pub(crate) struct TarStream<W: Write> {
    sink: W,
}

impl<W: Write> TarStream<W> {
    pub(crate) fn new(sink: W) -> Self {
        TarStream { sink }
    }

    /// A directory. It needs no closing.
    pub(crate) fn directory(&mut self, name: &[u8], owner: &Attributes) -> io::Result<()> {
        self.header(EntryType::Directory, name, 0, owner)
    }

    /// Begin a regular file. Exactly `size` bytes must follow by [`TarStream::content`], then [`TarStream::pad`].
    pub(crate) fn file(&mut self, name: &[u8], size: u64, owner: &Attributes) -> io::Result<()> {
        self.header(EntryType::Regular, name, size, owner)
    }

    pub(crate) fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)
    }

    /// The end of a member of that size.
    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK) - size;
        self.sink.write_all(&[0; BLOCK as usize][..padding as usize])
    }

    /// Write the end of the archive and give the sink back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.sink.write_all(&[0; 2 * BLOCK as usize])?;
        Ok(self.sink)
    }

    fn header(&mut self, kind: EntryType, name: &[u8], size: u64, owner: &Attributes) -> io::Result<()> {
        if name.len() > NAME_BYTES {
            let length = name.len() as u64 + 1;
            let root = Attributes {
                mode: 0o644,
                uid: 0,
                gid: 0,
                modified: (0, 0),
            };
            self.block(EntryType::GNULongName, LONG_LINK, length, &root)?;
            self.sink.write_all(name)?;
            self.sink.write_all(&[0])?;
            self.pad(length)?;
        }
        self.block(kind, &name[..name.len().min(NAME_BYTES)], size, owner)
    }

    fn block(&mut self, kind: EntryType, name: &[u8], size: u64, owner: &Attributes) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(owner.mode);
        header.set_uid(owner.uid.into());
        header.set_gid(owner.gid.into());
        header.set_mtime(u64::try_from(owner.modified.0).unwrap_or(0));
        header.set_size(size);
        header.set_cksum();
        self.sink.write_all(header.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn names_of_every_length_come_back() {
        let owner = Attributes {
            mode: 0o640,
            uid: 70_000,
            gid: 3_000_000,
            modified: (1_700_000_000, 5),
        };
        let names: Vec<Vec<u8>> = [1, 99, 100, 101, 255, 511, 512, 3000]
            .into_iter()
            .map(|length| [b"/".as_slice(), &vec![b'x'; length - 1]].concat())
            .chain([b"/not\xffutf8".to_vec()])
            .collect();
        let mut tar = TarStream::new(Vec::new());
        for name in &names {
            tar.directory(&[name.as_slice(), b"d"].concat(), &owner)
                .expect("written");
            tar.file(name, 5, &owner).expect("written");
            tar.content(b"12345").expect("written");
            tar.pad(5).expect("written");
        }
        let bytes = tar.finish().expect("finished");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entries = archive.entries().expect("entries");
        for name in &names {
            let directory = entries.next().expect("one more").expect("a directory");
            assert_eq!(directory.header().entry_type(), EntryType::Directory);
            assert_eq!(directory.path_bytes().as_ref(), [name.as_slice(), b"d"].concat());
            let mut file = entries.next().expect("one more").expect("a file");
            assert_eq!(file.path_bytes().as_ref(), name.as_slice());
            assert_eq!(file.header().mode().expect("a mode"), 0o640);
            assert_eq!(file.header().gid().expect("a gid"), 3_000_000);
            assert_eq!(file.header().mtime().expect("a time"), 1_700_000_000);
            let mut content = String::new();
            file.read_to_string(&mut content).expect("read");
            assert_eq!(content, "12345");
        }
        assert!(entries.next().is_none());
    }

    #[test]
    fn a_file_may_be_larger_than_octal_digits_tell() {
        let mut tar = TarStream::new(Vec::new());
        let owner = Attributes {
            mode: 0o600,
            uid: 0,
            gid: 0,
            modified: (0, 0),
        };
        tar.file(b"/large", 1 << 40, &owner).expect("written");
        let header = Header::from_byte_slice(&tar.sink);
        assert_eq!(header.size().expect("a size"), 1 << 40);
    }
}
