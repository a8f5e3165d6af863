//! A session that stays open from one query to the next.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::cluster::Cluster;
use crate::pg::Pg;

/// One session in the database `postgres`: what `pg_backup_start` began must be ended where it was begun.
pub struct Session {
    psql: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pg: Pg,
}

impl Session {
    /// Connect.
    pub fn begin(cluster: &Cluster) -> Session {
        let mut psql = cluster.client("psql");
        psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let mut psql = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("could not start psql");
        Session {
            input: psql.stdin.take().expect("it has a pipe"),
            output: BufReader::new(psql.stdout.take().expect("it has a pipe")),
            psql,
            pg: cluster.pg().clone(),
        }
    }

    /// The answer to a query, which has one line.
    pub fn ask(&mut self, query: &str) -> String {
        writeln!(self.input, "{};", self.pg.in_own_words(query)).expect("could not write to psql");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("could not read from psql");
        assert!(!answer.is_empty(), "{query} failed");
        answer.trim_end().to_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}
