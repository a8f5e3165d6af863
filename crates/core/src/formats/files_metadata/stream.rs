//! Reading it piece by piece: the files of a cluster may be millions.

use std::fmt;
use std::io::{self, BufReader, Read};

use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::formats::guarded::Guarded;

/// Listens to the content of a `files_metadata.json`, in its order. An error ends the reading and comes back in its own; paths
/// are untrusted.
pub trait Listener {
    /// The fields that are read of each file: [`crate::formats::files_metadata::FileDescription`], or a type with some of its
    /// fields.
    type File: DeserializeOwned;

    /// Are relations told, or passed over?
    const RELATIONS: Relations = Relations::PassedOver;

    /// An entry of `Files`.
    fn file(&mut self, path: &str, file: Self::File) -> Result<(), String>;

    /// `TarFileSets` has this tar; its members follow.
    fn tar(&mut self, name: &str) -> Result<(), String> {
        let _ = name;
        Ok(())
    }

    /// A member of the tar that was named last.
    fn member(&mut self, path: &str) -> Result<(), String> {
        let _ = path;
        Ok(())
    }

    /// An entry of `DatabasesByNames`.
    fn database(&mut self, name: &str, oid: u32) -> Result<(), String> {
        let _ = (name, oid);
        Ok(())
    }

    /// A table, an index or another relation of the database with this name, which comes before the database itself.
    fn relation(&mut self, database: &str, name: &str, relation: &Relation) -> Result<(), String> {
        let _ = (database, name, relation);
        Ok(())
    }
}

/// What a [`Listener`] hears of the relations, of which a cluster may have millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relations {
    /// Nothing.
    PassedOver,
    /// Each of them.
    Told,
}

/// The entry of `DatabasesByNames` for a relation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Relation {
    /// Its OID.
    pub oid: u32,
    /// The name of its files.
    pub relfilenode: u32,
    /// Its partitions and those that inherit from it.
    #[serde(deserialize_with = "partitions")]
    pub subtables: Vec<Partition>,
}

/// A partition.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Partition {
    /// Its OID.
    pub oid: u32,
    /// The name of its files.
    pub relfilenode: u32,
}

/// More partitions than a restore can choose among.
const PARTITIONS_LIMIT: usize = 2_000_000;

/// Their names are not kept.
fn partitions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Partition>, D::Error> {
    let mut partitions = Partitions(Vec::new());
    Map(&mut partitions).deserialize(deserializer)?;
    Ok(partitions.0)
}

struct Partitions(Vec<Partition>);

impl Entries for &mut Partitions {
    fn entry<'de, A: MapAccess<'de>>(&mut self, _: String, map: &mut A) -> Result<(), A::Error> {
        if self.0.len() == PARTITIONS_LIMIT {
            return Err(Error::custom("a table in it has too many partitions"));
        }
        self.0.push(map.next_value()?);
        Ok(())
    }
}

/// Read what [`crate::formats::files_metadata::FilesMetadata::write_to`] or WAL-G wrote, in bounded memory whatever it is. Missing and unknown
/// fields and null maps are no failure. Works on the sentinels of WAL-G before 2.0 too, which hold the same.
pub fn listen(source: impl Read, listener: &mut impl Listener) -> io::Result<()> {
    let source = BufReader::with_capacity(256 << 10, Guarded::new(source));
    let mut json = serde_json::Deserializer::from_reader(source);
    Map(Top(listener)).deserialize(&mut json)?;
    Ok(json.end()?)
}

/// The work on each entry of a map.
trait Entries {
    fn entry<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error>;
}

/// A map of such entries, or null.
struct Map<E>(E);

impl<'de, E: Entries> DeserializeSeed<'de> for Map<E> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, E: Entries> Visitor<'de> for Map<E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_unit<Failure: Error>(self) -> Result<(), Failure> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            self.0.entry(key, &mut map)?;
        }
        Ok(())
    }
}

struct Top<'a, L>(&'a mut L);

impl<L: Listener> Entries for Top<'_, L> {
    fn entry<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        match key.as_str() {
            "Files" => map.next_value_seed(Map(Files(self.0))),
            "TarFileSets" => map.next_value_seed(Map(Tars(self.0))),
            "DatabasesByNames" => map.next_value_seed(Map(Databases(self.0))),
            _ => map.next_value::<IgnoredAny>().map(|_| ()),
        }
    }
}

struct Files<'a, L>(&'a mut L);

impl<L: Listener> Entries for Files<'_, L> {
    fn entry<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        let file = map.next_value()?;
        self.0.file(&key, file).map_err(Error::custom)
    }
}

struct Tars<'a, L>(&'a mut L);

impl<L: Listener> Entries for Tars<'_, L> {
    fn entry<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        self.0.tar(&key).map_err(Error::custom)?;
        map.next_value_seed(Members(self.0))
    }
}

struct Databases<'a, L>(&'a mut L);

impl<L: Listener> Entries for Databases<'_, L> {
    fn entry<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        let mut oid = 0;
        map.next_value_seed(Map(Database {
            name: &key,
            oid: &mut oid,
            listener: self.0,
        }))?;
        self.0.database(&key, oid).map_err(Error::custom)
    }
}

/// One database.
struct Database<'a, L> {
    name: &'a str,
    oid: &'a mut u32,
    listener: &'a mut L,
}

impl<L: Listener> Entries for Database<'_, L> {
    fn entry<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        match key.as_str() {
            "oid" => map.next_value().map(|oid| *self.oid = oid),
            "tables_new" if L::RELATIONS == Relations::Told => map.next_value_seed(Map(OfDatabase {
                database: self.name,
                listener: self.listener,
            })),
            _ => map.next_value::<IgnoredAny>().map(|_| ()),
        }
    }
}

/// The relations of a database.
struct OfDatabase<'a, L> {
    database: &'a str,
    listener: &'a mut L,
}

impl<L: Listener> Entries for OfDatabase<'_, L> {
    fn entry<'de, A: MapAccess<'de>>(&mut self, key: String, map: &mut A) -> Result<(), A::Error> {
        let relation = map.next_value()?;
        self.listener
            .relation(self.database, &key, &relation)
            .map_err(Error::custom)
    }
}

/// The members of a tar, or null.
struct Members<'a, L>(&'a mut L);

impl<'de, L: Listener> DeserializeSeed<'de> for Members<'_, L> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, L: Listener> Visitor<'de> for Members<'_, L> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or null")
    }

    fn visit_unit<Failure: Error>(self) -> Result<(), Failure> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(path) = members.next_element::<String>()? {
            self.0.member(&path).map_err(Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::files_metadata::{FileDescription, FilesMetadata};

    /// Puts it together again.
    #[derive(Default)]
    struct Collect(FilesMetadata, String);

    impl Listener for Collect {
        type File = FileDescription;

        fn file(&mut self, path: &str, file: FileDescription) -> Result<(), String> {
            self.0.files.insert(path.to_owned(), file);
            match path {
                "/refused" => Err("it is refused".to_owned()),
                _ => Ok(()),
            }
        }

        fn tar(&mut self, name: &str) -> Result<(), String> {
            self.1 = name.to_owned();
            self.0.tar_file_sets.insert(name.to_owned(), Vec::new());
            Ok(())
        }

        fn member(&mut self, path: &str) -> Result<(), String> {
            self.0
                .tar_file_sets
                .entry(self.1.clone())
                .or_default()
                .push(path.to_owned());
            Ok(())
        }

        fn database(&mut self, name: &str, oid: u32) -> Result<(), String> {
            self.0.databases_by_names.entry(name.to_owned()).or_default().oid = oid;
            Ok(())
        }
    }

    fn collect(text: &str) -> io::Result<FilesMetadata> {
        let mut collect = Collect::default();
        listen(text.as_bytes(), &mut collect).map(|()| collect.0)
    }

    #[test]
    fn it_is_the_same_as_read_at_once() {
        for text in [
            "{}",
            r#"{"Files": null, "TarFileSets": null, "DatabasesByNames": null}"#,
            r#"{"More": [{"x": 1}], "TarFileSets": {"a.tar": ["/x", "y"], "c.tar": []}, "LSN": 5,
                "Files": {"/x": {"IsSkipped": true, "MTime": "2026-11-20T10:00:00.5Z", "Other": null}, "/y": {}},
                "DatabasesByNames": {"db": {"oid": 1}, "none": {}}}"#,
        ] {
            let whole = FilesMetadata::read_from(text.as_bytes()).expect(text);
            assert_eq!(collect(text).expect(text), whole);
        }
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"Files": 1}"#,
            r#"{"TarFileSets": {"a": "b"}}"#,
            "{} {}",
        ] {
            assert!(collect(text).is_err(), "{text}");
        }
        assert!(collect(r#"{"TarFileSets": {"a": null}}"#).is_ok());
        let refused = collect(r#"{"Files": {"/refused": {}}}"#).expect_err("refused");
        assert!(refused.to_string().contains("it is refused"), "{refused}");
    }
}
