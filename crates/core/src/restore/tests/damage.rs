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
        (
            vec![link("/base", EntryType::Symlink, "/tmp"), file("/base/x", CONTENT)],
            "symbolic link",
        ),
        (vec![link("/pg_tblspc/1", EntryType::Symlink, "/tmp")], "symbolic link"),
        (vec![link("/base/x", EntryType::Link, "/etc/passwd")], "hard link"),
        (vec![link("/base/x", EntryType::Char, "")], "device"),
        (vec![link("/base/x", EntryType::Block, "")], "device"),
        (vec![link("/base/x", EntryType::Fifo, "")], "named pipe"),
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

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_through_a_link_in_the_tree() {
    let repository = Repository::good().await;
    let outside = repository.place.path().join("outside");
    std::fs::create_dir(&outside).expect("created");
    // Somebody puts a link there while the restore writes.
    let tree = tree::Tree::open(root::Directories::default(), &repository.target(), &[], None).expect("open");
    std::os::unix::fs::symlink(&outside, repository.target().join("base")).expect("linked");
    let path = member::MemberPath::parse(b"base/x").expect("a path");
    let error = tree.create_file(&path).map(|_| ()).expect_err("refused");
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(
        tree.create_directory(&path, 0o700).is_err() && tree.read(&path, 9).is_err() && tree.remove(&path).is_err()
    );
    assert_eq!(std::fs::read_dir(&outside).expect("read").count(), 0);
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
