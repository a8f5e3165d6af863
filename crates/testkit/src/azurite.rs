use crate::dir::TestDir;
use crate::moto::python_tools;
use crate::process::server_command;
use crate::server::Server;

const ACCOUNT: &str = "walarchivetest";
const KEY: &str = "YSBzZWNyZXQgdGhhdCBubyBsb2cgbWF5IHNob3c=";
const SIGNED_REQUESTS: &str = include_str!("../servers/azure.py");

/// An Azure Blob Storage server (azurite) on a loopback port, with one container.
pub struct AzuriteServer {
    server: Server,
    container: String,
}

impl AzuriteServer {
    /// Starts one with an empty container of this name.
    #[track_caller]
    pub fn start(dir: &TestDir, container: &str) -> AzuriteServer {
        let data = dir.subdir("azurite");
        let log = data.with_extension("log");
        let server = Server::start("azurite", log, move |port| {
            let root = python_tools("azurite");
            let mut command = server_command(root.join("node"));
            command.arg(root.join("node_modules/azurite/dist/src/blob/main.js"));
            command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
            command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location"]);
            command.arg(&data).env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
            command
        });
        let azurite = AzuriteServer {
            server,
            container: container.to_owned(),
        };
        azurite.python(&["container"]);
        azurite
    }

    /// Ends the server: connections are refused from now on. The objects stay, which they would not if it were killed: it
    /// writes its index only every few seconds.
    pub fn stop(&self) {
        self.server.end();
    }

    /// Starts it again on the same port, with the objects it had.
    #[track_caller]
    pub fn start_again(&self) {
        self.server.start_again();
    }

    /// A storage URL for walarchive: the container and a prefix in it.
    pub fn url(&self, prefix: &str) -> String {
        format!("az://{}/{prefix}", self.container)
    }

    /// The value for walarchive.storage_options.
    pub fn options(&self) -> String {
        format!(
            "azure_storage_account_name={ACCOUNT},azure_endpoint={},allow_http=true",
            self.endpoint()
        )
    }

    /// The environment variables with the right credentials.
    pub fn env(&self) -> [(&'static str, &'static str); 1] {
        [("AZURE_STORAGE_ACCOUNT_KEY", KEY)]
    }

    /// The same with a key that is none.
    pub fn wrong_env(&self) -> [(&'static str, &'static str); 1] {
        [("AZURE_STORAGE_ACCOUNT_KEY", "YSB3cm9uZyBzZWNyZXQ=")]
    }

    /// A shared access signature for everything in the container, for an hour.
    pub fn sas(&self) -> String {
        self.python(&["sas"])
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port())
    }

    /// A few lines of Python do the work that needs a signature.
    fn python(&self, what: &[&str]) -> String {
        let output = server_command("/usr/bin/python3")
            .args(["-c", SIGNED_REQUESTS, &self.endpoint(), ACCOUNT, &self.container])
            .args(what)
            .env("KEY", KEY)
            .output()
            .expect("could not run python3");
        let say = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "azurite: {say}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
