//! The sources of S3 credentials, their order, and the options that are seen on the wire: with stand-ins for S3 and for the
//! services of AWS that hand out credentials.
#![allow(missing_docs)]

mod support;

use support::Probe;
use walarchive_testkit::{Answer, HttpMock, Request, TestDir, TlsFiles};

#[tokio::test]
#[ignore = "the other half of Probe"]
async fn probe() {
    support::probe().await;
}

fn json(key: &str) -> Answer {
    let text = format!(
        r#"{{"AccessKeyId": "{key}", "SecretAccessKey": "s", "Token": "token-of-{key}", "Expiration": "2100-01-01T00:00:00Z"}}"#
    );
    Answer::new(200, text)
}

/// An S3 that takes anything, and the services that hand out credentials.
fn answer(request: &Request) -> Answer {
    let target = &request.target;
    if target.contains("Action=AssumeRoleWithWebIdentity") {
        return Answer::new(
            200,
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <SessionToken>token-of-WEB</SessionToken><SecretAccessKey>s</SecretAccessKey><AccessKeyId>WEB</AccessKeyId>\
             <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
             </AssumeRoleWithWebIdentityResponse>",
        );
    }
    match (request.method.as_str(), target.as_str()) {
        ("GET", "/eks") => json("EKS"),
        ("GET", target) if target.ends_with("/ecs") => json("ECS"),
        ("PUT", "/latest/api/token") => Answer::new(200, "imds-token"),
        ("GET", "/latest/meta-data/iam/security-credentials/") => Answer::new(200, "role"),
        ("GET", "/latest/meta-data/iam/security-credentials/role") => json("IMDS"),
        ("POST", target) if target.contains("uploads") => {
            Answer::new(200, "<R><Bucket>b</Bucket><Key>k</Key><UploadId>1</UploadId></R>")
        }
        ("POST", _) => Answer::new(200, "<R><ETag>\"1\"</ETag></R>"),
        ("GET", target) if target.contains("list-type=2") => Answer::new(200, "<ListBucketResult></ListBucketResult>"),
        _ => Answer::new(200, "content")
            .header("ETag", "\"1\"")
            .header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT"),
    }
}

/// The access key and the session token of the last request to S3.
fn signed_by(mock: &HttpMock) -> (String, Option<String>) {
    let requests = mock.requests();
    let request = requests.last().expect("a request");
    let signature = request.header("authorization").expect("a signature");
    let key = signature
        .split("Credential=")
        .nth(1)
        .and_then(|rest| rest.split('/').next());
    (
        key.expect("a key").to_owned(),
        request.header("x-amz-security-token").map(str::to_owned),
    )
}

const SHARED: &str = "[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = s\n\
                      [named]\naws_access_key_id = NAMED\naws_secret_access_key = s\naws_session_token = token-of-NAMED\n\
                      [process]\ncredential_process = /bin/false\n";

#[test]
fn each_place_is_asked_in_its_turn() {
    let dir = TestDir::new();
    let tls = TlsFiles::create(&dir, &[]);
    let mock = HttpMock::start_tls(&tls, answer);
    let here = format!("http://127.0.0.1:{}", mock.port());
    let sts = format!("https://localhost:{}", mock.port());
    let eks = format!("{here}/eks");
    let token = support::secret_file(&dir, "token", "a-web-token");
    let token = token.to_str().expect("ASCII");
    let file = support::secret_file(
        &dir,
        "credentials",
        "aws_access_key_id = FILE\naws_secret_access_key = s\n",
    );
    std::fs::write(dir.subdir(".aws").join("credentials"), SHARED).expect("written");
    let home = dir.path().to_str().expect("ASCII");
    let options = format!("aws_endpoint={here},allow_http=true,ca_cert_file={}", tls.ca.display());
    let mut probe = Probe {
        url: "s3://bucket/p".to_owned(),
        options: format!("{options},aws_profile=named"),
        credentials_file: Some(&file),
        env: vec![
            ("AWS_METADATA_ENDPOINT", here.as_str()),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", eks.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token),
            ("HOME", home),
            ("AWS_ENDPOINT_URL_STS", sts.as_str()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
            ("AWS_PROFILE", "named"),
            ("AWS_ACCESS_KEY_ID", "ENV"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_SESSION_TOKEN", "token-of-ENV"),
        ],
    };
    let expect = |probe: &Probe<'_>, key: &str, token: Option<&str>| {
        assert_eq!(probe.run("write"), "ok", "{key}");
        assert_eq!(signed_by(&mock), (key.to_owned(), token.map(str::to_owned)));
    };
    // The environment's session token belongs to the environment's key.
    expect(&probe, "FILE", None);
    probe.credentials_file = None;
    expect(&probe, "NAMED", Some("token-of-NAMED"));
    probe.options = options;
    expect(&probe, "ENV", Some("token-of-ENV"));
    probe.env.truncate(8);
    expect(&probe, "NAMED", Some("token-of-NAMED"));
    probe.env.truncate(7);
    expect(&probe, "WEB", Some("token-of-WEB"));
    probe.env.truncate(4);
    expect(&probe, "DEFAULT", None);
    probe.env.truncate(3);
    expect(&probe, "EKS", Some("token-of-EKS"));
    probe.env.truncate(1);
    expect(&probe, "IMDS", Some("token-of-IMDS"));

    let requests = mock.requests();
    let asked = |target: &str| {
        requests
            .iter()
            .find(|request| request.target.contains(target))
            .expect(target)
    };
    assert_eq!(asked("/eks").header("authorization"), Some("a-web-token"));
    assert!(
        asked("AssumeRoleWithWebIdentity")
            .target
            .contains("WebIdentityToken=a-web-token")
    );
    assert_eq!(
        asked("credentials/role").header("x-aws-ec2-metadata-token"),
        Some("imds-token")
    );

    // ECS has an address of its own, which the mock stands in for as a proxy.
    probe.options.push_str(&format!(",proxy_url={here}"));
    probe.env = vec![("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/ecs")];
    assert_eq!(probe.run("write"), "ok");
    assert_eq!(signed_by(&mock).0, "ECS");
}

#[test]
fn a_profile_may_be_a_section_of_the_credentials_file() {
    let dir = TestDir::new();
    let mock = HttpMock::start(answer);
    let file = support::secret_file(&dir, "credentials", SHARED);
    let options = format!("aws_endpoint=http://127.0.0.1:{},allow_http=true", mock.port());
    let mut probe = Probe {
        url: "s3://bucket/p".to_owned(),
        options: options.clone(),
        credentials_file: Some(&file),
        env: vec![],
    };
    assert_eq!(probe.run("write"), "ok");
    assert_eq!(signed_by(&mock).0, "DEFAULT");
    probe.options = format!("{options},aws_profile=named");
    assert_eq!(probe.run("write"), "ok");
    assert_eq!(signed_by(&mock).0, "NAMED");
    probe.options = format!("{options},aws_profile=missing");
    assert!(
        probe
            .run("write")
            .starts_with("Setting: the profile \"missing\" was not found in \"")
    );
    probe.credentials_file = None;
    let path = file.to_str().expect("ASCII");
    probe.env = vec![("AWS_SHARED_CREDENTIALS_FILE", path)];
    assert!(
        probe
            .run("write")
            .starts_with("Setting: the AWS profile \"missing\" was not found")
    );
    probe.options = format!("{options},aws_profile=process");
    let said = probe.run("write");
    assert!(
        said.starts_with(
            "Setting: the AWS profile \"process\" gets its credentials from a program (credential_process)"
        ),
        "{said}"
    );
    probe.options = options;
    probe.env = vec![("AWS_ACCESS_KEY_ID", "a")];
    assert!(
        probe
            .run("write")
            .starts_with("Setting: the credentials for S3 are incomplete")
    );
}

#[test]
fn without_any_credentials_the_hint_names_the_variables() {
    let said = Probe {
        url: "s3://bucket/p".to_owned(),
        options: String::new(),
        credentials_file: None,
        env: vec![("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")],
    }
    .run("list");
    assert!(
        said.starts_with("NoCredentials: no credentials were found for \"s3://bucket/p/some\""),
        "{said}"
    );
    assert!(said.contains("AWS_ACCESS_KEY_ID"), "{said}");
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];

#[test]
fn encryption_and_storage_class_are_on_the_requests_that_create() {
    let dir = TestDir::new();
    let mock = HttpMock::start(answer);
    let here = format!("aws_endpoint=http://127.0.0.1:{},allow_http=true", mock.port());
    let mut probe = Probe {
        url: "s3://bucket/p".to_owned(),
        options: format!(
            "{here},aws_storage_class=STANDARD_IA,aws_server_side_encryption=aws:kms,aws_sse_kms_key_id=key-1,\
             aws_sse_bucket_key_enabled=true,aws_checksum_algorithm=sha256"
        ),
        credentials_file: None,
        env: KEYS.to_vec(),
    };
    for what in ["write", "multipart", "read", "list"] {
        assert_eq!(probe.run(what), "ok");
    }
    let class = "x-amz-storage-class";
    let encryption = "x-amz-server-side-encryption";
    for request in mock.requests() {
        let of_part = request.target.contains("partNumber=") || request.target.contains("uploadId=");
        let creates = matches!(request.method.as_str(), "PUT" | "POST") && !of_part;
        let expected = |value| creates.then_some(value);
        assert_eq!(request.header(class), expected("STANDARD_IA"), "{request:?}");
        assert_eq!(request.header(encryption), expected("aws:kms"), "{request:?}");
        assert_eq!(
            request.header("x-amz-server-side-encryption-aws-kms-key-id"),
            expected("key-1")
        );
        assert_eq!(
            request.header("x-amz-server-side-encryption-bucket-key-enabled"),
            expected("true")
        );
        let has_checksum = request.header("x-amz-checksum-sha256").is_some();
        assert_eq!(has_checksum, request.method == "PUT", "{request:?}");
        let signature = request.header("authorization").expect("a signature");
        assert!(
            !creates || signature.contains(class),
            "what is not signed is not accepted"
        );
    }

    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let file = support::secret_file(&dir, "key", &format!("aws_sse_customer_key_base64 = {key}\n"));
    probe.options = here;
    probe.credentials_file = Some(&file);
    for what in ["write", "read"] {
        assert_eq!(probe.run(what), "ok");
        let requests = mock.requests();
        let request = requests.last().expect("a request");
        assert_eq!(request.header("x-amz-server-side-encryption-customer-key"), Some(key));
    }
    // WAL-G's variable holds the key's bytes.
    probe.credentials_file = None;
    probe.env.push(("WALG_S3_SSE_C", "0123456789abcdef0123456789abcdef"));
    assert_eq!(probe.run("write"), "ok");
    let requests = mock.requests();
    let request = requests.last().expect("a request");
    assert_eq!(request.header("x-amz-server-side-encryption-customer-key"), Some(key));
}

#[test]
fn the_bucket_is_in_the_host_or_in_the_path() {
    let dir = TestDir::new();
    let tls = TlsFiles::create(&dir, &["store.example", "bucket.store.example"]);
    let mock = HttpMock::start_tls(&tls, answer);
    let options = format!(
        "aws_endpoint=https://store.example,ca_cert_file={},proxy_url=http://127.0.0.1:{}",
        tls.ca.display(),
        mock.port()
    );
    let mut probe = Probe {
        url: "s3://bucket/p".to_owned(),
        options: options.clone(),
        credentials_file: None,
        env: KEYS.to_vec(),
    };
    let last = || {
        let requests = mock.requests();
        let request = requests.last().expect("a request");
        (
            request.header("host").expect("a host").to_owned(),
            request.target.clone(),
        )
    };
    assert_eq!(probe.run("write"), "ok");
    assert_eq!(last(), ("store.example".to_owned(), "/bucket/p/some/key".to_owned()));
    probe.options = format!("{options},aws_virtual_hosted_style_request=true");
    assert_eq!(probe.run("write"), "ok");
    assert_eq!(last(), ("bucket.store.example".to_owned(), "/p/some/key".to_owned()));
}

#[test]
fn a_wrong_region_is_told() {
    let malformed = HttpMock::start(|_| {
        Answer::new(
            400,
            "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; the region \
             'us-east-1' is wrong; expecting 'eu-central-1'</Message><Region>eu-central-1</Region></Error>",
        )
    });
    let redirect = HttpMock::start(|_| Answer::new(301, "<Error><Code>PermanentRedirect</Code></Error>"));
    for what in ["write", "list", "read", "multipart"] {
        let mut probe = Probe {
            url: "s3://bucket/p".to_owned(),
            options: format!("aws_endpoint=http://127.0.0.1:{},allow_http=true", malformed.port()),
            credentials_file: None,
            env: KEYS.to_vec(),
        };
        let said = probe.run(what);
        assert!(
            said.starts_with("WrongRegion: \"s3://bucket/p\" is in another region\n"),
            "{said}"
        );
        assert!(
            said.ends_with("HINT: Set \"aws_region=eu-central-1\" in walarchive.storage_options."),
            "{said}"
        );
        probe.options = format!("aws_endpoint=http://127.0.0.1:{},allow_http=true", redirect.port());
        let said = probe.run(what);
        assert!(
            said.starts_with("WrongRegion: \"s3://bucket/p\" is in another region\n"),
            "{said}"
        );
        assert!(
            said.contains("\nHINT: Set the region of the bucket in walarchive.storage_options"),
            "{said}"
        );
    }
}
