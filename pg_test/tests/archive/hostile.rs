//! A store that does harm: it must not bring the server down, nor fill its memory.

use walarchive_pg_test::archiving::{archiving, first_waiting, wait_message};
use walarchive_testkit::{Answer, Cluster, HttpMock, PATIENCE, TestDir};

/// The most memory that any process of the server has had so far, in kB.
fn peak_memory(cluster: &Cluster) -> u64 {
    let postmaster = cluster.postmaster_pid();
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).expect("children");
    let peak = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    children.split_whitespace().filter_map(peak).max().unwrap_or(0)
}

#[test]
fn answers_without_an_end_are_failures_of_the_store() {
    for status in [404, 403, 200] {
        let dir = TestDir::new();
        let mock = HttpMock::start(move |_| {
            Answer::endless(status, "<ListBucketResult><Contents><Key>", "lorem ").header("ETag", "\"1\"")
        });
        let options = format!("aws_endpoint=http://127.0.0.1:{},allow_http=true", mock.port());
        let cluster = archiving(&dir, "c", "s3://bucket/prefix")
            .setting("walarchive.storage_options", &options)
            .env("AWS_ACCESS_KEY_ID", "k")
            .env("AWS_SECRET_ACCESS_KEY", "s")
            .start();
        let postmaster = cluster.postmaster_pid();
        cluster.psql("CREATE EXTENSION walarchive");
        let mark = cluster.log_mark();
        first_waiting(&cluster);
        let message = wait_message(&cluster, mark, &["WARNING", "could not archive"], PATIENCE);
        assert!(message.contains("DETAIL:  ") && message.len() < 8000, "{message}");
        let backups = cluster.try_psql("SELECT * FROM walarchive_backups");
        let failure = backups.expect_err("refused");
        assert!(failure.contains("ERROR") && failure.len() < 8000, "{failure}");
        // All that has asked the store is still there, and as small as before.
        let log = cluster.log();
        assert!(
            !log.contains("terminated by signal") && !log.contains("memory allocation"),
            "{log}"
        );
        assert_eq!(cluster.postmaster_pid(), postmaster);
        let peak = peak_memory(&cluster);
        assert!(peak < 400_000, "{peak} kB");
    }
}
