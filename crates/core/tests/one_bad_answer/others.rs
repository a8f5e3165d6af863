//! The same for the other stores, and for certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use walarchive_storage::Error;
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_testkit::{Answer, HttpMock, Request, TestDir, TlsFiles};

use crate::s3::{fine, perform};
use crate::support::secret_file;

/// Takes "OLD" until it is told to take "NEW".
struct Rotation {
    mock: HttpMock,
    rotated: Arc<AtomicBool>,
    file: std::path::PathBuf,
    dir: TestDir,
}

impl Rotation {
    fn new(credentials: &str, answer: impl Fn(&Request, &str, u16) -> Answer + Send + Sync + 'static) -> Rotation {
        let (dir, rotated) = (TestDir::new(), Arc::new(AtomicBool::new(false)));
        let of_mock = Arc::clone(&rotated);
        let mock = HttpMock::start(move |request| {
            let wanted = if of_mock.load(Ordering::SeqCst) { "NEW" } else { "OLD" };
            let port = request.header("host").and_then(|host| host.rsplit(':').next());
            answer(request, wanted, port.and_then(|port| port.parse().ok()).unwrap_or(0))
        });
        let file = secret_file(dir.path(), "credentials", credentials);
        Rotation {
            mock,
            rotated,
            file,
            dir,
        }
    }

    fn store(&self, url: &str, options: &str) -> Store {
        let mut config = StorageConfig::new(url);
        config.options = options
            .replace("HERE", &format!("http://127.0.0.1:{}", self.mock.port()))
            .parse()
            .expect("options");
        config.credentials_file = Some(self.file.clone());
        config.request_timeout = Duration::from_secs(20);
        config.patience = Duration::from_secs(20);
        Store::open(&config).expect("a store")
    }

    /// Each kind of request goes on with the new credentials, and a denial names where they are from.
    async fn pass(&self, store: &Store, credentials: &str) {
        perform(store, "put").await.expect("the old credentials are good");
        self.rotated.store(true, Ordering::SeqCst);
        let new = secret_file(self.dir.path(), "new", credentials);
        std::fs::rename(new, &self.file).expect("renamed");
        for kind in ["delete", "put", "get", "size", "list", "put"] {
            perform(store, kind)
                .await
                .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        }
        // Gone again, and now nobody replaces them: an archiver comes to know.
        self.rotated.store(false, Ordering::SeqCst);
        let error = perform(store, "put").await.expect_err("denied");
        let hint = error.hint().unwrap_or_default();
        println!("{error}: {hint}");
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
        assert!(hint.contains(&format!("\"{}\"", self.file.display())), "{hint}");
        assert!(!hint.contains("NEW"), "{hint}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn azures_sas_may_be_replaced() {
    let sas = |sig: &str| format!("azure_storage_sas_token = ?sv=2026&sig={sig}\n");
    let rotation = Rotation::new(&sas("OLD"), |request, wanted, _| {
        let signatures = request.target.matches("sig=").count();
        assert_eq!(signatures, 1, "{}", request.target);
        if !request.target.contains(&format!("sig={wanted}")) {
            let body = "<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code></Error>";
            return Answer::new(403, body);
        }
        match request.method.as_str() {
            "GET" if request.target.contains("comp=list") => Answer::new(
                200,
                "<EnumerationResults><Blobs></Blobs><NextMarker/></EnumerationResults>",
            ),
            "PUT" => fine(request),
            // Each deletion in a batch is signed by itself.
            "POST" => {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                let line = match body.contains(&format!("sig={wanted}")) {
                    true => "HTTP/1.1 202 Accepted",
                    false => "HTTP/1.1 403 Server failed to authenticate the request. AuthenticationFailed",
                };
                let part = format!(
                    "--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n{line}\r\n\r\n\r\n--b--\r\n"
                );
                Answer::new(202, part).header("Content-Type", "multipart/mixed; boundary=b")
            }
            _ => fine(request).header("x-ms-blob-type", "BlockBlob"),
        }
    });
    let options = "azure_storage_account_name=account,azure_endpoint=HERE/account,allow_http=true";
    let store = rotation.store("az://container/p", options);
    rotation.pass(&store, &sas("NEW")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn googles_token_may_be_replaced() {
    let token = |token: &str| format!("google_bearer_token = {token}\n");
    let rotation = Rotation::new(&token("OLD"), |request, wanted, _| {
        if request.header("authorization") != Some(&format!("Bearer {wanted}")) {
            return Answer::new(401, "<Error><Code>AuthenticationRequired</Code></Error>");
        }
        fine(request)
    });
    let store = rotation.store("gs://bucket/p", "google_base_url=HERE,allow_http=true");
    rotation.pass(&store, &token("NEW")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swifts_key_may_be_replaced() {
    let key = |key: &str| format!("st_user = u\nst_key = {key}\n");
    let rotation = Rotation::new(&key("OLD"), |request, wanted, port| {
        if request.target == "/auth" {
            return match request.header("x-auth-key") == Some(wanted) {
                true => Answer::new(200, "")
                    .header("X-Auth-Token", format!("token-{wanted}"))
                    .header("X-Storage-Url", format!("http://127.0.0.1:{port}/v1")),
                false => Answer::new(401, "no"),
            };
        }
        if request.header("x-auth-token") != Some(&format!("token-{wanted}")) {
            return Answer::new(401, "no");
        }
        match request.method.as_str() {
            "GET" if request.target.contains("prefix=") => Answer::new(200, "[]"),
            "PUT" => Answer::new(201, "").header("ETag", "1"),
            "DELETE" => Answer::new(204, ""),
            _ => fine(request),
        }
    });
    let store = rotation.store("swift://container/p", "st_auth=HERE/auth,allow_http=true");
    rotation.pass(&store, &key("NEW")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_may_be_replaced() {
    let (dir, other) = (TestDir::new(), TestDir::new());
    let (right, wrong) = (TlsFiles::create(&dir, &[]), TlsFiles::create(&other, &[]));
    let mock = HttpMock::start_tls(&right, |request| {
        if request.target == "/auth" {
            let port = request
                .header("host")
                .and_then(|host| host.rsplit(':').next())
                .unwrap_or("0");
            return Answer::new(200, "")
                .header("X-Auth-Token", "t")
                .header("X-Storage-Url", format!("https://localhost:{port}/v1"));
        }
        match request.method.as_str() {
            "PUT" => Answer::new(201, "").header("ETag", "\"1\""),
            _ => fine(request),
        }
    });
    let here = format!("https://localhost:{}", mock.port());
    for (url, options, credentials) in [
        (
            "s3://bucket/p",
            format!("aws_endpoint={here}"),
            "aws_access_key_id = A\naws_secret_access_key = S\n",
        ),
        (
            "gs://bucket/p",
            format!("google_base_url={here}"),
            "google_bearer_token = t\n",
        ),
        (
            "swift://c/p",
            format!("st_auth={here}/auth"),
            "st_user = u\nst_key = k\n",
        ),
    ] {
        let ca = other.path().join("trusted.pem");
        std::fs::copy(&wrong.ca, &ca).expect("copied");
        let mut config = StorageConfig::new(url);
        config.options = format!("{options},ca_cert_file={}", ca.display())
            .parse()
            .expect("options");
        config.credentials_file = Some(secret_file(other.path(), "credentials", credentials));
        config.patience = Duration::from_secs(1);
        let store = Store::open(&config).expect("a store");
        let error = perform(&store, "put").await.expect_err("another authority");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("ca_cert_file"), "{url}: {error:?} {hint}");
        // Half written, then whole.
        std::fs::write(&ca, "-----BEGIN CERTIFICATE-----\n").expect("written");
        perform(&store, "put").await.expect_err("no certificate yet");
        std::fs::copy(&right.ca, &ca).expect("copied");
        let end = Instant::now() + Duration::from_secs(30);
        while let Err(error) = perform(&store, "put").await {
            assert!(Instant::now() < end, "{url}: never taken: {error:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
