//! The options of a restore beside the backup and the place.

use super::*;

/// A repository of a cluster with two databases of users, one of them in a tablespace too.
async fn with_databases(metadata: Option<&str>) -> Repository {
    let members = [
        file("/base/5/1259", CONTENT),
        file("/base/16400/2619", CONTENT),
        file("/base/16401/PG_VERSION", b"15"),
        file("/base/16401/2619", CONTENT),
        file("/base/16401/pg_filenode.map", CONTENT),
        file("/pg_tblspc/16390/PG_15_1/16401/7", CONTENT),
    ];
    let listed: Vec<(&str, &[u8])> = members
        .iter()
        .map(|Member(name, _, _, content)| (name.trim_start_matches('/'), &content[..]))
        .collect();
    match metadata {
        None => Repository::new(&sentinel(""), &members, &listed).await,
        Some(databases) => {
            let sentinel = r#"{"LSN": 1, "FinishLSN": 2, "PgVersion": 150018}"#;
            let repository = Repository::new(sentinel, &members[..2], &listed).await;
            repository.put_tar("part_002.tar.zst", &members[2..3]).await;
            // Only what is left out is in it, so it is not even looked at.
            repository
                .put(&layout::tar(BACKUP, "part_003.tar.zst"), b"rubbish")
                .await;
            let files: Vec<String> = listed.iter().map(|(path, _)| format!("\"/{path}\": {{}}")).collect();
            let metadata = format!(
                r#"{{"Files": {{{}}}, "DatabasesByNames": {databases}, "TarFileSets": {{"part_001.tar.zst":
                ["/base/5/1259", "/base/16400/2619"], "part_002.tar.zst": ["/base/16401/PG_VERSION"],
                "part_003.tar.zst": ["/base/16401/2619", "/base/16401/pg_filenode.map", "/pg_tblspc/16390/PG_15_1/16401/7"]}}}}"#,
                files.join(", ")
            );
            repository
                .put(&layout::files_metadata(BACKUP), metadata.as_bytes())
                .await;
            repository
        }
    }
}

fn only(databases: &[&str]) -> RestoreOptions {
    RestoreOptions {
        databases: databases.iter().map(|name| (*name).to_owned()).collect(),
        ..RestoreOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_databases_come_back_as_zeros() {
    let names = r#"{"mine": {"oid": 16400}, "theirs": {"oid": 16401}}"#;
    for (metadata, wanted) in [(None, "16400"), (Some("null"), "16400"), (Some(names), "mine")] {
        for with_manifest in [true, false] {
            let repository = with_databases(metadata).await;
            if !with_manifest {
                if metadata.is_some() {
                    // Its tars tell the sizes.
                    let members = [
                        file("/base/16401/2619", CONTENT),
                        file("/base/16401/pg_filenode.map", CONTENT),
                        file("/pg_tblspc/16390/PG_15_1/16401/7", CONTENT),
                    ];
                    repository.put_tar("part_003.tar.zst", &members).await;
                } else {
                    continue;
                }
                repository
                    .store
                    .delete(&layout::backup_manifest(BACKUP))
                    .await
                    .expect("deleted");
            }
            repository.restore_with(only(&[wanted])).await.expect("restored");
            let read = |path: &str| std::fs::read(repository.target().join(path)).expect(path);
            for path in ["base/5/1259", "base/16400/2619"] {
                assert_eq!(read(path), CONTENT, "{path}");
            }
            assert_eq!(read("base/16401/PG_VERSION"), b"15");
            for path in [
                "base/16401/2619",
                "base/16401/pg_filenode.map",
                "pg_tblspc/16390/PG_15_1/16401/7",
            ] {
                assert_eq!(read(path), vec![0; CONTENT.len()], "{path}");
            }
        }
    }
    for (metadata, wanted, says) in [
        (None, "mine", "does not have the names of its databases"),
        (Some("{}"), "mine", "does not have the names of its databases"),
        (Some(names), "other", "knows no database \"other\""),
        (Some(names), "17000", "has no database with OID 17000"),
    ] {
        let repository = with_databases(metadata).await;
        let error = repository.restore_with(only(&[wanted])).await.expect_err(says);
        assert!(error.to_string().contains(says) && error.hint().is_some(), "{error}");
        assert!(!repository.target().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_database_is_told_those_that_are_known() {
    let one = |number: u32| format!(r#""db{number:03}": {{"oid": {}}}"#, 16_400 + number);
    let names: Vec<String> = (0..60).map(one).collect();
    let repository = with_databases(Some(&format!("{{{}}}", names.join(", ")))).await;
    let error = repository.restore_with(only(&["db1000"])).await.expect_err("unknown");
    let hint = error.hint().expect("a hint");
    assert!(
        hint.contains("\"db000\", \"db001\"") && hint.contains("\"db049\" and 10 more"),
        "{hint}"
    );
    assert!(!hint.contains("db050") && hint.contains("OID"), "{hint}");
}

/// Dropped and created again, they have OIDs like those of users.
#[tokio::test(flavor = "multi_thread")]
async fn the_databases_of_the_server_come_back_whatever_their_oids_are() {
    for name in ["postgres", "template0", "template1"] {
        let names = format!(r#"{{"mine": {{"oid": 16400}}, "{name}": {{"oid": 16401}}}}"#);
        let repository = with_databases(Some(&names)).await;
        let members = [
            file("/base/16401/2619", CONTENT),
            file("/base/16401/pg_filenode.map", CONTENT),
            file("/pg_tblspc/16390/PG_15_1/16401/7", CONTENT),
        ];
        repository.put_tar("part_003.tar.zst", &members).await;
        for wanted in ["mine", "16400"] {
            repository.restore_with(only(&[wanted])).await.expect("restored");
            for path in ["base/16400/2619", "base/16401/2619", "pg_tblspc/16390/PG_15_1/16401/7"] {
                let content = std::fs::read(repository.target().join(path)).expect(path);
                assert_eq!(content, CONTENT, "{name} for {wanted}: {path}");
            }
            std::fs::remove_dir_all(repository.target()).expect("removed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_goes_on_at_pages_that_were_left_out() {
    let auto = |repository: &Repository| std::fs::read_to_string(repository.target().join("postgresql.auto.conf"));
    for (wanted, expected) in [(&["16400"][..], true), (&[], false)] {
        let repository = with_databases(None).await;
        let planned = plan(&repository.store, BACKUP, &repository.target(), only(wanted)).await;
        let planned = planned.expect("planned").plan;
        assert_eq!(planned.ignores_invalid_pages(), expected);
        assert_eq!(
            planned.to_string().contains("ignore_invalid_pages = on"),
            expected,
            "{planned}"
        );
        repository.restore_with(only(wanted)).await.expect("restored");
        let written = auto(&repository).is_ok_and(|text| text.contains("\nignore_invalid_pages = 'on' # "));
        assert_eq!(written, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_room_is_known_before_the_first_byte() {
    let repository = Repository::good().await;
    let sentinel = sentinel(&format!("\"UncompressedSize\": {},", u64::MAX / 2));
    repository.put(&layout::sentinel(BACKUP), sentinel.as_bytes()).await;
    // The manifest knows better.
    let planned = plan(
        &repository.store,
        BACKUP,
        &repository.target(),
        RestoreOptions::default(),
    )
    .await;
    planned.expect("little is needed");
    repository
        .store
        .delete(&layout::backup_manifest(BACKUP))
        .await
        .expect("deleted");
    let error = repository.restore().await.expect_err("too large");
    assert!(error.to_string().contains("bytes free"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--no-space-check")));
    assert!(!repository.target().exists());
    let options = RestoreOptions {
        check_space: false,
        ..RestoreOptions::default()
    };
    repository.restore_with(options).await.expect("restored");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_only_checks_everything_and_writes_nothing() {
    let verify = || RestoreOptions {
        mode: RestoreMode::VerifyOnly,
        ..RestoreOptions::default()
    };
    let repository = Repository::good().await;
    let read = repository.restore_with(verify()).await.expect("in order");
    assert_eq!(read.files, 3);
    assert!(!repository.target().exists());
    let mut other = CONTENT.to_vec();
    other[3] ^= 1;
    repository
        .put_tar("part_001.tar.zst", &[file("/base/5/1259", &other)])
        .await;
    let error = repository.restore_with(verify()).await.expect_err("damaged");
    assert!(
        error.detail().is_some_and(|detail| detail.contains("checksum")),
        "{error:?}"
    );
    assert!(!repository.target().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_does_not_archive() {
    let auto = b"archive_mode = 'on'\nwork_mem = '1MB'\n";
    let conf = b"archive_mode = on\n";
    let members = [file("/postgresql.auto.conf", auto), file("/postgresql.conf", conf)];
    let listed: [(&str, &[u8]); 2] = [("postgresql.auto.conf", auto), ("postgresql.conf", conf)];
    let repository = Repository::new(&sentinel(""), &members, &listed).await;
    let options = RestoreOptions {
        archive_off: true,
        ..RestoreOptions::default()
    };
    let planned = plan(&repository.store, BACKUP, &repository.target(), options.clone())
        .await
        .expect("planned")
        .plan;
    assert!(planned.to_string().contains("archiving:    off"), "{planned}");
    repository.restore_with(options).await.expect("restored");
    let read = |path: &str| std::fs::read_to_string(repository.target().join(path)).expect(path);
    let expected = "work_mem = '1MB'\n# written by walarchive backup-fetch\narchive_mode = 'off'\n";
    assert_eq!(read("postgresql.auto.conf"), expected);
    assert_eq!(read("postgresql.conf").as_bytes(), conf);
    assert!(!repository.target().join("recovery.signal").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tablespaces_go_below_one_directory() {
    let spec = r#""Spec": {"base_prefix": "/d", "tablespaces": ["16400", "16401"],
        "16400": {"loc": "/old", "link": "pg_tblspc/16400"}, "16401": {"loc": "/other", "link": "pg_tblspc/16401"}},"#;
    let members = [
        file("/pg_tblspc/16400/PG_15_1/5/1", CONTENT),
        directory("/pg_tblspc/16401"),
    ];
    let listed: [(&str, &[u8]); 1] = [("pg_tblspc/16400/PG_15_1/5/1", CONTENT)];
    let repository = Repository::new(&sentinel(spec), &members, &listed).await;
    let place = repository.place.path().join("spaces");
    let mut options = RestoreOptions::default();
    options.tablespace_map.put_all(&place).expect("absolute");
    let elsewhere = repository.place.path().join("elsewhere");
    options
        .tablespace_map
        .add(&format!("16401={}", elsewhere.display()))
        .expect("a mapping");
    repository.restore_with(options).await.expect("restored");
    assert_eq!(std::fs::read(place.join("16400/PG_15_1/5/1")).expect("read"), CONTENT);
    assert!(elsewhere.is_dir() && !place.join("16401").exists());
    assert!(TablespaceMap::default().put_all(Path::new("x")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_gives_everything_to_the_owner() {
    use std::os::unix::fs::MetadataExt;
    let owner = Owner {
        uid: 12_345,
        gid: 23_456,
    };
    let options = RestoreOptions {
        owner: Some(owner),
        ..RestoreOptions::default()
    };
    let repository = Repository::good().await;
    let restored = repository.restore_with(options).await;
    if !nix::unistd::geteuid().is_root() {
        let error = restored.expect_err("not root");
        assert!(error.to_string().contains("only root"), "{error}");
        return;
    }
    restored.expect("restored");
    let target = repository.target();
    let mut paths = walk(&target);
    paths.extend(["", "base", "base/5", "pg_wal", "global", "pg_twophase"].map(|path| target.join(path)));
    for path in paths {
        let meta = path.symlink_metadata().expect("there");
        assert_eq!((meta.uid(), meta.gid()), (12_345, 23_456), "{path:?}");
    }
}
