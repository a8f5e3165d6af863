//! Servers that are gone, silent, or go away in the middle.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use walarchive_storage::Error;
use walarchive_storage::StorageConfig;
use walarchive_storage::{Created, PART_BYTES, Store};
use walarchive_testkit::{PATIENCE, SftpServer, Signal, TestDir, wait_until};

use super::{bytes, config, files, store};

fn is_temporary(name: &str) -> bool {
    name.ends_with(".walarchive-tmp")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_an_upload_leaves_no_object_and_comes_back() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let mut config = config(&server, "p");
    config.patience = Duration::from_secs(2);
    let store = Store::open(&config).unwrap();
    let (mut upload, task) = store.upload("big", CancellationToken::new());
    let (started, wait) = std::sync::mpsc::channel();
    let produced = tokio::task::spawn_blocking(move || {
        upload.write_all(&vec![1; PART_BYTES as usize * 3])?;
        started.send(()).unwrap();
        // Until the upload has ended.
        while upload.write(&[1; 4096]).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::io::Result::Ok(())
    });
    tokio::task::spawn_blocking(move || wait.recv().unwrap()).await.unwrap();
    server.stop();
    let error = task.outcome().await.unwrap_err();
    produced.await.unwrap().unwrap();
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    assert!(error.is_transient());
    let left = files(&server.dir());
    assert!(
        left.iter().all(|file| is_temporary(file)) && left.len() == 1,
        "{left:?}"
    );
    server.start_again();
    assert_eq!(store.create("small", bytes(10)).await.unwrap(), Created::Yes);
    // And the first occasion was taken to tidy up.
    wait_until("the rest of the upload is gone", PATIENCE, || {
        files(&server.dir()) == ["p/small"]
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_and_readers_outlive_lost_connections() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let mut config = config(&server, "p");
    config.patience = Duration::from_secs(60);
    let store = Store::open(&config).unwrap();
    let content = bytes(PART_BYTES as usize * 6 + 17);
    let (mut upload, task) = store.upload("big", CancellationToken::new());
    let source = content.clone();
    let produced = tokio::task::spawn_blocking(move || {
        for part in source.chunks(PART_BYTES as usize) {
            upload.write_all(part)?;
        }
        upload.finish()
    });
    let creators: Vec<_> = (0..40)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.create(&format!("small/{number}"), bytes(300_000)).await })
        })
        .collect();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.signal_connections(Signal::SIGKILL);
    }
    for creator in creators {
        // Not "exists": each was created by nobody else.
        assert_eq!(creator.await.unwrap().unwrap(), Created::Yes);
    }
    assert_eq!(task.outcome().await.unwrap(), content.len() as u64);
    produced.await.unwrap().unwrap();
    let reader = tokio::spawn({
        let store = store.clone();
        async move { store.get("big", u64::MAX).await }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    server.signal_connections(Signal::SIGKILL);
    assert!(reader.await.unwrap().unwrap().unwrap() == content);
    assert_eq!(store.list("").await.unwrap().len(), 41);
    for object in store.list("small").await.unwrap() {
        assert_eq!(object.size, 300_000, "{}", object.key);
    }
}

#[tokio::test]
async fn a_dead_endpoint_is_an_error_soon() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    server.stop();
    let start = Instant::now();
    let error = store.list("").await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    let detail = error.detail().unwrap();
    assert!(detail.contains("Connection refused"), "{detail}");
    println!("{error}\nDETAIL: {detail}\nHINT: {}", error.hint().unwrap());
}

#[tokio::test]
async fn a_silent_endpoint_is_an_error_within_the_deadline() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let mut config = config(&server, "p");
    config.patience = Duration::from_secs(5);
    // The kernel accepts, nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    config.url = config
        .url
        .replace(&format!(":{}/", server.port()), &format!(":{port}/"));
    let store = Store::open(&config).unwrap();
    let start = Instant::now();
    let error = store.put("x", bytes(10)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(45), "{:?}", start.elapsed());
    assert!(error.is_transient(), "{error:?}");
    println!("{error}\nDETAIL: {:?}\nHINT: {}", error.detail(), error.hint().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_given_up_and_asked_anew() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let mut config = config(&server, "p");
    (config.request_timeout, config.patience) = (Duration::from_secs(2), Duration::from_secs(60));
    let store = Store::open(&config).unwrap();
    store.put("x", bytes(10)).await.unwrap();
    server.signal_connections(Signal::SIGSTOP);
    let start = Instant::now();
    store.put("x", bytes(20)).await.unwrap();
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_millis(1500) && waited < Duration::from_secs(30),
        "{waited:?}"
    );
    assert_eq!(store.size("x").await.unwrap(), Some(20));
}

/// As in the archiver: nothing runs between the calls, and the connection may be gone by the next one.
#[test]
fn a_store_outlives_the_pauses_and_the_end_of_its_runtime() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let store = store(&server, "p");
    first.block_on(store.put("x", bytes(10))).unwrap();
    first.block_on(store.put("x", bytes(20))).unwrap();
    server.signal_connections(Signal::SIGKILL);
    first.block_on(store.put("x", bytes(30))).unwrap();
    drop(first);
    let second = runtime();
    let start = Instant::now();
    assert_eq!(second.block_on(store.size("x")).unwrap(), Some(30));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_directory_is_no_empty_repository() {
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let mut config: StorageConfig = config(&server, "p");
    config.url += "/missing";
    let store = Store::open(&config).unwrap();
    let error = store.list("wal_005").await.unwrap_err();
    println!("{error}\nDETAIL: {:?}\nHINT: {}", error.detail(), error.hint().unwrap());
    let errors = [
        error,
        store.list_shallow("").await.unwrap_err(),
        store.get("a/b", 10).await.unwrap_err(),
        store.size("a").await.unwrap_err(),
        store.create("a/b", bytes(10)).await.unwrap_err(),
        store.put("a", bytes(10)).await.unwrap_err(),
        store.delete("a/b").await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::NoSuchStore { .. }), "{error:?}");
        assert!(error.detail().unwrap().contains("No such directory"));
    }
    assert!(!server.dir().join("p/missing").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_may_not_do_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TestDir::new();
    let server = SftpServer::start(&dir);
    let store = store(&server, "p");
    let closed = server.dir().join("p");
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o500)).unwrap();
    let error = store.put("x", bytes(10)).await.unwrap_err();
    assert!(
        matches!(error, Error::Unauthorized { operation: "write", .. }),
        "{error:?}"
    );
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(
        matches!(error, Error::Unauthorized { operation: "list", .. }),
        "{error:?}"
    );
    println!("{error}\nDETAIL: {:?}\nHINT: {}", error.detail(), error.hint().unwrap());
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
}
