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
        Session::of(cluster, Stdio::inherit())
    }

    /// Likewise, where the server may vanish at any moment: what psql says then is shown to nobody.
    pub fn begin_quietly(cluster: &Cluster) -> Session {
        Session::of(cluster, Stdio::null())
    }

    fn of(cluster: &Cluster, messages: Stdio) -> Session {
        let mut psql = cluster.client("psql");
        psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let mut psql = psql
            .stderr(messages)
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
        self.try_ask(query).unwrap_or_else(|| panic!("{query} failed"))
    }

    /// Likewise; none if it failed or the server is gone. The session is over then.
    pub fn try_ask(&mut self, query: &str) -> Option<String> {
        writeln!(self.input, "{};", self.pg.in_own_words(query)).ok()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).ok()?;
        answer.strip_suffix('\n').map(str::to_owned)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}
