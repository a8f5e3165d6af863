//! S3 against two real servers: moto, which is lenient, and s3s-fs, which looks at credentials.
#![allow(missing_docs)]

#[path = "../../storage/tests/support/mod.rs"]
mod support;

use support::Probe;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::{MotoServer, S3Server, TestDir};

#[tokio::test]
#[ignore = "the other half of Probe"]
async fn probe() {
    support::probe().await;
}

#[test]
fn everything_works_with_moto() {
    let dir = TestDir::new();
    let moto = MotoServer::start(&dir, "bucket");
    let mut probe = Probe {
        url: moto.url("some/prefix"),
        options: moto.options(),
        credentials_file: None,
        env: moto.env().to_vec(),
    };
    assert_eq!(probe.run("all"), "ok");
    let options = "aws_checksum_algorithm=sha256,aws_storage_class=STANDARD_IA,aws_server_side_encryption=AES256";
    probe.options = format!("{},{options}", moto.options());
    assert_eq!(probe.run("all"), "ok");

    probe.url = "s3://other-bucket/p".to_owned();
    for what in ["list", "write", "multipart"] {
        let said = probe.run(what);
        assert!(
            said.starts_with("NoSuchStore: \"s3://other-bucket/p\" does not exist\nDETAIL: "),
            "{said}"
        );
    }
    moto.stop();
    for what in ["list", "write"] {
        let said = probe.run(what);
        assert!(said.starts_with("Store: could not "), "{said}");
        assert!(said.contains("refused"), "{said}");
    }
    moto.start_again();
    probe.url = moto.url("p");
    assert_eq!(probe.run("write"), "ok");
}

#[test]
fn wrong_credentials_are_said() {
    let dir = TestDir::new();
    let server = S3Server::start(&dir, "bucket");
    let mut probe = Probe {
        url: server.url("p"),
        options: server.options(),
        credentials_file: None,
        env: server.env().to_vec(),
    };
    assert_eq!(probe.run("write"), "ok");
    probe.env[1].1 = "hunter2";
    for what in ["list", "write", "read", "multipart", "delete"] {
        let said = probe.run(what);
        assert!(
            said.starts_with("Unauthorized: the store denied permission to "),
            "{said}"
        );
        assert!(
            said.contains("SignatureDoesNotMatch") && said.contains("AWS_SECRET_ACCESS_KEY"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn http_wants_permission() {
    let said = Probe {
        url: "s3://bucket/p".to_owned(),
        options: String::new(),
        credentials_file: None,
        env: vec![("AWS_ENDPOINT", "http://127.0.0.1:9")],
    };
    let refused = said.run("list");
    assert!(
        refused.starts_with(
            "Setting: aws_endpoint \"http://127.0.0.1:9\" is not encrypted, and unencrypted connections are not allowed\n"
        ),
        "{refused}"
    );
    let said = Probe {
        env: vec![
            ("AWS_ENDPOINT", "http://127.0.0.1:9"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
        ],
        ..said
    };
    assert!(said.run("list").starts_with("Store: "));
}

/// Other programs' objects, on a server that takes every name.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_keys_stop_nobody() {
    let dir = TestDir::new();
    let moto = MotoServer::start(&dir, "bucket");
    let mut config = StorageConfig::new(moto.url("some/prefix"));
    config.options = moto.options().parse().expect("options");
    let [(_, key), (_, secret)] = moto.env();
    let text = format!("aws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    config.credentials_file = Some(support::secret_file(&dir, "credentials", &text));
    let store = Store::open(&config).expect("a store");
    let wal = "wal_005/000000010000000000000003.zst";
    store.put(wal, "content".into()).await.expect("written");
    let odd = [
        "wal_005//x",
        "wal_005/a%09b",
        "basebackups_005//y",
        "basebackups_005/z//",
    ];
    for name in odd {
        // A URL of reqwest's would lose the dots of others.
        let url = format!("http://127.0.0.1:{}/bucket/some/prefix/{name}", moto.port());
        let put = reqwest::Client::new().put(url).body("x").send().await.expect("sent");
        assert!(put.status().is_success(), "{name}: {put:?}");
    }
    let keys: Vec<_> = store
        .list("")
        .await
        .expect("listed")
        .into_iter()
        .map(|object| object.key)
        .collect();
    assert_eq!(keys, [wal]);
    let met = store.passed_over();
    for name in [
        "wal_005//x",
        "wal_005/a\\tb",
        "basebackups_005//y",
        "basebackups_005/z//",
    ] {
        assert!(
            met.contains(&format!("s3://bucket/some/prefix/{name}")),
            "{name}: {met:?}"
        );
    }
    let (backups, _) = store.list_folder("basebackups_005").await.expect("listed");
    assert!(backups.is_empty(), "{backups:?}");
    assert!(walarchive_core::repository::is_there(&store).await.expect("asked"));
    let checks = walarchive_core::check::check_store(&store, None).await;
    let row = checks.iter().find(|check| check.name == "names");
    let row = row.unwrap_or_else(|| panic!("{checks:#?}"));
    assert!(row.detail.contains("wal_005//x") && row.hint.is_some(), "{row:?}");
}
