use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::dir::{TestDir, give_to_server};
use crate::process::{children, kill_pid, listening, server_command, server_user};
use crate::s3::free_port;
use crate::wait::{PATIENCE, wait_until};

const SSHD: &str = "/usr/sbin/sshd";

/// An SSH server (Debian's sshd) on a loopback port, with keys of its own. It lets in the user whom it runs as, by key only.
pub struct SftpServer {
    files: PathBuf,
    etc: PathBuf,
    user: String,
    port: u16,
    subsystem: &'static str,
    child: Mutex<Option<Child>>,
}

impl SftpServer {
    /// Starts one with an empty directory for files, in the test's directory.
    #[track_caller]
    pub fn start(dir: &TestDir) -> SftpServer {
        Self::start_as(dir, "internal-sftp")
    }

    /// The same, but it knows version 3 of the protocol and none of the extensions that matter.
    #[track_caller]
    pub fn start_plain(dir: &TestDir) -> SftpServer {
        Self::start_as(
            dir,
            "internal-sftp -P hardlink,posix-rename,fsync,limits,statvfs,fstatvfs",
        )
    }

    #[track_caller]
    fn start_as(dir: &TestDir, subsystem: &'static str) -> SftpServer {
        assert!(Path::new(SSHD).exists(), "no {SSHD}: run scripts/setup test");
        let (files, etc) = (dir.subdir("sftp"), dir.subdir("sshd"));
        let uid = server_user().map_or(geteuid(), |(uid, _)| uid);
        let user = User::from_uid(uid).ok().flatten().expect("this user has no name").name;
        for (name, kind) in [
            ("host_ed25519", "ed25519"),
            ("host_ecdsa", "ecdsa"),
            ("user_key", "ed25519"),
        ] {
            keygen(&etc.join(name), kind, "");
        }
        std::fs::copy(etc.join("user_key.pub"), etc.join("authorized_keys")).expect("could not copy the public key");
        // Another test can take the port between our look and the server's start: then try the next one.
        for _ in 0..10 {
            let server = SftpServer {
                files: files.clone(),
                etc: etc.clone(),
                user: user.clone(),
                port: free_port(),
                subsystem,
                child: Mutex::default(),
            };
            if server.try_start() {
                server.write_known_hosts("host_ed25519.pub");
                return server;
            }
        }
        panic!("sshd did not start; see {}", etc.join("log").display());
    }

    /// Kills the server and everything it started: all connections break, others are refused from now on. The files stay.
    pub fn stop(&self) {
        if let Some(child) = self.child().take() {
            kill(child);
        }
    }

    /// Starts it again on the same port, with the files it had.
    #[track_caller]
    pub fn start_again(&self) {
        assert!(self.child().is_none(), "sshd was not stopped");
        assert!(self.try_start(), "sshd did not start again on port {}", self.port);
    }

    /// Sends a signal to all processes that serve connections: SIGKILL breaks them, SIGSTOP makes them silent.
    pub fn signal_connections(&self, signal: Signal) {
        if let Some(child) = self.child().as_ref() {
            for pid in descendants(child.id() as i32) {
                kill_pid(pid, signal);
            }
        }
    }

    /// A storage URL for walarchive: a directory that is there from now on.
    #[track_caller]
    pub fn url(&self, prefix: &str) -> String {
        let path = self.dir().join(prefix);
        std::fs::create_dir_all(&path).expect("could not create a directory");
        give_to_server(&path);
        format!("sftp://{}@127.0.0.1:{}{}", self.user, self.port, path.display())
    }

    /// The value for walarchive.storage_options.
    pub fn options(&self) -> String {
        format!(
            "sftp_known_hosts={},sftp_private_key_path={}",
            self.known_hosts().display(),
            self.key().display()
        )
    }

    /// The environment variables with the right credentials.
    pub fn env(&self) -> [(&'static str, String); 1] {
        [("SSH_PRIVATE_KEY_PATH", self.key().display().to_string())]
    }

    /// The user who may come in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The private key of the user. It has no passphrase.
    pub fn key(&self) -> PathBuf {
        self.etc.join("user_key")
    }

    /// Lets the owner of another key in, too.
    pub fn authorize(&self, public_key: &Path) {
        let file = self.etc.join("authorized_keys");
        let mut keys = std::fs::read_to_string(&file).expect("could not read the authorized keys");
        keys += &std::fs::read_to_string(public_key).expect("could not read the public key");
        std::fs::write(&file, keys).expect("could not write the authorized keys");
    }

    /// A known_hosts file that has the server's ed25519 key.
    pub fn known_hosts(&self) -> PathBuf {
        self.etc.join("known_hosts")
    }

    /// The server's public key of a type, `ed25519` or `ecdsa`, as a known_hosts file has it after the name.
    pub fn host_key(&self, kind: &str) -> String {
        let path = self.etc.join(format!("host_{kind}.pub"));
        let text = std::fs::read_to_string(path).expect("could not read the host key");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// The directory that holds the files.
    pub fn dir(&self) -> PathBuf {
        self.files.clone()
    }

    fn write_known_hosts(&self, public_key: &str) {
        let key = std::fs::read_to_string(self.etc.join(public_key)).expect("could not read the host key");
        std::fs::write(self.known_hosts(), format!("[127.0.0.1]:{} {key}", self.port))
            .expect("could not write known_hosts");
        give_to_server(&self.known_hosts());
    }

    /// Starts the server and waits until it listens; false if it ends instead.
    fn try_start(&self) -> bool {
        let etc = self.etc.display();
        // /tmp is open to all, which StrictModes does not like. New session keys come often, as in a long backup.
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {etc}/host_ed25519\nHostKey {etc}/host_ecdsa\nPidFile none\n\
             AuthorizedKeysFile {etc}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nMaxStartups 100\nRekeyLimit 16M\nUseDNS no\nLogLevel VERBOSE\nSubsystem sftp {}\n",
            self.port, self.subsystem
        );
        let file = self.etc.join("sshd_config");
        std::fs::write(&file, config).expect("could not write sshd_config");
        let mut command = server_command(SSHD);
        command
            .args(["-D", "-f"])
            .arg(&file)
            .arg("-E")
            .arg(self.etc.join("log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = listening(&mut command, self.port, "sshd");
        let listens = child.is_some();
        *self.child() = child;
        listens
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SftpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An ssh-agent with one key.
pub struct SshAgent {
    socket: PathBuf,
    child: Child,
}

impl SshAgent {
    /// Starts one and gives it the key of this file.
    #[track_caller]
    pub fn start(dir: &TestDir, key: &Path) -> SshAgent {
        let socket = dir.subdir("agent").join("socket");
        let mut command = server_command("/usr/bin/ssh-agent");
        command
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.spawn().expect("could not start ssh-agent");
        let agent = SshAgent { socket, child };
        wait_until("ssh-agent listens", PATIENCE, || agent.socket.exists());
        let mut add = server_command("/usr/bin/ssh-add");
        add.env("SSH_AUTH_SOCK", &agent.socket).arg("-q").arg(key);
        let added = add.stdin(Stdio::null()).status().expect("could not start ssh-add");
        assert!(added.success(), "ssh-add did not take the key");
        agent
    }

    /// Its socket, for SSH_AUTH_SOCK.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a key pair that the servers' user may read: the private key at the path, the public one beside it as `.pub`.
#[track_caller]
pub fn keygen(path: &Path, kind: &str, passphrase: &str) {
    let mut command = server_command("/usr/bin/ssh-keygen");
    command
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "test", "-f"].map(OsStr::new))
        .arg(path);
    let done = command
        .stdin(Stdio::null())
        .status()
        .expect("could not start ssh-keygen");
    assert!(done.success(), "ssh-keygen made no key at {}", path.display());
}

/// Those that serve connections have left the process group, so go by parents. Nobody may fork while we look.
fn kill(mut child: Child) {
    let pid = child.id() as i32;
    kill_pid(pid, Signal::SIGSTOP);
    for pid in descendants(pid) {
        kill_pid(pid, Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn descendants(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for (child, _) in children(pid) {
        found.push(child);
        found.extend(descendants(child));
    }
    found
}
