//! The relations of a database, as a stream: there may be millions.
//!
//! The session runs nothing that the owner of the database has made. Its settings come with the connection, so they come before
//! those of the database; its search path leads to the server's own objects alone; every function and operator is named with its
//! schema.

use std::time::Duration;

use postgres_protocol::message::backend::Message;
use walarchive_core::{Error, Result};

use crate::{Door, Row};

/// How long one database may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The settings of the session. A database can have others, which would stop it, make it wait, or give it other rows.
const SETTINGS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog,pg_temp"),
    // The server ends what nobody waits for any more.
    ("statement_timeout", "30s"),
    ("lock_timeout", "20s"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_read_only", "on"),
    ("local_preload_libraries", ""),
    // A parallel worker begins its first transaction with the database's own time limits, whatever the session's are.
    ("max_parallel_workers_per_gather", "0"),
];

/// From this version on a trigger can run at each login, and transactions can have a timeout.
const LOGIN_TRIGGERS: u32 = 170_000;

/// A relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its OID.
    pub oid: u32,
    /// The number of its files; 0 if it has none.
    pub relfilenode: u32,
    /// The name of its schema.
    pub schema: String,
    /// Its own. What is not UTF-8 in either of them is replaced.
    pub name: String,
    /// A partition of the last one that is not, or an heir.
    pub is_part: bool,
}

/// Relations with files that are in no tree of partitions. Temporary ones do not belong into a backup, and their files have
/// numbers that others have, too.
const ALONE: &str = "SELECT c.oid, CASE WHEN c.relfilenode OPERATOR(pg_catalog.=) 0::pg_catalog.oid \
    THEN pg_catalog.pg_relation_filenode(c.oid::pg_catalog.regclass) ELSE c.relfilenode END, n.nspname, c.relname, false \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,i,S,t,m,p}'::pg_catalog.\"char\"[]) \
    AND c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog.\"char\" \
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) c.oid) \
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) c.oid)";

/// The others: each tree with the relation at its top first.
const TREES: &str = "WITH RECURSIVE tree(top, oid) AS (SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits i \
    WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits p WHERE p.inhrelid OPERATOR(pg_catalog.=) i.inhparent) \
    UNION SELECT t.top, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) t.oid) \
    SELECT c.oid, CASE WHEN c.relfilenode OPERATOR(pg_catalog.=) 0::pg_catalog.oid \
    THEN pg_catalog.pg_relation_filenode(c.oid::pg_catalog.regclass) ELSE c.relfilenode END, n.nspname, c.relname, \
    m.top OPERATOR(pg_catalog.<>) c.oid \
    FROM (SELECT DISTINCT t.top, t.top AS oid FROM tree t UNION ALL SELECT t.top, t.oid FROM tree t) m \
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) m.oid \
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
    WHERE c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog.\"char\" \
    ORDER BY m.top, m.top OPERATOR(pg_catalog.<>) c.oid, c.oid";

/// Whose server it must be, and what it is.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// Of the cluster. Behind one name there may be several servers.
    pub system_identifier: u64,
    /// For example 150018.
    pub version_num: u32,
    /// May the role set what only a superuser may?
    pub is_superuser: bool,
}

/// Tell all relations of that database.
pub async fn each(door: &Door, server: Server, database: &str, take: impl FnMut(Relation) -> Result<()>) -> Result<()> {
    match tokio::time::timeout(DEADLINE, read(door, server, database, take)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(Error::timeout("list the relations of", database, DEADLINE)),
    }
}

async fn read(door: &Door, server: Server, database: &str, mut take: impl FnMut(Relation) -> Result<()>) -> Result<()> {
    let mut settings = SETTINGS.to_vec();
    if server.version_num >= LOGIN_TRIGGERS {
        settings.push(("transaction_timeout", "0"));
        if server.is_superuser {
            settings.push(("event_triggers", "off"));
        }
    }
    let mut session = door.enter(database, &settings).await?;
    let what = "list the relations";
    // A server with this encoding would not convert its names, but refuse those that are not UTF-8.
    if session.parameter("server_encoding") == Some("SQL_ASCII") {
        session.query(what, "SET client_encoding TO 'SQL_ASCII'").await?;
    }
    let found = session
        .query(what, "SELECT system_identifier FROM pg_catalog.pg_control_system()")
        .await?;
    let found = found.first().map(|row| row.parse::<i64>(0)).transpose()?;
    if found.map(i64::cast_unsigned) != Some(server.system_identifier) {
        return Err(Error::server("another server answered", "Name one server in PGHOST."));
    }
    for sql in [ALONE, TREES] {
        session.send_query(sql).await?;
        while let Some(message) = session.next(what).await? {
            if let Message::DataRow(body) = message {
                take(relation(&session.row(&body)?)?)?;
            }
        }
    }
    Ok(())
}

fn relation(row: &Row) -> Result<Relation> {
    Ok(Relation {
        oid: row.parse(0)?,
        relfilenode: row.get(1).map_or(Ok(0), |_| row.parse(1))?,
        schema: row.text(2).to_owned(),
        name: row.text(3).to_owned(),
        is_part: row.is_true(4),
    })
}
