//! `walarchive_wal_verify` and `walarchive_backup_verify`.

use std::sync::Arc;

use pgrx::datum::VariadicArray;
use pgrx::prelude::*;
use walarchive_core::repository::inventory::Inventory;
use walarchive_core::verify::{self, Archiving, BackupReport, Checks, Live, Looks, Names, Position, WalReport};
use walarchive_core::wal::Segment;
use walarchive_core::{Error, Lsn};
use walarchive_storage::Store;

use super::{argument, bigint, required, run, timeline, word};
use crate::bridge;
use crate::error::or_raise;
use crate::guc::ArchiveSettings;
use crate::pg::server;
use crate::pg::text::SqlText;
use crate::shmem::{self, ARCHIVING};

/// Is the WAL in the repository whole? `integrity` and `timeline` have the statuses of WAL-G's wal-verify; `content` reads
/// what was not verified before, `content:all` everything, `content:sample` some of it.
#[pg_extern(name = "walarchive_wal_verify", volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_wal_verify_0_2(
    checks: default!(Option<VariadicArray<'_, SqlText>>, "'{integrity,timeline}'"),
) -> TableIterator<
    'static,
    (
        name!(check_name, SqlText),
        name!(status, SqlText),
        name!(timeline, Option<i32>),
        name!(start_segment, Option<SqlText>),
        name!(end_segment, Option<SqlText>),
        name!(segments_count, Option<i64>),
        name!(segment_status, Option<SqlText>),
        name!(detail, Option<SqlText>),
    ),
> {
    let checks = required("checks", checks);
    let words: Vec<String> = checks.iter().map(|word| required("checks", word).0).collect();
    let checks = argument(Checks::parse(words.iter().map(String::as_str)));
    let store = store();
    let mut looks = Looks::default();
    while checks.names() && looks.go_on() {
        let (inventory, names) = look(&store);
        looks.add(inventory, names);
    }
    let (inventory, names) = looks.last();
    let content = checks.content.map(|selection| {
        let inventory = inventory.unwrap_or_else(|| load(&store));
        run(async move { verify::verify_content(&store, &inventory, selection, Arc::default()).await })
    });
    let rows = WalReport::new(&checks, names, content).rows();
    TableIterator::new(rows.into_iter().map(|row| {
        (
            row.check.into(),
            verdict(row.status),
            row.timeline.map(timeline),
            row.start_segment.map(SqlText),
            row.end_segment.map(SqlText),
            row.segments_count.map(bigint),
            row.segment_status.map(verdict),
            row.detail.map(SqlText),
        )
    }))
}

/// Read a base backup to its end; `LATEST` is the newest one. One row for each thing that was looked at; what is not in order has a row of its own.
#[pg_extern(name = "walarchive_backup_verify", volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
fn walarchive_backup_verify_0_2(
    name: Option<SqlText>,
) -> TableIterator<
    'static,
    (
        name!(what, SqlText),
        name!(status, SqlText),
        name!(path, SqlText),
        name!(detail, SqlText),
    ),
> {
    let (store, SqlText(name)) = (store(), required("name", name));
    let inventory = load(&store);
    let name = or_raise(inventory.named(&name)).to_owned();
    let report: BackupReport =
        run(async move { verify::verify_backup(&store, &inventory, &name, Arc::default()).await });
    TableIterator::new(report.details.into_iter().map(|row| {
        let (what, status) = (row.what.into(), verdict(row.status.as_str()));
        (what, status, row.path.into(), row.detail.into())
    }))
}

/// The words of `walarchive_check`: `ok`, `warning` and `failed`; others as they are, in lower case.
fn verdict(status: &str) -> SqlText {
    match status {
        "FAILURE" => "failed".into(),
        status => word(status),
    }
}

fn store() -> Store {
    let archive = or_raise(ArchiveSettings::current().and_then(|settings| bridge::archive(&settings)));
    match archive.writer() {
        Some(writer) => writer.fenced_notes(archive.store()),
        None => archive.store().clone(),
    }
}

fn load(store: &Store) -> Inventory {
    let store = store.clone();
    run(async move { Inventory::load(&store).await })
}

/// In this order nothing that is on its way can be taken for lost: the position, the repository, what is being uploaded,
/// and then what waits.
fn look(store: &Store) -> (Inventory, Names) {
    let (timeline, lsn) = server::wal_position();
    let inventory = load(store);
    let (identity, own) = (server::identity(), server::identity().system_identifier);
    if let Some(owner) = or_raise(verify::other_owner(store, &inventory, own, identity.segment_size)) {
        or_raise(Err(Error::ForeignRepository {
            repository: store.url().to_owned(),
            reason: format!("Its system identifier is {owner}, this cluster's is {own}."),
        }))
    }
    let position = Position {
        timeline,
        lsn: Lsn(lsn),
    };
    let mut live = Live::of_server(position, archiving(), &server::data_directory());
    live.uploading = uploading();
    let store = store.clone();
    run(async move {
        let names = verify::verify_names(&store, &inventory, live, None).await?;
        Ok((inventory, names))
    })
}

fn archiving() -> Archiving {
    match (server::archive_mode().as_str(), server::in_recovery()) {
        ("always", _) | ("on", false) => Archiving::Here,
        (_, true) => Archiving::Elsewhere,
        (_, false) => Archiving::Nowhere,
    }
}

fn uploading() -> std::collections::BTreeSet<Segment> {
    if shmem::require_preloaded().is_err() {
        return Default::default();
    }
    let names: Vec<_> = ARCHIVING.share().queue.in_upload().collect();
    names.iter().filter_map(|name| name.as_str().parse().ok()).collect()
}
