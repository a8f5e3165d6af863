//! A store, and servers that archive into it: the beginning of nearly every scenario.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use walarchive_testkit::{Builder, Cluster, Output, PATIENCE, Pg, S3Server, StoreServer, TestDir, run};

/// See [`wait_settled`].
const SETTLED: Duration = Duration::from_secs(4);

/// A test's directory with a store in it. Declare it before its clusters, so that it is dropped after them.
pub struct Site {
    place: Place,
    credentials_file: Option<PathBuf>,
    pg: Pg,
    // Dropped after the server that works in it.
    dir: TestDir,
}

enum Place {
    Files,
    S3(S3Server),
    Other(Box<dyn StoreServer>),
}

impl Site {
    /// The store is a directory.
    pub fn on_files() -> Site {
        Site::at(|dir| {
            dir.subdir("store");
            Place::Files
        })
    }

    /// The store is an S3 server of the test's own.
    pub fn on_s3() -> Site {
        Site::at(|dir| Place::S3(S3Server::start(dir, "bucket")))
    }

    /// The store is whatever is started here.
    pub fn on<S: StoreServer + 'static>(start: impl FnOnce(&TestDir) -> S) -> Site {
        Site::at(|dir| Place::Other(Box::new(start(dir))))
    }

    fn at(place: impl FnOnce(&TestDir) -> Place) -> Site {
        let dir = TestDir::new();
        Site {
            place: place(&dir),
            credentials_file: None,
            pg: Pg::find(),
            dir,
        }
    }

    /// The credentials come from a file, and no longer from the environment.
    pub fn with_credentials_file(mut self) -> Site {
        let server = self.server().expect("a store with credentials");
        self.credentials_file = Some(self.dir.credentials_file("credentials", &server.credentials()));
        self
    }

    /// The test's directory.
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// The PostgreSQL that is tested.
    pub fn pg(&self) -> &Pg {
        &self.pg
    }

    /// The S3 server, if there is one.
    pub fn s3(&self) -> Option<&S3Server> {
        match &self.place {
            Place::S3(server) => Some(server),
            _ => None,
        }
    }

    /// The store's server, unless it is a directory.
    pub fn server(&self) -> Option<&dyn StoreServer> {
        match &self.place {
            Place::Files => None,
            Place::S3(server) => Some(server),
            Place::Other(server) => Some(&**server),
        }
    }

    /// The value of walarchive.storage.
    pub fn url(&self) -> String {
        match self.server() {
            Some(server) => server.url("some/prefix"),
            None => format!("file://{}", self.dir.join("store").display()),
        }
    }

    /// The value of walarchive.storage_options.
    pub fn options(&self) -> String {
        self.server().map(StoreServer::options).unwrap_or_default()
    }

    /// The store's variables in the environment of servers and programs.
    pub fn env(&self) -> Vec<(String, String)> {
        match (self.server(), &self.credentials_file) {
            (Some(server), None) => server.env(),
            _ => Vec::new(),
        }
    }

    /// The credentials file, if there is one.
    pub fn credentials_file(&self) -> Option<&Path> {
        self.credentials_file.as_deref()
    }

    /// The file of an object in the store, a directory or s3s-fs.
    pub fn object(&self, key: &str) -> PathBuf {
        let root = match &self.place {
            Place::S3(s3) => s3.dir().join("some/prefix"),
            _ => self.dir.join("store"),
        };
        root.join(key)
    }

    /// The keys of all objects below a folder, or of all that there are, sorted.
    pub fn objects(&self, folder: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(self.object(&folder)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let key = match folder.as_str() {
                    "" => name.to_string_lossy().into_owned(),
                    folder => format!("{folder}/{}", name.to_string_lossy()),
                };
                match entry.path().is_dir() {
                    true => folders.push(key),
                    false => keys.push(key),
                }
            }
        }
        keys.sort();
        keys
    }

    /// A cluster that archives into the store: preloaded, with the lines a DBA puts into postgresql.conf.
    pub fn builder(&self, name: &str) -> Builder {
        let builder = Cluster::builder(&self.dir, name)
            .setting("shared_preload_libraries", "walarchive")
            .setting("archive_mode", "on")
            .setting("archive_library", "walarchive")
            .setting("walarchive.storage", &self.url());
        let builder = match self.options().as_str() {
            "" => builder,
            options => builder.setting("walarchive.storage_options", options),
        };
        match &self.credentials_file {
            Some(file) => builder.setting("walarchive.credentials_file", &file.to_string_lossy()),
            None => self.with_env(builder),
        }
    }

    fn with_env(&self, builder: Builder) -> Builder {
        let with = |builder: Builder, (name, value): &(String, String)| builder.env(name, value);
        self.env().iter().fold(builder, with)
    }

    /// Such a cluster, running, with the extension in its database.
    #[track_caller]
    pub fn primary(&self, settings: &[(&str, &str)]) -> Cluster {
        let builder = self.builder("primary");
        let with = |builder: Builder, (name, value): &(&str, &str)| builder.setting(name, value);
        let cluster = settings.iter().fold(builder, with).start();
        cluster.psql("CREATE EXTENSION walarchive");
        cluster
    }

    /// The binary `walarchive` as the server's user, with the store's credentials in its environment, told where the store
    /// is. The verb must be the first argument.
    pub fn walarchive(&self, args: &[&str]) -> Command {
        let mut command = self.pg.program("walarchive");
        command.args(args).args(["--storage", &self.url()]);
        for option in self.options().split(',').filter(|option| !option.is_empty()) {
            command.args(["--storage-option", option]);
        }
        if let Some(file) = &self.credentials_file {
            command.arg("--credentials-file").arg(file);
        }
        command.envs(self.env());
        command
    }

    /// `walarchive backup-fetch` into a directory of this name. Whether it succeeds is for the caller to say.
    #[track_caller]
    pub fn backup_fetch(&self, name: &str, backup: &str, args: &[&str]) -> (PathBuf, Output) {
        let target = self.dir.join(name);
        let path = target.to_string_lossy();
        let output = run(self.walarchive(&["backup-fetch", &path, backup]).args(args));
        (target, output)
    }

    /// Restores a backup into a directory of this name, and lets PostgreSQL's own program check it.
    #[track_caller]
    pub fn restore(&self, name: &str, backup: &str, args: &[&str]) -> PathBuf {
        let (target, output) = self.backup_fetch(name, backup, args);
        output.expect_success();
        // The PyPI build of PostgreSQL 18 has a pg_verifybackup that not even loads.
        if !run(self.pg.program("pg_verifybackup").arg("--version")).success() {
            assert_ne!(self.pg.major(), 15, "Debian's pg_verifybackup works");
            eprintln!(
                "skipped: pg_verifybackup of PostgreSQL {} does not run",
                self.pg.major()
            );
            return target;
        }
        // A restored pg_wal is empty: the WAL comes from the archive.
        let mut verify = self.pg.program("pg_verifybackup");
        let verified = run(verify.arg("-n").arg(&target)).expect_success();
        assert!(verified.contains("successfully verified"), "{verified}");
        target
    }

    /// The description of a server on a restored directory. It does not archive, so that further restores find the same
    /// archive as the first one.
    pub fn restored(&self, name: &str) -> Builder {
        self.with_env(Cluster::builder(&self.dir, name).setting("archive_mode", "off"))
    }
}

/// Takes a backup with these arguments of `walarchive_backup_push`, and returns its name.
#[track_caller]
pub fn backup(cluster: &Cluster, args: &str) -> String {
    cluster.psql(&format!("SELECT walarchive_backup_push({args})"))
}

/// Archives all WAL that there is.
#[track_caller]
pub fn archive_all(cluster: &Cluster) {
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
}

/// Waits until the databases are so old that a delta backup can rely on their files: what was written within two seconds before
/// a backup goes into the next one again.
#[track_caller]
pub fn wait_settled(cluster: &Cluster) {
    let version = cluster.datadir().join("base/1/PG_VERSION");
    cluster.wait_until("the databases are some seconds old", PATIENCE, || {
        let written = fs::metadata(&version).and_then(|meta| meta.modified());
        written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > SETTLED))
    });
}

/// The machine burns: server and data directory are gone at once.
#[track_caller]
pub fn lose(cluster: &Cluster) {
    cluster.kill9();
    fs::remove_dir_all(cluster.datadir()).expect("could not remove the data directory");
}

/// Waits until recovery has paused at its target.
#[track_caller]
pub fn wait_paused(cluster: &Cluster) {
    cluster.wait_until("recovery has paused", PATIENCE, || {
        cluster.psql("SELECT pg_get_wal_replay_pause_state()") == "paused"
    });
}

/// The segment in which the backup of a restored directory starts, from its label.
#[track_caller]
pub fn start_segment(datadir: &Path) -> String {
    let label = fs::read_to_string(datadir.join("backup_label")).expect("no backup_label");
    let (_, file) = label.split_once("(file ").expect("no file in the label");
    file.chars().take_while(char::is_ascii_hexdigit).collect()
}
