//! Restores that would end where nobody expects, and directories as people have them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Background, Cluster, PATIENCE, StopMode, run};

const ROWS: &str = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";

/// Inserts rows, each in a segment of its own, and returns the segments.
fn insert(cluster: &Cluster, ids: std::ops::RangeInclusive<u32>) -> Vec<String> {
    let mut segments = Vec::new();
    for id in ids {
        cluster.psql(&format!("INSERT INTO t VALUES ({id})"));
        let segment = cluster.switch_wal();
        cluster.wait_archived(&segment, PATIENCE);
        segments.push(segment);
    }
    segments
}

fn mode(path: &Path) -> u32 {
    let meta = path
        .metadata()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    meta.permissions().mode() & 0o777
}

#[test]
fn a_hole_in_the_wal_is_said_before_anything_is_restored() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    backup(&primary, "");
    let segments = insert(&primary, 1..=4);
    let time = primary.psql("SELECT clock_timestamp()");
    let hole = &segments[2];
    let check = || {
        let row = "SELECT status, detail FROM walarchive_check() WHERE check_name = 'recovery'";
        primary.psql(row)
    };
    assert!(check().starts_with("ok|the WAL has no gap from \"base_"), "{}", check());
    fs::remove_file(site.object(&format!("wal_005/{hole}.zst"))).expect("could not remove a segment");
    // It may be on its way as long as what comes after it is new.
    let found = check();
    assert!(
        found.starts_with("warning|recovery from") && found.contains(hole),
        "{found}"
    );
    let old = fs::File::open(site.object(&format!("wal_005/{}.zst", segments[3]))).expect("there");
    old.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600))
        .expect("set");
    assert!(check().starts_with("failed|recovery from"), "{}", check());
    let binary = run(&mut site.walarchive(&["check"]));
    assert!(
        binary.code == Some(2) && binary.stdout.contains(&format!("segment {hole} is missing")),
        "{binary:?}"
    );
    lose(&primary);

    let after = ["--target-time", &time];
    for args in [&[][..], &["--dry-run"], &after] {
        let (target, refused) = site.backup_fetch("restored", "LATEST", args);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains("would end too early, at LSN")
                && refused
                    .stderr
                    .contains(&format!("WAL segment {hole} is not in the archive"))
                && refused.stderr.contains("--allow-gap"),
            "{refused:?}"
        );
        assert!(!target.exists());
    }
    let (target, allowed) = site.backup_fetch("restored", "LATEST", &["--allow-gap"]);
    assert!(
        allowed.success() && allowed.stderr.contains("its recovery will end at LSN"),
        "{allowed:?}"
    );
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1 2");
}

/// The server would follow the old timeline to its end and promote, though the newer one lies in the archive.
#[test]
fn a_hole_after_a_failover_is_said() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    backup(&primary, "");
    insert(&primary, 1..=2);
    lose(&primary);
    // The first one is gone, and nobody shall wait until its lease is stale.
    let target = site.restore("second", "LATEST", &["--take-over"]);
    let second = site.restored("second").setting("archive_mode", "on").attach(&target);
    second.wait_promoted(PATIENCE);
    let segments = insert(&second, 3..=4);
    assert!(segments[0].starts_with("00000002"), "{segments:?}");
    lose(&second);
    // All is there.
    let (_, plan) = site.backup_fetch("restored", "LATEST", &["--dry-run"]);
    assert!(plan.success() && plan.stdout.contains("on timeline 2"), "{plan:?}");
    assert!(!plan.stdout.contains("is not in the archive"), "{plan:?}");
    let first = format!("wal_005/{}.zst", segments[0]);
    fs::remove_file(site.object(&first)).expect("could not remove a segment");
    let (target, refused) = site.backup_fetch("restored", "LATEST", &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for says in ["on timeline 1", &segments[0], "on timeline 2"] {
        assert!(refused.stderr.contains(says), "{says}: {refused:?}");
    }
    assert!(!target.exists());
    let target = site.restore("restored", "LATEST", &["--allow-gap"]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1 2");
}

#[test]
fn the_end_of_the_archive_is_said_and_is_where_recovery_ends() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    backup(&primary, "");
    insert(&primary, 1..=1);
    let (time, lsn) = (
        primary.psql("SELECT clock_timestamp() + interval '1 hour'"),
        primary.psql("SELECT pg_current_wal_lsn() + 100000000"),
    );
    lose(&primary);
    for (kind, value) in [
        ("--target-time", &*time),
        ("--target-lsn", &lsn),
        ("--target-name", "nowhere"),
        ("--target-xid", "4000000"),
    ] {
        let (target, plan) = site.backup_fetch("restored", "LATEST", &["--dry-run", kind, value]);
        assert!(plan.success() && !target.exists(), "{plan:?}");
        let says = "is not in the archive: its WAL ends at LSN";
        assert!(plan.stdout.contains(says), "{kind}: {plan:?}");
    }
    let (target, output) = site.backup_fetch("restored", "LATEST", &["--target-name", "nowhere"]);
    assert!(
        output.success() && output.stderr.contains("and not at restore point \"nowhere\""),
        "{output:?}"
    );
    let restored = site.restored("restored").attach_stopped(&target);
    restored.spawn_server();
    restored.wait_stopped(PATIENCE);
    let says = "recovery ended before configured recovery target was reached";
    assert!(restored.log().contains(says), "{}", restored.log());
}

#[test]
fn parameters_that_were_raised_do_not_stop_recovery() {
    let site = Site::on_files();
    let primary = site.primary(&[("max_connections", "20")]);
    primary.psql("CREATE TABLE t (id int)");
    backup(&primary, "");
    insert(&primary, 1..=1);
    primary.set("max_connections", "33");
    primary.set("max_prepared_transactions", "3");
    primary.restart();
    insert(&primary, 2..=2);
    lose(&primary);
    let (target, output) = site.backup_fetch("restored", "LATEST", &[]);
    assert!(
        output.success() && output.stderr.contains("max_connections = 33"),
        "{output:?}"
    );
    let auto = fs::read_to_string(target.join("postgresql.auto.conf")).expect("there");
    assert!(
        auto.contains("max_connections = '33'\nmax_prepared_transactions = '3'\n"),
        "{auto}"
    );
    assert!(!auto.contains("max_wal_senders"), "{auto}");
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1 2");
}

#[test]
fn tablespaces_of_the_original_are_warned_of() {
    let site = Site::on_files();
    let (before, after) = (site.dir().subdir("before"), site.dir().subdir("after"));
    let primary = site.primary(&[]);
    primary.psql(&format!("CREATE TABLESPACE before LOCATION '{}'", before.display()));
    primary.psql("CREATE TABLE t (id int)");
    backup(&primary, "");
    primary.psql(&format!("CREATE TABLESPACE after LOCATION '{}'", after.display()));
    insert(&primary, 1..=1);
    let all = site.dir().join("all");
    let args = ["--tablespace-map-all", &*all.to_string_lossy(), "--dry-run"];
    let (_, plan) = site.backup_fetch("copy", "LATEST", &args);
    let place = format!("its directory \"{}\" exists on this machine", after.display());
    for says in [
        "The original is on this machine",
        "a server seems to run there",
        "The WAL to be replayed creates",
        &place,
    ] {
        assert!(plan.success() && plan.stdout.contains(says), "{says}: {plan:?}");
    }
    assert!(
        !plan.stdout.contains(&format!("its directory \"{}\"", before.display())),
        "{plan:?}"
    );
}

#[test]
fn root_asks_for_places_that_only_the_repository_names() {
    let site = Site::on_files();
    let space = site.dir().subdir("space");
    let primary = site.primary(&[]);
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.psql("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 10) AS id");
    backup(&primary, "");
    archive_all(&primary);
    lose(&primary);
    fs::remove_dir_all(&space).expect("could not remove the tablespace");
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root asks");
        return;
    }
    let target = site.dir().join("restored");
    let path = target.to_string_lossy();
    let fetch = || {
        let mut command = site.walarchive(&["backup-fetch", &path, "LATEST"]);
        command.uid(0).gid(0);
        command
    };
    // The test's standard input is no terminal.
    let refused = run(&mut fetch());
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("which only the repository names") && refused.stderr.contains("--tablespace-map"),
        "{refused:?}"
    );
    assert!(!target.exists() && !space.exists());
    let plan = run(fetch().arg("--dry-run"));
    assert!(
        plan.success() && plan.stdout.contains("that place is not confirmed"),
        "{plan:?}"
    );
    // The program script makes one.
    if !run(Command::new("script").arg("--version")).success() {
        eprintln!("skipped: there is no program script to make a terminal");
        return;
    }
    // The end of the input is no answer.
    for (answer, code) in [("no\n", 1), ("", 1), ("y\n", 1), ("yes\n", 0)] {
        let fetch = fetch();
        let words = std::iter::once(fetch.get_program()).chain(fetch.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let mut script = Command::new("script");
        script.args(["-qec", &words.join(" "), "/dev/null"]).current_dir("/");
        let said = Background::spawn(&mut script, Some(answer)).wait(PATIENCE);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.stdout.contains("Write there? (yes/no)"), "{said:?}");
        assert_eq!((space.exists(), target.exists()), (code == 0, code == 0));
    }
    let oid = fs::read_dir(target.join("pg_tblspc"))
        .expect("there")
        .flatten()
        .next()
        .expect("a link");
    assert_eq!(fs::read_link(oid.path()).expect("a link"), space);
    let mut chown = Command::new("chown");
    chown.args(["-hR", "--reference"]).arg(site.dir().join("store"));
    run(chown.args([&target, &space])).expect_success();
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "10");
}

#[test]
fn the_group_may_read_what_it_could_read() {
    let site = Site::on_files();
    let primary = site.builder("primary").initdb_arg("--allow-group-access").start();
    primary.psql("CREATE EXTENSION walarchive; CREATE TABLE t (id int)");
    assert_eq!(mode(primary.datadir()), 0o750);
    backup(&primary, "");
    insert(&primary, 1..=1);
    lose(&primary);
    let target = site.restore("restored", "LATEST", &[]);
    for directory in [".", "pg_wal", "base", "global"] {
        assert_eq!(mode(&target.join(directory)), 0o750, "{directory}");
    }
    for file in [
        "postgresql.auto.conf",
        "backup_label",
        "backup_manifest",
        "recovery.signal",
        "global/pg_control",
        "PG_VERSION",
    ] {
        assert_eq!(mode(&target.join(file)), 0o640, "{file}");
    }
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1");
}

#[test]
fn long_names_and_a_pg_wal_elsewhere_come_back() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    let names = [232, 255].map(|length| "n".repeat(length));
    for name in &names {
        fs::write(primary.datadir().join(name), name).expect("could not write");
    }
    backup(&primary, "");
    insert(&primary, 1..=1);
    lose(&primary);
    let wal = site.dir().join("wal");
    let waldir = ["--waldir", &*wal.to_string_lossy()];
    let target = site.restore("restored", "LATEST", &waldir);
    for name in &names {
        assert_eq!(fs::read_to_string(target.join(name)).expect("not there"), *name);
    }
    assert_eq!(fs::read_link(target.join("pg_wal")).expect("no link"), wal);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1");
    restored.stop(StopMode::Fast);
    drop(restored);
    // Into the same again, whose pg_wal stays where it is.
    let target = site.restore("restored", "LATEST", &["--delta"]);
    assert_eq!(fs::read_link(target.join("pg_wal")).expect("no link"), wal);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql(ROWS), "1");
}

#[test]
fn another_size_of_segments_is_no_other_cluster_and_no_loss() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql("CREATE TABLE t (id int)");
    backup(&primary, "");
    insert(&primary, 1..=2);
    primary.stop(StopMode::Fast);
    let mut reset = site.pg().program("pg_resetwal");
    run(reset.arg("--wal-segsize=1").arg(primary.datadir())).expect_success();
    primary.start_again();
    primary.psql("INSERT INTO t VALUES (3); SELECT pg_switch_wal()");
    let says = "has WAL segments of 16777216 bytes, and this cluster writes segments of 1048576";
    primary.wait_log(says, PATIENCE);
    assert!(
        !primary.log().contains("belongs to another cluster"),
        "{}",
        primary.log()
    );
    let refused = primary
        .try_psql("SELECT * FROM walarchive_wal_verify('integrity')")
        .expect_err("refused");
    assert!(
        refused.contains(says) && refused.contains("pg_resetwal --wal-segsize"),
        "{refused}"
    );
    let row = primary.psql("SELECT status, detail, hint FROM walarchive_check() WHERE check_name = 'owner'");
    assert!(
        row.starts_with("failed|") && row.contains(says) && row.contains("prefix of its own"),
        "{row}"
    );
    let datadir = primary.datadir().to_string_lossy().into_owned();
    let verified = run(&mut site.walarchive(&["wal-verify", "--pgdata", &datadir]));
    assert!(!verified.success() && verified.stderr.contains(says), "{verified:?}");
    assert!(!verified.stdout.contains("LOST"), "{verified:?}");
}
