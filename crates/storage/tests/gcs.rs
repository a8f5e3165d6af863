//! Google Cloud Storage against a server of its XML API, and the ways to its tokens against stand-ins.
#![allow(missing_docs)]

mod support;

use support::Probe;
use walarchive_testkit::{Answer, GcsServer, HttpMock, TestDir, TlsFiles};

#[tokio::test]
#[ignore = "the other half of Probe"]
async fn probe() {
    support::probe().await;
}

#[test]
fn everything_works_with_gcs() {
    let dir = TestDir::new();
    let server = GcsServer::start(&dir, "bucket");
    let mut probe = Probe {
        url: server.url("some/prefix"),
        options: server.options(),
        credentials_file: None,
        env: server.env().to_vec(),
    };
    assert_eq!(probe.run("all"), "ok");
    probe.options.push_str(",google_storage_class=NEARLINE");
    assert_eq!(probe.run("all"), "ok");

    probe.env = server.wrong_env().to_vec();
    for what in ["list", "write", "read", "multipart", "delete"] {
        let said = probe.run(what);
        assert!(
            said.starts_with("Unauthorized: the store denied permission to "),
            "{said}"
        );
        assert!(said.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{said}");
    }
    // The credentials file may be the key file itself, and comes before the environment.
    probe.credentials_file = Some(server.key_file());
    assert_eq!(probe.run("write"), "ok");
    probe.credentials_file = None;
    probe.options = format!(
        "{},google_service_account={}",
        server.options(),
        server.key_file().display()
    );
    assert_eq!(probe.run("write"), "ok");

    probe.url = "gs://other-bucket/p".to_owned();
    for what in ["list", "write", "multipart"] {
        let said = probe.run(what);
        assert!(
            said.starts_with("NoSuchStore: \"gs://other-bucket/p\" does not exist\nDETAIL: "),
            "{said}"
        );
    }
    server.stop();
    let said = probe.run("list");
    assert!(said.starts_with("Store: ") && said.contains("refused"), "{said}");
    server.start_again();
    probe.url = server.url("p");
    assert_eq!(probe.run("write"), "ok");
}

#[test]
fn the_metadata_server_is_asked_when_there_is_nothing_else() {
    let dir = TestDir::new();
    let server = GcsServer::start(&dir, "bucket");
    let token = format!(r#"{{"access_token": "{}", "expires_in": 3600}}"#, server.token());
    let mock = HttpMock::start(move |_| Answer::new(200, token.clone()));
    let host = format!("127.0.0.1:{}", mock.port());
    let mut probe = Probe {
        url: server.url("p"),
        options: server.options(),
        credentials_file: None,
        env: vec![("GCE_METADATA_HOST", host.as_str())],
    };
    assert_eq!(probe.run("write"), "ok");
    let asked = mock.requests();
    assert_eq!(asked[0].header("metadata-flavor"), Some("Google"));
    probe.env = vec![("GCE_METADATA_HOST", "127.0.0.1:9"), ("GCE_METADATA_IP", "127.0.0.1:9")];
    let said = probe.run("list");
    assert!(
        said.starts_with("NoCredentials: no credentials were found for \"gs://bucket/p/some\""),
        "{said}"
    );
}

#[test]
fn gclouds_own_credentials_are_used() {
    let dir = TestDir::new();
    let server = GcsServer::start(&dir, "bucket");
    let tls = TlsFiles::create(&dir, &["accounts.google.com"]);
    let token = format!(r#"{{"access_token": "{}", "expires_in": 3600}}"#, server.token());
    let google = HttpMock::start_tls(&tls, move |_| Answer::new(200, token.clone()));
    let gcloud = dir
        .subdir(".config/gcloud")
        .join("application_default_credentials.json");
    let content = r#"{"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "hunter2"}"#;
    std::fs::write(gcloud, content).expect("written");
    let home = dir.path().to_str().expect("ASCII");
    let mut probe = Probe {
        url: server.url("p"),
        options: format!(
            "{},ca_cert_file={},proxy_url=http://127.0.0.1:{},proxy_excludes=127.0.0.1",
            server.options(),
            tls.ca.display(),
            google.port()
        ),
        credentials_file: None,
        env: vec![("HOME", home)],
    };
    assert_eq!(probe.run("write"), "ok");
    let asked = google.requests();
    assert_eq!(asked[0].target, "/o/oauth2/token");
    assert!(String::from_utf8_lossy(&asked[0].body).contains("refresh_token=hunter2"));

    let refusing = HttpMock::start_tls(&tls, |_| Answer::new(400, r#"{"error": "invalid_grant"}"#));
    probe.options = probe
        .options
        .replace(&format!(":{}", google.port()), &format!(":{}", refusing.port()));
    let said = probe.run("list");
    assert!(
        said.starts_with("Unauthorized: ") && said.contains("invalid_grant"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}
