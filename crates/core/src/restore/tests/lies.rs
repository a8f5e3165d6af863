//! Repositories that lie: about their owner, about places, about sizes.

use super::*;
use std::os::unix::fs::MetadataExt;

use crate::repository::cluster::{self, ClusterIdentity};
use crate::wal::SegmentSize;

const VERSION: &str = "/pg_tblspc/16400/PG_15_202209061/5/1";

fn with_location(location: &Path) -> String {
    sentinel(&format!(
        r#""Spec": {{"base_prefix": "/d", "tablespaces": ["16400"], "16400": {{"loc": "{}", "link": "pg_tblspc/16400"}}}},"#,
        location.display()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_only_the_repository_names_is_asked_for() {
    let outside = tempfile::tempdir().expect("a directory");
    let mut places = vec![PathBuf::from("/etc/systemd/system/walarchive-test.service.d")];
    if nix::unistd::geteuid().is_root() {
        places.push(outside.path().join("evil"));
    }
    for place in places {
        let listed: [(&str, &[u8]); 1] = [(&VERSION[1..], CONTENT)];
        let repository = Repository::new(&with_location(&place), &[file(VERSION, CONTENT)], &listed).await;
        let error = repository.restore().await.expect_err("refused");
        assert!(
            error.to_string().contains("only the repository names")
                && error
                    .hint()
                    .is_some_and(|hint| hint.contains("--tablespace-map 16400=")),
            "{error}"
        );
        assert!(!place.exists() && !repository.target().exists(), "{place:?}");
        let verify = RestoreOptions {
            mode: RestoreMode::VerifyOnly,
            ..RestoreOptions::default()
        };
        repository.restore_with(verify).await.expect("nothing is written");
        // It is shown, and somebody may agree; here, that nothing is written is all that is wanted.
        let planned = plan(
            &repository.store,
            BACKUP,
            &repository.target(),
            RestoreOptions::default(),
        )
        .await;
        let mut planned = planned.expect("planned").plan;
        assert_eq!(planned.unconfirmed().count(), 1);
        assert!(planned.to_string().contains("is not confirmed"), "{planned}");
        planned.confirm_locations();
        planned.check_locations().expect("confirmed");
    }
}

/// Even a harmless place is not for the repository alone to choose: somebody must say that it may be used.
#[tokio::test(flavor = "multi_thread")]
async fn a_harmless_place_is_taken_when_it_is_accepted() {
    let outside = tempfile::tempdir().expect("a directory");
    let place = outside.path().join("space");
    let meta = outside.path().metadata().expect("there");
    let mut owner = Owner {
        uid: meta.uid(),
        gid: meta.gid(),
    };
    if owner.uid == 0 {
        owner = Owner {
            uid: 12_345,
            gid: 12_345,
        };
        std::os::unix::fs::chown(outside.path(), Some(owner.uid), Some(owner.gid)).expect("given");
    }
    let listed: [(&str, &[u8]); 1] = [(&VERSION[1..], CONTENT)];
    let repository = Repository::new(&with_location(&place), &[file(VERSION, CONTENT)], &listed).await;
    let options = |owner, accepted| {
        let mut options = RestoreOptions {
            owner,
            ..RestoreOptions::default()
        };
        if accepted {
            options.tablespace_map.accept_originals();
        }
        options
    };
    let is_root = nix::unistd::geteuid().is_root();
    let named = is_root.then_some(owner);
    let error = repository.restore_with(options(named, false)).await.expect_err("asked");
    let hint = error.hint().unwrap_or_default();
    assert!(error.to_string().contains("only the repository names"), "{error}");
    for flag in [
        "--tablespace-map 16400=",
        "--tablespace-map-all",
        "--tablespace-map-original",
    ] {
        assert!(hint.contains(flag), "{flag}: {hint}");
    }
    if is_root {
        let error = repository.restore_with(options(None, true)).await.expect_err("root");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("user of --owner"), "{hint}");
    }
    assert!(!place.exists() && !repository.target().exists());
    let planned = plan(&repository.store, BACKUP, &repository.target(), options(named, true))
        .await
        .expect("planned")
        .plan;
    planned.check_locations().expect("accepted");
    assert!(!planned.to_string().contains("not confirmed"), "{planned}");
    drop(planned);
    repository.restore_with(options(named, true)).await.expect("restored");
    assert!(place.join("PG_15_202209061/5/1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_files_of_databases_get_into_a_tablespace() {
    let location = |repository: &Repository| repository.place.path().join("space");
    let members = [
        file(VERSION, CONTENT),
        file("/pg_tblspc/16400/PG_x.conf", b"evil"),
        file("/pg_tblspc/16400/PG_15_202209061/x.conf", b"evil"),
        file("/pg_tblspc/16400/PG_15_202209061/x.d/1", b"evil"),
        directory("/pg_tblspc/16400/PG_15_202209061/y.d"),
    ];
    let repository = Repository::new(&with_location(Path::new("/old")), &members, &[]).await;
    repository
        .store
        .delete(&layout::backup_manifest(BACKUP))
        .await
        .expect("deleted");
    let mut options = RestoreOptions::default();
    let map = format!("16400={}", location(&repository).display());
    options.tablespace_map.add(&map).expect("a mapping");
    repository.restore_with(options).await.expect("restored");
    let version = location(&repository).join("PG_15_202209061");
    assert_eq!(walk(&location(&repository)), [version.join("5/1")]);
    assert!(!version.join("y.d").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_another_cluster_than_the_repository_s_is_refused() {
    let repository = Repository::new(&sentinel(r#""SystemIdentifier": 7,"#), &[], &[]).await;
    let identity = |system_identifier| ClusterIdentity {
        system_identifier,
        major_version: 15,
        segment_size: SegmentSize::DEFAULT,
    };
    cluster::claim(&repository.store, &identity(7)).await.expect("claimed");
    repository.restore().await.expect("restored");
    std::fs::remove_dir_all(repository.target()).expect("removed");
    repository
        .put(
            &layout::sentinel(BACKUP),
            sentinel(r#""SystemIdentifier": 8,"#).as_bytes(),
        )
        .await;
    let error = repository.restore().await.expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("is of the cluster with system identifier 8, the repository of 7"),
        "{error}"
    );
    assert!(!repository.target().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_unpacked_than_was_announced() {
    // The first one is well within, the second one is not.
    let members = [file("/base/5/1", CONTENT), file("/base/5/2", &vec![0; 40 << 20])];
    for more in [r#""UncompressedSize": 1000,"#, ""] {
        let repository = Repository::new(&sentinel(more), &members, &[]).await;
        repository
            .store
            .delete(&layout::backup_manifest(BACKUP))
            .await
            .expect("deleted");
        let restored = repository.restore().await;
        // WAL-G 1.x announced nothing.
        if more.is_empty() {
            restored.expect("restored");
            continue;
        }
        let error = restored.expect_err("too much");
        let detail = error.detail().unwrap_or_default();
        assert!(
            detail.contains("base/5/2") && detail.contains("unpacks to more than"),
            "{error} {detail}"
        );
        let written: u64 = walk(&repository.target())
            .iter()
            .map(|path| path.metadata().expect("there").len())
            .sum();
        assert!(written < 1 << 20, "{written}");
    }
}
