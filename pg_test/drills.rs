//! Restore drills: where they are made, and what they say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use walarchive_testkit::{Background, Cluster, Output, PATIENCE, run, wait_until};

use crate::site::Site;

/// A drill below a directory of its own, which is empty afterwards.
pub struct Place {
    /// That directory.
    pub dir: PathBuf,
}

impl Place {
    /// Make it.
    pub fn new(site: &Site) -> Place {
        Place {
            dir: site.dir().subdir("drills"),
        }
    }

    /// A drill with these arguments.
    pub fn command(&self, site: &Site, args: &[&str]) -> Command {
        let mut command = site.walarchive(&["restore-test"]);
        command.arg("--quiet").arg("--directory").arg(&self.dir).args(args);
        command
    }

    /// Drill, and return the result.
    #[track_caller]
    pub fn drill(&self, site: &Site, args: &[&str]) -> (Value, Output) {
        let output = run(self.command(site, args).arg("--json"));
        let drill = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (drill, output)
    }

    /// Let a server drill here, with this file of SQL.
    pub fn set_up(&self, server: &Cluster, sql: &str) {
        server.set("walarchive.drill_directory", &self.dir.to_string_lossy());
        server.set("walarchive.drill_sql_file", sql);
    }

    /// The directories of drills.
    pub fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).expect("could not read the directory");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// Nothing is left.
    #[track_caller]
    pub fn assert_empty(&self) {
        assert_eq!(self.entries(), Vec::<PathBuf>::new());
    }

    /// Waits until the SQL of a drill runs, and returns the drill's directory and postmaster.
    #[track_caller]
    pub fn wait_sql(&self, mut each: impl FnMut()) -> (PathBuf, i32) {
        let mut found = None;
        wait_until("the SQL of the drill runs", PATIENCE, || {
            each();
            found = self.entries().into_iter().find(|root| root.join("sql.out").exists());
            found.is_some()
        });
        let root = found.unwrap_or_default();
        let postmaster = postmaster(&root);
        (root, postmaster)
    }

    /// The same for one that must not end before.
    #[track_caller]
    pub fn wait_running(&self, drill: &mut Background) -> (PathBuf, i32) {
        self.wait_sql(|| assert!(drill.is_running(), "the drill has ended"))
    }
}

/// Of the server in a drill's directory.
#[track_caller]
pub fn postmaster(root: &Path) -> i32 {
    let pid = fs::read_to_string(root.join("data/postmaster.pid")).expect("a postmaster");
    pid.lines().next().and_then(|pid| pid.parse().ok()).expect("a number")
}

fn check<'a>(drill: &'a Value, name: &str) -> Option<&'a Value> {
    let checks = drill["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    checks.iter().find(|check| check["check"] == name)
}

/// The status of a check, `none` if there is none of that name.
pub fn status<'a>(drill: &'a Value, name: &str) -> &'a str {
    check(drill, name)
        .and_then(|check| check["status"].as_str())
        .unwrap_or("none")
}

/// What a check has found.
pub fn detail<'a>(drill: &'a Value, name: &str) -> &'a str {
    check(drill, name)
        .and_then(|check| check["detail"].as_str())
        .unwrap_or_default()
}

/// The drill has failed, by this check.
#[track_caller]
pub fn assert_failed(drill: &Value, output: &Output, check: &str) {
    assert_eq!((output.code, status(drill, check)), (Some(1), "failed"), "{drill:#}");
}

/// A server that archives into the site's store, with 1000 rows in the table `t`.
pub fn primary(site: &Site) -> Cluster {
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g");
    primary
}

/// A file with SQL, which the server's user can read.
pub fn sql_file(site: &Site, name: &str, text: &str) -> String {
    let path = site.dir().subdir("sql").join(name);
    fs::write(&path, text).expect("could not write");
    path.to_string_lossy().into_owned()
}

/// Stops a server that was kept, as the drill says.
#[track_caller]
pub fn stop(site: &Site, data: &Path) {
    let mut pg_ctl = site.pg().program("pg_ctl");
    run(pg_ctl.args(["stop", "-w", "-D"]).arg(data)).expect_success();
}
