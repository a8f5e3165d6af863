//! Backups that are hostile, damaged or incomplete: refused, with nothing left that could be taken for good.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_members_are_refused() {
    let link = |name, kind, to| Member(name, kind, to, Vec::new());
    let cases = [
        (vec![file("/../escaped", CONTENT)], "\"..\""),
        (vec![file("base/../../escaped", CONTENT)], "\"..\""),
        (vec![file("", CONTENT)], "path is empty"),
        (vec![file("base//x", CONTENT)], "empty component"),
        // They hold nothing, so what they stand for is missing, or there twice.
        (
            vec![
                link("/global/pg_control", EntryType::Symlink, "/tmp/x"),
                file("/base/5/1259", CONTENT),
                file("/global/pg_control", CONTENT),
            ],
            "must be restored last",
        ),
        (
            vec![link("/base/x", EntryType::Symlink, "/tmp/x"), file("/base/x", CONTENT)],
            "twice",
        ),
        (vec![link("/base/x", EntryType::Link, "/etc/passwd")], "hard link"),
        (
            vec![link("/base/x", EntryType::new(b'M'), "")],
            "neither a file nor a directory",
        ),
        (vec![file("/global/pg_control", CONTENT)], "must be restored last"),
        (
            vec![file("/base/5/1259", CONTENT), file("base/5/1259", CONTENT)],
            "twice",
        ),
        (
            vec![file("/base", CONTENT), file("/base/5/1259", CONTENT)],
            "no directory",
        ),
        (
            vec![Member("/x", EntryType::GNULongName, "", vec![b'x'; 2 << 20])],
            "too long",
        ),
    ];
    for (members, says) in cases {
        let repository = Repository::new(&sentinel(""), &members, &[("base/5/1259", CONTENT)]).await;
        // Without the manifest, which would refuse most of them before the name is looked at.
        repository
            .store
            .delete(&layout::backup_manifest(BACKUP))
            .await
            .expect("deleted");
        repository.refuses(says).await;
        assert!(!repository.place.path().join("escaped").exists());
    }
}

/// WAL-G packs links as it finds them, without what they lead to.
#[tokio::test(flavor = "multi_thread")]
async fn links_and_devices_are_left_out() {
    let link = |name, kind, to| Member(name, kind, to, Vec::new());
    let members = || {
        [
            link("/base", EntryType::Symlink, "/tmp"),
            file("/base/5/1259", CONTENT),
            link("/base/6", EntryType::Symlink, "../../outside"),
            link("/server.crt", EntryType::Symlink, "/etc/ssl/x"),
            link("/pg_tblspc/1", EntryType::Symlink, "/tmp"),
            link("/pg_wal", EntryType::Symlink, "/wal"),
            link("/c", EntryType::Char, ""),
            link("/b", EntryType::Block, ""),
            link("/p", EntryType::Fifo, ""),
        ]
    };
    let names = ["base/6", "server.crt", "pg_tblspc/1", "c", "b", "p"];
    for (with_metadata, with_manifest) in [(false, false), (false, true), (true, false), (true, true)] {
        let sentinel = match with_metadata {
            true => r#"{"LSN": 1, "FinishLSN": 2, "PgVersion": 150018}"#.to_owned(),
            false => sentinel(""),
        };
        let repository = Repository::new(&sentinel, &members(), &[("base/5/1259", CONTENT)]).await;
        if with_metadata {
            let files: Vec<String> = names.iter().map(|name| format!("\"/{name}\": {{}}")).collect();
            let metadata = format!(
                r#"{{"Files": {{"/base": {{}}, "/base/5/1259": {{}}, {}}}}}"#,
                files.join(", ")
            );
            repository
                .put(&layout::files_metadata(BACKUP), metadata.as_bytes())
                .await;
        }
        if !with_manifest {
            let manifest = layout::backup_manifest(BACKUP);
            repository.store.delete(&manifest).await.expect("deleted");
        }
        repository.restore().await.expect("restored");
        let target = repository.target();
        assert_eq!(std::fs::read(target.join("base/5/1259")).expect("read"), CONTENT);
        assert!(target.join("base").symlink_metadata().expect("there").is_dir());
        assert!(target.join("pg_wal").symlink_metadata().expect("there").is_dir());
        for name in names {
            assert!(target.join(name).symlink_metadata().is_err(), "{name}");
        }
        // In the place of a file it is no replacement for it.
        let members = [
            link("/base/5/1259", EntryType::Symlink, "/tmp/x"),
            link("/global/pg_control", EntryType::Symlink, "/tmp/x"),
        ];
        repository.put_tar("part_001.tar.zst", &members[..1]).await;
        std::fs::remove_dir_all(&target).expect("removed");
        if with_manifest {
            repository.refuses("\"base/5/1259\"").await;
            std::fs::remove_dir_all(&target).expect("removed");
        }
        repository.put_tar("pg_control.tar.zst", &members[1..]).await;
        assert!(repository.restore().await.is_err());
        assert!(target.join("global/pg_control").symlink_metadata().is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_through_a_link_in_the_tree() {
    let repository = Repository::good().await;
    let outside = repository.place.path().join("outside");
    std::fs::create_dir(&outside).expect("created");
    // Somebody puts a link there while the restore writes.
    let tree = crate::restore::directory::tree::Tree::open(
        crate::restore::directory::directories::Directories::default(),
        &repository.target(),
        &[],
        None,
    )
    .expect("open");
    std::os::unix::fs::symlink(&outside, repository.target().join("base")).expect("linked");
    let path = crate::stored::member::MemberPath::parse(b"base/x").expect("a path");
    let error = tree.create_file(&path).map(|_| ()).expect_err("refused");
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(tree.create_directory(&path, 0o700).is_err());
    std::fs::write(outside.join("x"), CONTENT).expect("written");
    assert_eq!(tree.read(&path, 1 << 20).expect("looked"), None);
    tree.remove(&path).expect("nothing to remove");
    tree.set_aside(&path).expect("nothing to rename");
    assert_eq!(walk(&outside), [outside.join("x")]);
    std::fs::remove_file(outside.join("x")).expect("removed");
    drop(tree);
    // And before it begins.
    std::fs::remove_file(repository.target().join("base")).expect("removed");
    let plan = plan(
        &repository.store,
        BACKUP,
        &repository.target(),
        RestoreOptions::default(),
    )
    .await
    .expect("planned");
    std::os::unix::fs::symlink(&outside, repository.target().join("base")).expect("linked");
    let error = apply(plan, Arc::default(), CancellationToken::new())
        .await
        .expect_err("refused");
    assert!(
        error.to_string().contains("was changed while the restore was planned"),
        "{error}"
    );
    assert_eq!(walk(&outside), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found() {
    let key = layout::tar(BACKUP, "part_001.tar.zst");
    let members = [file("/base/5/1259", CONTENT)];
    let plain = tar_of(&members);
    let packed = zstd(&plain);
    for cut in [1, packed.len() / 2, packed.len() - 1] {
        let repository = Repository::good().await;
        repository.put(&key, &packed[..cut]).await;
        repository.refuses("cannot be unpacked").await;
    }
    for bit in [packed.len() * 3, packed.len() * 5, packed.len() * 8 - 1] {
        let mut flipped = packed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let repository = Repository::good().await;
        repository.put(&key, &flipped).await;
        repository.refuses("part_001.tar.zst").await;
    }
    // A stream that is whole, of a tar that is not.
    for (cut, says) in [
        (512 + 10, "truncated"),
        (1024, "end mark is missing"),
        (1536, "end mark is missing"),
        (0, "end mark"),
    ] {
        let repository = Repository::good().await;
        repository.put(&key, &zstd(&plain[..cut])).await;
        repository.refuses(says).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_manifest_says_counts() {
    let members = || [file("/base/5/1259", CONTENT)];
    let mut other = CONTENT.to_vec();
    other[0] ^= 1;
    for (listed, says) in [
        (vec![("base/5/1259", &other[..])], "checksum"),
        (vec![("base/5/1259", &CONTENT[1..])], "the backup manifest says"),
        (vec![], "not in the backup manifest"),
        (vec![("base/5/1259", CONTENT), ("base/5/9", CONTENT)], "\"base/5/9\""),
    ] {
        Repository::new(&sentinel(""), &members(), &listed)
            .await
            .refuses(says)
            .await;
    }
    let repository = Repository::good().await;
    repository.put(&layout::backup_manifest(BACKUP), b"{}").await;
    repository.refuses("backup_manifest").await;
    let repository = Repository::good().await;
    repository
        .put_tar("pg_control.tar.zst", &[file("/global/pg_control", b"contro!")])
        .await;
    repository.refuses_late("checksum").await;
}

impl Repository {
    /// As [`Repository::refuses`], but after everything else was restored.
    async fn refuses_late(&self, says: &str) {
        let error = self.restore().await.expect_err(says);
        let text = format!("{error} {}", error.detail().unwrap_or_default());
        assert!(matches!(error, Error::Damaged { .. }) && text.contains(says), "{text}");
        assert_eq!(
            std::fs::read_dir(self.target().join("global")).expect("read").count(),
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_objects_are_named() {
    for (key, says) in [
        (layout::tar(BACKUP, "pg_control.tar.zst"), "pg_control"),
        (layout::tar(BACKUP, "backup_label.tar.zst"), "backup_label"),
        (layout::tar(BACKUP, "part_001.tar.zst"), "base/5/1259"),
    ] {
        let repository = Repository::good().await;
        repository.store.delete(&key).await.expect("deleted");
        repository.refuses(says).await;
    }
    let repository = Repository::good().await;
    repository.put_tar("backup_label.tar.zst", &[directory("/base")]).await;
    repository
        .store
        .delete(&layout::backup_manifest(BACKUP))
        .await
        .expect("deleted");
    repository.refuses("backup_label").await;
    let repository = Repository::good().await;
    repository
        .store
        .delete(&layout::sentinel(BACKUP))
        .await
        .expect("deleted");
    assert!(matches!(repository.restore().await, Err(Error::NoBackup { .. })));
}
