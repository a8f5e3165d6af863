//! A store that does not answer while the sentinel is written, and what others do in the meantime.

use super::life::{is_orphaned, with_parent};
use super::*;
use crate::error::Error;
use walarchive_testkit::meddler::{Act, Op};

/// The sentinel and the claim of the backup: is each there?
async fn there(world: &World, name: &str) -> (bool, bool) {
    let is_there = async |key: layout::Key| world.store.size(&key).await.expect("asked").is_some();
    (
        is_there(layout::sentinel(name)).await,
        is_there(layout::backup_claim(name)).await,
    )
}

/// A delta that is as good as complete, its name, and that of its parent.
async fn prepared() -> (World, PreparedBackup, String, String) {
    let (world, root, request) = with_parent().await;
    let name = request.name();
    let prepared = world.prepare(request).await.expect("prepared");
    world.archive(prepared.needed_segments()).await;
    (world, prepared, name, root)
}

/// The store does that with the sentinel, and does not say afterwards whether it is there.
fn lose_the_answer(world: &World, name: &str, act: Act) {
    let (key, mut put, mut get) = (layout::sentinel(name), Some(act), Some(Act::Fail));
    world.meddler.rule(move |op, of| {
        let act = match op {
            Op::Put if of == key => put.take(),
            Op::Get if of == key && put.is_none() => get.take(),
            _ => None,
        };
        act.unwrap_or(Act::Pass)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_asked_for_again() {
    for (act, is_there) in [(Act::Lose, true), (Act::Fail, false)] {
        let (world, prepared, name, _) = Box::pin(prepared()).await;
        lose_the_answer(&world, &name, act);
        let error = prepared.commit().await.expect_err("nobody knows");
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(there(&world, &name).await, (is_there, true));
        assert_eq!(prepared.commit().await.expect("committed"), name);
        assert_eq!(there(&world, &name).await, (true, false));
        assert_eq!(prepared.commit().await.expect("committed already"), name);
        world.check(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sentinel_is_taken_back_if_the_parent_goes_while_its_answer_is_lost() {
    for act in [Act::Lose, Act::Fail] {
        let (world, prepared, name, root) = Box::pin(prepared()).await;
        lose_the_answer(&world, &name, act);
        prepared.commit().await.expect_err("nobody knows");
        world.store.delete(&layout::sentinel(&root)).await.expect("removed");
        assert!(is_orphaned(prepared.commit().await));
        assert_eq!(there(&world, &name).await, (false, true));
        discard(&world.store, &name).await.expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_last_look_fails_nothing_is_decided() {
    let (world, prepared, name, root) = Box::pin(prepared()).await;
    let (sentinel, marker, mut is_written) = (layout::sentinel(&name), layout::backup_deletion(&root), false);
    world.meddler.rule(move |op, key| {
        is_written |= op == Op::Put && key == sentinel;
        match is_written && key == marker {
            true => Act::Fail,
            false => Act::Pass,
        }
    });
    for _ in 0..2 {
        let error = prepared.commit().await.expect_err("the parent may be gone");
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(there(&world, &name).await, (true, true), "the claim still protects it");
    }
    world.meddler.rule(|_, _| Act::Pass);
    prepared.commit().await.expect("committed");
    assert_eq!(there(&world, &name).await, (true, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_lost_is_not_won_by_trying_again() {
    let (world, prepared, name, _) = Box::pin(prepared()).await;
    let (sentinel, claim) = (layout::sentinel(&name), layout::backup_claim(&name));
    let mut refused = false;
    world.meddler.rule(move |op, key| match op {
        // Somebody takes the folder for a leftover, and removes it, just when the sentinel is written.
        Op::Put if key == sentinel => Act::Then(vec![(claim.clone().into(), None)]),
        Op::Delete if key == sentinel && !std::mem::replace(&mut refused, true) => Act::Fail,
        _ => Act::Pass,
    });
    let error = prepared.commit().await.expect_err("it could not be taken back");
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(there(&world, &name).await, (true, false));
    let error = prepared.commit().await.expect_err("the name is lost");
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert_eq!(there(&world, &name).await, (false, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_after_a_lost_answer_leaves_no_sentinel() {
    let (world, _, request) = with_parent().await;
    let (name, cancel) = (request.name(), CancellationToken::new());
    let begun = Backup::begin(
        &world.store,
        request,
        BackupOptions::default(),
        Arc::default(),
        cancel.clone(),
    );
    let mut backup = begun.await.expect("begun");
    backup.copy().await.expect("copied");
    let prepared = backup.finish(world.stop()).await.expect("finished");
    lose_the_answer(&world, &name, Act::Lose);
    prepared.commit().await.expect_err("nobody knows");
    cancel.cancel();
    assert!(matches!(prepared.commit().await, Err(Error::Cancelled)));
    assert_eq!(there(&world, &name).await, (false, true));
}
