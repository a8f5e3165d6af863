//! Uploads that were never completed, on S3 and Google Cloud Storage: what is seen on the wire, and what becomes of answers
//! that real servers give seldom.
#![allow(missing_docs)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use walarchive_storage::Error;
use walarchive_storage::StorageConfig;
use walarchive_storage::{Pending, Store};
use walarchive_testkit::{Answer, HttpMock, Request, TestDir};

const KEYS: &str = "aws_access_key_id = AK\naws_secret_access_key = hunter2\naws_session_token = session\n";
const DATE: &str = "Fri, 20 Nov 2026 10:00:00 GMT";

fn open(dir: &TestDir, url: &str, options: &str, credentials: &str) -> Store {
    let mut config = StorageConfig::new(url);
    config.options = options.parse().expect("options");
    config.credentials_file = Some(support::secret_file(dir.path(), "credentials", credentials));
    config.request_timeout = Duration::from_secs(5);
    config.patience = Duration::from_secs(4);
    Store::open(&config).expect("a store")
}

fn s3(dir: &TestDir, mock: &HttpMock) -> Store {
    let options = format!("aws_endpoint=http://127.0.0.1:{},allow_http=true", mock.port());
    open(dir, "s3://bucket/p%20q", &options, KEYS)
}

fn page(content: &str) -> Answer {
    let text = format!("<ListMultipartUploadsResult><Bucket>bucket</Bucket>{content}</ListMultipartUploadsResult>");
    Answer::new(200, text).header("Date", DATE)
}

fn entry(key: &str, id: &str) -> String {
    format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>2026-11-19T09:00:00.000Z</Initiated></Upload>")
}

fn targets(mock: &HttpMock) -> Vec<String> {
    let requests = mock.requests().into_iter();
    requests
        .map(|request| format!("{} {}", request.method, request.target))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_followed_and_signed() {
    let asked = Arc::new(AtomicUsize::new(0));
    let mock = HttpMock::start(move |request: &Request| {
        if request.method == "DELETE" {
            return match request.target.contains("uploadId=gone") {
                true => Answer::new(404, "<Error><Code>NoSuchUpload</Code></Error>"),
                false => Answer::new(204, ""),
            };
        }
        match asked.fetch_add(1, Ordering::SeqCst) {
            // Tried again.
            0 => Answer::new(503, "<Error><Code>SlowDown</Code></Error>"),
            1 => page(&format!(
                "<IsTruncated>true</IsTruncated><NextKeyMarker>p q/wal_005/a+b</NextKeyMarker>\
                 <NextUploadIdMarker>id/1</NextUploadIdMarker>{}",
                entry("p q/wal_005/a+b", "id/1")
            )),
            _ => page(&format!(
                "<IsTruncated>false</IsTruncated>{}{}",
                entry("p q/wal_005/c", "gone"),
                entry("elsewhere/wal_005/c", "3")
            )),
        }
    });
    let dir = TestDir::new();
    let store = s3(&dir, &mock);
    let Pending::Known(found) = store.pending_uploads("wal_005").await.expect("listed") else {
        panic!("it does not say");
    };
    let keys: Vec<_> = found
        .iter()
        .map(|upload| (upload.key.as_str(), upload.id.as_str()))
        .collect();
    assert_eq!(keys, [("wal_005/a+b", "id/1"), ("wal_005/c", "gone")]);
    // By the clock of the store, whatever ours says.
    assert_eq!(found[0].age(), TimeDelta::hours(25));
    assert!(
        !store
            .discard_upload(&found[0], TimeDelta::hours(26))
            .await
            .expect("asked")
    );
    for upload in &found {
        assert!(store.discard_upload(upload, TimeDelta::hours(24)).await.expect("asked"));
    }
    let list = "GET /bucket?uploads=&prefix=p%20q%2Fwal_005%2F";
    assert_eq!(
        targets(&mock),
        [
            list,
            list,
            &format!("{list}&key-marker=p%20q%2Fwal_005%2Fa%2Bb&upload-id-marker=id%2F1"),
            "DELETE /bucket/p%20q/wal_005/a%2Bb?uploadId=id%2F1",
            "DELETE /bucket/p%20q/wal_005/c?uploadId=gone",
        ]
    );
    for request in mock.requests() {
        let signature = request.header("authorization").expect("a signature");
        assert!(signature.starts_with("AWS4-HMAC-SHA256 Credential=AK/"), "{signature}");
        assert_eq!(request.header("x-amz-security-token"), Some("session"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_may_be_part_of_the_host() {
    let mock = HttpMock::start(|_| page("<IsTruncated>false</IsTruncated>"));
    let dir = TestDir::new();
    let options = format!(
        "aws_endpoint=http://store.example,aws_virtual_hosted_style_request=true,aws_request_payer=true,\
         proxy_url=http://127.0.0.1:{},allow_http=true",
        mock.port()
    );
    let store = open(&dir, "s3://bucket/p", &options, KEYS);
    let found = store.pending_uploads("wal_005").await.expect("listed");
    assert_eq!(found, Pending::Known(Vec::new()));
    let requests = mock.requests();
    assert_eq!(requests[0].header("host"), Some("bucket.store.example"));
    assert!(
        requests[0].target.ends_with("/?uploads=&prefix=p%2Fwal_005%2F"),
        "{}",
        requests[0].target
    );
    let signature = requests[0].header("authorization").expect("a signature");
    assert!(signature.contains("x-amz-request-payer"), "{signature}");
}

/// The report of a store that answers so.
async fn said(open: impl Fn(&TestDir, &HttpMock) -> Store, status: u16, body: &'static str) -> Result<String, Error> {
    let mock = HttpMock::start(move |_| Answer::new(status, body));
    let dir = TestDir::new();
    match open(&dir, &mock).pending_uploads("wal_005").await? {
        Pending::Unknown(why) => Ok(why),
        other => panic!("{status}: {other:?}"),
    }
}

const STAY: &str = "Uploads that were never completed are not deleted, because the store";

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_list_is_told_what_is_missing() {
    let denied = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    assert_eq!(
        said(s3, 403, denied).await.expect("a sentence"),
        format!("{STAY} refuses to list them: the permission s3:ListBucketMultipartUploads on the bucket is missing.")
    );
    let gcs = |dir: &TestDir, mock: &HttpMock| {
        let options = format!("google_base_url=http://127.0.0.1:{},allow_http=true", mock.port());
        open(dir, "gs://bucket/p", &options, "google_bearer_token = hunter2\n")
    };
    assert_eq!(
        said(gcs, 403, denied).await.expect("a sentence"),
        format!("{STAY} refuses to list them: the permission storage.multipartUploads.list on the bucket is missing.")
    );
    for (status, body) in [
        (501, "<Error><Code>NotImplemented</Code></Error>"),
        (405, "<Error><Code>MethodNotAllowed</Code></Error>"),
        (
            200,
            "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>",
        ),
        (200, "<html>welcome</html>"),
    ] {
        assert_eq!(
            said(s3, status, body).await.expect("a sentence"),
            format!("{STAY} cannot list them; let it end them by a rule of its own, if it has such rules."),
            "{body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_by_itself_is_an_error() {
    let error = said(s3, 500, "<Error><Code>InternalError</Code></Error>")
        .await
        .expect_err("away");
    assert!(matches!(&error, Error::Store { operation: "list", .. }), "{error:?}");
    let text = format!("{error} {}", error.detail().expect("a reason"));
    assert!(
        text.contains("500 Internal Server Error") && text.contains("InternalError"),
        "{text}"
    );
    assert!(!text.contains("hunter2") && !text.contains("session"), "{text}");
    let region = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>";
    let error = said(s3, 400, region).await.expect_err("elsewhere");
    assert!(
        matches!(&error, Error::WrongRegion { region: Some(region), .. } if region == "eu-central-1"),
        "{error:?}"
    );
    let error = said(s3, 404, "<Error><Code>NoSuchBucket</Code></Error>")
        .await
        .expect_err("no bucket");
    assert!(matches!(&error, Error::NoSuchStore { .. }), "{error:?}");
    // A list that does not say where it goes on.
    let cut =
        "<ListMultipartUploadsResult><Bucket>b</Bucket><IsTruncated>true</IsTruncated></ListMultipartUploadsResult>";
    let error = said(s3, 200, cut).await.expect_err("cut off");
    assert!(error.detail().expect("a reason").contains("is cut off"), "{error:?}");
    // Nobody there.
    let dir = TestDir::new();
    let store = open(
        &dir,
        "s3://bucket/p",
        "aws_endpoint=http://127.0.0.1:9,allow_http=true",
        KEYS,
    );
    let error = store.pending_uploads("wal_005").await.expect_err("refused");
    assert!(error.detail().expect("a reason").contains("refused"), "{error:?}");
}
