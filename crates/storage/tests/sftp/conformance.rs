//! The abilities of every store.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use walarchive_storage::Error;
use walarchive_storage::{Created, PART_BYTES, Store};
use walarchive_testkit::{PATIENCE, SftpServer, TestDir, wait_until};

use super::{bytes, files, store};

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_created_once_replaced_read_and_deleted() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    assert_eq!(store.create("a/b/c", bytes(100)).await.unwrap(), Created::Yes);
    assert_eq!(store.create("a/b/c", bytes(200)).await.unwrap(), Created::Exists);
    assert_eq!(store.get("a/b/c", 1000).await.unwrap(), Some(bytes(100)));
    store.put("a/b/c", bytes(300)).await.unwrap();
    assert_eq!(store.size("a/b/c").await.unwrap(), Some(300));
    assert_eq!(
        store.get_range("a/b/c", 10..20).await.unwrap(),
        bytes(300).slice(10..20)
    );
    assert_eq!(
        store.get_range("a/b/c", 290..300).await.unwrap(),
        bytes(300).slice(290..)
    );
    assert!(store.get_range("a/b/c", 300..310).await.is_err());
    assert_eq!(store.size("a/b").await.unwrap(), None, "a directory is no object");
    assert_eq!(store.get("a/b/x", 1000).await.unwrap(), None);
    assert_eq!(store.get("x/y", 1000).await.unwrap(), None);
    // Both names of one file are gone from the directory but the last.
    wait_until("only the object is left", PATIENCE, || {
        files(&server.dir()) == ["p/a/b/c"]
    });
    store.put("a/z", Bytes::new()).await.unwrap();
    assert_eq!(store.get("a/z", 10).await.unwrap(), Some(Bytes::new()));
    assert_eq!(store.create("a/z", Bytes::new()).await.unwrap(), Created::Exists);
    store.delete("a/b/c").await.unwrap();
    store.delete("a/b/c").await.unwrap();
    assert_eq!(store.get("a/b/c", 1000).await.unwrap(), None);
    assert!(!server.dir().join("p/a/b").exists(), "an empty directory was left");
    store.delete("a/z").await.unwrap();
    assert!(server.dir().join("p").exists(), "the directory of the URL was removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_eight_creators_wins() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    // Half of them on connections of their own.
    let stores = [store(&server, "p"), store(&server, "p")];
    for round in 0..5 {
        let key = format!("race/{round}");
        let creators: Vec<_> = (0..8u8)
            .map(|who| {
                let (store, key) = (stores[usize::from(who) % 2].clone(), key.clone());
                tokio::spawn(async move { store.create(&key, vec![who; 100_000].into()).await.unwrap() })
            })
            .collect();
        let mut winners = Vec::new();
        for (who, creator) in creators.into_iter().enumerate() {
            if creator.await.unwrap() == Created::Yes {
                winners.push(who as u8);
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let content = stores[0].get(&key, u64::MAX).await.unwrap().unwrap();
        assert!(content.len() == 100_000 && content.iter().all(|&byte| byte == winners[0]));
    }
    wait_until("only the objects are left", PATIENCE, || {
        files(&server.dir()).len() == 5
    });
}

/// As other makers' servers are: no links, no replacing, no flushing, small reads and writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_without_extensions_will_do() {
    let dir = TestDir::new();
    let server = SftpServer::start_plain(&dir);
    let store = store(&server, "p");
    let creators: Vec<_> = (0..8u8)
        .map(|who| {
            let store = store.clone();
            tokio::spawn(async move { store.create("a/x", vec![who; 100_000].into()).await.unwrap() })
        })
        .collect();
    let mut winners = 0;
    for creator in creators {
        winners += usize::from(creator.await.unwrap() == Created::Yes);
    }
    assert_eq!(winners, 1);
    for size in [100, 10_000_000] {
        store.put("a/x", bytes(size)).await.unwrap();
        assert!(store.get("a/x", u64::MAX).await.unwrap().unwrap() == bytes(size));
    }
    assert_eq!(
        upload(&store, "a/x", bytes(20_000_000), true).await.unwrap(),
        20_000_000
    );
    assert_eq!(store.size("a/x").await.unwrap(), Some(20_000_000));
    wait_until("only the object is left", PATIENCE, || {
        files(&server.dir()) == ["p/a/x"]
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_show_objects_and_nothing_else() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    assert_eq!(store.list("").await.unwrap(), vec![]);
    assert_eq!(store.list("nowhere").await.unwrap(), vec![]);
    let root = server.dir().join("p");
    let mut expected = BTreeSet::new();
    for folder in ["wal", "wal/deep/er", "wal2"] {
        dir.subdir(&format!("sftp/p/{folder}"));
    }
    for number in 0..2000 {
        let key = format!("wal/{number:05}");
        std::fs::write(root.join(&key), "x").unwrap();
        expected.insert(key);
    }
    std::fs::write(root.join("wal/deep/er/file"), "12345").unwrap();
    expected.insert("wal/deep/er/file".to_owned());
    std::fs::write(root.join("wal2/file"), "").unwrap();
    std::os::unix::fs::symlink("/etc", root.join("wal/etc")).unwrap();
    std::os::unix::fs::symlink("00001", root.join("wal/link")).unwrap();
    let abandoned = root.join("wal/.00001.1-a.walarchive-tmp");
    let written = root.join("wal/.00002.1-b.walarchive-tmp");
    std::fs::write(&written, "x").unwrap();
    let file = std::fs::File::create(&abandoned).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600))
        .unwrap();
    let found = store.list("wal").await.unwrap();
    assert_eq!(found.len(), expected.len());
    assert_eq!(
        found.iter().map(|object| object.key.clone()).collect::<BTreeSet<_>>(),
        expected
    );
    let deep = found.iter().find(|object| object.key == "wal/deep/er/file").unwrap();
    assert_eq!(deep.size, 5);
    assert_eq!(store.list("").await.unwrap().len(), expected.len() + 1);
    assert_eq!(store.list_shallow("wal").await.unwrap().len(), 2000);
    assert_eq!(store.list_shallow("").await.unwrap(), vec![]);
    assert_eq!(store.list_after("wal", "wal/01998").await.unwrap().len(), 2);
    wait_until("the abandoned file is removed", PATIENCE, || !abandoned.exists());
    assert!(written.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_names_are_the_same_in_a_directory() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "a dir/ü");
    // A file: URL needs its percent signs.
    let path = server.dir().join("a dir/ü");
    let directory = Store::open(&walarchive_storage::StorageConfig::new(format!(
        "file://{}",
        path.display().to_string().replace(' ', "%20")
    )))
    .unwrap();
    let long = "l".repeat(250);
    let names = [
        "with space",
        "100%",
        "50%25",
        "ünï",
        "quote'\"s",
        "a=b&c+d",
        "x/#y?z*",
        "-rf",
        "~",
        "日本",
        &long,
    ];
    for name in names {
        store
            .create(name, Bytes::from(name.to_owned()))
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    for name in names {
        let content = Some(Bytes::from(name.to_owned()));
        assert_eq!(store.get(name, 1000).await.unwrap(), content, "{name}");
        assert_eq!(directory.get(name, 1000).await.unwrap(), content, "{name}");
    }
    let keys = |listed: Vec<walarchive_storage::Listed>| -> BTreeSet<String> {
        listed.into_iter().map(|object| object.key).collect()
    };
    let found = keys(store.list("").await.unwrap());
    assert_eq!(found.len(), names.len());
    assert_eq!(found, keys(directory.list("").await.unwrap()));
    for name in names {
        store.delete(name).await.unwrap();
    }
    assert_eq!(files(&server.dir()), Vec::<String>::new());
}

async fn upload(store: &Store, key: &str, content: Bytes, finish: bool) -> Result<u64, Error> {
    let (mut upload, task) = store.upload(key, CancellationToken::new());
    let produced = tokio::task::spawn_blocking(move || {
        upload.write_all(&content)?;
        if finish { upload.finish() } else { Ok(()) }
    });
    let outcome = task.outcome().await;
    let _ = produced.await.unwrap();
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn large_objects_go_in_parts_and_leave_nothing_when_given_up() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    let content = bytes(100_000_000);
    for _ in 0..2 {
        let stored = upload(&store, "big", content.clone(), true).await.unwrap();
        assert_eq!(stored, content.len() as u64);
    }
    assert!(store.get("big", u64::MAX).await.unwrap().unwrap() == content);
    let given_up = upload(&store, "other", bytes(PART_BYTES as usize * 3), false).await;
    assert!(matches!(given_up, Err(Error::Cancelled)), "{given_up:?}");
    wait_until("only the object is left", PATIENCE, || {
        files(&server.dir()) == ["p/big"]
    });
}

/// `cargo test -p walarchive-core --test sftp -- --ignored --nocapture`, beside OpenSSH's own program.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput() {
    const BYTES: usize = 200_000_000;
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    let content = bytes(BYTES);
    let file = dir.path().join("content");
    std::fs::write(&file, &content).unwrap();
    let rate = |start: Instant| BYTES as f64 / 1e6 / start.elapsed().as_secs_f64();
    for _ in 0..2 {
        let start = Instant::now();
        upload(&store, "big", content.clone(), true).await.unwrap();
        println!("upload in parts: {:.0} MB/s", rate(start));
        let start = Instant::now();
        store.put("one", content.clone()).await.unwrap();
        println!("upload at once: {:.0} MB/s", rate(start));
        let start = Instant::now();
        assert!(store.get("big", u64::MAX).await.unwrap().unwrap() == content);
        println!("download: {:.0} MB/s", rate(start));
        for (what, command) in [
            (
                "upload",
                format!("put -f {} {}/p/sftp", file.display(), server.dir().display()),
            ),
            (
                "download",
                format!(
                    "get {}/p/sftp {}",
                    server.dir().display(),
                    dir.path().join("back").display()
                ),
            ),
        ] {
            let batch = dir.path().join("batch");
            std::fs::write(&batch, command).unwrap();
            let start = Instant::now();
            let done = Command::new("/usr/bin/sftp")
                .args([
                    "-q",
                    "-o",
                    &format!("UserKnownHostsFile={}", server.known_hosts().display()),
                ])
                .args([
                    "-P",
                    &server.port().to_string(),
                    "-i",
                    server.key().to_str().unwrap(),
                    "-b",
                ])
                .args([batch.to_str().unwrap(), &format!("{}@127.0.0.1", server.user())])
                .output()
                .unwrap();
            assert!(done.status.success(), "{done:?}");
            println!("sftp's {what}: {:.0} MB/s", rate(start));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_behind_a_link() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    let at = |name: &str| server.dir().join(name);
    store.put("wal_005/a", bytes(10)).await.unwrap();
    std::fs::create_dir(at("elsewhere")).unwrap();
    std::fs::write(at("elsewhere/precious"), "x").unwrap();
    std::os::unix::fs::symlink(at("elsewhere"), at("p/link")).unwrap();
    std::os::unix::fs::symlink(at("elsewhere/precious"), at("p/wal_005/b")).unwrap();
    for (key, link) in [("link/precious", "link"), ("wal_005/b", "wal_005/b")] {
        assert!(store.size(key).await.unwrap().is_some(), "reading follows links");
        match store.delete(key).await.unwrap_err() {
            Error::BehindLink { link: found, .. } => assert_eq!(found, link),
            other => panic!("{other:?}"),
        }
    }
    assert!(at("elsewhere/precious").exists() && at("p/wal_005/b").symlink_metadata().is_ok());
    store.delete("wal_005/a").await.unwrap();
    assert_eq!(store.size("wal_005/a").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_pipe_is_refused_at_once() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    store.put("wal_005/a", bytes(10)).await.unwrap();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    nix::unistd::mkfifo(&server.dir().join("p/wal_005/pipe"), mode).unwrap();
    let asked = Instant::now();
    let error = store.get("wal_005/pipe", 1000).await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(
        error
            .detail()
            .is_some_and(|detail| detail.contains("not a regular file")),
        "{error:?}"
    );
    assert_eq!(
        store.get("wal_005/a", 1000).await.unwrap(),
        Some(bytes(10)),
        "the connection lives"
    );
}

/// Files that somebody has copied into the repository's directory.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_keys_are_passed_over() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    store.put("wal_005/good", bytes(10)).await.unwrap();
    for name in [&b"a\tb"[..], b"\xff\xfe", b"\x1b[1m"] {
        std::fs::write(server.dir().join("p/wal_005").join(OsStr::from_bytes(name)), "x").unwrap();
    }
    for listed in [
        store.list("wal_005").await.unwrap(),
        store.list_shallow("wal_005").await.unwrap(),
    ] {
        let keys: Vec<_> = listed.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, ["wal_005/good"]);
    }
    let met = store.passed_over();
    assert_eq!(met.len(), 3, "{met:?}");
    for name in ["wal_005/a\\tb", "wal_005/\u{fffd}\u{fffd}", "wal_005/\\u{1b}[1m"] {
        assert!(met.iter().any(|met| met.ends_with(name)), "{name}: {met:?}");
    }
}
