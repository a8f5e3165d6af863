use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::unistd::geteuid;

use crate::dir::TestDir;
use crate::process::{listening, server_command};

const ACCESS_KEY: &str = "walarchive-test";
const SECRET_KEY: &str = "a secret that no log may show";

/// An S3 server (s3s-fs) on a loopback port, with one bucket. Its objects lie as files in a directory.
pub struct S3Server {
    root: PathBuf,
    bucket: String,
    port: u16,
    child: Mutex<Option<Child>>,
}

impl S3Server {
    /// Starts one with an empty bucket of this name, its files in a subdirectory of the test's directory.
    #[track_caller]
    pub fn start(dir: &TestDir, bucket: &str) -> S3Server {
        let root = dir.subdir("s3");
        dir.subdir(&format!("s3/{bucket}"));
        // Another test can take the port between our look and the server's start: then try the next one.
        for _ in 0..10 {
            let server = S3Server {
                root: root.clone(),
                bucket: bucket.to_owned(),
                port: free_port(),
                child: Mutex::default(),
            };
            if server.try_start() {
                return server;
            }
        }
        panic!(
            "the S3 server did not start; see {}",
            root.with_extension("log").display()
        );
    }

    /// Kills the server: connections are refused from now on. The objects stay.
    pub fn stop(&self) {
        if let Some(mut child) = self.child().take() {
            child.kill().expect("could not kill the S3 server");
            child.wait().expect("could not wait for the S3 server");
        }
    }

    /// Starts it again on the same port, with the objects it had.
    #[track_caller]
    pub fn start_again(&self) {
        assert!(self.child().is_none(), "the S3 server was not stopped");
        assert!(
            self.try_start(),
            "the S3 server did not start again on port {}",
            self.port
        );
    }

    /// A storage URL for walarchive: the bucket and a prefix in it.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    /// The value for walarchive.storage_options.
    pub fn options(&self) -> String {
        format!(
            "aws_endpoint=http://127.0.0.1:{},aws_region=us-east-1,allow_http=true",
            self.port
        )
    }

    /// The environment variables with the right credentials.
    pub fn env(&self) -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory that holds the objects as files, named by their keys. The server reads them anew at each request, so a
    /// test may damage them. Names that begin with a dot are the server's own.
    pub fn dir(&self) -> PathBuf {
        self.root.join(&self.bucket)
    }

    /// Starts the server and waits until it listens; false if it ends instead.
    fn try_start(&self) -> bool {
        let log = std::fs::File::create(self.root.with_extension("log")).expect("could not create the S3 server's log");
        let mut command = server_command(program());
        command.args(["--host", "127.0.0.1", "--port", &self.port.to_string()]);
        command
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .arg(&self.root);
        command
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("could not duplicate a descriptor"))
            .stdout(log);
        let child = listening(&mut command, self.port, "the S3 server");
        let listens = child.is_some();
        *self.child() = child;
        listens
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that nobody listens on now. It is none of those that the kernel gives to clients: a server that is stopped for a while
/// gets it back.
pub(crate) fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    const FIRST: u64 = 10_000;
    const BELOW: u64 = 32_000;
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let random = || u16::try_from(FIRST + RandomState::new().hash_one(0) % (BELOW - FIRST)).ok();
    std::iter::from_fn(random)
        .take(1000)
        .find(is_free)
        .expect("no free port on loopback")
}

/// `s3s-fs` as `WALARCHIVE_S3S_FS` names it, else from the cache that scripts/env describes.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("WALARCHIVE_S3S_FS") {
        return program.into();
    }
    let cache = cache();
    let entries = std::fs::read_dir(&cache).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("s3s-fs-"))
        .map(|entry| entry.path().join("bin/s3s-fs"))
        .filter(|program| program.is_file())
        .max()
        .unwrap_or_else(|| panic!("no s3s-fs in {}: run scripts/setup test", cache.display()))
}

/// The directory into which scripts/setup puts its downloads and builds.
pub(crate) fn cache() -> PathBuf {
    match std::env::var_os("WALARCHIVE_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None if geteuid().is_root() => PathBuf::from("/var/cache/walarchive"),
        None => Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/walarchive"),
    }
}
