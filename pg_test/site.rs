//! A store, and servers that archive into it: the beginning of nearly every scenario.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walarchive_testkit::{Builder, Cluster, Output, PATIENCE, Pg, S3Server, TestDir, run};

/// A test's directory with a store in it. Declare it before its clusters, so that it is dropped after them.
pub struct Site {
    dir: TestDir,
    s3: Option<S3Server>,
    pg: Pg,
}

impl Site {
    /// The store is a directory.
    pub fn on_files() -> Site {
        let dir = TestDir::new();
        dir.subdir("store");
        Site {
            s3: None,
            pg: Pg::find(),
            dir,
        }
    }

    /// The store is an S3 server of the test's own.
    pub fn on_s3() -> Site {
        let dir = TestDir::new();
        Site {
            s3: Some(S3Server::start(&dir, "bucket")),
            pg: Pg::find(),
            dir,
        }
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
        self.s3.as_ref()
    }

    /// What walarchive.storage is set to.
    pub fn url(&self) -> String {
        match &self.s3 {
            Some(s3) => s3.url("some/prefix"),
            None => format!("file://{}", self.dir.join("store").display()),
        }
    }

    /// The file in which the store keeps an object.
    pub fn object(&self, key: &str) -> PathBuf {
        let root = match &self.s3 {
            Some(s3) => s3.dir().join("some/prefix"),
            None => self.dir.join("store"),
        };
        root.join(key)
    }

    /// The keys of all objects below a folder, sorted.
    pub fn objects(&self, folder: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(self.object(&folder)).into_iter().flatten().flatten() {
                let key = format!("{folder}/{}", entry.file_name().to_string_lossy());
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
        match &self.s3 {
            Some(s3) => builder
                .setting("walarchive.storage_options", &s3.options())
                .envs(s3.env()),
            None => builder,
        }
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
        if let Some(s3) = &self.s3 {
            for option in s3.options().split(',') {
                command.args(["--storage-option", option]);
            }
            command.envs(s3.env());
        }
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
        let builder = Cluster::builder(&self.dir, name).setting("archive_mode", "off");
        match &self.s3 {
            Some(s3) => builder.envs(s3.env()),
            None => builder,
        }
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
