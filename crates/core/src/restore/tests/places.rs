//! Restores into a directory whose tablespaces are elsewhere than in the backup.

use super::existing::{NEWER, delta};
use super::*;
use crate::control_file::tests::{SYSTEM_IDENTIFIER, sample};

/// A backup with one file, in a tablespace.
pub(super) async fn with_tablespace() -> Repository {
    let spec = format!(
        r#""SystemIdentifier": {SYSTEM_IDENTIFIER}, "Spec": {{"base_prefix": "/d", "tablespaces": ["16400"],
        "16400": {{"loc": "/old", "link": "pg_tblspc/16400"}}}},"#
    );
    let control = sample(16 << 20, 288);
    let members = [file("/pg_tblspc/16400/PG_15_1/5/1", CONTENT)];
    let listed: [(&str, &[u8]); 3] = [
        ("pg_tblspc/16400/PG_15_1/5/1", CONTENT),
        ("global/pg_control", &control),
        ("backup_label", b"START WAL"),
    ];
    let repository = Repository::new(&sentinel(&spec), &members, &[]).await;
    repository
        .put(&layout::backup_manifest(BACKUP), &manifest(&listed))
        .await;
    repository
        .put_tar("pg_control.tar.zst", &[file("/global/pg_control", &control)])
        .await;
    repository
}

/// With the tablespace in this directory beside the target.
pub(super) fn mapped(repository: &Repository, place: &str) -> RestoreOptions {
    let mut options = delta();
    let map = format!("16400={}", repository.place.path().join(place).display());
    options.tablespace_map.add(&map).expect("a mapping");
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_are_those_of_the_target() {
    let repository = with_tablespace().await;
    let at = |name: &str| repository.place.path().join(name);
    let options = |place: &str| mapped(&repository, place);
    repository.restore_with(options("one")).await.expect("restored");
    let file = at("one/PG_15_1/5/1");
    for (name, content) in [("1", NEWER), ("2", CONTENT)] {
        std::fs::write(at("one/PG_15_1/5").join(name), content).expect("written");
    }
    std::fs::create_dir(at("one/PG_14_1")).expect("created");
    repository.restore_with(options("one")).await.expect("restored");
    assert_eq!(std::fs::read(&file).expect("read"), CONTENT);
    assert!(
        !at("one/PG_15_1/5/2").exists() && at("one/PG_14_1").exists(),
        "of another server"
    );
    // Another place, which is in use.
    std::fs::create_dir(at("two")).expect("created");
    std::fs::write(at("two/x"), "").expect("written");
    let error = repository.restore_with(options("two")).await.expect_err("in use");
    assert!(error.to_string().contains("is not that of tablespace 16400"), "{error}");
    std::fs::remove_file(at("two/x")).expect("removed");
    repository.restore_with(options("two")).await.expect("restored");
    let link = repository.target().join("pg_tblspc/16400");
    assert_eq!(std::fs::read_link(link).expect("a link"), at("two"));
    assert!(
        at("two/PG_15_1/5/1").exists() && file.exists(),
        "what the link led to is left alone"
    );
}

/// The tablespace was in place, or the directory was copied with its links resolved.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_makes_way_for_the_link_to_a_tablespace() {
    let repository = with_tablespace().await;
    let elsewhere = repository.place.path().join("one");
    let link = repository.target().join("pg_tblspc/16400");
    for is_there in [false, true] {
        repository
            .restore_with(mapped(&repository, "one"))
            .await
            .expect("restored");
        std::fs::remove_file(&link).expect("removed");
        std::fs::remove_dir_all(&elsewhere).expect("removed");
        if is_there {
            std::fs::create_dir(&elsewhere).expect("created");
        }
        repository.write("pg_tblspc/16400/PG_15_1/5/1", CONTENT);
        repository.write("pg_tblspc/16400/PG_15_1/5/2", NEWER);
        let planned = plan(
            &repository.store,
            BACKUP,
            &repository.target(),
            mapped(&repository, "one"),
        )
        .await
        .expect("planned");
        let found = planned.plan.existing.as_ref().expect("compared");
        assert_eq!((found.kept_files, found.removed), (0, 2), "not where they belong");
        apply(planned, Arc::default(), CancellationToken::new())
            .await
            .expect("restored");
        assert_eq!(std::fs::read_link(&link).expect("a link"), elsewhere);
        assert_eq!(std::fs::read(elsewhere.join("PG_15_1/5/1")).expect("read"), CONTENT);
        assert!(!elsewhere.join("PG_15_1/5/2").exists());
    }
}
