//! Azure against azurite, and the ways to its tokens against stand-ins.
#![allow(missing_docs)]

mod support;

use support::Probe;
use walarchive_testkit::{Answer, AzuriteServer, HttpMock, Request, TestDir, TlsFiles};

#[tokio::test]
#[ignore = "the other half of Probe"]
async fn probe() {
    support::probe().await;
}

#[test]
fn everything_works_with_azurite() {
    let dir = TestDir::new();
    let azurite = AzuriteServer::start(&dir, "container");
    let mut probe = Probe {
        url: azurite.url("some/prefix"),
        options: azurite.options(),
        credentials_file: None,
        env: azurite.env().to_vec(),
    };
    assert_eq!(probe.run("all"), "ok");
    probe.options.push_str(",azure_access_tier=Cool");
    assert_eq!(probe.run("all"), "ok");
    let sas = azurite.sas();
    let env = |name| vec![(name, sas.as_str())];
    probe.env = env("AZURE_STORAGE_SAS_TOKEN");
    assert_eq!(probe.run("all"), "ok");
    // Another key in the environment does not spoil the file's SAS.
    let file = support::secret_file(&dir, "sas", &format!("azure_storage_sas_token = ?{sas}\n"));
    probe.env = azurite.wrong_env().to_vec();
    probe.credentials_file = Some(&file);
    assert_eq!(probe.run("write"), "ok");

    probe.credentials_file = None;
    for what in ["list", "write", "read", "delete"] {
        let said = probe.run(what);
        assert!(
            said.starts_with("Unauthorized: the store denied permission to "),
            "{said}"
        );
        assert!(said.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{said}");
    }
    probe.env = azurite.env().to_vec();
    probe.url = "az://missing/p".to_owned();
    for what in ["list", "write", "multipart"] {
        let said = probe.run(what);
        assert!(
            said.starts_with("NoSuchStore: \"az://missing/p\" does not exist\nDETAIL: "),
            "{said}"
        );
    }
    azurite.stop();
    probe.url = azurite.url("p");
    for (what, env) in [
        ("list", azurite.env().to_vec()),
        ("write", env("AZURE_STORAGE_SAS_TOKEN")),
    ] {
        probe.env = env;
        let said = probe.run(what);
        assert!(said.starts_with("Store: ") && said.contains("refused"), "{said}");
        assert!(!said.contains("sig="), "the signature is a secret: {said}");
    }
    azurite.start_again();
    assert_eq!(probe.run("write"), "ok");
}

/// A blob service that takes anything, behind services that hand out tokens.
fn answer(request: &Request) -> Answer {
    if request.target.contains("/metadata/identity/oauth2/token") {
        return Answer::new(200, r#"{"access_token": "of-the-machine", "expires_on": "4102444800"}"#);
    }
    if request.target.contains("/oauth2/v2.0/token") {
        return Answer::new(200, r#"{"access_token": "of-the-workload", "expires_in": 3600}"#);
    }
    Answer::new(201, "").header("ETag", "\"1\"")
}

#[test]
fn tokens_of_machine_and_workload_are_used() {
    let dir = TestDir::new();
    let tls = TlsFiles::create(&dir, &[]);
    let mock = HttpMock::start_tls(&tls, answer);
    let port = mock.port();
    let identity = format!("http://127.0.0.1:{port}/metadata/identity/oauth2/token");
    let authority = format!("https://localhost:{port}/");
    let token = support::secret_file(&dir, "token", "a-web-token");
    let token = token.to_str().expect("ASCII");
    let ca = tls.ca.display();
    let mut probe = Probe {
        url: "az://container/p".to_owned(),
        options: format!("azure_storage_account=a,azure_endpoint=https://localhost:{port}/a,ca_cert_file={ca}"),
        credentials_file: None,
        env: vec![
            ("IDENTITY_ENDPOINT", identity.as_str()),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_AUTHORITY_HOST", authority.as_str()),
            ("AZURE_FEDERATED_TOKEN_FILE", token),
        ],
    };
    let bearer = || {
        let requests = mock.requests();
        requests
            .last()
            .and_then(|request| request.header("authorization").map(str::to_owned))
    };
    assert_eq!(probe.run("write"), "ok");
    assert_eq!(bearer().as_deref(), Some("Bearer of-the-workload"));
    let asked = mock.requests();
    let asked = asked
        .iter()
        .find(|request| request.target.starts_with("/tenant/oauth2"));
    assert!(String::from_utf8_lossy(&asked.expect("asked for a token").body).contains("a-web-token"));
    probe.env.truncate(1);
    assert_eq!(probe.run("write"), "ok");
    assert_eq!(bearer().as_deref(), Some("Bearer of-the-machine"));
    // Without the certificate nobody is trusted.
    probe.options = probe.options.split(",ca_cert_file").next().expect("options").to_owned();
    let said = probe.run("write");
    assert!(said.starts_with("Unusable: ") && said.contains("certificate"), "{said}");
}

#[test]
fn a_machine_without_an_identity_is_said() {
    let said = Probe {
        url: "az://container/p".to_owned(),
        options: "azure_storage_account_name=a".to_owned(),
        credentials_file: None,
        env: vec![("IDENTITY_ENDPOINT", "http://127.0.0.1:9/metadata/identity/oauth2/token")],
    }
    .run("list");
    assert!(
        said.starts_with("NoCredentials: no credentials were found for \"az://container/p/some\""),
        "{said}"
    );
    assert!(said.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{said}");
}
