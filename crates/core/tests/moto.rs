//! S3 against two real servers: moto, which is lenient, and s3s-fs, which looks at credentials.
#![allow(missing_docs)]

mod support;

use support::Probe;
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
            said.starts_with("Unauthorized: the store denied the permission to "),
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
        refused.starts_with("Config: aws_endpoint \"http://127.0.0.1:9\" is not encrypted, and that is not allowed\n"),
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
