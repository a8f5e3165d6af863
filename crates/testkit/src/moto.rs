use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::dir::TestDir;
use crate::process::server_command;
use crate::s3::cache;
use crate::server::Server;
use crate::wait::{PATIENCE, wait_until};

/// An S3 server (moto) on a loopback port, with one bucket. It keeps its objects in memory, and accepts any credentials.
pub struct MotoServer {
    server: Server,
    bucket: String,
}

impl MotoServer {
    /// Starts one with an empty bucket of this name.
    #[track_caller]
    pub fn start(dir: &TestDir, bucket: &str) -> MotoServer {
        let log = dir.path().join("moto.log");
        let server = Server::start("moto", log, |port| {
            let venv = python_tools("moto");
            let mut command = server_command(venv.join("bin/python"));
            // Its start script names the directory that setup made it in; the module does not care.
            command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        });
        let moto = MotoServer {
            server,
            bucket: bucket.to_owned(),
        };
        moto.create_bucket();
        moto
    }

    /// Kills the server: connections are refused from now on.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Starts it again on the same port, with an empty bucket.
    #[track_caller]
    pub fn start_again(&self) {
        self.server.start_again();
        self.create_bucket();
    }

    /// A storage URL for walarchive: the bucket and a prefix in it.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    /// The value for walarchive.storage_options.
    pub fn options(&self) -> String {
        format!(
            "aws_endpoint=http://127.0.0.1:{},aws_region=us-east-1,allow_http=true",
            self.port()
        )
    }

    /// The environment variables with credentials.
    pub fn env(&self) -> [(&'static str, &'static str); 2] {
        [
            ("AWS_ACCESS_KEY_ID", "moto"),
            ("AWS_SECRET_ACCESS_KEY", "a secret that no log may show"),
        ]
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    fn create_bucket(&self) {
        // It may reset a connection while it starts.
        wait_until("moto has made a bucket", PATIENCE, || {
            ask(self.port(), "PUT", &format!("/{}", self.bucket)).is_ok_and(|status| status.contains(" 200 "))
        });
    }
}

/// Sends a request without a body, and returns the status line.
fn ask(port: u16, method: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// The directory with a Python environment that `scripts/setup test` made, as in `moto-5.2.5`.
pub(crate) fn python_tools(name: &str) -> std::path::PathBuf {
    let cache = cache();
    let entries = std::fs::read_dir(&cache).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{name}-")))
        .map(|entry| entry.path())
        .filter(|path| path.join("complete").is_file())
        .max()
        .unwrap_or_else(|| panic!("no {name} in {}: run scripts/setup test", cache.display()))
}
