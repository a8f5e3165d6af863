//! Restores into directories with file systems mounted below them. A test runs itself again where it may mount.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::existing::{FILES, delta, repository};
use super::places::{mapped, with_tablespace};
use super::*;

const MOUNTING: &str = "WALARCHIVE_TEST_MOUNTS";

/// Nothing that is mounted there is seen outside, nor is it left when the test has ended.
fn with_mounts(name: &str, test: impl Future<Output = ()>) {
    let unshare = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount"]).arg(program);
        command
    };
    if std::env::var_os(MOUNTING).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return runtime.block_on(test);
    }
    if !unshare(Path::new("true")).status().is_ok_and(|status| status.success()) {
        eprintln!("nothing can be mounted here, so {name} was left out");
        return;
    }
    let output = unshare(&std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            &format!("{}::{name}", module_path!().split_once("::").expect("a module").1),
        ])
        .env(MOUNTING, "1")
        .output()
        .expect("ran");
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{error}");
}

fn mount(directory: &Path) {
    std::fs::create_dir_all(directory).expect("created");
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "none"]).arg(directory);
    assert!(command.status().expect("ran").success());
}

fn device(path: &Path) -> u64 {
    path.metadata().expect("there").dev()
}

#[test]
fn what_is_mounted_below_stays_and_is_no_room_above() {
    with_mounts("what_is_mounted_below_stays_and_is_no_room_above", async {
        let repository = repository().await;
        repository.restore().await.expect("restored");
        let target = repository.target();
        let wal = target.join("pg_wal");
        mount(&wal);
        repository.write("pg_wal/000000010000000000000007", &vec![1; 1 << 20]);
        let planned = plan(&repository.store, BACKUP, &target, delta())
            .await
            .expect("planned");
        let removed = ["backup_label", "global/pg_control"];
        let freed = removed.map(|name| target.join(name).metadata().expect(name).blocks() * 512);
        // Three files are kept.
        let room = freed.iter().sum::<u64>() + 3 * 4096;
        let existing = planned.plan.existing.as_ref().expect("compared");
        assert_eq!(existing.room, [(None, room)].into());
        apply(planned, Arc::default(), CancellationToken::new())
            .await
            .expect("restored");
        assert_eq!(repository.files(), FILES);
        assert_ne!(device(&wal), device(&target), "still mounted");
        // Files that are written there are flushed with the rest.
        let tree = crate::restore::directory::tree::Tree::open(
            crate::restore::directory::directories::Directories::default(),
            &target,
            &[],
            None,
        )
        .expect("open");
        let directory = |name: &str| crate::stored::member::MemberPath::parse(name.as_bytes()).expect("a path");
        for name in ["base", "pg_wal", "pg_wal/archive_status"] {
            tree.create_directory(&directory(name), 0o700).expect("created");
        }
        assert_eq!(tree.mounted.lock().keys().copied().collect::<Vec<_>>(), [device(&wal)]);
        tree.sync().expect("flushed");
        assert!(tree.mounted.lock().is_empty());
    });
}

#[test]
fn a_directory_with_nothing_but_mounts_in_it_is_empty() {
    with_mounts("a_directory_with_nothing_but_mounts_in_it_is_empty", async {
        let repository = repository().await;
        let target = repository.target();
        let mounts = ["pg_wal", "base", "log"].map(|name| target.join(name));
        for place in &mounts {
            mount(place);
            std::fs::create_dir(place.join("lost+found")).expect("created");
        }
        std::fs::write(mounts[2].join("x"), "of somebody").expect("written");
        let error = repository.restore().await.expect_err("something is there");
        assert!(error.to_string().contains("is not empty"), "{error}");
        std::fs::remove_file(mounts[2].join("x")).expect("removed");
        repository.restore().await.expect("restored");
        assert_eq!(repository.files(), FILES);
        mounts
            .iter()
            .for_each(|place| assert_ne!(device(place), device(&target), "{place:?}"));
        let wanted = RestoreOptions {
            wal_directory: Some(repository.place.path().join("wal")),
            ..delta()
        };
        let error = repository.restore_with(wanted).await.expect_err("mounted");
        assert!(
            error.to_string().contains("is not a link to the WAL directory"),
            "{error}"
        );
        assert_eq!(repository.files(), FILES, "nothing was removed");
    });
}

#[test]
fn what_is_mounted_in_the_place_of_a_link_is_refused_before_anything_is_removed() {
    with_mounts(
        "what_is_mounted_in_the_place_of_a_link_is_refused_before_anything_is_removed",
        async {
            let repository = with_tablespace().await;
            repository
                .restore_with(mapped(&repository, "one"))
                .await
                .expect("restored");
            let link = repository.target().join("pg_tblspc/16400");
            std::fs::remove_file(&link).expect("removed");
            std::fs::remove_dir_all(repository.place.path().join("one")).expect("removed");
            mount(&link);
            repository.write("pg_tblspc/16400/PG_15_1/5/1", CONTENT);
            let before = repository.files();
            let error = repository
                .restore_with(mapped(&repository, "one"))
                .await
                .expect_err("mounted");
            assert!(
                error
                    .to_string()
                    .contains("mounted where the link to a tablespace belongs")
                    && error.hint().is_some(),
                "{error}"
            );
            assert_eq!(repository.files(), before);
        },
    );
}
