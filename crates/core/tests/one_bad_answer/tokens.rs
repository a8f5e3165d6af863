//! Tokens of instances, pods and workloads, which end in the middle of the work: sooner than they said, or while the place that
//! gives them is unwell.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::{Answer, HttpMock, Request, TestDir, TlsFiles};

use crate::s3::{denial, fine};
use crate::support;

/// So long a token is good, whatever it says of itself.
const LIFE: Duration = Duration::from_millis(1500);

/// The work takes several lives.
const WORK: Duration = Duration::from_secs(7);

/// Tokens that were given, by when.
#[derive(Default)]
struct Given {
    tokens: HashMap<String, Instant>,
    asked: u64,
    denied: u64,
}

impl Given {
    /// None for every third request: the place that gives tokens is unwell.
    fn next(&mut self) -> Option<String> {
        self.asked += 1;
        if self.asked % 3 == 2 {
            return None;
        }
        let token = format!("T{}", self.asked);
        self.tokens.insert(token.clone(), Instant::now());
        Some(token)
    }

    fn is_good(&self, token: &str) -> bool {
        self.tokens.get(token).is_some_and(|given| given.elapsed() < LIFE)
    }
}

/// The answer of the place that gives tokens, if it is asked.
fn of_authority(request: &Request, given: &mut Given) -> Option<Answer> {
    let target = request.target.as_str();
    let until = (Utc::now() + TimeDelta::hours(1)).format("%Y-%m-%dT%H:%M:%SZ");
    let token = |given: &mut Given, shown: &dyn Fn(&str) -> String| match given.next() {
        Some(token) => Answer::new(200, shown(&token)),
        None => Answer::new(503, "a moment"),
    };
    if target.starts_with("/latest/api/token") {
        return Some(Answer::new(200, "session"));
    }
    if target.ends_with("/security-credentials/") {
        return Some(Answer::new(200, "role"));
    }
    if target.ends_with("/security-credentials/role") {
        assert_eq!(request.header("x-aws-ec2-metadata-token"), Some("session"));
        return Some(token(given, &|token| {
            format!(
                r#"{{"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "{token}", "Expiration": "{until}", "Code": "Success"}}"#
            )
        }));
    }
    if target.contains("AssumeRoleWithWebIdentity") {
        assert!(target.contains("WebIdentityToken=of-the-pod"), "{target}");
        return Some(token(given, &|token| {
            format!(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><SessionToken>{token}</SessionToken>\
                 <SecretAccessKey>S</SecretAccessKey><Expiration>{until}</Expiration><AccessKeyId>A</AccessKeyId></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )
        }));
    }
    let is_token = target.starts_with("/metadata/identity/oauth2/token")
        || target.starts_with("/tenant/oauth2/v2.0/token")
        || target.contains("/service-accounts/default/token");
    is_token.then(|| {
        let on = Utc::now().timestamp() + 3600;
        token(given, &|token| {
            format!(
                r#"{{"access_token": "{token}", "token_type": "Bearer", "expires_in": 3600, "expires_on": "{on}"}}"#
            )
        })
    })
}

/// A store and the place that gives tokens for it, in one.
fn mock(given: &Arc<Mutex<Given>>, is_azure: bool, files: &TlsFiles) -> HttpMock {
    let given = Arc::clone(given);
    HttpMock::start_tls(files, move |request| {
        let of_request = |request: &Request| {
            let bearer = request
                .header("authorization")
                .and_then(|text| text.strip_prefix("Bearer "));
            request
                .header("x-amz-security-token")
                .or(bearer)
                .unwrap_or_default()
                .to_owned()
        };
        {
            let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = of_authority(request, &mut given) {
                return answer;
            }
            if !given.is_good(&of_request(request)) {
                given.denied += 1;
                return match (is_azure, request.header("x-amz-security-token")) {
                    (true, _) => denial(401, "InvalidAuthenticationInfo"),
                    (false, Some(_)) => denial(400, "ExpiredToken"),
                    (false, None) => denial(401, "AuthenticationRequired"),
                };
            }
        }
        // An upload in parts takes longer than a token lives.
        if request.target.contains("partNumber") || request.target.contains("comp=block&") {
            std::thread::sleep(LIFE / 3);
        }
        match (is_azure, request.method.as_str()) {
            (true, "PUT") => Answer::new(201, "")
                .header("ETag", "\"1\"")
                .header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT"),
            (true, "GET") if request.target.contains("comp=list") => {
                Answer::new(200, "<EnumerationResults><Blobs></Blobs></EnumerationResults>")
            }
            _ => fine(request),
        }
    })
}

fn works(url: &str, options: &str, environment: &[(&str, &str)]) {
    let given = Arc::<Mutex<Given>>::default();
    let dir = TestDir::new();
    let files = TlsFiles::create(&dir, &[]);
    let mock = mock(&given, url.starts_with("az:"), &files);
    let ca = files.ca.display().to_string();
    let with_port = |text: &str| text.replace("PORT", &mock.port().to_string()).replace("CA", &ca);
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    command.args(["tokens::child", "--exact", "--ignored", "--nocapture"]);
    command
        .env_clear()
        .env("TOKENS_URL", url)
        .env("TOKENS_OPTIONS", with_port(options));
    for (name, value) in environment {
        command.env(name, with_port(value));
    }
    let output = command.output().expect("run");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let given = given.lock().unwrap_or_else(PoisonError::into_inner);
    let (asked, denied) = (given.asked, given.denied);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{asked} {denied}: {said}{errors}"
    );
    println!("{url}: {asked} tokens were asked for, {denied} requests were denied");
    assert!(given.tokens.len() >= 3 && denied >= 2, "{asked} {denied}: {said}");
}

/// The work, in a process with an environment of its own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the others"]
async fn child() {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let mut config = StorageConfig::new(var("TOKENS_URL"));
    config.options = var("TOKENS_OPTIONS").parse().expect("options");
    config.request_timeout = Duration::from_secs(20);
    let backup = Store::open(&config.for_backup()).expect("a store");
    // As an archiver has it, which drains its queue.
    let drain = Store::open(&config).expect("a store");
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < WORK {
        support::upload(&backup, "large", 33 << 20).await.expect("uploaded");
        for store in [&backup, &drain] {
            store.put("k", Bytes::from_static(b"content")).await.expect("written");
            store.list("some").await.expect("listed");
            store.size("k").await.expect("looked at");
        }
        rounds += 1;
    }
    println!("{rounds} rounds");
}

#[test]
fn the_role_of_an_instance() {
    works(
        "s3://bucket/p",
        "aws_endpoint=http://127.0.0.1:PORT,allow_http=true,aws_metadata_endpoint=http://127.0.0.1:PORT,aws_region=r",
        &[],
    );
}

#[test]
fn a_role_by_web_identity() {
    let dir = TestDir::new();
    let file = support::secret_file(dir.path(), "token", "of-the-pod");
    works(
        "s3://bucket/p",
        "aws_endpoint=http://127.0.0.1:PORT,allow_http=true,aws_region=r,ca_cert_file=CA",
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &file.display().to_string()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
            ("AWS_ENDPOINT_URL_STS", "https://localhost:PORT/sts"),
        ],
    );
}

#[test]
fn a_managed_identity_of_azure() {
    works(
        "az://container/p",
        "azure_storage_account_name=a,azure_endpoint=http://127.0.0.1:PORT/a,allow_http=true,\
         azure_msi_endpoint=http://127.0.0.1:PORT/metadata/identity/oauth2/token",
        &[],
    );
}

#[test]
fn a_workload_identity_of_azure() {
    let dir = TestDir::new();
    let file = support::secret_file(dir.path(), "token", "of-the-pod");
    works(
        "az://container/p",
        "azure_storage_account_name=a,azure_endpoint=http://127.0.0.1:PORT/a,allow_http=true",
        &[
            ("AZURE_FEDERATED_TOKEN_FILE", &file.display().to_string()),
            ("AZURE_CLIENT_ID", "client"),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_AUTHORITY_HOST", "http://127.0.0.1:PORT"),
        ],
    );
}

#[test]
fn the_service_account_of_a_google_instance() {
    works(
        "gs://bucket/p",
        "google_base_url=http://127.0.0.1:PORT,allow_http=true",
        &[("GCE_METADATA_HOST", "127.0.0.1:PORT")],
    );
}
