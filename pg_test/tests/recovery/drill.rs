//! `restore-test`: a drill proves a backup, or says why not, and leaves nothing behind however it ends.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use walarchive_pg_test::drills::{Place, assert_failed, detail, primary, sql_file, status};
use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Background, PATIENCE, Signal, is_alive, kill_pid, run, wait_until};

#[test]
fn a_drill_proves_a_backup_and_the_repository_knows() {
    let site = Site::on_s3();
    let (primary, place) = (primary(&site), Place::new(&site));
    let name = backup(&primary, "");
    primary.psql("INSERT INTO t VALUES (2000)");
    primary.psql("SELECT pg_create_restore_point('here')");
    primary.psql("INSERT INTO t VALUES (3000)");
    archive_all(&primary);
    let before = site.objects("wal_005");
    assert_eq!(primary.psql("SELECT proven IS NULL FROM walarchive_backups"), "t");

    let good = sql_file(&site, "good.sql", "SELECT 'rows ' || count(*) FROM t;\n");
    let (drill, output) = place.drill(&site, &["--run", &good]);
    output.expect_success();
    assert_eq!(
        (&drill["status"], &drill["backup"]),
        (&"ok".into(), &Value::from(name.clone())),
        "{drill:#}"
    );
    for check in ["restore", "recovery", "sql"] {
        assert_eq!(status(&drill, check), "ok", "{drill:#}");
    }
    // The builds of PyPI lack these, or have one that does not run.
    if site.pg().major() == 15 {
        for check in ["pg_verifybackup", "pg_amcheck", "pg_checksums"] {
            assert_eq!(status(&drill, check), "ok", "{drill:#}");
        }
    }
    assert!(detail(&drill, "sql").contains("rows 1002"), "{drill:#}");
    assert!(
        drill["last_transaction_time"].is_string() && drill["restore_seconds"].is_number(),
        "{drill:#}"
    );
    assert_eq!(drill["timeline"], 2);
    place.assert_empty();
    // Nothing of it was archived, and the repository knows what was proven.
    assert_eq!(site.objects("wal_005"), before);
    assert_eq!(
        primary.psql("SELECT backup_name FROM walarchive_backups WHERE proven > now() - interval '1 hour'"),
        name
    );
    assert_eq!(
        primary.psql("SELECT last_proven_restore > now() - interval '1 hour' FROM walarchive_status"),
        "t"
    );
    let list = run(&mut site.walarchive(&["backup-list", "--long", "--json"])).expect_success();
    assert!(list.contains("\"proven\": \""), "{list}");

    // To a target: what came after it is not there; and as text. A drill that is not to be recorded is not.
    let records = site.objects("walarchive_005/drills");
    assert_eq!(records.len(), 1, "{records:?}");
    let at_target = sql_file(
        &site,
        "target.sql",
        "DO $$ BEGIN ASSERT (SELECT max(id) FROM t) = 2000; END $$;\n",
    );
    let text = run(&mut place.command(
        &site,
        &[&name, "--target-name", "here", "--run", &at_target, "--no-record"],
    ));
    let text = text.expect_success();
    let proven = format!("backup \"{name}\" is proven: restored in ");
    assert!(text.contains(&proven), "{text}");
    assert_eq!(site.objects("walarchive_005/drills"), records);
    place.assert_empty();

    // With the backup goes what was shown of it.
    let second = backup(&primary, "");
    primary.psql("SELECT * FROM walarchive_delete_retain(1, confirm => true)");
    assert_eq!(primary.psql("SELECT backup_name FROM walarchive_backups"), second);
    assert_eq!(site.objects("walarchive_005/drills"), Vec::<String>::new());
}

#[test]
fn what_goes_wrong_is_said_and_removed() {
    let site = Site::on_files();
    let (primary, place) = (primary(&site), Place::new(&site));
    let name = backup(&primary, "");
    archive_all(&primary);

    // SQL that fails.
    let wrong = sql_file(&site, "wrong.sql", "SELECT 1;\nSELECT * FROM no_such_table;\n");
    let (drill, output) = place.drill(&site, &["--run", &wrong]);
    assert_failed(&drill, &output, "sql");
    assert!(
        detail(&drill, "sql").contains("relation \"no_such_table\" does not exist"),
        "{drill:#}"
    );
    assert_eq!(status(&drill, "recovery"), "ok");
    place.assert_empty();
    assert_eq!(primary.psql("SELECT proven IS NULL FROM walarchive_backups"), "t");

    assert!(detail(&drill, "sql").contains("psql:wrong.sql:2: ERROR"), "{drill:#}");

    // A target that is not in the archive. The server has ended, and is not said to run.
    let kept = run(&mut place.command(&site, &["--target-name", "nowhere", "--keep"]));
    assert!(
        kept.code == Some(1) && kept.stderr.contains("the server has ended; its log is"),
        "{kept:?}"
    );
    let (drill, output) = place.drill(&site, &["--target-name", "nowhere"]);
    assert_failed(&drill, &output, "recovery");
    let said = detail(&drill, "recovery");
    assert!(
        said.contains("recovery ended before configured recovery target was reached"),
        "{said}"
    );
    place.assert_empty();

    // No time.
    let (drill, output) = place.drill(
        &site,
        &[
            "--run",
            &sql_file(&site, "slow.sql", "SELECT pg_sleep(600);"),
            "--deadline",
            "20",
        ],
    );
    assert_failed(&drill, &output, "deadline");
    place.assert_empty();

    // What would open the server to others, and programs of another version.
    for (args, says) in [
        (
            ["--set", "listen_addresses=*"],
            "the restore drill sets listen_addresses itself",
        ),
        (["--pg-bin", "/usr/bin"], "there is no program postgres in"),
    ] {
        let refused = run(&mut place.command(&site, &args));
        assert!(!refused.success() && refused.stderr.contains(says), "{refused:?}");
    }
    place.assert_empty();

    // A damaged backup.
    let tars = site.objects(&format!("basebackups_005/{name}/tar_partitions"));
    let part = tars.iter().find(|key| key.contains("part_001")).expect("a tar");
    let path = site.object(part);
    let mut bytes = fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&path, bytes).expect("written");
    let (drill, output) = place.drill(&site, &[&name]);
    assert_failed(&drill, &output, "restore");
    assert!(detail(&drill, "restore").contains("is damaged"), "{drill:#}");
    assert_eq!(status(&drill, "recovery"), "none");
    place.assert_empty();
}

#[test]
fn a_drill_that_is_killed_is_cleaned_up_by_the_next_one() {
    let site = Site::on_files();
    let (primary, place) = (primary(&site), Place::new(&site));
    backup(&primary, "");
    lose(&primary);
    let slow = sql_file(&site, "slow.sql", "SELECT pg_sleep(600);");
    let mut drill = Background::spawn(&mut place.command(&site, &["--run", &slow]), None);
    let (root, postmaster) = place.wait_running(&mut drill);
    kill_pid(drill.pid(), Signal::SIGKILL);
    drill.wait(PATIENCE);
    assert!(is_alive(postmaster) && root.is_dir());

    // Beside one that is at work nothing is touched, and Ctrl-C ends that one in order.
    let mut other = Background::spawn(&mut place.command(&site, &["--run", &slow]), None);
    wait_until("what was left is removed", PATIENCE, || !root.exists());
    assert!(!is_alive(postmaster));
    let (second, of_second) = place.wait_running(&mut other);
    let third = run(&mut place.command(&site, &["--no-record"]));
    third.expect_success();
    assert!(second.is_dir() && is_alive(of_second));
    kill_pid(other.pid(), Signal::SIGINT);
    let ended = other.wait(PATIENCE);
    assert!(
        !ended.success() && ended.stderr.contains("removes what it has made"),
        "{ended:?}"
    );
    assert!(!is_alive(of_second));
    place.assert_empty();
}

/// The server would become a primary at the damaged record, without a word.
#[test]
fn damaged_wal_on_the_way_proves_nothing() {
    let site = Site::on_files();
    let primary = site.primary(&[("walarchive.compression", "none")]);
    let place = Place::new(&site);
    primary.psql("CREATE TABLE t (text text)");
    backup(&primary, "");
    // A page of WAL may end within one of them.
    primary.psql("INSERT INTO t SELECT 'this row is damaged later' FROM generate_series(1, 3)");
    archive_all(&primary);
    primary.psql("INSERT INTO t VALUES ('one more')");
    archive_all(&primary);
    let objects = site.objects("wal_005");
    let marker = b"this row is damaged later";
    let row_in = |path: PathBuf| {
        let bytes = fs::read(&path).expect("read");
        let at = bytes.windows(marker.len()).position(|window| window == marker)?;
        Some((path, bytes, at))
    };
    let found = objects.iter().map(|key| site.object(key)).find_map(row_in);
    let (path, mut bytes, at) = found.expect("the row is archived");
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    let fails = |says: &str| {
        let (drill, output) = place.drill(&site, &[]);
        assert_failed(&drill, &output, "recovery");
        assert!(detail(&drill, "recovery").contains(says), "{drill:#}");
        place.assert_empty();
    };
    fails("is damaged, and recovery ends there");
    fs::remove_file(&path).expect("removed");
    fails("would end too early");
}

/// A drill that cannot be tried says nothing of the backup.
#[test]
fn the_troubles_of_a_machine_are_not_the_backups() {
    let site = Site::on_files();
    let (primary, place) = (primary(&site), Place::new(&site));
    backup(&primary, "");
    archive_all(&primary);
    let inside = site.dir().subdir("inside");
    fs::create_dir(inside.join("PG_15_202209061")).expect("created");
    let inside = inside.to_string_lossy().into_owned();
    let untried = |args: &[&str], says: &str| {
        let output = run(&mut place.command(&site, args));
        assert!(
            output.code == Some(200) && output.stderr.contains(says) && output.stdout.is_empty(),
            "{output:?}"
        );
        assert_eq!(site.objects("walarchive_005/drills"), Vec::<String>::new());
        place.assert_empty();
    };
    untried(
        &["--set", "max_connections=many"],
        "the restored server could not be started",
    );
    untried(
        &["--username", "nobody_here"],
        "could not connect to the restored server",
    );
    let good = sql_file(&site, "good.sql", "SELECT 1;\n");
    untried(
        &["--run", &good, "--run-as", "nobody_here"],
        "could not run the SQL of the drill",
    );
    let mut command = site.walarchive(&["restore-test", "--quiet", "--directory", &inside]);
    let refused = run(&mut command);
    assert!(
        refused.code == Some(200) && refused.stderr.contains("belongs to a server"),
        "{refused:?}"
    );

    // Replay would make it where the original has it.
    let space = site.dir().subdir("space");
    primary.psql(&format!("CREATE TABLESPACE x LOCATION '{}'", space.display()));
    archive_all(&primary);
    untried(&[], "the WAL to be replayed creates a tablespace in");
}
