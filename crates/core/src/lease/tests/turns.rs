//! Several that ask, draw and write at once, and looks that take long.

use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::throttle::{ThrottleConfig, ThrottledStore};

use super::*;

/// Many uploads find out at the same moment that the lease is to be renewed.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_many_wait_for_is_one() {
    let (dir, meddler) = (data_dir(), Meddler::new(Arc::default()));
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    let holder = writer(&store, dir.path(), 1);
    holder.permit(Write::Object).await.expect("the first");
    tokio::time::sleep(TICK * (VALID + 1)).await;
    let (puts, gets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&puts), Arc::clone(&gets));
    meddler.rule(move |op, _| {
        match op {
            Op::Put => counts.0.fetch_add(1, Ordering::Relaxed),
            _ => counts.1.fetch_add(1, Ordering::Relaxed),
        };
        Act::Pass
    });
    let many: Vec<_> = (0..40)
        .map(|_| {
            let holder = Arc::clone(&holder);
            tokio::spawn(async move { holder.permit(Write::Object).await })
        })
        .collect();
    for one in many {
        one.await.expect("no panic").expect("permitted");
    }
    let (puts, gets) = (puts.load(Ordering::Relaxed), gets.load(Ordering::Relaxed));
    assert!(puts <= 2 && gets <= 12, "{puts} PUTs and {gets} GETs for one renewal");
}

/// A process that is stopped while it asks the store, and never goes on, keeps no other one from writing.
#[tokio::test]
async fn who_asks_the_store_holds_no_lock() {
    let (dir, meddler) = (data_dir(), Meddler::new(Arc::default()));
    let slow = Store::of(
        Arc::new(ThrottledStore::new(
            meddler.clone(),
            ThrottleConfig {
                wait_put_per_call: Duration::from_secs(3600),
                ..ThrottleConfig::default()
            },
        )),
        "memory:",
    );
    writer(&Store::of(Arc::new(meddler.clone()), "memory:"), dir.path(), 1)
        .permit(Write::Object)
        .await
        .expect("the first");
    let stopped = writer(&slow, dir.path(), 1);
    let never = tokio::spawn(async move { stopped.tick().await });
    tokio::time::sleep(TICK / 2).await;
    assert!(!never.is_finished());
    let other = writer(&Store::of(Arc::new(meddler.clone()), "memory:"), dir.path(), 1);
    let begun = std::time::Instant::now();
    other.tick().await.expect("renewed");
    assert!(begun.elapsed() < TICK * 10, "{:?}", begun.elapsed());
    assert_eq!(epoch(&Store::of(Arc::new(meddler.clone()), "memory:")).await, 1);
    never.abort();
}

/// Two processes of a server that nobody has given the lease yet, the worker and the binary say.
#[tokio::test(flavor = "multi_thread")]
async fn processes_of_one_server_that_race_for_the_lease_are_one_holder() {
    for create in [None, Some(Create::Overwrites)] {
        let inner: Arc<dyn object_store::ObjectStore> = match create {
            None => Arc::new(InMemory::new()),
            Some(create) => Arc::new(Pretender::new(create)),
        };
        let (store, dir) = (Store::of(inner, "memory:"), data_dir());
        let all = [(); 3].map(|()| {
            let process = writer(&store, dir.path(), 1);
            tokio::spawn(async move { process.permit(Write::Object).await })
        });
        for one in all {
            one.await.expect("no panic").expect("it is the same server");
        }
        assert_eq!(epoch(&store).await, 1, "{create:?}");
        permit(&store, dir.path(), 1).await.expect("it still is");
        assert_eq!(epoch(&store).await, 1, "{create:?}");
    }
}

/// It asked for the lease, and somebody else was faster: it is still known that it has lost the one before.
#[tokio::test]
async fn a_claim_that_came_to_nothing_makes_nobody_forget_what_he_lost() {
    let (dir, other, meddler) = (data_dir(), data_dir(), Meddler::new(Arc::default()));
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    permit(&store, dir.path(), 1).await.expect("the first");
    // The object there is not its own any more, and it claims the next epoch; the machine dies before the store hears of it.
    let key = layout::lease_alive(1);
    let object = store.get(&key, 1 << 20).await.expect("read").expect("there");
    let mut alive: Alive = serde_json::from_slice(&object).expect("JSON");
    alive.token = "another".to_owned();
    let text = serde_json::to_vec(&alive).expect("JSON");
    store.put(&key, text.into()).await.expect("written");
    request_take_over(dir.path()).await.expect("noted");
    meddler.rule(|op, _| if op == Op::Put { Act::Fail } else { Act::Pass });
    permit(&store, dir.path(), 1)
        .await
        .expect_err("the store takes nothing");
    meddler.rule(|_, _| Act::Pass);
    mark_restored(other.path(), true, store.url(), None).expect("marked");
    permit(&store, other.path(), 1).await.expect("taken over");
    let mut instance = Instance::read(dir.path()).expect("read").expect("there");
    instance.take_over = false;
    instance.write(dir.path()).expect("written");
    let says = reason(permit(&store, dir.path(), 1).await);
    assert!(says.contains("has lost it"), "{says}");
}

/// The copy's machine sleeps while it asks: what the answer says is as old as the question.
#[tokio::test]
async fn a_look_that_took_long_proves_no_silence() {
    let (dir, copied, meddler) = (data_dir(), data_dir(), Meddler::new(Arc::default()));
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    permit(&store, dir.path(), 1).await.expect("the first");
    reason(permit(&store, copied.path(), 1).await);
    let slow = Store::of(
        Arc::new(ThrottledStore::new(
            meddler.clone(),
            ThrottleConfig {
                wait_list_per_call: TICK * (STALE + 1),
                ..ThrottleConfig::default()
            },
        )),
        "memory:",
    );
    let says = reason(permit(&slow, copied.path(), 1).await);
    assert!(says.contains("goes on by itself once"), "{says}");
    tokio::time::sleep(TICK * (STALE + 1)).await;
    permit(&store, copied.path(), 1).await.expect("now it is stale");
}

/// A server that was replaced finds out when it writes, whatever its interval.
#[tokio::test]
async fn a_write_follows_a_look_that_is_young() {
    let (store, dir, other) = (store(), data_dir(), data_dir());
    let long = Situation {
        interval: TICK * 1000,
        ..situation(1)
    };
    let holder = Writer::new(store.clone(), dir.path(), long);
    holder.permit(Write::Object).await.expect("the first");
    mark_restored(other.path(), true, store.url(), None).expect("marked");
    permit(&store, other.path(), 2).await.expect("taken over");
    let begun = std::time::Instant::now();
    while holder.permit(Write::Object).await.is_ok() {
        assert!(begun.elapsed() < LOOK * 2, "it still writes");
        tokio::time::sleep(TICK / 4).await;
    }
    let says = reason(holder.permit(Write::Object).await);
    assert!(says.contains("has lost it"), "{says}");
}

/// A write that takes long is not held up by questions while its renewal is young; one that begins asks once.
#[tokio::test]
async fn what_goes_on_asks_nothing_and_what_begins_asks_once() {
    let (dir, meddler) = (data_dir(), Meddler::new(Arc::default()));
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    let long = Situation {
        interval: TICK * 1000,
        ..situation(1)
    };
    let holder = Writer::new(store, dir.path(), long);
    holder.permit(Write::Object).await.expect("the first");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    meddler.rule(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Act::Pass
    });
    tokio::time::sleep(LOOK).await;
    for (write, expected) in [
        (Write::Ongoing, 0),
        (Write::Object, 1),
        (Write::Object, 1),
        (Write::Ongoing, 1),
    ] {
        holder.permit(write).await.expect("permitted");
        assert_eq!(asked.load(Ordering::Relaxed), expected, "{write:?}");
    }
    holder.permit(Write::Deletion).await.expect("permitted");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // Whoever will write soon wants an answer that is good for a while.
    tokio::time::sleep(LOOK / 2).await;
    for (write, expected) in [(Write::Object, 2), (Write::Soon, 3), (Write::Soon, 3)] {
        holder.permit(write).await.expect("permitted");
        assert_eq!(asked.load(Ordering::Relaxed), expected, "{write:?}");
    }
}

/// An upload that takes long looks in the meantime, so that the next one begins at once.
#[tokio::test]
async fn what_begins_after_long_work_need_not_ask() {
    let (dir, meddler) = (data_dir(), Meddler::new(Arc::default()));
    let store = Store::of(Arc::new(meddler.clone()), "memory:");
    let long = Situation {
        interval: TICK * 1000,
        ..situation(1)
    };
    let holder = Writer::new(store, dir.path(), long);
    holder.permit(Write::Object).await.expect("the first");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    meddler.rule(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Act::Pass
    });
    holder.looking_beside(tokio::time::sleep(LOOK + TICK)).await;
    let looks = asked.load(Ordering::Relaxed);
    assert!((1..=3).contains(&looks), "{looks}");
    holder.permit(Write::Object).await.expect("permitted");
    assert_eq!(asked.load(Ordering::Relaxed), looks);
}

/// Work that began on a standby is refused by nobody once the standby was promoted, so it can at least tidy up.
#[tokio::test]
async fn a_standby_that_was_promoted_goes_on_as_the_holder() {
    let (store, old, new) = (store(), data_dir(), data_dir());
    permit(&store, old.path(), 1).await.expect("the first");
    std::fs::write(new.path().join("standby.signal"), "").expect("written");
    let standby = writer(&store, new.path(), 1);
    standby.set_situation(Situation {
        in_recovery: true,
        is_standby: true,
        ..situation(1)
    });
    standby.note_recovery().await.expect("noted");
    let work = standby.fenced(&store);
    work.put("x", "y".into()).await.expect("on behalf");
    std::fs::remove_file(new.path().join("standby.signal")).expect("removed");
    // Another process of it.
    let promoted = writer(&store, new.path(), 2);
    promoted.permit(Write::Object).await.expect("at once");
    work.delete("x").await.expect("it is the holder");
    // Somebody else takes it from the standby.
    writer(&store, old.path(), 2).take_over().await.expect("taken over");
    reason(work.delete("x").await);
}

/// Between its look and its write, one of two sleeps so long that the other one has taken the epoch and read back its name.
#[tokio::test(flavor = "multi_thread")]
async fn who_overwrites_the_name_of_a_holder_does_not_hold() {
    let (dir, late) = (data_dir(), data_dir());
    let inner: Arc<dyn object_store::ObjectStore> = Arc::new(Pretender::new(Create::Overwrites));
    let store = Store::of(Arc::clone(&inner), "memory:");
    let slow = ThrottleConfig {
        wait_put_per_call: Duration::from_secs(6),
        ..ThrottleConfig::default()
    };
    let slow = Store::of(Arc::new(ThrottledStore::new(inner, slow)), "memory:");
    let sleeps = writer(&slow, late.path(), 1);
    let sleeps = tokio::spawn(async move { sleeps.permit(Write::Object).await });
    // It has looked when it has written down what it claims.
    let begun = std::time::Instant::now();
    while Instance::read(late.path()).expect("read").is_none() {
        assert!(begun.elapsed() < TICK * 100, "it claims nothing");
        tokio::time::sleep(TICK / 40).await;
    }
    let holder = writer(&store, dir.path(), 1);
    holder.permit(Write::Object).await.expect("nobody has it");
    let owner = |holder: &Holder| holder.data_directory == dir.path().display().to_string();
    let now = || async { Lease::read(&store).await.expect("read").expect("a lease").holder };
    assert!(owner(&now().await), "{:?}", now().await);
    let says = reason(sleeps.await.expect("no panic"));
    assert!(says.contains("goes on by itself once"), "{says}");
    assert!(!owner(&now().await), "nothing was overwritten");
    // The holder goes on, under its own name.
    holder.tick().await.expect("renewed");
    assert!(owner(&now().await), "{:?}", now().await);
    assert_eq!(epoch(&store).await, 1);
    holder.permit(Write::Deletion).await.expect("it holds");
    permit(&slow, late.path(), 1).await.expect_err("it does not");
}

/// The history of its new timeline is there before its recovery has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_waits_in_the_moment_of_a_promotion() {
    let (store, old, new, third) = (store(), data_dir(), data_dir(), data_dir());
    permit(&store, old.path(), 1).await.expect("the first");
    let size = crate::wal::SegmentSize::DEFAULT;
    let in_recovery = |timeline| Situation {
        in_recovery: true,
        is_standby: true,
        ..situation(timeline)
    };
    let standby = |dir: &Path| {
        std::fs::write(dir.join("standby.signal"), "").expect("written");
        let standby = writer(&store, dir, 1);
        standby.set_situation(in_recovery(1));
        standby
    };
    let (promoted, follows) = (standby(new.path()), standby(third.path()));
    promoted.note_recovery().await.expect("noted");
    let waiting = [&promoted, &follows].map(|standby| {
        let standby = Arc::clone(standby);
        let name = "00000002.history".parse().expect("a name");
        tokio::spawn(async move { standby.permit_standby(&name, size).await })
    });
    tokio::time::sleep(TICK).await;
    assert!(waiting.iter().all(|one| !one.is_finished()), "{waiting:?}");
    assert_eq!(epoch(&store).await, 1);
    std::fs::remove_file(new.path().join("standby.signal")).expect("removed");
    promoted.set_situation(situation(2));
    let [promoted, follows] = waiting;
    promoted.await.expect("no panic").expect("it takes the lease");
    assert_eq!(epoch(&store).await, 2);
    // Who follows it may write what it writes.
    follows.await.expect("no panic").expect("of the holder");
}

/// A clone with a place of its own waits for nobody, unless something is there.
#[tokio::test]
async fn a_restored_directory_takes_a_new_repository_at_once() {
    let elsewhere = |name: &str| Store::of(Arc::new(InMemory::new()), name);
    let (new, used) = (elsewhere("memory:new"), elsewhere("memory:used"));
    // Nothing gets stale during this test.
    let interval = Duration::from_secs(60);
    let slowly = Situation {
        interval,
        ..situation(2)
    };
    let permit = async |store: &Store, restored: &TempDir| {
        let writer = Writer::new(store.clone(), restored.path(), slowly);
        writer.permit(Write::Object).await
    };
    let restored = [data_dir(), data_dir()];
    for dir in &restored {
        mark_restored(dir.path(), false, "memory:origin", None).expect("marked");
    }
    permit(&new, &restored[0]).await.expect("it is new");
    let segment = "wal_005/000000010000000000000003.lz4";
    used.put(segment, "WAL".into()).await.expect("written");
    let says = reason(permit(&used, &restored[1]).await);
    assert!(says.contains("Nobody holds the lease"), "{says}");
    // That it was deleted meanwhile is not what a new one looks like.
    used.delete(segment).await.expect("deleted");
    reason(permit(&used, &restored[1]).await);
}
