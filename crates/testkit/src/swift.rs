use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::{User, geteuid};

use crate::dir::{TestDir, give_to_server};
use crate::process::{server_command, server_user};
use crate::wait::{PATIENCE, wait_until};

const CONTAINER: &str = "walarchive";
const USER: &str = "test:tester";
/// Without spaces: tempauth would cut it there.
const KEY: &str = "a-key-that-no-log-may-show";
/// May authenticate, and do nothing then.
const STRANGER: &str = "test:stranger";

const NODES: [&str; 3] = ["account", "container", "object"];

/// Debian's Swift stores a ring as its builder gives it; nine runs of swift-ring-builder would take much longer.
const MAKE_RINGS: &str = r#"
import sys
from swift.common.ring import RingBuilder
for name, port in zip(("account", "container", "object"), sys.argv[2:]):
    builder = RingBuilder(1, 1, 0)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1",
                     "replication_ip": "127.0.0.1", "replication_port": int(port), "weight": 100.0, "meta": ""})
    builder.rebalance()
    builder.get_ring().save(sys.argv[1] + "/" + name + ".ring.gz")
"#;

/// OpenStack Swift on loopback ports: one node, its own authentication (tempauth), one container.
pub struct SwiftServer {
    root: PathBuf,
    ports: Ports,
    proxy: Mutex<Option<Child>>,
    others: Vec<Child>,
}

struct Ports {
    memcached: u16,
    nodes: [u16; 3],
    proxy: u16,
}

impl Ports {
    fn free() -> Ports {
        // All of them at a time, so that they differ.
        let listeners: [TcpListener; 5] =
            std::array::from_fn(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port on loopback"));
        let [memcached, account, container, object, proxy] =
            listeners.map(|listener| listener.local_addr().expect("a listener without an address").port());
        Ports {
            memcached,
            nodes: [account, container, object],
            proxy,
        }
    }
}

impl SwiftServer {
    /// Starts one with an empty container, its files in a subdirectory of the test's directory.
    #[track_caller]
    pub fn start(dir: &TestDir) -> SwiftServer {
        let root = dir.subdir("swift");
        dir.subdir("swift/devices/d1");
        // Another test can take a port between our look and the server's start: then try others.
        for _ in 0..3 {
            let mut server = SwiftServer {
                ports: Ports::free(),
                root: root.clone(),
                proxy: Mutex::default(),
                others: Vec::new(),
            };
            if server.try_start() {
                server.make_container(CONTAINER);
                return server;
            }
        }
        panic!("Swift did not start; its logs are in {}", root.display());
    }

    fn try_start(&mut self) -> bool {
        self.configure();
        let memcached = self.ports.memcached.to_string();
        let mut children = vec![self.spawn("memcached", &["-l", "127.0.0.1", "-U", "0", "-p", &memcached])];
        for name in NODES {
            let config = self.root.join(format!("{name}.conf")).display().to_string();
            children.push(self.spawn(&format!("swift-{name}-server"), &[&config]));
        }
        self.others = children;
        *self.proxy() = Some(self.spawn_proxy());
        let ports = [self.ports.memcached].into_iter().chain(self.ports.nodes);
        let mut ports: Vec<_> = ports.chain([self.ports.proxy]).collect();
        let mut ended = false;
        let what = format!("Swift listens; its logs are in {}", self.root.display());
        let mut children: Vec<_> = std::mem::take(&mut self.others);
        wait_until(&what, PATIENCE, || {
            ports.retain(|port| !listens(*port));
            let mut proxy = self.proxy();
            let mut all = children.iter_mut().chain(proxy.iter_mut());
            ended = all.any(|child| !matches!(child.try_wait(), Ok(None)));
            ended || ports.is_empty()
        });
        self.others = children;
        !ended
    }

    /// Kills the server that clients talk to: connections are refused from now on. The objects stay.
    pub fn stop(&self) {
        if let Some(mut child) = self.proxy().take() {
            child.kill().expect("could not kill Swift's proxy");
            child.wait().expect("could not wait for Swift's proxy");
        }
    }

    /// Starts it again on the same port, with the objects it had.
    #[track_caller]
    pub fn start_again(&self) {
        assert!(self.proxy().is_none(), "Swift's proxy was not stopped");
        *self.proxy() = Some(self.spawn_proxy());
        let what = format!("Swift's proxy listens; its logs are in {}", self.root.display());
        wait_until(&what, PATIENCE, || listens(self.ports.proxy));
    }

    /// A storage URL for walarchive: the container and a prefix in it.
    pub fn url(&self, prefix: &str) -> String {
        format!("swift://{CONTAINER}/{prefix}")
    }

    /// The value for walarchive.storage_options.
    pub fn options(&self) -> String {
        format!("st_auth={},allow_http=true", self.auth_url())
    }

    /// The URL of the authentication, version 1.
    pub fn auth_url(&self) -> String {
        format!("http://127.0.0.1:{}/auth/v1.0", self.ports.proxy)
    }

    /// The place of the objects, for clients with a token.
    pub fn storage_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/AUTH_test", self.ports.proxy)
    }

    /// The environment variables with the right credentials.
    pub fn env(&self) -> [(&'static str, &'static str); 2] {
        [("ST_USER", USER), ("ST_KEY", KEY)]
    }

    /// The environment variables with a key that is wrong.
    pub fn wrong_env(&self) -> [(&'static str, &'static str); 2] {
        [("ST_USER", USER), ("ST_KEY", "another-key")]
    }

    /// The environment variables of a user who may authenticate, but neither read nor write.
    pub fn stranger_env(&self) -> [(&'static str, &'static str); 2] {
        [("ST_USER", STRANGER), ("ST_KEY", KEY)]
    }

    /// A file for walarchive.credentials_file that says the same as these environment variables.
    pub fn credentials_file(&self, env: &[(&str, &str)]) -> PathBuf {
        let mut text = String::new();
        for (key, value) in env {
            writeln!(text, "{} = {value}", key.to_ascii_lowercase()).expect("text");
        }
        // The name is shown in messages, where a test looks for the values.
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let path = self.root.join(format!("credentials-{:x}", hasher.finish()));
        self.write(&path, &text);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("could not protect the credentials");
        path
    }

    /// The loopback port of the proxy, which is the one that clients talk to.
    pub fn port(&self) -> u16 {
        self.ports.proxy
    }

    /// A new token, as a client gets it.
    pub fn token(&self) -> String {
        let head = format!("GET /auth/v1.0 HTTP/1.1\r\nX-Auth-User: {USER}\r\nX-Auth-Key: {KEY}");
        let answer = self.ask(&head);
        let line = answer
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with("x-auth-token:"));
        let line = line.unwrap_or_else(|| panic!("Swift gave no token: {answer}"));
        line.split_once(':').expect("a header").1.trim().to_owned()
    }

    /// From now on no token is good that was given before.
    pub fn forget_tokens(&self) {
        let mut memcached = self.connect(self.ports.memcached);
        memcached
            .write_all(b"flush_all\r\nquit\r\n")
            .expect("could not ask memcached");
        let mut answer = String::new();
        memcached
            .read_to_string(&mut answer)
            .expect("could not hear from memcached");
        assert_eq!(answer.trim(), "OK");
    }

    /// Makes another container.
    pub fn make_container(&self, name: &str) {
        // The nodes may still be on their way up, and the proxy avoids a node for a while that failed it.
        wait_until("Swift makes a container", PATIENCE, || {
            let head = format!("PUT /v1/AUTH_test/{name} HTTP/1.1\r\nX-Auth-Token: {}", self.token());
            let answer = self.ask(&head);
            answer.starts_with("HTTP/1.1 201") || answer.starts_with("HTTP/1.1 202")
        });
    }

    /// The names of all objects in the container, those among them that walarchive's listings leave out.
    pub fn names(&self) -> Vec<String> {
        let path = format!("/v1/AUTH_test/{CONTAINER}");
        let answer = self.ask(&format!("GET {path} HTTP/1.1\r\nX-Auth-Token: {}", self.token()));
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 20"), "{head}");
        body.lines().map(str::to_owned).collect()
    }

    fn ask(&self, head: &str) -> String {
        let mut stream = self.connect(self.ports.proxy);
        let request = format!(
            "{head}\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.port()
        );
        stream.write_all(request.as_bytes()).expect("could not ask Swift");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("could not hear from Swift");
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn connect(&self, port: u16) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("could not connect");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("could not set a deadline");
        stream
    }

    fn configure(&self) {
        let nodes = self.ports.nodes.map(|port| port.to_string());
        let mut python = server_command("/usr/bin/python3");
        python.args(["-c", MAKE_RINGS]).arg(&self.root).args(&nodes);
        let made = python.output().expect("could not start python3");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(
            made.status.success(),
            "no rings for Swift (run scripts/setup test): {said}"
        );
        self.write(
            &self.root.join("swift.conf"),
            "[swift-hash]\nswift_hash_path_prefix = a\nswift_hash_path_suffix = b\n",
        );
        let uid = server_user().map_or_else(geteuid, |(uid, _)| uid);
        let user = User::from_uid(uid)
            .expect("could not read the list of users")
            .expect("a user without a name");
        let user = format!("user = {}\n", user.name);
        for (name, port) in NODES.iter().zip(&nodes) {
            let config = format!(
                "{}[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n",
                self.head(port, &user)
            );
            self.write(&self.root.join(format!("{name}.conf")), &config);
        }
        let mut config = self.head(&self.ports.proxy.to_string(), &user);
        let filters = [
            "catch_errors",
            "gatekeeper",
            "healthcheck",
            "listing_formats",
            "bulk",
            "copy",
            "slo",
            "dlo",
        ];
        write!(
            config,
            "[pipeline:main]\n\
             pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk tempauth copy slo dlo proxy-server\n\
             [app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n\
             [filter:tempauth]\nuse = egg:swift#tempauth\n\
             user_test_tester = {} .admin\nuser_test_stranger = {}\n\
             [filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:{}\n",
            KEY, KEY, self.ports.memcached
        )
        .expect("text");
        for filter in filters {
            write!(config, "[filter:{filter}]\nuse = egg:swift#{filter}\n").expect("text");
        }
        self.write(&self.root.join("proxy.conf"), &config);
    }

    /// With no workers a server is one process, so that killing it leaves none behind.
    fn head(&self, port: &str, user: &str) -> String {
        let root = self.root.display();
        format!(
            "[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 0\n{user}swift_dir = {root}\n\
             devices = {root}/devices\nmount_check = false\ndisable_fallocate = true\n"
        )
    }

    fn write(&self, path: &Path, text: &str) {
        fs::write(path, text).unwrap_or_else(|e| panic!("could not write {}: {e}", path.display()));
        give_to_server(path);
    }

    fn spawn(&self, program: &str, arguments: &[&str]) -> Child {
        let log = self.root.join(format!("{program}.log"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("could not create a log of Swift's");
        let mut command = server_command(format!("/usr/bin/{program}"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("could not duplicate a descriptor"))
            .stdout(log);
        command
            .spawn()
            .unwrap_or_else(|e| panic!("could not start {program} (run scripts/setup test): {e}"))
    }

    fn spawn_proxy(&self) -> Child {
        let config = self.root.join("proxy.conf").display().to_string();
        self.spawn("swift-proxy-server", &[&config])
    }

    fn proxy(&self) -> MutexGuard<'_, Option<Child>> {
        self.proxy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listens(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

impl Drop for SwiftServer {
    fn drop(&mut self) {
        let proxy = self.proxy().take();
        for mut child in proxy.into_iter().chain(self.others.drain(..)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
