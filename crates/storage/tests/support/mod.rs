//! Helpers that the tests of the stores share.
#![allow(dead_code, missing_docs)]

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use walarchive_storage::Error;
use walarchive_storage::StorageConfig;
use walarchive_storage::{Created, Store};

/// Credentials come from the environment of a process, so each set of them gets a process: this test program again, to run only
/// [`probe`] with an environment of its own.
pub struct Probe<'a> {
    pub url: String,
    pub options: String,
    pub credentials_file: Option<&'a std::path::Path>,
    pub env: Vec<(&'a str, &'a str)>,
}

impl Probe<'_> {
    /// The probe's output: "ok", or the error with its detail and hint.
    pub fn run(&self, what: &str) -> String {
        let program = std::env::current_exe().expect("a program");
        let mut command = Command::new(program);
        command
            .args(["probe", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env_clear()
            .env("PROBE_URL", &self.url)
            .env("PROBE_OPTIONS", &self.options)
            .env("PROBE_WHAT", what)
            .envs(self.env.iter().copied());
        if let Some(file) = self.credentials_file {
            command.env("PROBE_CREDENTIALS_FILE", file);
        }
        let output = command.output().expect("run");
        let said = String::from_utf8_lossy(&output.stdout);
        let (_, said) = said
            .split_once("<<<")
            .unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
        let said = said.split_once(">>>").expect("an end").0.to_owned();
        println!("{} {what}: {said}", self.url);
        said
    }
}

/// The other half of [`Probe`].
pub async fn probe() {
    let var = |name: &str| std::env::var(name).ok();
    let mut config = StorageConfig::new(var("PROBE_URL").expect("a URL"));
    config.credentials_file = var("PROBE_CREDENTIALS_FILE").map(Into::into);
    config.request_timeout = Duration::from_secs(20);
    config.patience = Duration::from_secs(3);
    let asked = async {
        config.options = var("PROBE_OPTIONS").unwrap_or_default().parse()?;
        let store = Store::open(&config)?;
        match var("PROBE_WHAT").as_deref() {
            Some("all") => everything(&store).await,
            Some("list") => store.list("some").await?.clear(),
            Some("read") => drop(store.get("some/key", 100).await?),
            Some("delete") => store.delete("some/key").await?,
            Some("multipart") => drop(upload(&store, "some/large", 9 << 20).await?),
            _ => store.put("some/key", Bytes::from_static(b"content")).await?,
        }
        Ok::<_, Error>(())
    };
    let said = match asked.await {
        Ok(()) => "ok".to_owned(),
        Err(error) => {
            let kind = format!("{error:?}");
            let kind = kind.split([' ', '(']).next().unwrap_or_default().to_owned();
            let detail = error.detail().unwrap_or_default();
            format!(
                "{kind}: {error}\nDETAIL: {detail}\nHINT: {}",
                error.hint().unwrap_or_default()
            )
        }
    };
    println!("<<<{said}>>>");
}

pub fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

pub async fn upload(store: &Store, key: &str, size: usize) -> walarchive_storage::Result<u64> {
    let (mut upload, task) = store.upload(key, CancellationToken::new());
    let written = tokio::task::spawn_blocking(move || {
        upload.write_all(&content(size))?;
        upload.finish()
    });
    // The other half knows the reason of a failure.
    let _ = written.await.expect("no panic");
    task.outcome().await
}

/// The everyday work of a store, on one that works.
pub async fn everything(store: &Store) {
    const LARGE: usize = 20 << 20;
    let one = Bytes::from_static(b"one");
    assert_eq!(
        store.create("a/b c+d", one.clone()).await.expect("created"),
        Created::Yes
    );
    let again = store.create("a/b c+d", Bytes::from_static(b"two")).await;
    assert_eq!(again.expect("asked"), Created::Exists);
    assert_eq!(store.get("a/b c+d", 10).await.expect("read"), Some(one));
    assert_eq!(store.get("a/missing", 10).await.expect("asked"), None);
    assert_eq!(store.size("a/missing").await.expect("asked"), None);
    store.put("a/empty", Bytes::new()).await.expect("written");
    assert_eq!(store.size("a/empty").await.expect("asked"), Some(0));
    assert_eq!(
        upload(store, "a/large/object", LARGE).await.expect("uploaded"),
        LARGE as u64
    );
    let middle = store
        .get_range("a/large/object", 9_000_000..9_000_100)
        .await
        .expect("read");
    assert!(middle == content(LARGE)[9_000_000..9_000_100]);
    assert!(
        store
            .get("a/large/object", u64::MAX)
            .await
            .expect("read")
            .expect("there")
            == content(LARGE)
    );
    let mut keys: Vec<_> = store
        .list("a")
        .await
        .expect("listed")
        .into_iter()
        .map(|found| found.key)
        .collect();
    keys.sort();
    assert_eq!(keys, ["a/b c+d", "a/empty", "a/large/object"]);
    let shallow = store.list_shallow("a").await.expect("listed");
    assert_eq!(shallow.len(), 2, "{shallow:?}");
    let after = store.list_after("a", "a/empty").await.expect("listed");
    assert_eq!(after.len(), 1, "{after:?}");
    store.delete("a/missing").await.expect("a missing object is fine");
    assert_eq!(store.delete_folder("a").await.expect("deleted"), 3);
    assert!(store.list("a").await.expect("listed").is_empty());
}

/// A file that none but its owner can read.
pub fn secret_file(dir: &std::path::Path, name: &str, content: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, content).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("mode set");
    path
}
