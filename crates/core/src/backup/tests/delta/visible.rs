//! Pages that VACUUM marks as all-visible without a new LSN, as it does in a cluster without data checksums.

use super::*;

const OLD: Lsn = Lsn(0x100_0000);
const TABLE: &str = "base/5/100";
const MAP: &str = "base/5/100_vm";

/// A page of the table, whose LSN does not tell whether it is marked.
fn page_of(number: u32, marked: bool) -> (u32, [u8; PAGE_BYTES]) {
    let mut page = sample(OLD, number, number as u8);
    page[10] |= u8::from(marked) << 2;
    (number, page)
}

/// A table of 30 pages with the first ten marked, and the full backup of it.
async fn world() -> World {
    let mut world = World::new(false).await;
    world.relation(TABLE, 30, OLD);
    vacuum(&world, &(0..10).collect::<Vec<_>>());
    let full = world.full().await;
    assert_eq!(marked(&world, &full).await, Some((0..10).collect()));
    world
}

/// Mark pages, and write the map.
fn vacuum(world: &World, pages: &[u32]) {
    let pages: Vec<_> = pages.iter().map(|number| page_of(*number, true)).collect();
    world.change(TABLE, &pages);
    world.relation(MAP, 1, world.start());
}

async fn marked(world: &World, name: &str) -> Option<AllVisible> {
    world.files(name).await[&format!("/{TABLE}")].all_visible.clone()
}

async fn delta_of(world: &mut World, blocks: &[u32]) -> String {
    let name = world.delta().await;
    assert_eq!(world.increment(&name, TABLE).await.blocks, blocks, "{name}");
    world.check(&name).await;
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_parent_did_not_see_is_taken() {
    let mut world = world().await;
    vacuum(&world, &[3, 14, 15]);
    let first = delta_of(&mut world, &[14, 15]).await;
    let known = (0..10).chain([14, 15]);
    assert_eq!(marked(&world, &first).await, Some(known.clone().collect()));
    vacuum(&world, &[14, 20]);
    world.settle();
    let second = delta_of(&mut world, &[20]).await;
    // A page that rests is left out, and its marks are not forgotten.
    let skipped = world.delta().await;
    assert!(world.files(&skipped).await[&format!("/{TABLE}")].is_skipped);
    assert_eq!(marked(&world, &skipped).await, marked(&world, &second).await);
    vacuum(&world, &[21]);
    let name = delta_of(&mut world, &[21]).await;
    // A backup that forgets them takes all of the pages, and is right.
    let mut described =
        FilesMetadata::read_from(&world.object(&layout::files_metadata(&name)).await[..]).expect("read");
    for file in described.files.values_mut() {
        file.all_visible = None;
    }
    let mut text = Vec::new();
    described.write_to(&mut text).expect("written");
    let key = layout::files_metadata(&name);
    world.store.put(&key, text.into()).await.expect("written");
    vacuum(&world, &[22]);
    delta_of(&mut world, &known.chain(20..23).collect::<Vec<_>>()).await;
}

/// The server writes the page, and the map later: until then nobody relies on it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_marked_and_not_taken_is_not_noted() {
    let mut world = World::new(false).await;
    world.relation(TABLE, 30, OLD);
    world.relation(MAP, 1, OLD);
    world.settle();
    world.full().await;
    world.change(TABLE, &[page_of(14, true)]);
    let first = world.delta().await;
    assert!(world.increment(&first, TABLE).await.blocks.is_empty());
    assert_eq!(marked(&world, &first).await, None);
    vacuum(&world, &[15]);
    let second = delta_of(&mut world, &[14, 15]).await;
    assert_eq!(marked(&world, &second).await, Some([14, 15].into_iter().collect()));
    // VACUUM has found that it should not be, and says so in no record.
    world.change(TABLE, &[page_of(15, false)]);
    world.relation(MAP, 1, world.start());
    delta_of(&mut world, &[15]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_wal_summaries_leave_out_is_as_the_parent_saw_it() {
    let mut world = world().await;
    world.options.wal_summaries = true;
    let from = world.start().0 - SEGMENT;
    let path = format!("pg_wal/summaries/{:08X}{from:016X}{:016X}.summary", 1, world.start().0);
    // The records of VACUUM name the pages that it marks; page 4 was changed, and is not marked any more.
    world.change(TABLE, &[page_of(4, false)]);
    vacuum(&world, &[12]);
    let none = u32::MAX;
    world.write(
        &path,
        &crate::backup::delta::summary_of(&[((1663, 5, 100), none, &[4, 12])]),
    );
    let name = delta_of(&mut world, &[4, 12]).await;
    let expected = (0..10).filter(|page| *page != 4).chain([12]);
    assert_eq!(marked(&world, &name).await, Some(expected.collect()));
    world.options.wal_summaries = false;
    vacuum(&world, &[4, 13]);
    delta_of(&mut world, &[4, 13]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_checksums_the_lsn_tells() {
    let mut world = World::new(true).await;
    let marked: Vec<_> = (0..3).map(|number| page_of(number, true).1).collect();
    world.write(TABLE, &marked.concat());
    let full = world.full().await;
    assert_eq!(world.files(&full).await[&format!("/{TABLE}")].all_visible, None);
}
