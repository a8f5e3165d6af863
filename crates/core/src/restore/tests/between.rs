//! Changes of the directory between the plan and the end of the restore.

use std::sync::atomic::Ordering;

use super::existing::{NEWER, delta, marker, repository};
use super::*;
use crate::control_file::tests::sample;

async fn planned(repository: &Repository, options: RestoreOptions) -> Result<PlannedRestore> {
    plan(&repository.store, BACKUP, &repository.target(), options).await
}

async fn applied(plan: PlannedRestore) -> Result<Restored> {
    apply(plan, Arc::default(), CancellationToken::new()).await
}

fn says(error: &Error, text: &str) {
    assert!(error.to_string().contains(text) && error.hint().is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_restores_do_not_work_on_one_directory() {
    let repository = repository().await;
    // Neither of them finds it, and one of them is first.
    let first = planned(&repository, RestoreOptions::default()).await.expect("planned");
    let second = planned(&repository, RestoreOptions::default()).await.expect("planned");
    let (first, second) = tokio::join!(tokio::spawn(applied(first)), tokio::spawn(applied(second)));
    let results = [first.expect("ran"), second.expect("ran")];
    let refused: Vec<&Error> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(refused.len(), 1, "{results:?}");
    let text = refused[0].to_string();
    assert!(
        text.contains("another restore works on") || text.contains("was changed while the restore was planned"),
        "{text}"
    );
    let before = repository.files();
    // The plan locks the directory.
    let first = planned(&repository, delta()).await.expect("planned");
    let error = planned(&repository, delta()).await.expect_err("in use");
    says(&error, "another restore works on directory");
    assert!(planned(&repository, RestoreOptions::default()).await.is_err());
    let verify = RestoreOptions {
        mode: RestoreMode::VerifyOnly,
        ..RestoreOptions::default()
    };
    planned(&repository, verify).await.expect("reads only");
    applied(first).await.expect("restored");
    assert_eq!(repository.files(), before);
    planned(&repository, delta()).await.expect("free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ran_meanwhile_ends_the_restore_before_anything_is_removed() {
    let repository = repository().await;
    repository.restore().await.expect("restored");
    repository.write("base/5/9", b"not in the backup");
    let control = repository.target().join("global/pg_control");
    let original = std::fs::read(&control).expect("read");
    let before = repository.files();
    for (name, content, text) in [
        (
            "global/pg_control",
            sample(32 << 20, 288),
            "was changed while the restore was planned",
        ),
        ("postmaster.pid", b"1".to_vec(), "a server is or was running"),
        (
            "walarchive_restore.json",
            b"{}".to_vec(),
            "was changed while the restore was planned",
        ),
    ] {
        let plan = planned(&repository, delta()).await.expect("planned");
        repository.write(name, &content);
        let error = applied(plan).await.expect_err(text);
        says(&error, text);
        assert_eq!(std::fs::read(repository.target().join(name)).expect("there"), content);
        std::fs::remove_file(repository.target().join(name)).expect("removed");
        repository.write("global/pg_control", &original);
        assert_eq!(repository.files(), before);
    }
    // Empty, when it was planned.
    let elsewhere = Repository::good().await;
    std::fs::create_dir(elsewhere.target()).expect("created");
    for options in [delta(), RestoreOptions::default()] {
        let plan = planned(&elsewhere, options).await.expect("planned");
        elsewhere.write("precious", b"mine");
        let error = applied(plan).await.expect_err("not empty");
        says(&error, "was changed while the restore was planned");
        assert_eq!(elsewhere.files(), ["precious"]);
        std::fs::remove_file(elsewhere.target().join("precious")).expect("removed");
    }
}

/// The moment between the last look at the directory and the removal of `pg_control`.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_starting_is_seen() {
    let repository = repository().await;
    repository.restore().await.expect("restored");
    let before = repository.files();
    let PlannedRestore { plan, held, .. } = planned(&repository, delta()).await.expect("planned");
    let condition = held.condition.expect("something is there");
    let tree = crate::restore::directory::tree::Tree::open(held.directories, &plan.target, &[], None).expect("open");
    repository.write("postmaster.pid", b"1");
    let progress = ReadProgress::default();
    let lock_out = |is_used: &dyn Fn(&crate::restore::directory::root::Root) -> Result<bool>| {
        crate::restore::run::prepare::lock_out(&tree, &condition, &progress, is_used)
    };
    let error = lock_out(&crate::restore::directory::condition::is_used).expect_err("in use");
    says(&error, "a server is or was running");
    std::fs::remove_file(repository.target().join("postmaster.pid")).expect("removed");
    assert_eq!(repository.files(), before, "as it was");
    // Nor is anything changed if nobody can tell.
    let unknown = |_: &crate::restore::directory::root::Root| {
        Err(Error::io("read", "postmaster.pid", std::io::Error::other("broken")))
    };
    let error = lock_out(&unknown).expect_err("unknown");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert_eq!(repository.files(), before, "as it was");
    assert!(!progress.is_writing.load(Ordering::Relaxed));
    lock_out(&crate::restore::directory::condition::is_used).expect("free");
    assert!(!repository.target().join("global/pg_control").exists() && progress.is_writing.load(Ordering::Relaxed));
}

/// A restored directory with one change, and its files.
async fn changed() -> (Repository, Vec<String>) {
    let repository = repository().await;
    repository.restore().await.expect("restored");
    repository.write("base/5/1259", NEWER);
    repository.write("base/5/9", b"not in the backup");
    let files = repository.files();
    (repository, files)
}

impl Repository {
    fn is_marked(&self) -> bool {
        self.target().join(crate::stored::member::MARKER).exists()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_interrupts_in_time_loses_nothing() {
    let (repository, before) = changed().await;
    let (progress, cancel) = (Arc::<ReadProgress>::default(), CancellationToken::new());
    cancel.cancel();
    let is_as_before = |is_marked: bool| {
        assert_eq!(repository.files(), before);
        assert_eq!(repository.is_marked(), is_marked);
        assert!(!progress.is_writing.load(Ordering::Relaxed));
    };
    let plan = planned(&repository, delta()).await.expect("planned");
    let applied = apply(plan, Arc::clone(&progress), cancel.clone()).await;
    assert!(matches!(applied, Err(Error::Cancelled)), "{applied:?}");
    is_as_before(false);
    // A little later.
    let PlannedRestore { plan, held, fetch } = planned(&repository, delta()).await.expect("planned");
    let prepared = crate::restore::run::prepare::prepare(&plan, held, &fetch, &progress, &cancel);
    assert!(matches!(prepared, Err(Error::Cancelled)));
    drop(prepared);
    is_as_before(false);
    // A directory that was incomplete stays so.
    repository.write(crate::stored::member::MARKER, marker().as_bytes());
    let PlannedRestore { plan, held, fetch } = planned(&repository, delta()).await.expect("planned");
    let prepared = crate::restore::run::prepare::prepare(&plan, held, &fetch, &progress, &cancel);
    assert!(matches!(prepared, Err(Error::Cancelled)));
    drop(prepared);
    is_as_before(true);
    // In the middle of the removal, what is left stays.
    let tree = crate::restore::directory::tree::Tree::open(
        crate::restore::directory::directories::Directories::default(),
        &repository.target(),
        &[],
        None,
    )
    .expect("open");
    let nothing = crate::restore::directory::existing::Intended {
        tablespaces: &[],
        links: &[],
        major: 15,
        table: None,
    };
    let cleaned = crate::restore::directory::existing::clean(&tree, nothing, None, &cancel);
    assert!(matches!(cleaned, Err(Error::Cancelled)));
    is_as_before(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be_read_costs_nothing() {
    let (repository, before) = changed().await;
    let plan = planned(&repository, delta()).await.expect("planned");
    let tar = layout::tar(BACKUP, "part_001.tar.zst");
    // Nothing is needed from the other one, so nobody asks for it.
    for tar in [&tar, &layout::tar(BACKUP, "part_002.tar.zst")] {
        repository.store.delete(tar).await.expect("deleted");
    }
    let progress = Arc::<ReadProgress>::default();
    let error = apply(plan, Arc::clone(&progress), CancellationToken::new())
        .await
        .expect_err("gone");
    assert!(error.to_string().contains(tar.as_str()), "{error}");
    assert_eq!(repository.files(), before);
    let content = std::fs::read(repository.target().join("base/5/1259")).expect("read");
    assert_eq!(content, NEWER);
    assert!(!repository.is_marked() && !progress.is_writing.load(Ordering::Relaxed));
}

/// When `pg_control` has its name.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_complete_cannot_be_interrupted() {
    let repository = repository().await;
    repository.restore().await.expect("restored");
    let target = repository.target();
    let control = target.join("global/pg_control");
    let context = || {
        let (progress, cancel) = (Arc::<ReadProgress>::default(), CancellationToken::new());
        cancel.cancel();
        progress.is_writing.store(true, Ordering::Relaxed);
        let tree = crate::restore::directory::tree::Tree::open(
            crate::restore::directory::directories::Directories::default(),
            &target,
            &[],
            None,
        )
        .expect("open");
        crate::restore::run::context::Context::new(Some(tree), None, None, progress, cancel)
    };
    repository.write(crate::stored::member::MARKER, marker().as_bytes());
    let late = context();
    crate::restore::run::apply::complete(&late, crate::restore::directory::tree::Tree::sync)
        .expect("too late to cancel");
    assert!(control.exists() && !repository.is_marked() && !late.progress.is_writing.load(Ordering::Relaxed));
    drop(late);
    // The mark cannot be removed: the restore is complete all the same.
    std::fs::create_dir(target.join(crate::stored::member::MARKER)).expect("created");
    let marked = context();
    crate::restore::run::apply::complete(&marked, crate::restore::directory::tree::Tree::sync)
        .expect_err("a directory");
    assert!(control.exists() && !marked.progress.is_writing.load(Ordering::Relaxed));
    drop(marked);
    // Not on disk: no server may start.
    let unflushed = context();
    let broken =
        |_: &crate::restore::directory::tree::Tree| Err(Error::io("flush", &target, std::io::Error::other("broken")));
    let error = crate::restore::run::apply::complete(&unflushed, broken).expect_err("broken");
    assert!(error.to_string().contains("flush"), "{error}");
    assert!(!control.exists() && repository.is_marked() && unflushed.progress.is_writing.load(Ordering::Relaxed));
}
