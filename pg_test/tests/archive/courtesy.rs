//! What the uploader takes of the machine while it has much to do.

use std::fs;
use std::time::Duration;

use walarchive_pg_test::archiving::{archiving, has_archived, switch_segments, wait_drained};
use walarchive_pg_test::repository::Repository;
use walarchive_testkit::{Cluster, PATIENCE, TestDir};

/// The most anonymous memory of the uploader with the settings as they are, in kB; and what this build, which is not optimised, may
/// take beside that.
const MEMORY_KB: u64 = (48 + 4) << 10;

/// As Linux numbers it.
const SCHED_OTHER: i32 = 0;

/// The names, nice values and scheduling classes of the threads of a process.
fn threads(pid: i32) -> Vec<(String, i32, i32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of_task = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(')')?;
        let field = |at| tail.split_whitespace().nth(at)?.parse::<i32>().ok();
        // The 19th and the 41st field of all.
        Some((head.split_once('(')?.1.to_owned(), field(16)?, field(38)?))
    };
    let mut tasks: Vec<_> = tasks.flatten().collect();
    // The main thread comes first.
    tasks.sort_unstable_by_key(|task| task.file_name().to_string_lossy().parse::<i32>().ok());
    tasks.into_iter().filter_map(of_task).collect()
}

fn anonymous_kb(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn threads_that_compress_stand_back_and_no_others_do() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    let (cluster, _) = has_archived(&dir, &repository.url());
    assert_eq!(cluster.psql("SHOW walarchive.compression_threads"), "0");
    let uploader = cluster.wait_pid_of("walarchive uploader", None);
    for at_once in [1, 3] {
        cluster.set("walarchive.compression_threads", &at_once.to_string());
        cluster.reload();
        switch_segments(&cluster, 20);
        wait_drained(&cluster);
        // They stay for some seconds.
        let threads = threads(uploader);
        assert!(
            threads.iter().any(|(name, ..)| name == "walarchive pack"),
            "{threads:?}"
        );
        let (_, usual, _) = threads[0];
        for (name, nice, class) in &threads {
            let expected = match name.as_str() {
                "walarchive pack" => (usual.max(19), SCHED_OTHER),
                // Of a busy machine.
                "walarchive late" => (usual.max(10), SCHED_OTHER),
                _ => (usual, SCHED_OTHER),
            };
            assert_eq!((*nice, *class), expected, "{threads:?}");
        }
    }
}

/// Writes so much WAL that does not compress, in MB.
fn write_incompressible(cluster: &Cluster, mb: usize) {
    cluster.psql(&format!(
        "DO $$DECLARE noise bytea := (SELECT string_agg(decode(md5(random()::text), 'hex'), '') FROM generate_series(1, 262144));
         BEGIN FOR i IN 1..{} LOOP PERFORM pg_logical_emit_message(false, 'test', noise); END LOOP; END$$",
        mb / 4
    ));
}

#[test]
fn memory_is_bounded_whatever_waits_to_be_uploaded() {
    let dir = TestDir::new();
    let repository = Repository::new(&dir, "repository");
    // Segments have 16 MB here, as on most servers. The later setting counts.
    let cluster = archiving(&dir, "c", &repository.url())
        .initdb_arg("--wal-segsize=16")
        .setting("archive_library", "")
        .setting("max_wal_size", "4GB")
        .start();
    write_incompressible(&cluster, 256);
    assert!(cluster.waiting_files().len() >= 12, "{:?}", cluster.waiting_files());
    let uploader = cluster.wait_pid_of("walarchive uploader", None);
    cluster.set("archive_library", "walarchive");
    cluster.reload();
    let mut most = 0;
    cluster.wait_until("everything is archived", PATIENCE.max(Duration::from_secs(120)), || {
        most = most.max(anonymous_kb(uploader).unwrap_or(0));
        cluster.waiting_files().is_empty()
    });
    println!("the most anonymous memory: {most} kB");
    assert!(most > 1 << 10, "nothing was measured");
    assert!(most <= MEMORY_KB, "{most} kB");
}
