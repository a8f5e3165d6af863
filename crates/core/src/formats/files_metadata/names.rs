//! Writing the names of databases and their relations, the last part of `files_metadata.json`: a database may have a million.

use std::io::{self, BufWriter, Write};

/// A relation, and what is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationEntry<'a> {
    /// Its name as JSON, with its schema.
    name: &'a str,
    oid: u32,
    relfilenode: u32,
    rank: Rank,
}

/// The place of a relation in a tree of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// It has no parent.
    Top,
    /// It is a partition, at whatever depth, of the last relation that has no parent, or inherits from that.
    Part,
}

impl<'a> RelationEntry<'a> {
    /// As a line of text, to be kept until it can be written: it holds no line feed.
    pub fn line(schema: &str, name: &str, oid: u32, relfilenode: u32, rank: Rank) -> io::Result<String> {
        let rank = match rank {
            Rank::Top => "top",
            Rank::Part => "part",
        };
        // In JSON that serde writes there is no tab.
        let name = serde_json::to_string(&format!("{schema}.{name}"))?;
        Ok(format!("{rank}\t{oid}\t{relfilenode}\t{name}"))
    }

    /// From such a line.
    pub fn of_line(line: &'a str) -> io::Result<Self> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let mut columns = line.splitn(4, '\t');
        let mut next = || columns.next().ok_or_else(invalid);
        let rank = match next()? {
            "top" => Rank::Top,
            "part" => Rank::Part,
            _ => return Err(invalid()),
        };
        let number = |text: &str| text.parse().map_err(|_| invalid());
        let (oid, relfilenode) = (number(next()?)?, number(next()?)?);
        Ok(RelationEntry {
            name: next()?,
            oid,
            relfilenode,
            rank,
        })
    }
}

/// Writes the databases, each with its relations. It must be [finished](DatabasesWriter::finish), else what is written is no
/// JSON.
#[derive(Debug)]
pub struct DatabasesWriter<W: Write> {
    sink: BufWriter<W>,
    first: bool,
    within: Within,
}

/// What is still to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    Database,
    Relation,
    Parts,
}

impl Within {
    fn end(self) -> &'static str {
        match self {
            Within::Nothing => "",
            Within::Database => "}}",
            Within::Relation => "}}}",
            Within::Parts => "}}}}",
        }
    }
}

impl<W: Write> DatabasesWriter<W> {
    pub(super) fn new(mut sink: BufWriter<W>) -> io::Result<Self> {
        sink.write_all(b"\"DatabasesByNames\":{")?;
        Ok(DatabasesWriter {
            sink,
            first: true,
            within: Within::Nothing,
        })
    }

    /// Begin with the next database. The names must differ.
    pub fn database(&mut self, name: &str, oid: u32) -> io::Result<()> {
        let end = std::mem::replace(&mut self.within, Within::Database).end();
        self.sink.write_all(end.as_bytes())?;
        comma(&mut self.sink, &mut self.first)?;
        serde_json::to_writer(&mut self.sink, name)?;
        write!(self.sink, ":{{\"oid\":{oid},\"tables_new\":{{")
    }

    /// Add a relation to the database that was begun last.
    pub fn relation(&mut self, entry: RelationEntry<'_>) -> io::Result<()> {
        // A part without its parent stands for itself.
        let (before, within) = match (self.within, entry.rank) {
            (Within::Nothing, _) => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
            (Within::Database, _) => ("", Within::Relation),
            (Within::Relation, Rank::Top) => ("},", Within::Relation),
            (Within::Parts, Rank::Top) => ("}},", Within::Relation),
            (Within::Relation, Rank::Part) => (",\"subtables\":{", Within::Parts),
            (Within::Parts, Rank::Part) => (",", Within::Parts),
        };
        self.within = within;
        let RelationEntry {
            name, oid, relfilenode, ..
        } = entry;
        write!(
            self.sink,
            "{before}{name}:{{\"oid\":{oid},\"relfilenode\":{relfilenode}"
        )?;
        match within {
            Within::Parts => self.sink.write_all(b"}"),
            // Parts may follow.
            _ => Ok(()),
        }
    }

    /// Write the end; flush, and give the sink back.
    pub fn finish(mut self) -> io::Result<W> {
        self.sink.write_all(self.within.end().as_bytes())?;
        self.sink.write_all(b"}}")?;
        self.sink.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Between two of them, but not before the first.
pub(super) fn comma(sink: &mut impl Write, first: &mut bool) -> io::Result<()> {
    if std::mem::replace(first, false) {
        return Ok(());
    }
    sink.write_all(b",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In WAL-G's form.
    const NAMES: &str = r#""DatabasesByNames":{"\"odd\"\né":{"oid":16384,"tables_new":{}},"shop":{"oid":5,"tables_new":{"public.\"a\"\t":{"oid":16385,"relfilenode":16390},"public.parts":{"oid":16400,"relfilenode":0,"subtables":{"public.p1":{"oid":16401,"relfilenode":16402},"public.p2":{"oid":16403,"relfilenode":16404}}},"public.z":{"oid":16500,"relfilenode":16501}}},"x":{"oid":7,"tables_new":{"s.t":{"oid":1,"relfilenode":2}}}}}"#;

    #[test]
    fn the_form_is_wal_gs() {
        let mut writer = DatabasesWriter::new(BufWriter::new(Vec::new())).expect("begun");
        writer.database("\"odd\"\né", 16_384).expect("written");
        writer.database("shop", 5).expect("written");
        let mut relation = |schema: &str, name: &str, oid, relfilenode, rank| {
            let line = RelationEntry::line(schema, name, oid, relfilenode, rank).expect("a line");
            assert!(!line.contains('\n'), "{line}");
            writer
                .relation(RelationEntry::of_line(&line).expect("an entry"))
                .expect("written");
        };
        relation("public", "\"a\"\t", 16_385, 16_390, Rank::Top);
        relation("public", "parts", 16_400, 0, Rank::Top);
        relation("public", "p1", 16_401, 16_402, Rank::Part);
        relation("public", "p2", 16_403, 16_404, Rank::Part);
        relation("public", "z", 16_500, 16_501, Rank::Top);
        writer.database("x", 7).expect("written");
        let line = RelationEntry::line("s", "t", 1, 2, Rank::Part).expect("a line");
        writer
            .relation(RelationEntry::of_line(&line).expect("an entry"))
            .expect("written");
        let text = writer.finish().expect("finished");
        assert_eq!(String::from_utf8(text).expect("UTF-8"), NAMES);
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in ["", "top", "top\t1\t2", "side\t1\t2\t\"x\"", "top\tx\t2\t\"x\""] {
            assert!(RelationEntry::of_line(line).is_err(), "{line}");
        }
        let mut writer = DatabasesWriter::new(BufWriter::new(Vec::new())).expect("begun");
        let entry = RelationEntry::of_line("top\t1\t2\t\"x\"").expect("an entry");
        assert!(writer.relation(entry).is_err());
    }
}
