//! Repositories that are built here, healthy and damaged.

mod content;
mod names;

use std::io::Write;
use std::sync::Arc;

use super::*;
use crate::codec::{Compression, Format};
use crate::repository::layout;
use crate::wal::generator::{SIZE_BYTES, SYSTEM_IDENTIFIER};
use crate::wal::{Segment, WalFileName};

/// A repository with segments of 1 MB, in memory.
async fn repository() -> Store {
    let store = Store::of(Arc::new(object_store::memory::InMemory::new()), "memory:");
    let owner = format!(
        r#"{{"format_version": 1, "system_identifier": {SYSTEM_IDENTIFIER}, "pg_major_version": 15,
             "wal_segment_size": {SIZE_BYTES}, "encryption": false}}"#
    );
    store.put(&layout::CLUSTER, owner.into()).await.expect("written");
    store
}

fn key(segment: Segment) -> layout::Key {
    layout::wal(&WalFileName::Segment(segment), Format::Zstd)
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut encoder = Compression::Zstd(1).encoder(Vec::new()).expect("an encoder");
    encoder.write_all(content).expect("compressed");
    encoder.finish().expect("finished")
}

async fn put(store: &Store, segment: Segment, content: &[u8]) {
    store.put(&key(segment), packed(content).into()).await.expect("written");
}

async fn load(store: &Store) -> Inventory {
    Inventory::load(store).await.expect("loaded")
}
