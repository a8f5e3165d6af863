//! Which file goes how.

use super::*;

/// Before any backup.
const OLD: Lsn = Lsn(0x100_0000);

#[tokio::test(flavor = "multi_thread")]
async fn each_file_goes_its_way() {
    let mut world = World::new(false).await;
    for number in 100..112 {
        world.relation(&format!("base/5/{number}"), 20, OLD);
    }
    world.relation("base/5/112.1", 4, OLD);
    world.relation("base/5/105_fsm", 3, OLD);
    world.write("base/5/113", &[1; 2 * PAGE_BYTES + 100]);
    world.relation("pg_tblspc/16400/PG_15_1/5/200", 20, OLD);
    world.relation("pg_tblspc/16400/PG_15_1/6/200", 20, OLD);
    world.database("base/6");
    world.relation("base/6/100", 20, OLD);
    world.database("base/7");
    world.relation("base/7/100", 20, OLD);
    let root = world.full().await;
    world.check(&root).await;

    let since = world.sentinel(&root).await.start_lsn;
    let before = Lsn(since.0 - 1);
    // Pages that were changed, at the parent's start and later, and one that was changed before it.
    world.change("base/5/100", &[(3, page(since, 3)), (19, page(world.start(), 19))]);
    world.relation("base/5/101", 20, OLD);
    world.relation("base/5/99", 20, OLD);
    std::fs::remove_file(world.data().join("base/5/103")).expect("removed");
    world.cut("base/5/104", 5);
    // As if it was still being copied when the parent was taken: the LSNs of the new pages are old.
    let more: Vec<_> = (20..23).map(|number| (number, page(before, number))).collect();
    world.change("base/5/105", &more);
    // No page, a new page, and one that no record tells about.
    world.change("base/5/106", &[(7, [0x55; PAGE_BYTES])]);
    world.change("base/5/107", &[(2, [0; PAGE_BYTES])]);
    world.change("base/5/108", &[(9, page(Lsn(0), 9))]);
    let all: Vec<_> = (0..20).map(|number| (number, page(since, number))).collect();
    world.change("base/5/109", &all);
    world.cut("base/5/110", 0);
    world.change("base/5/112.1", &[(1, page(since, 1))]);
    world.change("base/5/105_fsm", &[(0, page(since, 0))]);
    world.change("base/5/113", &[(0, page(since, 0))]);
    world.change("pg_tblspc/16400/PG_15_1/5/200", &[(11, page(since, 11))]);
    // The database 6 was dropped, and made again with the same OID from one whose pages are old; 8 is new.
    world.write("base/6/PG_VERSION", b"15\n");
    world.change("base/6/100", &[(1, page(OLD, 1))]);
    world.change("pg_tblspc/16400/PG_15_1/6/200", &[(2, page(OLD, 2))]);
    world.database("base/8");
    world.relation("base/8/100", 20, OLD);
    std::fs::remove_dir_all(world.data().join("base/7")).expect("removed");
    let name = world.delta().await;
    world.check(&name).await;

    let files = world.files(&name).await;
    for (path, blocks) in [
        ("base/5/100", &[3, 19][..]),
        ("base/5/101", &[]),
        ("base/5/104", &[]),
        ("base/5/105", &[20, 21, 22]),
        ("base/5/107", &[2]),
        ("base/5/108", &[9]),
        ("base/5/112.1", &[1]),
        ("pg_tblspc/16400/PG_15_1/5/200", &[11]),
    ] {
        assert!(files[&format!("/{path}")].is_incremented, "{path}");
        assert_eq!(world.increment(&name, path).await.blocks, blocks, "{path}");
    }
    let members = world.members(&name).await;
    for path in [
        "PG_VERSION",
        "base/5/99",
        "base/5/105_fsm",
        "base/5/106",
        "base/5/109",
        "base/5/110",
        "base/5/113",
        "base/6/100",
        "base/8/100",
        "global/pg_control",
        "pg_tblspc/16400/PG_15_1/6/200",
        "pg_xact/0000",
    ] {
        let path = format!("/{path}");
        assert!(!files[&path].is_incremented && !files[&path].is_skipped, "{path}");
        assert!(members.contains_key(&path), "{path}");
    }
    assert!(!files.contains_key("/base/5/103") && !files.contains_key("/base/7"));
    assert!(files.contains_key("/base/8"), "directories are there");

    let sentinel = world.sentinel(&name).await;
    assert_eq!(name, format!("{}_D_{}", "base_000000010000000000000003", &root[5..]));
    assert_eq!(sentinel.delta_lsn, Some(since));
    assert_eq!(sentinel.delta_from.as_ref(), Some(&root));
    assert_eq!(sentinel.delta_full_name.as_ref(), Some(&root));
    assert_eq!(sentinel.delta_count, Some(1));
    let stored: usize = members.values().map(Vec::len).sum();
    assert_eq!(sentinel.uncompressed_size, stored as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_comes_together_whatever_happens_to_it() {
    for seed in 0..4u64 {
        let mut world = World::new(seed % 2 == 0).await;
        world.options.tar_bytes = 200_000;
        let mut random = Random(seed);
        for number in 0..12 {
            world.relation(&format!("base/5/{number}"), random.below(30) as u32, OLD);
        }
        let mut name = world.full().await;
        let root = name.clone();
        for _ in 0..4 {
            let lsn = Lsn(world.sentinel(&name).await.finish_lsn.0 + 1);
            for number in 0..12 {
                churn(&world, &mut random, &format!("base/5/{number}"), lsn);
            }
            name = world.delta().await;
            world.check(&name).await;
        }
        let sentinel = world.sentinel(&name).await;
        assert_eq!((sentinel.delta_count, sentinel.delta_full_name), (Some(4), Some(root)));
    }
}

/// Do something to a relation that the server does.
fn churn(world: &World, random: &mut Random, path: &str, lsn: Lsn) {
    let full = world.data().join(path);
    let length = std::fs::metadata(&full).map_or(0, |found| found.len() / PAGE_BYTES as u64);
    match random.below(8) {
        0 => drop(std::fs::remove_file(full)),
        1 => world.relation(path, random.below(30) as u32, lsn),
        2 if length > 0 => world.cut(path, random.below(length)),
        // Extended, by pages that are new and pages in use.
        3 | 4 if length > 0 => {
            let end = (length + random.below(10)) as u32;
            world.change(path, &[(end, [0; PAGE_BYTES]), (end + 1, page(lsn, end + 1))]);
        }
        5 | 6 if length > 0 => {
            let pages: Vec<_> = (0..random.below(5))
                .map(|_| random.below(length) as u32)
                .map(|number| (number, page(lsn, number)))
                .collect();
            world.change(path, &pages);
        }
        _ => {}
    }
}

/// The same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_is_told_only_if_it_holds() {
    for (data_checksums, same_host, told) in [(true, true, true), (false, true, false), (true, false, false)] {
        let mut world = World::new(data_checksums).await;
        // More changed pages than are kept in memory.
        world.relation("base/5/100", 3000, OLD);
        world.relation("base/5/101", 10, OLD);
        let root = world.full().await;
        let since = world.sentinel(&root).await.start_lsn;
        let pages: Vec<_> = (0..3000)
            .step_by(2)
            .map(|number| (number, page(since, number)))
            .collect();
        world.change("base/5/100", &pages);
        // It rots: the page has an old LSN and a wrong checksum.
        let mut rotten = sample(OLD, 4, 4);
        rotten[100] ^= 1;
        world.change("base/5/101", &[(4, rotten)]);
        let mut parent = world.parent(&latest(1)).await;
        if !same_host {
            let elsewhere = BackupRequest {
                hostname: "other".to_owned(),
                ..world.request()
            };
            let Choice::Delta(found) = choose(&world.store, &elsewhere, false, &latest(1))
                .await
                .expect("chosen")
            else {
                panic!("no parent");
            };
            parent = found;
        }
        let name = world.take(Some(parent)).await;
        assert_eq!(world.increment(&name, "base/5/100").await.blocks.len(), 1500);
        assert_eq!(world.sum(&name, "base/5/100").await.is_some(), told);
        assert_eq!(
            world.sum(&name, "base/5/101").await,
            None,
            "the parent's page is another"
        );
        assert!(world.sum(&name, "pg_xact/0000").await.is_some());
        let found = world.files(&name).await["/base/5/101"]
            .corrupt_blocks
            .as_ref()
            .map(|found| found.count);
        assert_eq!(found, data_checksums.then_some(1));
        // A page that is seen to be wrong may have lost its LSN: it comes in as it is.
        let restored = world.restored(&name).await;
        let page = if data_checksums { rotten } else { sample(OLD, 4, 4) };
        assert!(restored["/base/5/101"][4 * PAGE_BYTES..5 * PAGE_BYTES] == page);
        if !data_checksums {
            world.relation("base/5/101", 10, OLD);
        }
        world.check(&name).await;
    }
    // A standby does not write the hints that its primary writes.
    let mut world = World::new(true).await;
    world.relation("base/5/100", 10, OLD);
    world.full().await;
    let chosen = choose(&world.store, &world.request(), true, &latest(1))
        .await
        .expect("chosen");
    let Choice::Delta(parent) = chosen else {
        panic!("no parent")
    };
    let name = world.take(Some(parent)).await;
    assert_eq!(world.increment(&name, "base/5/100").await.blocks, Vec::<u32>::new());
    assert_eq!(world.sum(&name, "base/5/100").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rests_is_left_out_and_nothing_else() {
    for data_checksums in [true, false] {
        let mut world = World::new(data_checksums).await;
        for number in 100..106 {
            world.relation(&format!("base/5/{number}"), 10, OLD);
        }
        world.settle();
        // Written just before the backup: somebody may write it again at the same tick.
        world.relation("base/5/200", 10, OLD);
        let root = world.full().await;
        let since = world.sentinel(&root).await.start_lsn;
        let skipped = async |world: &World, name: &str| -> Vec<String> {
            let files = world.files(name).await;
            files
                .into_iter()
                .filter(|(_, file)| file.is_skipped)
                .map(|(path, _)| path)
                .collect()
        };
        assert_eq!(skipped(&world, &root).await, [""; 0]);

        // The same bytes, and the time of modification is set back.
        let path = world.data().join("base/5/100");
        let modified = std::fs::metadata(&path).expect("there").modified().expect("a time");
        let file = std::fs::File::options().write(true).open(&path).expect("opened");
        file.write_all_at(&[sample(OLD, 0, 0)[0]], 0).expect("written");
        file.set_modified(modified).expect("set");
        // Another file under the name, of the same age.
        std::fs::rename(world.data().join("base/5/101"), world.data().join("base/5/999")).expect("renamed");
        std::fs::hard_link(world.data().join("base/5/102"), world.data().join("base/5/101")).expect("linked");
        std::fs::remove_file(world.data().join("base/5/999")).expect("removed");
        world.cut("base/5/103", 9);
        world.change("base/5/104", &[(2, page(since, 2))]);
        let first = world.delta().await;
        world.check(&first).await;
        let rest = [
            "/PG_VERSION",
            "/base/1/PG_VERSION",
            "/base/5/105",
            "/base/5/PG_VERSION",
            "/pg_xact/0000",
        ];
        assert_eq!(skipped(&world, &first).await, rest);
        assert_eq!(world.increment(&first, "base/5/104").await.blocks, [2]);
        for path in rest {
            assert!(world.sum(&first, &path[1..]).await.is_some(), "{path}");
        }
        let members = world.members(&first).await;
        assert!(
            rest.iter().all(|path| !members.contains_key(*path)),
            "{:?}",
            members.keys()
        );

        // A file that was fresh then rests now, and one that rested still does; also if only an increment told of it.
        world.settle();
        let second = world.delta().await;
        world.check(&second).await;
        assert_eq!(skipped(&world, &second).await, rest);
        let third = world.delta().await;
        world.check(&third).await;
        let all: Vec<String> = world
            .expected()
            .into_keys()
            .filter(|path| path != "/global/pg_control")
            .collect();
        assert_eq!(skipped(&world, &third).await, all);
        assert_eq!(world.sum(&third, "base/5/104").await.is_some(), data_checksums);
        let members = world.members(&third).await;
        assert!(members.into_keys().eq(["/global/pg_control", "backup_label"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_corrupt_in_the_parent_goes_whole() {
    let mut world = World::new(true).await;
    for path in ["base/5/100", "base/5/101"] {
        world.relation(path, 10, OLD);
    }
    let mut rotten = sample(OLD, 4, 4);
    rotten[100] ^= 1;
    world.change("base/5/100", &[(4, rotten)]);
    world.settle();
    let root = world.full().await;
    let corrupt = async |world: &World, name: &str| {
        let found = world.files(name).await;
        found["/base/5/100"].corrupt_blocks.as_ref().map(|found| found.count)
    };
    assert_eq!(corrupt(&world, &root).await, Some(1));
    // It rests, and every backup tells of it.
    let first = world.delta().await;
    world.check(&first).await;
    assert_eq!(corrupt(&world, &first).await, Some(1));
    // Somebody has put it right, and no WAL record tells about that.
    world.change("base/5/100", &[(4, sample(OLD, 4, 4))]);
    let second = world.delta().await;
    world.check(&second).await;
    assert_eq!(corrupt(&world, &second).await, None);
    for name in [&first, &second] {
        let file = &world.files(name).await["/base/5/100"];
        assert!(!file.is_skipped && !file.is_incremented, "{name}");
        assert!(world.files(name).await["/base/5/101"].is_skipped, "{name}");
    }
    let third = world.delta().await;
    assert!(
        world.files(&third).await["/base/5/100"].is_incremented,
        "it is like any other now"
    );
    world.check(&third).await;
}
