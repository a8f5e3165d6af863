//! A client that knows which of its transactions the server has acknowledged.

use std::path::PathBuf;

use walarchive_testkit::{Background, Cluster, PATIENCE, TestDir};

/// Transactions that one client commits at most, which is more than a test lets it.
const MOST: usize = 200_000;

/// A table, and what is known to be in it.
pub struct Ledger {
    script: PathBuf,
    acknowledged: Vec<usize>,
    next: usize,
}

/// A [`Ledger`]'s client at work.
pub struct Client(Background);

impl Ledger {
    /// Makes the table.
    #[track_caller]
    pub fn new(dir: &TestDir, cluster: &Cluster) -> Ledger {
        cluster.psql("CREATE TABLE ledger (entry int PRIMARY KEY, filler text)");
        Ledger {
            script: dir.join("ledger.sql"),
            acknowledged: Vec::new(),
            next: 1,
        }
    }

    /// Starts a client that commits one row after the other, for as long as the server lets it. It has begun when this
    /// returns.
    #[track_caller]
    pub fn start(&mut self, cluster: &Cluster) -> Client {
        // psql prints a row once the statement is complete, and that is after the commit.
        let insert = |entry| format!("INSERT INTO ledger VALUES ({entry}, repeat('x', 500)) RETURNING entry;\n");
        let script: String = (self.next..self.next + MOST).map(insert).collect();
        let begun = format!("SELECT count(*) > 0 FROM ledger WHERE entry >= {}", self.next);
        self.next += MOST;
        std::fs::write(&self.script, script).unwrap_or_else(|e| panic!("{}: {e}", self.script.display()));
        let mut psql = cluster.client("psql");
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f"])
            .arg(&self.script);
        let client = Client(Background::spawn(&mut psql, None));
        cluster.wait_until("the client's first row is there", PATIENCE, || {
            cluster.psql(&begun) == "t"
        });
        client
    }

    /// Waits for the client's end, which the server's brings about, and notes what it was told.
    #[track_caller]
    pub fn collect(&mut self, client: Client) -> usize {
        let output = client.0.wait(PATIENCE);
        let entries: Vec<usize> = output.stdout.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(!entries.is_empty(), "the client committed nothing: {}", output.stderr);
        let count = entries.len();
        self.acknowledged.extend(entries);
        count
    }

    /// Panics unless a cluster has every row that was acknowledged. It may have one more for each client: a commit whose
    /// acknowledgement was lost.
    #[track_caller]
    pub fn assert_all_in(&self, cluster: &Cluster) {
        let rows = cluster.psql("SELECT entry FROM ledger");
        let there: std::collections::HashSet<usize> = rows.lines().filter_map(|line| line.parse().ok()).collect();
        let lost: Vec<_> = self
            .acknowledged
            .iter()
            .filter(|entry| !there.contains(entry))
            .collect();
        assert!(
            lost.is_empty() && !self.acknowledged.is_empty(),
            "{} of {} committed rows are lost, the first one being {:?}",
            lost.len(),
            self.acknowledged.len(),
            lost.first()
        );
    }
}
