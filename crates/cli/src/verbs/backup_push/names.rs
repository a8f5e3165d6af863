//! The names of the relations of each database, so that a restore can be told tables by name. They come by a connection to each
//! database. None of them is needed for the backup, so nothing of this fails it.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use walarchive_client::server::Facts;
use walarchive_client::{Door, relations};
use walarchive_core::backup::{Database, DatabaseNames, RelationNames};
use walarchive_core::formats::files_metadata::Rank;
use walarchive_core::{Error, Result};

use super::options::Wanted;
use super::report;
use crate::signals::unless;

/// How long all databases together may take, since the server is in backup mode meanwhile.
const DEADLINE_OF_ALL: Duration = Duration::from_secs(600);

/// Databases that are named in a note.
const NAMED: usize = 10;

/// What was found.
#[derive(Default)]
pub struct Names {
    /// By database.
    pub of_relations: RelationNames,
    /// The databases whose relations are not known, and why.
    refused: Vec<(String, Error)>,
}

/// The server whose databases are asked.
pub fn server(facts: &Facts) -> relations::Server {
    relations::Server {
        system_identifier: facts.system_identifier,
        version_num: facts.version_num,
        is_superuser: facts.is_superuser(),
    }
}

/// Ask all databases, until the backup is cancelled.
pub async fn collect_until(
    cancel: &CancellationToken,
    door: Door,
    server: relations::Server,
    wanted: &Wanted,
    databases: &[Database],
) -> Names {
    let collected = async { Ok(collect(door, server, wanted, databases).await) };
    // The copying ends by the token, too, and tells that.
    unless(cancel, collected).await.unwrap_or_default()
}

/// Ask one database after the other, if the names are wanted. A database that lets nobody in, such as `template0`, is passed over.
async fn collect(door: Door, server: relations::Server, wanted: &Wanted, databases: &[Database]) -> Names {
    let began = Instant::now();
    let mut names = Names::default();
    if !wanted.options.files_metadata {
        return names;
    }
    let mut databases: Vec<&Database> = databases.iter().collect();
    databases.sort_by_key(|database| database.oid);
    for database in databases {
        // Without a name in UTF-8 a restore could not be told of it.
        let Ok(name) = std::str::from_utf8(&database.name) else {
            continue;
        };
        if !database.is_valid || !database.allows_connections {
            continue;
        }
        let asked = match began.elapsed() < DEADLINE_OF_ALL {
            true => ask(&door, server, database.oid, name, &mut names.of_relations).await,
            false => Err(Error::timeout("list the relations of", name, DEADLINE_OF_ALL)),
        };
        if let Err(error) = asked {
            tracing::info!(database = name, %error, "the relations of a database could not be listed");
            names.refused.push((name.to_owned(), error));
        }
    }
    names
}

async fn ask(door: &Door, server: relations::Server, oid: u32, name: &str, all: &mut RelationNames) -> Result<()> {
    let mut names = DatabaseNames::default();
    let take = |relation: relations::Relation| {
        let rank = match relation.is_part {
            true => Rank::Part,
            false => Rank::Top,
        };
        names.push(
            &relation.schema,
            &relation.name,
            relation.oid,
            relation.relfilenode,
            rank,
        )
    };
    relations::each(door, server, name, take).await?;
    all.add(oid, names)
}

impl Names {
    /// Name the databases that are missing.
    pub fn tell(&self) {
        let Some((_, reason)) = self.refused.first() else {
            return;
        };
        let named = self.refused.iter().take(NAMED);
        let named: Vec<String> = named.map(|(name, _)| format!("\"{}\"", name.escape_debug())).collect();
        let more = match self.refused.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        report::note(&format!(
            "the backup does not have the names of the tables in {}{more}: {reason}",
            named.join(", ")
        ));
    }
}
