use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::dir::TestDir;
use crate::moto::python_tools;
use crate::pg::Pg;
use crate::process::{is_alive, kill_pid, server_command};
use crate::run::{Output, run};
use crate::s3::free_port;
use crate::server::Server;
use crate::wait::{PATIENCE, wait_until};

/// Of the superuser and the replication user in the configurations of the tests.
const PASSWORD: &str = "secret";

/// The store in which Patroni's nodes agree on the primary, on a loopback port.
pub struct Etcd {
    server: Server,
}

impl Etcd {
    /// Starts one with nothing in it.
    #[track_caller]
    pub fn start(dir: &TestDir) -> Etcd {
        let data = dir.path().join("etcd");
        let server = Server::start("etcd", dir.path().join("etcd.log"), move |port| {
            let (clients, peers) = (
                format!("http://127.0.0.1:{port}"),
                format!("http://127.0.0.1:{}", free_port()),
            );
            let mut command = server_command("/usr/bin/etcd");
            command.arg("--data-dir").arg(&data);
            command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
            command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
            command.args(["--initial-cluster", &format!("default={peers}")]);
            command
        });
        Etcd { server }
    }

    /// The loopback port for clients.
    pub fn port(&self) -> u16 {
        self.server.port()
    }
}

/// A node: Patroni, and the PostgreSQL that it runs. Both are killed when dropped.
pub struct PatroniNode {
    pg: Pg,
    configuration: PathBuf,
    log: PathBuf,
    data_dir: PathBuf,
    /// Of Patroni, which tells by HTTP what the node is.
    rest_port: u16,
    port: u16,
    patroni: Option<Child>,
}

impl PatroniNode {
    /// Prepares one. `configuration` gets the port of its REST interface, that of its PostgreSQL, and its data directory, and
    /// returns the text of the configuration.
    pub fn new(dir: &TestDir, name: &str, configuration: impl FnOnce(u16, u16, &Path) -> String) -> PatroniNode {
        let (rest_port, port) = (free_port(), free_port());
        let data_dir = dir.subdir(name).join("data");
        let path = dir.path().join(name).join("patroni.yml");
        fs::write(&path, configuration(rest_port, port, &data_dir)).expect("could not write the configuration");
        PatroniNode {
            pg: Pg::find(),
            log: dir.path().join(name).join("patroni.log"),
            configuration: path,
            data_dir,
            rest_port,
            port,
            patroni: None,
        }
    }

    /// Starts Patroni, which makes the data directory if there is none, and starts PostgreSQL.
    pub fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let log = log.expect("could not open the log");
        let python = python_tools("patroni").join("bin/python");
        let mut command = self.pg.program(python.to_str().expect("a plain path"));
        command.args(["-m", "patroni"]).arg(&self.configuration);
        command.env("HOME", self.configuration.parent().expect("it is in a directory"));
        let command = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicated"))
            .stderr(log);
        self.patroni = Some(command.spawn().expect("could not start Patroni"));
    }

    /// What Patroni and its PostgreSQL have written.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Waits until the node is `primary`, or a running `replica`.
    #[track_caller]
    pub fn wait_is(&self, role: &str) {
        let what = format!("the node is a {role}; see {}", self.log.display());
        // Patroni says so before the promotion has ended.
        let recovers = if role == "primary" { "f" } else { "t" };
        wait_until(&what, 2 * PATIENCE, || {
            self.answers(role) && self.ask("SELECT pg_is_in_recovery()").stdout == recovers
        });
    }

    /// Runs a query on the node as its superuser.
    pub fn ask(&self, query: &str) -> Output {
        let mut psql = self.pg.program("psql");
        psql.env("PGPASSWORD", PASSWORD);
        psql.args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
        ]);
        psql.args(["-p", &self.port.to_string(), "-c", query]);
        run(&mut psql)
    }

    /// The same; the query must succeed.
    #[track_caller]
    pub fn psql(&self, query: &str) -> String {
        self.ask(query).expect_success()
    }

    /// The machine is lost: Patroni and PostgreSQL are killed, and nothing ends in order.
    pub fn kill9(&mut self) {
        let Some(mut patroni) = self.patroni.take() else {
            return;
        };
        let _ = patroni.kill();
        let _ = patroni.wait();
        let pid = fs::read_to_string(self.data_dir.join("postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) {
            kill_pid(pid, Signal::SIGKILL);
            wait_until("the postmaster is gone", PATIENCE, || !is_alive(pid));
        }
    }

    fn answers(&self, role: &str) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.rest_port))?;
            write!(stream, "GET /{role} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer.lines().next().is_some_and(|line| line.contains(" 200 ")))
        };
        ask().unwrap_or(false)
    }
}

impl Drop for PatroniNode {
    fn drop(&mut self) {
        self.kill9();
    }
}
