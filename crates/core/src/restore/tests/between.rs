//! What happens to the directory between the plan and the end of the restore.

use super::existing::{delta, repository};
use super::*;
use crate::control_file::tests::sample;

async fn planned(repository: &Repository, options: RestoreOptions) -> Result<RestorePlan> {
    plan(&repository.store, BACKUP, &repository.target(), options).await
}

async fn applied(plan: RestorePlan) -> Result<Restored> {
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
    // Whoever has a plan has the directory.
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
    let mut plan = planned(&repository, delta()).await.expect("planned");
    let found = std::mem::take(&mut plan.directories);
    let condition = plan.condition.take().expect("something is there");
    let tree = tree::Tree::open(found, &plan.target, &[], None).expect("open");
    repository.write("postmaster.pid", b"1");
    let error = super::apply::lock_out(&tree, &condition).expect_err("in use");
    says(&error, "a server is or was running");
    std::fs::remove_file(repository.target().join("postmaster.pid")).expect("removed");
    assert_eq!(repository.files(), before, "as it was");
    super::apply::lock_out(&tree, &condition).expect("free");
    assert!(!repository.target().join("global/pg_control").exists());
}
