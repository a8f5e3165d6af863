//! Clusters that archive, and what their `pg_wal` says about it.

use std::time::Duration;

use walarchive_testkit::{Builder, Cluster, PATIENCE, TestDir};

/// The size of a WAL segment of the clusters here, in bytes: small, so that a moment's work fills many.
pub const SEGMENT: usize = 1 << 20;

/// A cluster that archives into the repository of this URL, with segments of [`SEGMENT`] bytes. Archived segments stay in
/// `pg_wal` too, to be compared.
pub fn archiving(dir: &TestDir, name: &str, url: &str) -> Builder {
    Cluster::builder(dir, name)
        .initdb_arg("--wal-segsize=1")
        .setting("shared_preload_libraries", "walarchive")
        .setting("archive_mode", "on")
        .setting("archive_library", "walarchive")
        .setting("walarchive.storage", url)
        .setting("wal_keep_size", "2GB")
}

/// Such a cluster that runs, and a segment that it has archived.
#[track_caller]
pub fn has_archived(dir: &TestDir, url: &str) -> (Cluster, String) {
    let cluster = archiving(dir, "c", url).start();
    cluster.psql("CREATE EXTENSION walarchive");
    let segment = cluster.switch_wal();
    cluster.wait_archived(&segment, PATIENCE);
    (cluster, segment)
}

/// The name of the segment that is being written.
#[track_caller]
pub fn present_segment(cluster: &Cluster) -> String {
    cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())")
}

/// Ends the present segment of a server whose store takes nothing, and returns the one that the archiver tries first: how
/// much WAL there was before, and whether it filled a segment, depends on PostgreSQL's version.
#[track_caller]
pub fn first_waiting(cluster: &Cluster) -> String {
    cluster.switch_wal();
    cluster.waiting_files().swap_remove(0)
}

/// Ends that many WAL segments, one after the other.
#[track_caller]
pub fn switch_segments(cluster: &Cluster, count: usize) {
    cluster.psql(&format!(
        "DO $$BEGIN FOR i IN 1..{count} LOOP
           PERFORM pg_logical_emit_message(false, 'test', i::text); PERFORM pg_switch_wal();
         END LOOP; END$$"
    ));
}

/// Fills a bit more than one WAL segment with data that zstd cannot make smaller than half.
#[track_caller]
pub fn write_noise(cluster: &Cluster) {
    cluster.psql(
        "SELECT FROM pg_logical_emit_message(false, 'test',
           (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 33000)))",
    );
}

/// Waits until no file waits for the archiver.
#[track_caller]
pub fn wait_drained(cluster: &Cluster) {
    let left = || cluster.waiting_files();
    cluster.wait_until("everything is archived", PATIENCE, || left().is_empty());
}

/// One value of the view `walarchive_status`.
#[track_caller]
pub fn status(cluster: &Cluster, column: &str) -> String {
    cluster.psql(&format!("SELECT {column} FROM walarchive_status"))
}

/// Waits until the server's log holds all of `parts` after a mark, and returns the first message, with its DETAIL and HINT,
/// that does.
#[track_caller]
pub fn wait_message(cluster: &Cluster, mark: usize, parts: &[&str], deadline: Duration) -> String {
    let mut found = None;
    cluster.wait_until(&format!("a message with {parts:?} is logged"), deadline, || {
        let log = cluster.log_since(mark);
        found = messages(&log)
            .into_iter()
            .find(|message| parts.iter().all(|part| message.contains(part)));
        found.is_some()
    });
    found.unwrap_or_default()
}

/// The messages of a log: a DETAIL or HINT belongs to the message before it.
pub fn messages(log: &str) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for line in log.lines() {
        let goes_on = ["DETAIL:  ", "HINT:  ", "CONTEXT:  ", "STATEMENT:  "]
            .iter()
            .any(|level| line.contains(level))
            || line.starts_with('\t');
        match messages.last_mut() {
            Some(last) if goes_on => {
                last.push('\n');
                last.push_str(line);
            }
            _ => messages.push(line.to_owned()),
        }
    }
    messages
}
