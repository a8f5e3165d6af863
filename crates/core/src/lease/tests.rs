mod turns;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use tempfile::TempDir;

use super::instance::Instance;
use super::*;
use crate::error::{Error, Result};
use crate::repository::layout;
use walarchive_storage::{Store, Write};
use walarchive_testkit::meddler::{Act, Meddler, Op};
use walarchive_testkit::pretender::{Create, Pretender};

/// Short, and long enough for a loaded machine to renew in time.
const TICK: Duration = Duration::from_millis(400);

fn situation(timeline: u32) -> Situation {
    Situation {
        in_recovery: false,
        is_standby: false,
        timeline,
        interval: TICK,
    }
}

fn store() -> Store {
    Store::of(Arc::new(InMemory::new()), "memory:")
}

/// A directory that looks like a data directory. In memory, where there is such a place: on a busy disk a renewal may take longer
/// than the leases here last.
fn data_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let dir = dir.expect("a directory");
    for name in ["base", "global", "pg_wal"] {
        std::fs::create_dir(dir.path().join(name)).expect("a directory");
    }
    dir
}

/// As `cp -a` does.
fn copy(of: &Path) -> TempDir {
    let dir = data_dir();
    std::fs::copy(file(of), file(dir.path())).expect("copied");
    dir
}

fn writer(store: &Store, dir: &Path, timeline: u32) -> Arc<Writer> {
    Writer::new(store.clone(), dir, situation(timeline))
}

/// The same process, or the next one: all state is in the file and in the store.
async fn permit(store: &Store, dir: &Path, timeline: u32) -> Result<()> {
    writer(store, dir, timeline).permit(Write::Object).await
}

fn reason<E: Into<Error>>(refused: Result<(), E>) -> String {
    match refused.map_err(Into::into) {
        Err(error @ Error::NotWriter { .. }) => error.detail().unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

async fn epoch(store: &Store) -> u64 {
    Lease::read(store).await.expect("read").expect("a lease").holder.epoch
}

/// Renews for so long.
async fn live(writer: &Writer, time: Duration) {
    let until = std::time::Instant::now() + time;
    while std::time::Instant::now() < until {
        writer.tick().await.expect("renewed");
        tokio::time::sleep(TICK / 4).await;
    }
}

#[tokio::test]
async fn the_same_instance_goes_on_at_once_and_a_copy_waits_until_it_is_gone() {
    let (store, dir) = (store(), data_dir());
    permit(&store, dir.path(), 1).await.expect("the first");
    permit(&store, dir.path(), 1).await.expect("again");
    assert_eq!(epoch(&store).await, 1);
    let copied = copy(dir.path());
    let says = reason(permit(&store, copied.path(), 1).await);
    assert!(says.contains("which is a copy") && says.contains("for 2 s"), "{says}");
    assert!(says.contains(&dir.path().display().to_string()), "{says}");
    // As long as the original lives.
    live(&writer(&store, dir.path(), 1), TICK * 6).await;
    reason(permit(&store, copied.path(), 1).await);
    permit(&store, dir.path(), 1).await.expect("restarted");
    assert_eq!(epoch(&store).await, 1, "the same instance needs no new epoch");
    // It is gone.
    reason(permit(&store, copied.path(), 1).await);
    tokio::time::sleep(TICK * (STALE + 1)).await;
    permit(&store, copied.path(), 1).await.expect("stale");
    assert_eq!(epoch(&store).await, 2);
    // And comes back: it is refused, also after a restart, and however long that one is silent.
    let says = reason(permit(&store, dir.path(), 1).await);
    assert!(says.contains("held the lease before, and has lost it"), "{says}");
    tokio::time::sleep(TICK * (STALE + 1)).await;
    reason(permit(&store, dir.path(), 1).await);
    // Until somebody says so.
    writer(&store, dir.path(), 1).take_over().await.expect("taken over");
    permit(&store, dir.path(), 1).await.expect("the holder");
    reason(permit(&store, copied.path(), 1).await);
    let holders = Holder::all(&store).await.expect("read");
    let how: Vec<&str> = holders.iter().map(|holder| holder.how.as_str()).collect();
    assert!(how[0] == "first writer" && how[2] == "taken over on request", "{how:?}");
    let lasted = format!("{} had not renewed it for ", holders[0].name());
    assert!(how[1].starts_with(&lasted), "{how:?}");
}

/// The data directory is where it was, on a machine that looks the same; the original has renewed since the snapshot.
#[tokio::test]
async fn a_snapshot_of_the_whole_machine_is_no_original() {
    let (store, dir) = (store(), data_dir());
    let original = writer(&store, dir.path(), 1);
    original.permit(Write::Object).await.expect("the first");
    let snapshot = std::fs::read(file(dir.path())).expect("read");
    live(&original, TICK * 2).await;
    let now = std::fs::read(file(dir.path())).expect("read");
    std::fs::write(file(dir.path()), &snapshot).expect("written");
    // Its note of the last renewal is of another time.
    tokio::time::sleep(TICK * VALID).await;
    let says = reason(permit(&store, dir.path(), 1).await);
    assert!(says.contains("goes on by itself once"), "{says}");
    std::fs::write(file(dir.path()), now).expect("written");
    permit(&store, dir.path(), 1).await.expect("the original");
}

#[tokio::test]
async fn a_promoted_standby_takes_over_at_once_and_the_old_primary_is_refused() {
    let (store, old, new) = (store(), data_dir(), data_dir());
    let long = Situation {
        interval: TICK * 100,
        ..situation(1)
    };
    let old_one = Writer::new(store.clone(), old.path(), long);
    old_one.permit(Write::Object).await.expect("the first");
    std::fs::write(new.path().join("standby.signal"), "").expect("written");
    let standby = writer(&store, new.path(), 1);
    standby.set_situation(Situation {
        in_recovery: true,
        is_standby: true,
        ..situation(1)
    });
    standby.note_recovery().await.expect("noted");
    // It writes for the one that it follows.
    standby.fenced(&store).put("x", "y".into()).await.expect("on behalf");
    std::fs::remove_file(new.path().join("standby.signal")).expect("removed");
    permit(&store, new.path(), 2).await.expect("at once");
    assert_eq!(epoch(&store).await, 2);
    // The old one does not know yet: it looks before it deletes. One that comes back looks in any case.
    old_one.permit(Write::Object).await.expect("its renewal is young");
    let refused = old_one.fenced(&store).delete("x").await;
    let says = reason(refused);
    assert!(
        says.contains("as epoch 2") && says.contains("promotion of a standby"),
        "{says}"
    );
    assert!(says.contains("timeline 2"), "{says}");
    reason(permit(&store, old.path(), 1).await);
    // A standby that follows the old one writes nothing, either.
    let follower = data_dir();
    let of_old = writer(&store, follower.path(), 1);
    of_old.set_situation(standby.situation());
    let says = reason(of_old.fenced(&store).put("x", "y".into()).await);
    assert!(says.contains("follows timeline 1"), "{says}");
    // Without a higher timeline there was no promotion.
    let third = data_dir();
    std::fs::write(third.path().join("standby.signal"), "").expect("written");
    let standby = writer(&store, third.path(), 2);
    standby.note_recovery().await.expect("noted");
    std::fs::remove_file(third.path().join("standby.signal")).expect("removed");
    assert!(reason(permit(&store, third.path(), 2).await).contains("goes on by itself once"));
    // One that recovers is no standby, whatever it was before.
    std::fs::write(third.path().join("recovery.signal"), "").expect("written");
    standby.note_recovery().await.expect("noted");
    reason(permit(&store, third.path(), 3).await);
}

#[tokio::test]
async fn a_restored_directory_waits_and_counts_from_the_restore() {
    let (store, dir, restored) = (store(), data_dir(), data_dir());
    permit(&store, dir.path(), 1).await.expect("the first");
    let lease = Lease::read(&store).await.expect("read").expect("a lease");
    let seen = Some((&lease, &Moment::now())).map(|(lease, at)| (lease.clone(), at.clone()));
    let seen = seen.as_ref().map(|(lease, at)| (lease, at));
    mark_restored(restored.path(), false, store.url(), seen).expect("marked");
    let says = reason(permit(&store, restored.path(), 2).await);
    assert!(says.contains("which was restored by backup-fetch"), "{says}");
    tokio::time::sleep(TICK * (STALE + 1)).await;
    permit(&store, restored.path(), 2).await.expect("stale");
    // At once, if that is wished.
    let another = data_dir();
    mark_restored(another.path(), true, store.url(), None).expect("marked");
    permit(&store, another.path(), 3).await.expect("taken over");
    reason(permit(&store, restored.path(), 2).await);
    // One without a lease beside it waits for one to appear.
    let other = Store::of(Arc::new(InMemory::new()), "memory:2");
    let fresh = data_dir();
    mark_restored(fresh.path(), false, other.url(), None).expect("marked");
    assert!(reason(permit(&other, fresh.path(), 2).await).contains("Nobody holds the lease"));
    tokio::time::sleep(TICK * (STALE + 1)).await;
    permit(&other, fresh.path(), 2).await.expect("nobody came");
}

#[tokio::test]
async fn an_older_timeline_never_takes_a_stale_lease() {
    let (store, dir, old) = (store(), data_dir(), data_dir());
    permit(&store, dir.path(), 2).await.expect("the first");
    reason(permit(&store, old.path(), 1).await);
    tokio::time::sleep(TICK * (STALE + 1)).await;
    assert!(reason(permit(&store, old.path(), 1).await).contains("timeline 1, which is older"));
}

/// Both take the same epoch, since the store lets them; who reads back finds one of the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_overwrites_has_one_holder_all_the_same() {
    let store = Store::of(Arc::new(Pretender::new(Create::Overwrites)), "memory:");
    let dirs = [data_dir(), data_dir()];
    let both = dirs.each_ref().map(|dir| {
        let writer = writer(&store, dir.path(), 1);
        tokio::spawn(async move { writer.permit(Write::Object).await })
    });
    let mut held = 0;
    for permitted in both {
        match permitted.await.expect("no panic") {
            Ok(()) => held += 1,
            Err(Error::NotWriter { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(held, 1);
    assert_eq!(epoch(&store).await, 1);
}

/// The request was carried out, and its answer lost; or it arrives long after it was given up.
#[tokio::test]
async fn a_renewal_that_arrives_late_is_still_ones_own() {
    let (store, dir) = (store(), data_dir());
    permit(&store, dir.path(), 1).await.expect("the first");
    let key = layout::lease_alive(1);
    let early = store.get(&key, 1 << 20).await.expect("read").expect("there");
    let holder = writer(&store, dir.path(), 1);
    holder.tick().await.expect("renewed");
    holder.tick().await.expect("renewed");
    store.put(&key, early).await.expect("written");
    holder.tick().await.expect("renewed");
    assert_eq!(epoch(&store).await, 1);
}

#[tokio::test]
async fn work_for_the_holder_ends_when_the_holder_changes() {
    let (store, dir, other) = (store(), data_dir(), data_dir());
    permit(&store, dir.path(), 1).await.expect("the first");
    let administrator = follower(&store);
    administrator.put("x", "y".into()).await.expect("written");
    administrator.delete("x").await.expect("deleted");
    mark_restored(other.path(), true, store.url(), None).expect("marked");
    permit(&store, other.path(), 2).await.expect("taken over");
    store.put("x", "y".into()).await.expect("written");
    let refused = administrator.delete_many(&["x".to_owned()], |_| {}).await;
    assert!(reason(refused).contains("The lease was of epoch 1"));
    assert!(store.size("x").await.expect("asked").is_some());
}

/// Hours of difference between the clocks of hosts are in the objects, and nobody reads them there.
#[tokio::test]
async fn no_clock_of_a_host_decides() {
    let (store, dir, other) = (store(), data_dir(), data_dir());
    for hours in [-9, 9] {
        let holder = writer(&store, dir.path(), 1);
        holder.permit(Write::Object).await.expect("the holder");
        holder.tick().await.expect("renewed");
        let key = layout::lease_alive(1);
        let content = store.get(&key, 1 << 20).await.expect("read").expect("there");
        let mut alive: Alive = serde_json::from_slice(&content).expect("JSON");
        alive.time += chrono::TimeDelta::hours(hours);
        store
            .put(&key, serde_json::to_vec(&alive).expect("JSON").into())
            .await
            .expect("written");
        reason(permit(&store, other.path(), 1).await);
        live(&holder, TICK).await;
    }
    assert_eq!(epoch(&store).await, 1);
}

/// `archive_mode = always`: what the holder would write, and nothing of another branch.
#[tokio::test]
async fn a_standby_archives_the_history_of_the_holder_only() {
    let (store, dir, other) = (store(), data_dir(), data_dir());
    let size = crate::wal::SegmentSize::DEFAULT;
    let standby = writer(&store, other.path(), 1);
    let in_recovery = |is_standby| Situation {
        in_recovery: true,
        is_standby,
        ..situation(1)
    };
    standby.set_situation(in_recovery(true));
    let permitted = async |name: &str| standby.permit_standby(&name.parse().expect("a name"), size).await;
    permitted("000000010000000000000003").await.expect("there is no lease");
    permit(&store, dir.path(), 2).await.expect("the first");
    let key = format!("{}/00000002.history", layout::WAL_FOLDER);
    store.put(&key, "1\t0/5000100\tx\n".into()).await.expect("written");
    // Its knowledge is of a moment ago.
    let standby = writer(&store, other.path(), 1);
    standby.set_situation(in_recovery(true));
    let permitted = async |name: &str| standby.permit_standby(&name.parse().expect("a name"), size).await;
    for name in [
        "000000020000000000000005",
        "000000010000000000000004",
        "00000002.history",
    ] {
        permitted(name).await.expect(name);
    }
    for name in [
        "000000010000000000000005",
        "000000030000000000000005",
        "00000003.history",
    ] {
        let says = reason(permitted(name).await);
        assert!(says.contains(name) && says.contains("not of the history"), "{says}");
    }
    standby.set_situation(in_recovery(false));
    assert!(reason(permitted("000000020000000000000005").await).contains("is not a standby"));
    // One that is being promoted has no standby.signal any more, and is in recovery still.
    let signal = other.path().join("standby.signal");
    std::fs::write(&signal, "").expect("written");
    standby.note_recovery().await.expect("noted");
    std::fs::remove_file(&signal).expect("removed");
    permitted("000000020000000000000005").await.expect("of the holder");
}

#[tokio::test]
async fn a_check_tells_a_lease_that_cannot_be_read() {
    let store = Store::of(Arc::new(Pretender::new(Create::Overwrites)), "memory:");
    store
        .put(
            &crate::repository::layout::lease_holder(99),
            bytes::Bytes::from_static(b"x"),
        )
        .await
        .expect("put");
    let checks = crate::check::check_lease(&store, None, None).await;
    assert_eq!(checks[0].status, crate::check::CheckStatus::Warning);
    assert_eq!(
        checks[0].detail,
        "the lease of epoch 99 exists, but its object cannot be read"
    );
}

#[tokio::test]
async fn a_check_names_the_holder_and_a_store_that_overwrites() {
    let store = Store::of(Arc::new(Pretender::new(Create::Overwrites)), "memory:");
    let (dir, other) = (data_dir(), data_dir());
    let row = async |dir: &Path| {
        let asks = writer(&store, dir, 1);
        let checks = crate::check::check_lease(&store, Some(&asks), None).await;
        (checks[0].status, checks[0].detail.clone())
    };
    assert!(row(dir.path()).await.1.starts_with("nobody holds the lease yet"));
    permit(&store, dir.path(), 1).await.expect("the first");
    let (status, detail) = row(dir.path()).await;
    assert_eq!(status, crate::check::CheckStatus::Ok);
    assert!(
        detail.starts_with("this server writes: ") && detail.contains("a server that takes the lease reads it back"),
        "{detail}"
    );
    reason(permit(&store, other.path(), 1).await);
    let (status, detail) = row(other.path()).await;
    assert_eq!(status, crate::check::CheckStatus::Warning);
    assert!(
        detail.contains("does not write: ") && detail.contains(&dir.path().display().to_string()),
        "{detail}"
    );
    writer(&store, other.path(), 1).take_over().await.expect("taken over");
    reason(permit(&store, dir.path(), 1).await);
    assert_eq!(row(dir.path()).await.0, crate::check::CheckStatus::Failed);
}

#[test]
fn the_file_of_a_copy_begins_anew() {
    let dir = data_dir();
    let (instance, _) = Instance::of(dir.path()).expect("read");
    instance.write(dir.path()).expect("written");
    let copied = copy(dir.path());
    let (again, _) = Instance::of(dir.path()).expect("read");
    let (other, _) = Instance::of(copied.path()).expect("read");
    assert!(again.id == instance.id && other.id != instance.id);
    std::fs::write(file(dir.path()), "{").expect("written");
    assert!(Instance::of(dir.path()).expect("read").0.id != instance.id);
}

/// Until the store has the new interval, the others count by the old one; and once it may have it, by the new one.
#[tokio::test]
async fn another_interval_counts_by_the_shorter_one_until_the_store_has_it() {
    let (dir, meddler) = (data_dir(), Meddler::new(Arc::default()));
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    let long = Situation {
        interval: TICK * 1000,
        ..situation(1)
    };
    for (before, after) in [(situation(1), long), (long, situation(1))] {
        Writer::new(store.clone(), dir.path(), before)
            .permit(Write::Object)
            .await
            .expect("held");
        let writer = Writer::new(store.clone(), dir.path(), after);
        writer.permit(Write::Object).await.expect("still young");
        meddler.rule(|op, _| if op == Op::Put { Act::Fail } else { Act::Pass });
        writer.tick().await.expect_err("the store takes nothing");
        tokio::time::sleep(TICK * (VALID + 1)).await;
        writer
            .permit(Write::Object)
            .await
            .expect_err("others may call it stale");
        meddler.rule(|_, _| Act::Pass);
        writer.tick().await.expect("renewed");
    }
}

/// A holder that slept looks, and before its sign of life is there another one has called the lease stale.
#[tokio::test]
async fn a_lease_that_is_taken_at_the_last_moment_is_lost() {
    let (dir, meddler) = (data_dir(), Meddler::new(Arc::default()));
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    let holder = writer(&store, dir.path(), 1);
    holder.permit(Write::Object).await.expect("the first");
    let object = store.get(&layout::lease_holder(1), 1 << 20).await.expect("read");
    let mut taken: serde_json::Value = serde_json::from_slice(&object.expect("there")).expect("JSON");
    for (field, value) in [
        ("epoch", 2.into()),
        ("instance", "other".into()),
        ("token", "theirs".into()),
    ] {
        assert!(
            std::mem::replace(&mut taken[field], value) != serde_json::Value::Null,
            "{field}"
        );
    }
    tokio::time::sleep(TICK * (VALID + 1)).await;
    let theirs = vec![(layout::lease_holder(2).into(), Some(taken.to_string()))];
    meddler.once(Op::Put, &layout::lease_alive(1), Act::Then(theirs));
    assert!(reason(holder.permit(Write::Object).await).contains("has lost it"));
    reason(holder.permit(Write::Deletion).await);
}

/// A store that can be read and takes no writes, because it is full or nobody may: each try draws a token.
#[tokio::test]
async fn a_store_that_takes_no_writes_for_long_costs_nobody_the_lease() {
    let (dir, meddler) = (data_dir(), Meddler::new(Arc::default()));
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    let holder = writer(&store, dir.path(), 1);
    holder.permit(Write::Object).await.expect("the first");
    meddler.rule(|op, _| if op == Op::Put { Act::Fail } else { Act::Pass });
    for _ in 0..40 {
        holder.tick().await.expect_err("the store takes nothing");
    }
    meddler.rule(|_, _| Act::Pass);
    holder.tick().await.expect("the same holder");
    permit(&store, dir.path(), 1).await.expect("at once");
    assert_eq!(epoch(&store).await, 1);
}
