use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::process::kill_pid;
use crate::run::{Background, Output};
use crate::wait::PATIENCE;

/// How long a client may take: a backup under load on a busy machine does.
const CLIENT_DEADLINE: Duration = Duration::from_secs(600);

impl Cluster {
    /// A client program (`psql`, `pgbench`, `pg_basebackup`, `pg_amcheck`) with the arguments that lead to this server.
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.pg().program(program);
        command
            .arg("-h")
            .arg(self.socket_dir())
            .args(["-p", &self.port().to_string(), "-U", "postgres"]);
        command
    }

    /// Runs SQL in the database `postgres`, one transaction a statement, and returns its rows: unaligned, columns
    /// separated by `|`. Panics with psql's message when a statement fails.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.try_psql(sql).unwrap_or_else(|e| panic!("{e}\nin: {sql}"))
    }

    /// Likewise in a database of that name.
    #[track_caller]
    pub fn psql_db(&self, database: &str, sql: &str) -> String {
        self.run_psql(database, &[], sql).expect_success()
    }

    /// Like [`Cluster::psql`], for SQL that may fail: the error is what psql wrote to standard error.
    #[track_caller]
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        let output = self.run_psql("postgres", &[], sql);
        if output.success() {
            Ok(output.stdout)
        } else {
            Err(output.stderr)
        }
    }

    /// Rows and messages, these with SQLSTATE, DETAIL, HINT and place in the source. Panics when a statement fails.
    #[track_caller]
    pub fn psql_verbose(&self, sql: &str) -> (String, String) {
        let output = self.try_psql_verbose(sql);
        assert!(output.success(), "{}\nin: {sql}", output.stderr);
        (output.stdout, output.stderr)
    }

    /// Like [`Cluster::psql_verbose`], for SQL that may fail.
    #[track_caller]
    pub fn try_psql_verbose(&self, sql: &str) -> Output {
        self.run_psql("postgres", &["-v", "VERBOSITY=verbose"], sql)
    }

    #[track_caller]
    fn run_psql(&self, database: &str, args: &[&str], sql: &str) -> Output {
        let sql = &self.pg().in_own_words(sql);
        let mut psql = self.client("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database])
            .args(args)
            .args(["-f", "-"]);
        Background::spawn(&mut psql, Some(sql)).wait(CLIENT_DEADLINE)
    }

    /// Runs one statement beside the test. [`Background::cancel`] cancels it, [`Background::kill`] takes its client away.
    #[track_caller]
    pub fn background_psql(&self, sql: &str) -> Background {
        let mut psql = self.client("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c"])
            .arg(self.pg().in_own_words(sql));
        Background::spawn(&mut psql, None)
    }

    /// Like [`Cluster::background_psql`], and waits until the server runs the statement. Returns its backend's process id
    /// too.
    #[track_caller]
    pub fn background_backend(&self, sql: &str) -> (Background, i32) {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("background {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut psql = self.client("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c"])
            .arg(self.pg().in_own_words(sql))
            .env("PGAPPNAME", &name);
        let mut background = Background::spawn(&mut psql, None);
        let look = format!("SELECT pid FROM pg_stat_activity WHERE application_name = '{name}' AND state = 'active'");
        let mut pid = 0;
        self.wait_until("the server runs the statement", PATIENCE, || {
            pid = self.psql(&look).parse().unwrap_or(0);
            pid != 0 || !background.is_running()
        });
        assert!(pid != 0, "the statement was over too soon to be watched: {sql}");
        (background, pid)
    }

    /// Runs pgbench to its end and returns what it printed, such as its report. Panics when it fails.
    #[track_caller]
    pub fn pgbench(&self, args: &[&str]) -> String {
        self.background_pgbench(args).wait(CLIENT_DEADLINE).expect_success()
    }

    /// Runs pgbench beside the test. It ends by itself when the server is killed.
    #[track_caller]
    pub fn background_pgbench(&self, args: &[&str]) -> Background {
        Background::spawn(self.client("pgbench").args(args).arg("postgres"), None)
    }

    /// Makes the server read its configuration files again, and waits until new sessions see them.
    #[track_caller]
    pub fn reload(&self) {
        let loaded = || self.psql("SELECT pg_conf_load_time()");
        let before = loaded();
        kill_pid(self.postmaster_pid(), Signal::SIGHUP);
        self.wait_until("the configuration is loaded again", PATIENCE, || loaded() != before);
    }

    /// Waits until recovery, or standby mode, has ended and the server takes writes. Panics if it ends instead.
    #[track_caller]
    pub fn wait_promoted(&self, deadline: Duration) {
        self.wait_until("the server is promoted", deadline, || {
            assert!(self.is_running(), "the server ended during recovery");
            self.try_psql("SELECT pg_is_in_recovery()").as_deref() == Ok("f")
        });
    }

    /// Ends the present WAL segment and returns its name, once it is complete. There is always something to end.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        // The server does not switch away from a segment that holds nothing yet. If a backup ends this segment first, no other
        // one is ended.
        let segment = self.psql("SELECT pg_walfile_name(pg_logical_emit_message(false, 'testkit', 'switch'))");
        self.psql("SELECT pg_switch_wal()");
        segment
    }

    /// Its `pg_wal`, or `pg_xlog`.
    pub fn wal_directory(&self) -> PathBuf {
        self.datadir().join(self.pg().wal_directory())
    }

    /// Whether the archiver has finished with a WAL file: it is marked as done, or recycled after that. A standby says so of
    /// a file that it has not received yet, too.
    pub fn is_archived(&self, file: &str) -> bool {
        let wal = self.wal_directory();
        let status = |suffix: &str| wal.join("archive_status").join(format!("{file}.{suffix}")).exists();
        status("done") || (!status("ready") && !wal.join(file).exists())
    }

    /// Waits until it has.
    #[track_caller]
    pub fn wait_archived(&self, file: &str, deadline: Duration) {
        self.wait_until(&format!("{file} is archived"), deadline, || self.is_archived(file));
    }

    /// The WAL files that wait for the archiver, sorted by name.
    pub fn waiting_files(&self) -> Vec<String> {
        let status = self.wal_directory().join("archive_status");
        let entries = std::fs::read_dir(&status).unwrap_or_else(|e| panic!("{}: {e}", status.display()));
        let mut files: Vec<String> = entries
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_suffix(".ready")
                    .map(str::to_owned)
            })
            .collect();
        files.sort();
        files
    }

    /// Lets amcheck look at every table and index of every database; panics when it finds something. Returns false where
    /// this PostgreSQL has no amcheck.
    #[track_caller]
    pub fn amcheck(&self) -> bool {
        // The program came with 14, and checks nothing that is older.
        let is_known = self.pg().major() >= 14 && self.pg().has_program("pg_amcheck");
        if !is_known || !self.pg().has_extension("amcheck") {
            return false;
        }
        let mut amcheck = self.client("pg_amcheck");
        amcheck.args(["--all", "--install-missing", "--heapallindexed", "--parent-check"]);
        Background::spawn(&mut amcheck, None)
            .wait(CLIENT_DEADLINE)
            .expect_success();
        true
    }
}
