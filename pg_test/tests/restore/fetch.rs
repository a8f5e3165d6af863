//! The options of backup-fetch beside the backup: for whom, where to, only to read; its refusals, and how it goes on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_settled};
use walarchive_testkit::{Background, Fault, FaultProxy, PATIENCE, Signal, kill_pid, run, wait_until};

/// Everything below a directory, itself included; links are not followed.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path()));
        }
    }
    found
}

#[test]
fn root_restores_for_the_user_of_the_server() {
    let site = Site::on_files();
    let space = site.dir().subdir("space");
    let primary = site.primary(&[]);
    primary.psql(&format!("CREATE TABLESPACE space LOCATION '{}'", space.display()));
    primary.psql("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) AS a");
    backup(&primary, "");
    archive_all(&primary);
    lose(&primary);
    fs::remove_dir_all(&space).expect("could not remove the tablespace");

    let (target, refused) = site.backup_fetch("restored", "LATEST", &["--owner", "0:0"]);
    let user = fs::metadata(site.dir().path()).expect("no directory");
    assert_ne!(user.uid(), 0, "no server runs as root");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("only root") && refused.stderr.contains("HINT:"),
        "{refused:?}"
    );
    assert!(!target.exists() && !space.exists());
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can restore for another user");
        return;
    }
    let path = target.to_string_lossy();
    let owner = format!("{}:{}", user.uid(), user.gid());
    let mut fetch = site.walarchive(&["backup-fetch", &path, "LATEST", "--owner", &owner]);
    let refused = run(fetch.uid(0).gid(0));
    assert!(
        refused.code == Some(1) && refused.stderr.contains("only the repository names"),
        "{refused:?}"
    );
    run(fetch.arg("--tablespace-map-original")).expect_success();
    let all = [tree(&target), tree(&space)].concat();
    assert!(all.len() > 900, "{}", all.len());
    for path in all {
        let meta = path.symlink_metadata().expect("there");
        assert_eq!((meta.uid(), meta.gid()), (user.uid(), user.gid()), "{}", path.display());
    }
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql("SELECT count(*) FROM t"), "1000");
}

#[test]
fn reading_only_finds_a_flipped_bit_and_writes_nothing() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.delta_max_steps", "2")]);
    primary.psql("CREATE TABLE t AS SELECT generate_series(1, 20000) AS a");
    wait_settled(&primary);
    let full = backup(&primary, "");
    primary.psql("UPDATE t SET a = 0 WHERE a = 1");
    let delta = backup(&primary, "");
    assert!(delta.contains("_D_"), "{delta}");
    archive_all(&primary);
    lose(&primary);

    let everything = || -> BTreeMap<PathBuf, _> {
        let state = |path: PathBuf| {
            let meta = path.symlink_metadata().expect("there");
            (path, (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
        };
        tree(site.dir().path()).into_iter().map(state).collect()
    };
    let read = || {
        let before = everything();
        let output = site.backup_fetch("nowhere", "LATEST", &["--verify-only"]).1;
        assert_eq!(everything(), before, "something was written");
        output
    };
    let clean = read();
    assert_eq!(clean.code, Some(0), "{clean:?}");
    assert!(
        clean.stdout.contains(&format!("backup \"{delta}\" can be restored")),
        "{clean:?}"
    );
    for (backup, tar) in [
        (&delta, "part_001.tar.zst"),
        (&full, "part_001.tar.zst"),
        (&delta, "pg_control.tar.zst"),
    ] {
        let key = format!("basebackups_005/{backup}/tar_partitions/{tar}");
        let object = site.object(&key);
        let intact = fs::read(&object).expect("could not read");
        let mut flipped = intact.clone();
        // Of the full backup not every file is taken: what the delta has in full is read from there.
        let bits = if backup == &full { 64 } else { 1 };
        for bit in 1..=bits {
            flipped[intact.len() * bit / (bits + 1)] ^= 0x10;
        }
        fs::write(&object, flipped).expect("could not write");
        let damaged = read();
        assert_eq!(damaged.code, Some(1), "{key}: {damaged:?}");
        assert!(damaged.stderr.contains(&key), "{key}: {damaged:?}");
        fs::write(&object, intact).expect("could not write");
    }
    assert_eq!(read().code, Some(0));
}

#[test]
fn all_tablespaces_move_below_one_directory() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let mut oids = Vec::new();
    for name in ["first", "second", "third"] {
        let old = site.dir().subdir(name);
        primary.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", old.display()));
        primary.psql(&format!(
            "CREATE TABLE in_{name} TABLESPACE {name} AS SELECT generate_series(1, 1000) AS a"
        ));
        oids.push(primary.psql(&format!("SELECT oid FROM pg_tablespace WHERE spcname = '{name}'")));
    }
    backup(&primary, "");
    archive_all(&primary);
    // The original goes on living beside the copy.
    primary.psql("TRUNCATE in_first");
    let (all, elsewhere) = (site.dir().join("all"), site.dir().join("elsewhere"));
    let one = format!("{}={}", oids[2], elsewhere.display());
    let args = ["--tablespace-map-all", &all.to_string_lossy(), "--tablespace-map", &one];
    let target = site.restore("copy", "LATEST", &args);
    let places = [all.join(&oids[0]), all.join(&oids[1]), elsewhere];
    for (oid, place) in oids.iter().zip(&places) {
        assert_eq!(
            fs::read_link(target.join("pg_tblspc").join(oid)).expect("no link"),
            *place
        );
    }
    assert_eq!(fs::read_dir(&all).expect("unreadable").count(), 2);
    let copy = site.restored("copy").attach(&target);
    copy.wait_promoted(PATIENCE);
    let counts =
        "SELECT (SELECT count(*) FROM in_first), (SELECT count(*) FROM in_second), (SELECT count(*) FROM in_third)";
    assert_eq!(copy.psql(counts), "1000|1000|1000");
    copy.psql("DROP TABLE in_second; INSERT INTO in_third VALUES (0); CHECKPOINT");
    assert_eq!(primary.psql(counts), "0|1000|1000");
}

/// Without a manifest, what the sentinel says counts.
#[test]
fn a_backup_that_does_not_fit_is_refused() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    let name = backup(&primary, "");
    archive_all(&primary);
    fs::remove_file(site.object(&format!("basebackups_005/{name}/backup_manifest"))).expect("no manifest");
    let sentinel = site.object(&format!("basebackups_005/{name}_backup_stop_sentinel.json"));
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs::read(&sentinel).expect("no sentinel")).expect("no JSON");
    for size in ["DataCatalogSize", "UncompressedSize"] {
        assert!(
            json[size].as_u64().is_some_and(|bytes| bytes > 1 << 20),
            "{size}: {json}"
        );
        json[size] = (1u64 << 60).into();
    }
    fs::write(&sentinel, json.to_string()).expect("could not write");

    for more in [&[][..], &["--dry-run"]] {
        let (target, refused) = site.backup_fetch("restored", "LATEST", more);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let needed = format!("{} will be written there", 1u64 << 60);
        assert!(
            refused.stderr.contains("bytes free") && refused.stderr.contains(&needed),
            "{refused:?}"
        );
        assert!(refused.stderr.contains("--no-space-check"), "{refused:?}");
        assert!(!target.exists());
    }
    let (target, restored) = site.backup_fetch("restored", "LATEST", &["--no-space-check"]);
    restored.expect_success();
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
}

#[test]
fn a_restore_that_was_killed_goes_on() {
    let site = Site::on_s3();
    let primary = site.primary(&[("walarchive.tar_size", "2MB")]);
    primary.pgbench(&["-i", "-s", "1", "-q"]);
    for table in 1..=16 {
        primary.psql(&format!(
            "CREATE TABLE noise{table} AS SELECT md5(random()::text) AS noise FROM generate_series(1, 30000)"
        ));
    }
    backup(&primary, "");
    primary.psql("UPDATE pgbench_accounts SET abalance = 1 WHERE aid <= 1000");
    archive_all(&primary);
    lose(&primary);

    let target = site.dir().join("restored");
    let files = || tree(&target.join("base")).iter().filter(|path| path.is_file()).count();
    let path = target.to_string_lossy();
    // The last tar never comes, so no restore ends before it is asked to.
    let proxy = FaultProxy::start(site.s3().expect("S3").port());
    let tars = site.objects("basebackups_005").into_iter();
    let sizes: Vec<u64> = tars
        .filter(|key| key.contains("/tar_partitions/"))
        .map(|key| fs::metadata(site.object(&key)).expect("an object").len())
        .collect();
    let (stored, largest) = (
        sizes.iter().sum::<u64>(),
        sizes.iter().copied().max().unwrap_or_default(),
    );
    proxy.set([Fault::status(503).only("pg_control.tar").into()]);
    let fetch = |more: &[&str]| {
        let mut fetch = site.walarchive(&["backup-fetch", &path, "LATEST", "--concurrency", "1"]);
        // Of two for the same, the later one counts.
        for option in proxy.options().split(',') {
            fetch.args(["--storage-option", option]);
        }
        fetch.args(more);
        fetch
    };
    let begun = || {
        proxy.forget();
        let restore = Background::spawn(&mut fetch(&[]), None);
        wait_until("some files are restored", PATIENCE, || files() >= 50);
        restore
    };
    // A program that is asked to end says how to go on.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let restore = begun();
        kill_pid(restore.pid(), signal);
        let cancelled = restore.wait(PATIENCE);
        assert_eq!(cancelled.code, Some(1), "{cancelled:?}");
        for said in ["canceled on request", "--delta"] {
            assert!(cancelled.stderr.contains(said), "{cancelled:?}");
        }
        assert!(!target.join("global/pg_control").exists());
        fs::remove_dir_all(&target).expect("could not remove");
    }

    let restore = begun();
    wait_until("half of it is fetched", PATIENCE, || proxy.delivered() > stored / 2);
    restore.kill();
    let fetched = proxy.delivered();
    let killed = restore.wait(PATIENCE);
    assert_eq!(
        killed.signal,
        Some(Signal::SIGKILL as i32),
        "it was complete before it was killed: {killed:?}"
    );
    assert!(!target.join("global/pg_control").exists() && target.join("walarchive_restore.json").exists());

    let refused = site.backup_fetch("restored", "LATEST", &[]).1;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("--delta"), "{refused:?}");
    let plan = site
        .backup_fetch("restored", "LATEST", &["--delta", "--dry-run"])
        .1
        .expect_success();
    let there = plan
        .lines()
        .find_map(|line| line.strip_prefix("there:"))
        .expect("nothing is there");
    let kept: usize = there
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .expect("no number");
    assert!(kept >= 50, "{plan}");
    // What has come is not fetched again, but for the two tars that were under way at the most, and the lists.
    proxy.heal();
    proxy.forget();
    run(&mut fetch(&["--delta"])).expect_success();
    let (missing, again) = (stored.saturating_sub(fetched), proxy.delivered());
    println!("{stored} bytes stored, {fetched} fetched before the end, {again} after it");
    assert!(
        again < missing + 2 * largest + (1 << 20),
        "{stored} {fetched} {again} {largest}"
    );
    // There is nothing more to do, and PostgreSQL's own program agrees.
    site.restore("restored", "LATEST", &["--delta"]);
    assert!(!target.join("walarchive_restore.json").exists());
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(
        restored.psql("SELECT count(*), sum(abalance) FROM pgbench_accounts"),
        "100000|1000"
    );
    restored.amcheck();
}
