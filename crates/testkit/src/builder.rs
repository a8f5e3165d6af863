use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::cluster::Cluster;
use crate::pg::Pg;
use crate::run::run;

/// In the data directory.
pub(crate) const CONF: &str = "postgresql.conf";

/// How a cluster shall be made; see [`Cluster::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) pg: Pg,
    pub(crate) base: PathBuf,
    pub(crate) name: String,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) server_args: Vec<String>,
    initdb_args: Vec<String>,
    checksums: bool,
}

impl Builder {
    pub(crate) fn new(base: &Path, name: &str) -> Builder {
        Builder {
            pg: Pg::find(),
            base: base.to_owned(),
            name: name.to_owned(),
            settings: Vec::new(),
            env: Vec::new(),
            server_args: Vec::new(),
            initdb_args: Vec::new(),
            checksums: true,
        }
    }

    /// Adds a line to postgresql.conf; of two for the same setting, the later one counts. Quotes are put here.
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument of initdb, such as `--wal-segsize=1`.
    pub fn initdb_arg(mut self, arg: &str) -> Builder {
        self.initdb_args.push(arg.to_owned());
        self
    }

    /// Adds a variable to the server's environment, which is otherwise empty but for PATH, LC_ALL and TZ.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives the server a setting by its command line, where it wins over all files.
    pub fn server_setting(mut self, name: &str, value: &str) -> Builder {
        self.server_args.extend(["-c".to_owned(), format!("{name}={value}")]);
        self
    }

    /// Adds several variables, as [`crate::S3Server::env`] returns them.
    pub fn envs<'a>(self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Builder {
        variables
            .into_iter()
            .fold(self, |builder, (name, value)| builder.env(name, value))
    }

    /// Whether pages shall have checksums; they do by default, on every version.
    pub fn data_checksums(mut self, on: bool) -> Builder {
        self.checksums = on;
        self
    }

    /// Makes a new cluster and starts it.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let cluster = self.create();
        cluster.start_again();
        cluster
    }

    /// Makes a new cluster, and does not start it.
    #[track_caller]
    pub fn create(self) -> Cluster {
        let datadir = self.base.join(&self.name);
        let mut initdb = self.pg.program("initdb");
        initdb
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C",
                // --no-sync, which was --nosync once.
                "-N",
                "-D",
            ])
            .arg(&datadir);
        match self.checksums {
            true => _ = initdb.arg("--data-checksums"),
            false if self.pg.major() >= 18 => _ = initdb.arg("--no-data-checksums"),
            false => {}
        }
        run(initdb.args(&self.initdb_args)).expect_success();
        let defaults = [
            ("fsync", "off"),
            ("shared_buffers", "32MB"),
            ("log_line_prefix", "%m [%p] %b "),
        ];
        append_settings(&datadir.join(CONF), defaults);
        self.finish(datadir)
    }

    /// Starts a server on a data directory that exists already, such as a restored one, with the settings given here appended
    /// to its postgresql.conf. If the directory came from another cluster of the test, both can run.
    #[track_caller]
    pub fn attach(self, datadir: &Path) -> Cluster {
        let cluster = self.attach_stopped(datadir);
        cluster.start_again();
        cluster
    }

    /// Like [`Builder::attach`], without the start.
    #[track_caller]
    pub fn attach_stopped(self, datadir: &Path) -> Cluster {
        assert!(
            datadir.join("PG_VERSION").is_file(),
            "{} is not a data directory",
            datadir.display()
        );
        self.finish(datadir.to_owned())
    }

    /// Makes a streaming standby of a running cluster and starts it. It has the primary's postgresql.conf, and the
    /// settings given here after it.
    #[track_caller]
    pub fn standby_of(self, primary: &Cluster) -> Cluster {
        let datadir = self.base.join(&self.name);
        let mut basebackup = primary.client("pg_basebackup");
        basebackup
            .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
            .arg(&datadir);
        run(&mut basebackup).expect_success();
        self.attach(&datadir)
    }

    fn finish(self, datadir: PathBuf) -> Cluster {
        // Servers meet only in the socket's directory, where the port is part of a file's name. Tests of one process run
        // at the same time, and may put several servers into one directory.
        static PORTS: AtomicU16 = AtomicU16::new(5433);
        append_settings(
            &datadir.join(CONF),
            self.settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        Cluster::new(self, datadir, PORTS.fetch_add(1, Ordering::Relaxed))
    }
}

/// Appends settings to a configuration file.
pub(crate) fn append_settings<'a>(path: &Path, settings: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let lines: String = settings
        .into_iter()
        .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
        .collect();
    let written = OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(lines.as_bytes()));
    written.unwrap_or_else(|e| panic!("could not append to {}: {e}", path.display()));
}
