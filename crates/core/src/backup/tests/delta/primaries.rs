//! Which server each backup of a chain was taken from: another one has set other hints in its pages.

use super::*;

const OLD: Lsn = Lsn(0x100_0000);

/// The server that takes a backup: the host, the timeline, and whether the data directory goes by its second name.
type Place = (&'static str, u32, bool);

/// The next backup, a delta if there is a parent.
async fn take(world: &mut World, (host, timeline, by_second_name): Place) -> String {
    world.timeline = timeline;
    let mut request = BackupRequest {
        hostname: host.to_owned(),
        ..world.request()
    };
    if by_second_name {
        request.data_dir = world.dir.path().join("second");
    }
    let chosen = choose(&world.store, &request, false, &latest(9)).await.expect("chosen");
    if let Choice::Delta(parent) = chosen {
        request.parent = Some(parent);
    }
    world.take_as(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_is_told_if_all_of_the_chain_is_of_one_primary() {
    const HERE: Place = ("here", 1, false);
    let chains = [
        ([HERE, HERE, HERE], true),
        // A failover that changes nothing but the timeline, before the newest backup or long before.
        ([HERE, HERE, ("here", 2, false)], false),
        ([HERE, ("here", 2, false), ("here", 2, false)], false),
        // The other one of two servers, and back again.
        ([("there", 1, false), HERE, HERE], false),
        ([HERE, ("there", 1, false), HERE], false),
        ([("here", 1, true), HERE, HERE], false),
    ];
    for (places, told) in chains {
        let mut world = World::new(true).await;
        std::os::unix::fs::symlink(world.data(), world.dir.path().join("second")).expect("linked");
        world.relation("base/5/100", 20, OLD);
        // It leads away from timeline 1 after all that was backed up there.
        world.write("pg_wal/00000002.history", b"1\t0/9000000\tx\n");
        let mut name = String::new();
        for place in places {
            let page = page(world.start(), 3);
            name = take(&mut world, place).await;
            world.change("base/5/100", &[(3, page)]);
        }
        // As it was backed up.
        world.change("base/5/100", &[(3, page(Lsn((world.next - 2) * SEGMENT + 0x28), 3))]);
        assert_eq!(world.increment(&name, "base/5/100").await.blocks, [3], "{places:?}");
        let sum = world.sum(&name, "base/5/100").await;
        assert_eq!(sum.is_some(), told, "{places:?}");
        world.check(&name).await;
    }
}
