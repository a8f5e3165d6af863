//! Two nodes of Patroni with the configuration of the manual: a replica from the archive, a failover, the lost node's return, and a
//! clone of the cluster.

use std::fs;
use std::path::Path;

use walarchive_testkit::{Etcd, PATIENCE, PatroniNode, Pg, TestDir, wait_until};

const PAGE: &str = include_str!("../../../docs/patroni.md");

/// What the manual has in place of this.
struct Names<'a> {
    scope: &'a str,
    name: &'a str,
    etcd: u16,
    /// Where the server archives.
    store: &'a Path,
}

/// The configurations of the manual: that of a node, and what stands in the place of initdb for a cluster from a backup.
fn configurations() -> (&'static str, &'static str) {
    let mut blocks = PAGE
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default());
    let mut next = || blocks.next().expect("the manual has two configurations");
    (next(), next())
}

/// Put a test's own values into the configuration of a node. All that is replaced must be there.
fn filled_in(text: &str, names: &Names<'_>, rest_port: u16, port: u16, data_dir: &Path) -> String {
    let bin_dir = Pg::find().bindir().display().to_string();
    let home = data_dir.parent().expect("it is in a directory").display().to_string();
    let replaced = [
        ("scope: main", format!("scope: {}", names.scope)),
        ("name: node1", format!("name: {}", names.name)),
        ("10.0.0.1:8008", format!("127.0.0.1:{rest_port}")),
        ("10.0.0.1:5432", format!("127.0.0.1:{port}")),
        ("10.0.0.9:2379", format!("127.0.0.1:{}", names.etcd)),
        (
            "walarchive.storage: s3://bucket/main",
            format!("walarchive.storage: file://{}", names.store.display()),
        ),
        ("/var/lib/postgresql/15/main", data_dir.display().to_string()),
        ("/usr/lib/postgresql/15/bin", bin_dir),
        // A failover takes as long as that.
        ("ttl: 30", "ttl: 20".to_owned()),
        ("loop_wait: 10", "loop_wait: 1".to_owned()),
        ("retry_timeout: 10", "retry_timeout: 9".to_owned()),
        (
            "postgresql:\n  listen",
            format!(
                "postgresql:\n  parameters:\n    unix_socket_directories: {home}\n  pgpass: {home}/pgpass\n  listen"
            ),
        ),
    ];
    replaced.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "the manual has no {old}");
        text.replace(old, new)
    })
}

const ROWS: &str = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";

fn wait_rows(node: &PatroniNode, expected: &str) {
    // Patroni may restart a replica.
    wait_until("the replica has all rows", PATIENCE, || {
        node.ask(ROWS).stdout == expected
    });
}

#[test]
fn a_cluster_of_patroni_lives_from_the_archive() {
    let dir = TestDir::new();
    let etcd = Etcd::start(&dir);
    let store = dir.subdir("store");
    let url = format!("file://{}", store.display());
    let (node, from_backup) = configurations();
    let node = node.replace("--storage s3://bucket/main", &format!("--storage {url}"));
    let make = |scope: &str, name: &str, text: &str, store: &Path| {
        PatroniNode::new(&dir, name, |rest_port, port, data_dir| {
            let names = Names {
                scope,
                name,
                etcd: etcd.port(),
                store,
            };
            filled_in(text, &names, rest_port, port, data_dir)
        })
    };

    let mut first = make("main", "node1", &node, &store);
    first.start();
    first.wait_is("primary");
    first.psql("CREATE EXTENSION walarchive");
    first.psql("CREATE TABLE t (id int)");
    first.psql("INSERT INTO t VALUES (1)");
    // The schedule takes the first one at once.
    wait_until("there is a backup", PATIENCE, || {
        first.ask("SELECT count(*) FROM walarchive_backups").stdout == "1"
    });
    first.psql("INSERT INTO t VALUES (2)");

    let mut second = make("main", "node2", &node, &store);
    second.start();
    second.wait_is("replica");
    wait_rows(&second, "1 2");
    assert!(second.log().contains("using walarchive"), "{}", second.log());

    // Patroni leaves the slot of walarchive alone.
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'walarchive_unarchived'";
    wait_until("the replica keeps what is not archived", PATIENCE, || {
        second.psql(slots) == "1"
    });

    // The machine of the first one burns down.
    first.kill9();
    fs::remove_dir_all(first.data_dir()).expect("could not remove the data directory");
    second.wait_is("primary");
    assert!(
        !second.log().contains("drop unknown replication slot"),
        "{}",
        second.log()
    );
    second.psql("INSERT INTO t VALUES (3)");
    second.psql("SELECT pg_switch_wal()");
    let lease = "SELECT lease_state FROM walarchive_status";
    wait_until("the new primary has the lease", PATIENCE, || {
        second.psql(lease) == "held"
    });

    first.start();
    first.wait_is("replica");
    wait_rows(&first, "1 2 3");
    assert!(first.log().contains("using walarchive"), "{}", first.log());
    let archived = "SELECT count(*) FROM walarchive_wal_show() WHERE cardinality(missing_segments) > 0";
    assert_eq!(second.psql(archived), "0");

    // A clone of all that is archived, with a place of its own for its WAL.
    second.psql("INSERT INTO t VALUES (4)");
    let wanted = second.psql("SELECT pg_walfile_name(pg_switch_wal())");
    let waiting = format!("SELECT last_archived_wal >= '{wanted}' FROM pg_stat_archiver");
    wait_until("all is archived", PATIENCE, || second.psql(&waiting) == "t");
    let initdb = "  initdb:\n    - encoding: UTF8\n    - data-checksums\n";
    assert!(node.contains(initdb), "the manual has no initdb");
    let text = node.replace(initdb, &from_backup.replace("s3://bucket/main", &url));
    let own = dir.subdir("clone");
    let mut clone = make("clone", "node3", &text, &own);
    clone.start();
    clone.wait_is("primary");
    assert_eq!(clone.psql(ROWS), "1 2 3 4");
    clone.psql("SELECT pg_switch_wal()");
    wait_until("the clone archives", PATIENCE, || clone.psql(lease) == "held");
}
