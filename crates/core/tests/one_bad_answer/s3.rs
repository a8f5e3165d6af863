//! An S3 that answers as a test says, and keeps nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_storage::{Error, Result};
use walarchive_testkit::{Answer, HttpMock, Request, TestDir};

use crate::support;

/// The error body of S3.
pub fn denial(status: u16, code: &str) -> Answer {
    Answer::new(
        status,
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>"),
    )
}

/// S3's answer to a request whose date it does not accept, and its own date.
pub fn skewed(ahead: TimeDelta) -> Answer {
    let theirs = Utc::now() + ahead;
    let body = format!(
        "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current time is \
         too large.</Message><ServerTime>{}</ServerTime><MaxAllowedSkewMilliseconds>900000</MaxAllowedSkewMilliseconds></Error>",
        theirs.format("%Y-%m-%dT%H:%M:%SZ")
    );
    Answer::new(403, body).header("Date", theirs.format("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

/// Any request that is right.
pub fn fine(request: &Request) -> Answer {
    let target = request.target.as_str();
    match request.method.as_str() {
        "POST" if target.ends_with("?delete") => {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let keys = body
                .split("<Key>")
                .skip(1)
                .filter_map(|rest| rest.split("</Key>").next());
            let deleted: String = keys.map(|key| format!("<Deleted><Key>{key}</Key></Deleted>")).collect();
            Answer::new(200, format!("<DeleteResult>{deleted}</DeleteResult>"))
        }
        "POST" if target.contains("?uploads") => {
            Answer::new(200, "<R><Bucket>b</Bucket><Key>k</Key><UploadId>1</UploadId></R>")
        }
        "POST" => Answer::new(200, "<R><ETag>\"1\"</ETag></R>"),
        "GET" if target.contains("?uploads") => Answer::new(
            200,
            "<ListMultipartUploadsResult><Bucket>b</Bucket><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
        ),
        "GET" if target.contains("list-type=2") => Answer::new(200, "<ListBucketResult></ListBucketResult>"),
        "GET" if request.header("range") == Some("bytes=0-6") => Answer::new(206, "content")
            .header("Content-Range", "bytes 0-6/7")
            .header("ETag", "\"1\"")
            .header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT"),
        _ => Answer::new(200, "content")
            .header("ETag", "\"1\"")
            .header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT"),
    }
}

/// The signer of the request.
pub fn key_of(request: &Request) -> &str {
    let signature = request.header("authorization").unwrap_or_default();
    let rest = signature.split("Credential=").nth(1).unwrap_or_default();
    rest.split('/').next().unwrap_or_default()
}

/// A store on a mock of S3, with its credentials file.
pub struct Place {
    pub mock: HttpMock,
    pub file: std::path::PathBuf,
    dir: TestDir,
}

pub fn credentials(key: &str) -> String {
    format!("aws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n")
}

impl Place {
    pub fn new(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Place {
        let dir = TestDir::new();
        Place {
            mock: HttpMock::start(answer),
            file: support::secret_file(dir.path(), "credentials", &credentials("OLD")),
            dir,
        }
    }

    /// With the answers of the list first, a request each, and `fine` after that.
    pub fn scripted(first: impl IntoIterator<Item = Answer>) -> (Place, Script) {
        let script = Script(Arc::new(Mutex::new(first.into_iter().collect())));
        let of_mock = script.clone();
        (
            Place::new(move |request| of_mock.next().unwrap_or_else(|| fine(request))),
            script,
        )
    }

    pub fn config(&self) -> StorageConfig {
        let mut config = StorageConfig::new("s3://bucket/p");
        config.options = format!("aws_endpoint=http://127.0.0.1:{},allow_http=true", self.mock.port())
            .parse()
            .expect("options");
        config.credentials_file = Some(self.file.clone());
        config.request_timeout = Duration::from_secs(20);
        config.patience = Duration::from_secs(20);
        config
    }

    pub fn store(&self) -> Store {
        Store::open(&self.config()).expect("a store")
    }

    /// As Kubernetes and editors do it: another file under the name.
    pub fn replace(&self, content: &str) {
        let new = support::secret_file(self.dir.path(), "credentials.new", content);
        std::fs::rename(new, &self.file).expect("renamed");
    }
}

/// Answers that are still to be given.
#[derive(Clone)]
pub struct Script(Arc<Mutex<VecDeque<Answer>>>);

impl Script {
    fn next(&self) -> Option<Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub fn say(&self, answers: impl IntoIterator<Item = Answer>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(answers);
    }

    pub fn rest(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Every kind of request that a backup, a restore, retention and verification make.
pub const KINDS: [&str; 8] = [
    "put",
    "create",
    "get",
    "range",
    "list",
    "delete",
    "delete many",
    "upload",
];

pub async fn perform(store: &Store, kind: &str) -> Result<(), Error> {
    match kind {
        "put" => store.put("k", Bytes::from_static(b"content")).await,
        "create" => store.create("k", Bytes::from_static(b"content")).await.map(drop),
        "get" => store.get("k", 100).await.map(drop),
        "range" => store.get_range("k", 0..7).await.map(drop),
        "size" => store.size("k").await.map(drop),
        "list" => store.list("f").await.map(drop),
        "delete" => store.delete("k").await,
        "delete many" => store.delete_many(&["k".to_owned(), "l".to_owned()], |_| {}).await,
        _ => support::upload(store, "k", 9 << 20).await.map(drop),
    }
}
