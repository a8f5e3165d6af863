use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dir::{TestDir, give_to_server};
use crate::moto::MotoServer;
use crate::process::server_command;
use crate::server::Server;

const KEY_ID: &str = "walarchive-test-key";
const PROGRAM: &str = include_str!("../servers/gcs.py");

/// A Google Cloud Storage server on a loopback port, with one bucket: the XML API in front of moto. It asks for a token that
/// was signed with its service account's key, and looks at the name of that key.
pub struct GcsServer {
    // Ends before the server behind it.
    server: Server,
    moto: MotoServer,
    bucket: String,
    key_file: PathBuf,
    wrong_key_file: PathBuf,
}

impl GcsServer {
    /// Starts one with an empty bucket of this name.
    #[track_caller]
    pub fn start(dir: &TestDir, bucket: &str) -> GcsServer {
        let moto = MotoServer::start(dir, bucket);
        let upstream = moto.port().to_string();
        let server = Server::start("the GCS server", dir.path().join("gcs.log"), move |port| {
            let mut command = server_command("/usr/bin/python3");
            command.args(["-c", PROGRAM, &port.to_string(), &upstream, KEY_ID]);
            command
        });
        let private_key = private_key();
        let write = |name: &str, key_id: &str| {
            let path = dir.path().join(name);
            write_key_file(&path, &private_key, key_id);
            path
        };
        GcsServer {
            server,
            moto,
            bucket: bucket.to_owned(),
            key_file: write("service-account.json", KEY_ID),
            wrong_key_file: write("wrong-service-account.json", "another-key"),
        }
    }

    /// Kills the server: connections are refused from now on. The objects stay.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Starts it again on the same port, with the objects it had.
    #[track_caller]
    pub fn start_again(&self) {
        self.server.start_again();
    }

    /// A storage URL for walarchive: the bucket and a prefix in it.
    pub fn url(&self, prefix: &str) -> String {
        format!("gs://{}/{prefix}", self.bucket)
    }

    /// The value for walarchive.storage_options.
    pub fn options(&self) -> String {
        format!("google_base_url=http://127.0.0.1:{},allow_http=true", self.port())
    }

    /// The environment variables with the right credentials.
    pub fn env(&self) -> [(&'static str, &str); 1] {
        [("GOOGLE_APPLICATION_CREDENTIALS", utf8(&self.key_file))]
    }

    /// The same with a key that the server does not know.
    pub fn wrong_env(&self) -> [(&'static str, &str); 1] {
        [("GOOGLE_APPLICATION_CREDENTIALS", utf8(&self.wrong_key_file))]
    }

    /// The service account's key file, mode 0600.
    pub fn key_file(&self) -> &Path {
        &self.key_file
    }

    /// A bearer token that the server takes, for stand-ins of services that hand out tokens.
    pub fn token(&self) -> String {
        format!("token-{KEY_ID}")
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The S3 server that keeps the objects.
    pub fn moto(&self) -> &MotoServer {
        &self.moto
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a test directory's path is ASCII")
}

fn private_key() -> String {
    let output = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .output()
        .expect("could not run openssl");
    let say = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl: {say}");
    String::from_utf8(output.stdout).expect("PEM is ASCII")
}

fn write_key_file(path: &Path, private_key: &str, key_id: &str) {
    use std::os::unix::fs::PermissionsExt;
    let key = private_key.replace('\n', "\\n");
    let text = format!(
        r#"{{"type": "service_account", "project_id": "test", "private_key_id": "{key_id}", "private_key": "{key}", "client_email": "test@test.iam.gserviceaccount.com", "client_id": "1", "token_uri": "https://oauth2.googleapis.com/token"}}"#
    );
    std::fs::write(path, text).expect("could not write a key file");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("could not set the mode of a key file");
    give_to_server(path);
}
