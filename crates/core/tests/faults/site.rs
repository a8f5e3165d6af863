//! An S3 server behind a proxy that misbehaves, and what a test does with them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use walarchive_core::archive::{Archive, Pushed, fetch};
use walarchive_core::codec::{Compression, Format};
use walarchive_core::repository::cluster::ClusterIdentity;
use walarchive_core::wal::{SegmentSize, WalFileName};
use walarchive_storage::StorageConfig;
use walarchive_storage::Store;
use walarchive_storage::{Error, Result};
use walarchive_testkit::{FaultProxy, S3Server, TestDir};

/// Far above the time that any operation here may take with the deadlines of [`Site::config`], far below object_store's own.
pub const SOON: Duration = Duration::from_secs(40);

const SEGMENT: u64 = 4 << 20;
const SYSTEM: u64 = 7_412_345_678_901_234_567;

pub struct Site {
    // The servers end before their directory goes.
    pub proxy: FaultProxy,
    pub server: S3Server,
    dir: TestDir,
}

impl Site {
    pub fn new() -> Site {
        let dir = TestDir::new();
        let server = S3Server::start(&dir, "bucket");
        let [(_, key), (_, secret)] = server.env();
        let text = format!("aws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
        std::fs::write(dir.join("credentials"), text).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(dir.join("credentials"), mode).expect("closed to others");
        Site {
            proxy: FaultProxy::start(server.port()),
            server,
            dir,
        }
    }

    /// Wait until nobody can think that the credentials were written just now.
    pub fn wait_settled(&self) {
        let written = self
            .dir
            .join("credentials")
            .metadata()
            .and_then(|meta| meta.modified())
            .expect("there");
        walarchive_testkit::wait_until("the credentials are old", Duration::from_secs(20), || {
            written.elapsed().is_ok_and(|age| age > Duration::from_secs(5))
        });
    }

    /// As an archiver with a short `walarchive.archive_timeout` has it.
    pub fn config(&self) -> StorageConfig {
        let mut config = StorageConfig::new(self.server.url("prefix"));
        config.options = self.proxy.options().parse().expect("options");
        config.credentials_file = Some(self.dir.join("credentials"));
        config.request_timeout = Duration::from_secs(3);
        config.patience = Duration::from_secs(3);
        config
    }

    pub fn store(&self) -> Store {
        Store::open(&self.config()).expect("a store")
    }

    pub fn backup_store(&self) -> Store {
        Store::open(&self.config().for_backup()).expect("a store")
    }

    /// The object as the server has it.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.server.dir().join("prefix").join(key)).ok()
    }

    /// Files of uploads that were begun and neither completed nor aborted: the server keeps them beside its buckets.
    pub fn unfinished_uploads(&self) -> Vec<PathBuf> {
        let root = self.server.dir().parent().expect("a parent").to_owned();
        let folders = [root, self.server.dir()];
        let entries = folders.iter().flat_map(|dir| std::fs::read_dir(dir).expect("listed"));
        let paths = entries.map(|entry| entry.expect("listed").path());
        paths
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(".upload")
            })
            .collect()
    }

    /// Archives a segment that does not compress.
    pub async fn push(&self, name: &str) -> walarchive_core::Result<Pushed> {
        let name: WalFileName = name.parse().expect("a name");
        let path = self.dir.join(name.to_string());
        if !path.exists() {
            std::fs::write(&path, segment(&name)).expect("written");
        }
        let identity = ClusterIdentity {
            system_identifier: SYSTEM,
            major_version: 15,
            segment_size: SegmentSize::new(SEGMENT).expect("a size"),
        };
        let archive = Archive::new(self.store(), identity, Compression::Zstd(1));
        Box::pin(archive.push(&self.dir, &name)).await
    }

    /// Is what the archive gives back what was pushed?
    pub async fn assert_archived(&self, name: &str) {
        let name: WalFileName = name.parse().expect("a name");
        let target = self.dir.join("fetched");
        fetch(&self.store(), &name, &target, Format::Zstd)
            .await
            .expect("fetched");
        assert!(
            std::fs::read(&target).expect("read") == segment(&name),
            "{name} came back as another"
        );
    }

    /// Uploads an object in parts.
    pub async fn upload(&self, store: &Store, key: &str, content: Bytes) -> Result<u64> {
        let (mut upload, task) = store.upload(key, CancellationToken::new());
        let produce = move || {
            use std::io::Write;
            // That it ends early is told by the other half.
            let _ = upload.write_all(&content).and_then(|()| upload.finish());
        };
        tokio::task::spawn_blocking(produce).await.expect("no panic");
        task.outcome().await
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut noise: Vec<u8> = std::iter::repeat_with(&mut next)
        .take(bytes.div_ceil(8))
        .flatten()
        .collect();
    noise.truncate(bytes);
    noise
}

fn segment(name: &WalFileName) -> Vec<u8> {
    let number = u64::from_str_radix(&name.to_string()[16..], 16).expect("digits");
    let mut bytes = noise(SEGMENT as usize, number + 1);
    bytes[0..2].copy_from_slice(&0xD110u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(number * SEGMENT).to_le_bytes());
    bytes[16..24].fill(0);
    bytes[24..32].copy_from_slice(&SYSTEM.to_le_bytes());
    bytes[32..36].copy_from_slice(&(SEGMENT as u32).to_le_bytes());
    bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
    bytes
}

/// One of each kind of request, and what came of it if it is an error.
pub async fn each_operation(store: &Store) -> Vec<(&'static str, Duration, Option<Error>)> {
    let content = Bytes::from_static(b"some content");
    let mut done = Vec::new();
    let (outcome, took) = timed(store.create("created", content.clone())).await;
    done.push(("create", took, outcome.err()));
    let (outcome, took) = timed(store.put("written", content)).await;
    done.push(("put", took, outcome.err()));
    let (outcome, took) = timed(store.get("object", 1 << 20)).await;
    done.push(("get", took, outcome.err()));
    let (outcome, took) = timed(store.get_range("object", 1..5)).await;
    done.push(("get_range", took, outcome.err()));
    let (outcome, took) = timed(store.size("object")).await;
    done.push(("size", took, outcome.err()));
    let (outcome, took) = timed(store.list("")).await;
    done.push(("list", took, outcome.err()));
    let (outcome, took) = timed(store.delete("deleted")).await;
    done.push(("delete", took, outcome.err()));
    done
}

pub async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    let outcome = work.await;
    (outcome, begun.elapsed())
}

/// The failure of a store that is too slow, or silent.
#[track_caller]
pub fn assert_too_slow(what: &str, error: impl Into<walarchive_core::Error>) {
    let error = error.into();
    let timed_out = matches!(
        error,
        walarchive_core::Error::Storage(Error::Timeout { .. } | Error::NoAnswer { .. })
    );
    assert!(
        timed_out && error.is_transient() && error.is_unreachable(),
        "{what}: {error:?}"
    );
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("does not answer in time"), "{what}: {hint}");
}
