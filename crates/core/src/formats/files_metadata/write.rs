//! Writing `files_metadata.json` as a stream: it has an entry a file, and a cluster may have millions.

use std::io::{self, BufWriter, Write};

use super::FileDescription;
use super::names::{DatabasesWriter, comma};

/// The name of a file and what is said of it, each as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileEntry<'a> {
    name: &'a str,
    description: &'a str,
}

impl<'a> FileEntry<'a> {
    /// As a line of text, to be kept until it can be written: it holds no line feed.
    pub fn line(name: &str, description: &FileDescription) -> io::Result<String> {
        // In JSON that serde writes there is no tab.
        Ok(format!(
            "{}\t{}",
            serde_json::to_string(name)?,
            serde_json::to_string(description)?
        ))
    }

    /// From such a line.
    pub fn of_line(line: &'a str) -> io::Result<Self> {
        let (name, description) = line
            .split_once('\t')
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(FileEntry { name, description })
    }

    /// The name of the file.
    pub fn name(&self) -> io::Result<String> {
        Ok(serde_json::from_str(self.name)?)
    }
}

/// Writes the entries of all files. [`TarFileSetsWriter`] writes the rest.
#[derive(Debug)]
pub struct FilesMetadataWriter<W: Write> {
    sink: BufWriter<W>,
    first: bool,
}

/// Writes the members of all tars. It must be [finished](TarFileSetsWriter::finish), else what is written is no JSON.
#[derive(Debug)]
pub struct TarFileSetsWriter<W: Write> {
    sink: BufWriter<W>,
    first_tar: bool,
    first_member: bool,
}

impl<W: Write> FilesMetadataWriter<W> {
    /// Begin.
    pub fn new(sink: W) -> io::Result<Self> {
        let mut sink = BufWriter::with_capacity(256 << 10, sink);
        sink.write_all(b"{\"Files\":{")?;
        Ok(FilesMetadataWriter { sink, first: true })
    }

    /// Add a file. The names must differ.
    pub fn file(&mut self, entry: FileEntry<'_>) -> io::Result<()> {
        comma(&mut self.sink, &mut self.first)?;
        write!(self.sink, "{}:{}", entry.name, entry.description)
    }

    /// There are no more; go on with the tars.
    pub fn tar_file_sets(mut self) -> io::Result<TarFileSetsWriter<W>> {
        self.sink.write_all(b"},\"TarFileSets\":{")?;
        Ok(TarFileSetsWriter {
            sink: self.sink,
            first_tar: true,
            first_member: true,
        })
    }
}

impl<W: Write> TarFileSetsWriter<W> {
    /// Begin with the next tar, of that file name. The names must differ.
    pub fn tar(&mut self, file_name: &str) -> io::Result<()> {
        if !self.first_tar {
            self.sink.write_all(b"]")?;
        }
        comma(&mut self.sink, &mut self.first_tar)?;
        serde_json::to_writer(&mut self.sink, file_name)?;
        self.first_member = true;
        self.sink.write_all(b":[")
    }

    /// Add a member to the tar that was begun last.
    pub fn member(&mut self, entry: FileEntry<'_>) -> io::Result<()> {
        comma(&mut self.sink, &mut self.first_member)?;
        self.sink.write_all(entry.name.as_bytes())
    }

    /// There are no more; go on with the databases.
    pub fn databases(mut self) -> io::Result<DatabasesWriter<W>> {
        if !self.first_tar {
            self.sink.write_all(b"]")?;
        }
        self.sink.write_all(b"},")?;
        DatabasesWriter::new(self.sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::files_metadata::{CorruptBlocks, DatabaseObjects, FilesMetadata, Identity};

    #[test]
    fn it_is_what_a_reader_reads() {
        let mut expected = FilesMetadata::default();
        for (tar, members) in [
            ("a.tar", &["/x", "/\"quoted\"\n\t\u{1}é"][..]),
            ("b.tar", &[]),
            ("c.tar", &["/y"]),
        ] {
            let names: Vec<String> = members.iter().map(|name| (*name).to_owned()).collect();
            expected.tar_file_sets.insert(tar.to_owned(), names);
        }
        let full = FileDescription {
            is_incremented: true,
            corrupt_blocks: Some(CorruptBlocks {
                count: 3,
                some: vec![1, 2],
            }),
            identity: Some(Identity {
                size: 8192,
                inode: 5,
                changed: -1,
                checksum: "crc32c:00112233".to_owned(),
            }),
            ..FileDescription::default()
        };
        for name in expected.tar_file_sets.values().flatten() {
            expected.files.insert(name.clone(), full.clone());
        }
        expected
            .files
            .insert("/in no tar".to_owned(), FileDescription::default());
        let line = |name: &str| FileEntry::line(name, &expected.files[name]).expect("a line");
        let mut files = FilesMetadataWriter::new(Vec::new()).expect("begun");
        for name in expected.files.keys() {
            assert!(!line(name).contains('\n'));
            let line = line(name);
            let entry = FileEntry::of_line(&line).expect("an entry");
            assert_eq!(entry.name().expect("a name"), *name);
            files.file(entry).expect("written");
        }
        let mut sets = files.tar_file_sets().expect("begun");
        for (tar, members) in &expected.tar_file_sets {
            sets.tar(tar).expect("begun");
            for name in members {
                sets.member(FileEntry::of_line(&line(name)).expect("an entry"))
                    .expect("written");
            }
        }
        let mut databases = sets.databases().expect("begun");
        for (name, oid) in [("postgres", 5), ("\"odd\"\né", 16_384)] {
            let database = DatabaseObjects {
                oid,
                ..DatabaseObjects::default()
            };
            expected.databases_by_names.insert(name.to_owned(), database);
            databases.database(name, oid).expect("written");
        }
        let text = databases.finish().expect("finished");
        assert_eq!(FilesMetadata::read_from(&text[..]).expect("JSON"), expected);

        let empty = FilesMetadataWriter::new(Vec::new()).and_then(FilesMetadataWriter::tar_file_sets);
        let empty = empty.and_then(TarFileSetsWriter::databases);
        let text = empty.and_then(DatabasesWriter::finish).expect("written");
        assert_eq!(text, br#"{"Files":{},"TarFileSets":{},"DatabasesByNames":{}}"#);
        assert!(FileEntry::of_line("no tab").is_err());
    }
}
