//! The backup believes the server's WAL summaries, and reads nothing else.

use super::*;
use crate::backup::delta::summary_of;

const OLD: Lsn = Lsn(0x100_0000);

/// From the start of the last backup to that of the next one.
fn name(world: &World, from: Lsn) -> String {
    format!(
        "pg_wal/summaries/{:08X}{:016X}{:016X}.summary",
        world.timeline,
        from.0,
        world.start().0
    )
}

async fn world() -> (World, Lsn) {
    let mut world = World::new(true).await;
    world.options.wal_summaries = true;
    for number in 100..104 {
        world.relation(&format!("base/5/{number}"), 20, OLD);
    }
    world.database("base/6");
    world.relation("base/6/100", 20, OLD);
    world.relation("pg_tblspc/16400/PG_15_1/5/200", 20, OLD);
    let root = world.full().await;
    let since = world.sentinel(&root).await.start_lsn;
    (world, since)
}

#[tokio::test(flavor = "multi_thread")]
async fn summaries_tell_which_blocks_have_changed() {
    let (mut world, since) = world().await;
    // It does not look at blocks that they do not name: not even at a page that tells by its LSN that it was changed.
    world.change("base/5/100", &[(3, page(since, 3)), (4, page(since, 4))]);
    world.change("base/5/101", &[(20, page(OLD, 20))]);
    world.change("base/5/102", &[(1, page(since, 1)), (17, page(OLD, 17))]);
    world.change("base/5/103", &[(0, page(OLD, 0))]);
    world.change("base/6/100", &[(0, page(OLD, 0))]);
    world.change("pg_tblspc/16400/PG_15_1/5/200", &[(19, page(since, 19))]);
    let none = u32::MAX;
    let summary = summary_of(&[
        ((1663, 5, 100), none, &[3]),
        ((1663, 5, 102), 15, &[1]),
        ((1663, 5, 103), 0, &[]),
        ((1663, 6, 0), 0, &[]),
        ((16400, 5, 200), none, &[19]),
    ]);
    // The summarizer is a bit behind.
    let (path, data) = (name(&world, since), world.data());
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        std::fs::create_dir_all(data.join("pg_wal/summaries")).expect("made");
        let temporary = data.join("pg_wal/summaries/temp.summary");
        std::fs::write(&temporary, summary).expect("written");
        std::fs::rename(temporary, data.join(path)).expect("renamed");
    });
    let delta = world.delta().await;
    late.join().expect("written");
    for (path, blocks) in [
        ("base/5/100", &[3][..]),
        ("base/5/101", &[20]),
        ("base/5/102", &[1, 15, 16, 17, 18, 19]),
        ("pg_tblspc/16400/PG_15_1/5/200", &[19]),
    ] {
        assert_eq!(world.increment(&delta, path).await.blocks, blocks, "{path}");
        assert_eq!(world.sum(&delta, path).await, None, "it was not read");
    }
    let files = world.files(&delta).await;
    for path in ["/base/5/103", "/base/6/100"] {
        assert!(!files[path].is_incremented, "{path}");
    }
    // But for the page that the summary does not name, it is all there.
    world.change("base/5/100", &[(4, sample(OLD, 4, 4))]);
    world.check(&delta).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_whole_summary_the_pages_are_asked() {
    for damage in ["gap", "bytes"] {
        let (mut world, since) = world().await;
        world.change("base/5/100", &[(3, page(since, 3)), (4, page(since, 4))]);
        let summary = summary_of(&[((1663, 5, 100), u32::MAX, &[3])]);
        match damage {
            "gap" => world.write(&name(&world, Lsn(since.0 + 1)), &summary),
            _ => world.write(&name(&world, since), &summary[1..]),
        }
        let delta = world.delta().await;
        assert_eq!(world.increment(&delta, "base/5/100").await.blocks, [3, 4], "{damage}");
        world.check(&delta).await;
    }
}
