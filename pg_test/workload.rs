//! A workload of random statements that does to the files of a cluster whatever PostgreSQL can do to them: the same one for
//! the same seed.

use std::collections::BTreeMap;

use walarchive_testkit::Cluster;

use crate::random::Random;

/// Tablespaces beside the default one: `space1` and so on. The caller of the workload makes them.
pub const SPACES: usize = 2;

/// Databases beside `postgres`.
const DATABASES: usize = 3;
const TABLES: usize = 7;

/// The kinds of an index, with the expression that it is on.
const INDEXES: [(&str, &str); 6] = [
    ("btree", "(id, left(body, 40))"),
    ("hash", "(id)"),
    ("gin", "(tags)"),
    ("gist", "(place)"),
    ("spgist", "(place)"),
    ("brin", "(id)"),
];

/// The statements to come, and what those before have left.
pub struct Workload {
    random: Random,
    /// By database: the tables in it.
    databases: BTreeMap<String, Vec<Table>>,
    prepared: Vec<(String, String)>,
    objects: u32,
    number: u32,
}

#[derive(Debug, Clone)]
struct Table {
    name: String,
    unlogged: bool,
    indexes: Vec<String>,
}

impl Workload {
    /// The workload of a seed.
    pub fn new(seed: u64) -> Workload {
        Workload {
            random: Random::new(seed),
            databases: BTreeMap::from([("postgres".to_owned(), Vec::new())]),
            prepared: Vec::new(),
            objects: 0,
            number: 0,
        }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit)
    }

    /// Run that many statements, one after the other.
    #[track_caller]
    pub fn run(&mut self, cluster: &Cluster, statements: usize) {
        for _ in 0..statements {
            let (database, sql) = self.next();
            cluster.psql_db(&database, &sql);
        }
    }

    /// Prepared transactions are in the way of a dump that is compared with one of a later moment.
    #[track_caller]
    pub fn settle(&mut self, cluster: &Cluster) {
        while !self.prepared.is_empty() {
            let (database, sql) = self.resolve(0);
            cluster.psql_db(&database, &sql);
        }
    }

    /// The next statement, and the database in which to run it.
    fn next(&mut self) -> (String, String) {
        self.number += 1;
        let number = self.number;
        match self.below(100) {
            0..4 if self.databases.len() <= DATABASES => self.create_database(number),
            4..6 => self.drop_database(),
            6..9 => self.move_database(),
            9..12 => self.large_object(),
            12..15 => self.prepare(number),
            15..17 if !self.prepared.is_empty() => {
                let index = self.below(self.prepared.len());
                self.resolve(index)
            }
            17..19 => ("postgres".to_owned(), "CHECKPOINT".to_owned()),
            _ => self.in_a_table(number),
        }
    }

    fn space(&mut self) -> String {
        match self.below(SPACES + 1) {
            0 => "pg_default".to_owned(),
            number => format!("space{number}"),
        }
    }

    fn pick_database(&mut self) -> String {
        let index = self.below(self.databases.len());
        self.databases.keys().nth(index).cloned().unwrap_or_default()
    }

    /// A database without prepared transactions, and not the one that must stay.
    fn pick_idle_database(&mut self) -> Option<String> {
        let name = self.pick_database();
        let busy = self.prepared.iter().any(|(database, _)| *database == name);
        (name != "postgres" && !busy).then_some(name)
    }

    fn create_database(&mut self, number: u32) -> (String, String) {
        let name = format!("d{number}");
        // A copy of one that has tables now and then.
        let template = self.pick_idle_database().filter(|_| number.is_multiple_of(2));
        let tables = template.as_ref().map(|template| self.databases[template].clone());
        self.databases.insert(name.clone(), tables.unwrap_or_default());
        // A database that has tables in a tablespace by name cannot be copied into that one.
        let from = match &template {
            Some(template) => format!("TEMPLATE {template}"),
            None => format!("TABLESPACE {}", self.space()),
        };
        // What changes in a template during a backup would come into a copy of its files at recovery, says PostgreSQL's manual.
        let strategy = match ["wal_log", "file_copy"][self.below(2)] {
            strategy if template.is_none() => strategy,
            _ => "wal_log",
        };
        // The OID of one that was dropped comes again, as after a wraparound.
        let oid = 90_000 + self.below(3);
        let sql = format!("CREATE DATABASE {name} STRATEGY {strategy} {from}");
        let with_oid = format!(
            "SELECT '{sql}' || CASE WHEN EXISTS (SELECT FROM pg_database WHERE oid = {oid}) THEN '' ELSE ' OID {oid}' END \\gexec"
        );
        ("postgres".to_owned(), with_oid)
    }

    fn drop_database(&mut self) -> (String, String) {
        match self.pick_idle_database() {
            Some(name) => {
                self.databases.remove(&name);
                ("postgres".to_owned(), format!("DROP DATABASE {name} WITH (FORCE)"))
            }
            None => self.in_a_table(self.number),
        }
    }

    fn move_database(&mut self) -> (String, String) {
        let space = self.space();
        match self.pick_idle_database() {
            // It is refused while a table in it has that tablespace by name.
            Some(name) => {
                let sql = format!(
                    "DO $$BEGIN PERFORM pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'; END$$;
                     \\set ON_ERROR_STOP off\n ALTER DATABASE {name} SET TABLESPACE {space};"
                );
                ("postgres".to_owned(), sql)
            }
            None => self.in_a_table(self.number),
        }
    }

    fn large_object(&mut self) -> (String, String) {
        let sql = match self.objects {
            0..3 => {
                self.objects += 1;
                "SELECT lo_from_bytea(0, (SELECT string_agg(md5(i::text), '')::bytea FROM generate_series(1, 3000) i))"
            }
            _ => {
                self.objects -= 1;
                "SELECT lo_unlink(max(oid)) FROM pg_largeobject_metadata"
            }
        };
        ("postgres".to_owned(), sql.to_owned())
    }

    fn prepare(&mut self, number: u32) -> (String, String) {
        if self.prepared.len() >= 3 {
            return self.resolve(0);
        }
        let database = self.pick_database();
        self.prepared.push((database.clone(), format!("p{number}")));
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS promised (id int, body text);
             BEGIN; INSERT INTO promised SELECT {number}, repeat('x', i) FROM generate_series(1, 300) i; PREPARE TRANSACTION 'p{number}'"
        );
        (database, sql)
    }

    fn resolve(&mut self, index: usize) -> (String, String) {
        let (database, name) = self.prepared.remove(index);
        let end = ["COMMIT", "COMMIT", "ROLLBACK"][self.below(3)];
        (database, format!("{end} PREPARED '{name}'"))
    }

    fn in_a_table(&mut self, number: u32) -> (String, String) {
        let database = self.pick_database();
        let tables = self.databases[&database].len();
        if tables == 0 || (tables < TABLES && self.below(4) == 0) {
            return self.create_table(database, number);
        }
        let index = self.below(tables);
        let Table {
            name,
            unlogged,
            indexes,
        } = self.databases[&database][index].clone();
        let (from, rows) = (self.below(4000), 1 + self.below(1500));
        let sql = match self.below(20) {
            0..4 => fill(&name, from, rows),
            4..7 => format!(
                "UPDATE {name} SET body = md5(body), tags = tags || {number} WHERE id BETWEEN {from} AND {}",
                from + rows
            ),
            7..9 => format!("DELETE FROM {name} WHERE id BETWEEN {from} AND {}", from + rows),
            9 => format!("VACUUM {name}"),
            10 => format!("VACUUM (FREEZE) {name}"),
            11 => format!("VACUUM FULL {name}"),
            12 => format!("TRUNCATE {name}"),
            // At its end, so that a vacuum cuts the file off.
            13 => format!("DELETE FROM {name} WHERE ctid > '(3,0)'; VACUUM {name}"),
            14 => {
                let space = self.space();
                format!("ALTER TABLE {name} SET TABLESPACE {space}")
            }
            15 => {
                if let Some(tables) = self.databases.get_mut(&database) {
                    tables.remove(index);
                }
                format!("DROP TABLE {name}")
            }
            16 => {
                if let Some(table) = self.table(&database, index) {
                    table.unlogged = !unlogged;
                }
                format!(
                    "ALTER TABLE {name} SET {}",
                    if unlogged { "LOGGED" } else { "UNLOGGED" }
                )
            }
            17 => match indexes.iter().find(|index| index.contains("_btree")) {
                Some(order) => format!("CLUSTER {name} USING {order}"),
                None => format!("REINDEX TABLE {name}"),
            },
            18 => format!(
                "CREATE TEMPORARY TABLE temporary AS TABLE {name}; INSERT INTO temporary TABLE temporary; ANALYZE temporary"
            ),
            _ => return self.index(database, index, number),
        };
        (database, sql)
    }

    fn create_table(&mut self, database: String, number: u32) -> (String, String) {
        let name = format!("t{number}");
        let (space, rows) = (self.space(), 1 + self.below(3000));
        let unlogged = self.below(6) == 0;
        let table = Table {
            name: name.clone(),
            unlogged,
            indexes: Vec::new(),
        };
        self.databases.entry(database.clone()).or_default().push(table);
        let kind = if unlogged { "UNLOGGED" } else { "" };
        let sql = format!(
            "CREATE {kind} TABLE {name} (id int, body text, tags int[], place point) TABLESPACE {space}; {}",
            fill(&name, 0, rows)
        );
        (database, sql)
    }

    /// Make one, or drop one.
    fn index(&mut self, database: String, table: usize, number: u32) -> (String, String) {
        let (method, on) = INDEXES[self.below(INDEXES.len())];
        let space = self.space();
        let Some(table) = self.table(&database, table) else {
            return (database, "SELECT 1".to_owned());
        };
        if table.indexes.len() >= 4 {
            let gone = table.indexes.swap_remove(0);
            return (database, format!("DROP INDEX {gone}"));
        }
        let name = format!("i{number}_{method}");
        table.indexes.push(name.clone());
        let sql = format!(
            "CREATE INDEX {name} ON {} USING {method} {on} TABLESPACE {space}",
            table.name
        );
        (database, sql)
    }

    fn table(&mut self, database: &str, index: usize) -> Option<&mut Table> {
        self.databases.get_mut(database)?.get_mut(index)
    }
}

/// Some long rows among them, which go to the TOAST table.
fn fill(name: &str, from: usize, rows: usize) -> String {
    format!(
        "INSERT INTO {name} SELECT i, CASE WHEN i % 200 = 0
             THEN (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 400) j) ELSE md5(i::text) END,
           ARRAY[i, i % 7], point(i % 100, i / 100) FROM generate_series({from}, {}) i",
        from + rows
    )
}
