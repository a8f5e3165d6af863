//! A store on Swift, as the rest of the crate sees it, against a real server.

#![allow(clippy::unwrap_used)]

mod keystone;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use walarchive_storage::Error;
use walarchive_storage::StorageConfig;
use walarchive_storage::{Created, Store};
use walarchive_testkit::{SwiftServer, TestDir};

use self::keystone::Keystone;

const SEGMENTS: &str = ".walarchive-segments/";

fn config(url: String, options: &str, credentials: PathBuf) -> StorageConfig {
    let mut config = StorageConfig::new(url);
    config.options = options.parse().unwrap();
    config.credentials_file = Some(credentials);
    config
}

fn open(server: &SwiftServer, prefix: &str) -> Store {
    let credentials = server.credentials_file(&server.env());
    Store::open(&config(server.url(prefix), &server.options(), credentials)).unwrap()
}

/// Shown by `--nocapture`: what a DBA reads.
fn said(error: &Error) -> String {
    let text = format!(
        "{error}\n  DETAIL: {}\n  HINT: {}",
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default()
    );
    println!("{text}\n");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_swift() {
    let dir = TestDir::new();
    let server = Arc::new(SwiftServer::start(&dir));
    let store = open(&server, "some/prefix");
    objects(&store).await;
    uploads(&store, &server).await;
    keystone_gives_tokens(&server).await;
    what_is_wrong_is_said(&server).await;
    thousands(&open(&server, "thousands")).await;
    outage(&store, &server).await;
}

async fn objects(store: &Store) {
    assert_eq!(store.create("wal/a", "first".into()).await.unwrap(), Created::Yes);
    assert_eq!(store.create("wal/a", "second".into()).await.unwrap(), Created::Exists);
    assert_eq!(store.get("wal/a", 100).await.unwrap().unwrap(), "first");
    store.put("wal/a", "second".into()).await.unwrap();
    assert_eq!(store.get_range("wal/a", 1..3).await.unwrap(), "ec");
    assert_eq!(store.size("wal/a").await.unwrap(), Some(6));
    assert_eq!(store.size("wal/b").await.unwrap(), None);
    assert!(store.get("wal/b", 100).await.unwrap().is_none());
    store.put("wal/sub/a", "".into()).await.unwrap();
    let keys = |found: Vec<walarchive_storage::Listed>| found.into_iter().map(|o| o.key).collect::<Vec<_>>();
    assert_eq!(keys(store.list("wal").await.unwrap()), ["wal/a", "wal/sub/a"]);
    assert_eq!(keys(store.list_shallow("wal").await.unwrap()), ["wal/a"]);
    assert_eq!(keys(store.list_after("wal", "wal/a").await.unwrap()), ["wal/sub/a"]);
    assert_eq!(keys(store.list("nothing").await.unwrap()), Vec::<String>::new());
    // If many create one object at the same moment, Swift may tell several that they did: it looks before it has the content.
    // At the end the object has the content of one of these.
    let race = (0..8).map(|number| store.create("race", format!("{number}").into()));
    let created = futures::future::try_join_all(race).await.unwrap();
    let winner: usize = std::str::from_utf8(&store.get("race", 10).await.unwrap().unwrap())
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(created[winner], Created::Yes);
    assert_eq!(store.create("race", "late".into()).await.unwrap(), Created::Exists);
    store.delete("race").await.unwrap();
    store.delete("race").await.unwrap();
    assert_eq!(store.delete_folder("wal").await.unwrap(), 2);
    assert_eq!(keys(store.list("").await.unwrap()), Vec::<String>::new());
}

async fn uploads(store: &Store, server: &SwiftServer) {
    let content: Vec<u8> = (0..30u32 << 18).flat_map(|number| number.to_le_bytes()).collect();
    for _ in 0..2 {
        let (mut upload, task) = store.upload("large", CancellationToken::new());
        let written = content.clone();
        tokio::task::spawn_blocking(move || {
            upload.write_all(&written)?;
            upload.finish()
        })
        .await
        .unwrap()
        .unwrap();
        assert_eq!(task.outcome().await.unwrap(), content.len() as u64);
    }
    assert!(store.get("large", u64::MAX).await.unwrap().unwrap() == content);
    // Those of the object that was written over are gone.
    assert_eq!(
        server.names().iter().filter(|name| name.starts_with(SEGMENTS)).count(),
        4
    );
    assert_eq!(store.list("").await.unwrap().len(), 1);
    // Given up in the middle: what was there stays, and nothing else is left.
    let (mut upload, task) = store.upload("large", CancellationToken::new());
    let written = content.clone();
    tokio::task::spawn_blocking(move || upload.write_all(&written))
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(task.outcome().await, Err(Error::Cancelled)));
    assert_eq!(server.names().len(), 5);
    assert_eq!(store.size("large").await.unwrap(), Some(content.len() as u64));
    store.delete("large").await.unwrap();
    assert_eq!(server.names(), Vec::<String>::new());
}

async fn keystone_gives_tokens(server: &Arc<SwiftServer>) {
    let keystone = Keystone::start(server, 3600);
    let password = "os_project_name=ours,os_project_domain_name=Ours,os_region_name=near,allow_http=true";
    let user = [("os_username", "archiver"), ("os_password", "hunter2")];
    let open = |keystone: &Keystone, options: &str, credentials: &[(&str, &str)]| {
        let options = format!("os_auth_url={},{options}", keystone.url());
        Store::open(&config(
            server.url("keystone"),
            &options,
            server.credentials_file(credentials),
        ))
        .unwrap()
    };
    let store = open(&keystone, password, &user);
    store.put("by-password", "x".into()).await.unwrap();
    assert_eq!(store.get("by-password", 10).await.unwrap().unwrap(), "x");
    assert_eq!(keystone.given(), 1);
    server.forget_tokens();
    assert_eq!(store.list("").await.unwrap().len(), 1);
    assert_eq!(keystone.given(), 2);

    let application = "os_application_credential_id=0123,os_region_name=near,allow_http=true";
    let secret = [("os_application_credential_secret", "hunter3")];
    let store = open(&keystone, application, &secret);
    assert_eq!(store.get("by-password", 10).await.unwrap().unwrap(), "x");
    store.delete("by-password").await.unwrap();

    // A token that is about to expire is renewed before anybody refuses it.
    let hasty = Keystone::start(server, 1);
    let store = open(&hasty, password, &user);
    store.list("").await.unwrap();
    let start = Instant::now();
    while hasty.given() < 2 {
        assert!(start.elapsed() < Duration::from_secs(60));
        store.list("").await.unwrap();
    }

    let wrong = open(
        &keystone,
        password,
        &[("os_username", "archiver"), ("os_password", "hunter4")],
    );
    let error = wrong.list("").await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    let text = said(&error);
    assert!(
        text.contains("refused by") && text.contains(keystone.url()) && !text.contains("hunter"),
        "{text}"
    );
    let elsewhere = open(&keystone, &password.replace("near", "mars"), &user);
    let error = elsewhere.put("a", "x".into()).await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    assert!(said(&error).contains("no object-store in the region \"mars\", but in \"far\", \"near\""));
    let nowhere = open(&keystone, &password.replace("near", "far"), &user);
    let error = nowhere.put("a", "x".into()).await.unwrap_err();
    assert!(said(&error).contains("http://127.0.0.1:1/v1/AUTH_test"));
    let override_url = format!(
        "{},swift_storage_url={}",
        password.replace("near", "far"),
        server.storage_url()
    );
    open(&keystone, &override_url, &user).list("").await.unwrap();
    let encrypted = password.replace("true", "false");
    let options = format!("os_auth_url={},{encrypted}", keystone.url());
    let credentials = server.credentials_file(&user);
    let error = Store::open(&config(server.url("p"), &options, credentials)).unwrap_err();
    assert!(said(&error).contains("allow_http=true"));
}

async fn what_is_wrong_is_said(server: &SwiftServer) {
    let with = |url: &str, env: &[(&str, &str)]| {
        Store::open(&config(url.to_owned(), &server.options(), server.credentials_file(env))).unwrap()
    };
    for (env, status) in [(server.wrong_env(), "401"), (server.stranger_env(), "403")] {
        let store = with(&server.url("p"), &env);
        for error in [
            store.list("").await.unwrap_err(),
            store.create("a", "x".into()).await.unwrap_err(),
            store.get("a", 10).await.unwrap_err(),
            store.size("a").await.unwrap_err(),
            store.delete("a").await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
            let text = said(&error);
            assert!(
                text.contains(status) && text.contains("(walarchive.credentials_file)") && !text.contains(env[1].1),
                "{text}"
            );
        }
    }
    let store = with("swift://nobody-made-it/p", &server.env());
    for error in [
        store.list("").await.unwrap_err(),
        store.create("a", "x".into()).await.unwrap_err(),
        store.get("a", 10).await.unwrap_err(),
        store.size("a").await.unwrap_err(),
        store.delete("a").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoSuchStore { .. }), "{error:?}");
        assert!(said(&error).contains("No such container: \"nobody-made-it\""));
    }
    let nobody = "st_auth=http://127.0.0.1:1/auth/v1.0,allow_http=true";
    let credentials = server.credentials_file(&server.env());
    let store = Store::open(&config(server.url("p"), nobody, credentials)).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    let text = said(&error);
    assert!(text.contains("could not authenticate at \"http://127.0.0.1:1/auth/v1.0\"") && text.contains("refused"));
}

async fn thousands(store: &Store) {
    let keys: Vec<_> = (0..2500).map(|number| format!("folder/{number:08}")).collect();
    let writes = keys.iter().map(|key| store.create(key, "x".into()));
    stream::iter(writes.collect::<Vec<_>>())
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await
        .unwrap();
    let mut listed: Vec<_> = store
        .list("folder")
        .await
        .unwrap()
        .into_iter()
        .map(|object| object.key)
        .collect();
    listed.sort();
    assert!(listed == keys, "{} keys", listed.len());
    assert_eq!(store.list_after("folder", "folder/00002489").await.unwrap().len(), 10);
}

async fn outage(store: &Store, server: &SwiftServer) {
    store.put("before", "x".into()).await.unwrap();
    server.stop();
    let start = Instant::now();
    let error = store.get("before", 10).await.unwrap_err();
    assert!(
        matches!(error, Error::Store { .. }) && start.elapsed() < Duration::from_secs(20),
        "{error:?}"
    );
    assert!(said(&error).contains("refused"));
    server.start_again();
    assert_eq!(store.get("before", 10).await.unwrap().unwrap(), "x");
}
