//! A drill beside its original: what it does not touch, what the SQL of a drill may do, and what a kept copy is good for.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use walarchive_pg_test::drills::{Place, assert_failed, detail, primary, sql_file, status};
use walarchive_pg_test::site::{Site, archive_all, backup};
use walarchive_testkit::{Cluster, run};

/// Everything below directories: what it is, its content, and when that was changed.
fn trees(directories: &[PathBuf]) -> BTreeMap<PathBuf, (bool, Vec<u8>, i64)> {
    let mut found = BTreeMap::new();
    let mut left = directories.to_vec();
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).expect("there");
        let content = match meta.is_file() {
            true => fs::read(&path).expect("read"),
            false => Vec::new(),
        };
        if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        found.insert(path, (meta.is_dir(), content, meta.mtime_nsec()));
    }
    found
}

fn create_tablespace(cluster: &Cluster, name: &str, location: &Path) {
    cluster.psql(&format!("CREATE TABLESPACE {name} LOCATION '{}'", location.display()));
}

/// All of the server's files are as they should be, and will not be written again for a while.
fn at_rest(cluster: &Cluster) {
    archive_all(cluster);
    cluster.psql("CHECKPOINT");
}

/// Replay drops and makes tablespaces, on the machine on which the original uses its own.
#[test]
fn the_tablespaces_of_the_original_are_not_touched() {
    let site = Site::on_files();
    let (primary, place) = (site.primary(&[("autovacuum", "off")]), Place::new(&site));
    let [plain, moved, doomed, fresh] = ["plain", "moved", "doomed", "fresh"].map(|name| site.dir().subdir(name));
    let link = site.dir().join("link");
    symlink(&moved, &link).expect("linked");
    create_tablespace(&primary, "plain", &plain);
    create_tablespace(&primary, "linked", &link);
    create_tablespace(&primary, "doomed", &doomed);
    let in_place = site.pg().major() >= 15;
    let inside = |name: &str| match in_place {
        true => {
            _ = primary.psql(&format!(
                "SET allow_in_place_tablespaces = on; CREATE TABLESPACE {name} LOCATION ''"
            ))
        }
        false => create_tablespace(&primary, name, &site.dir().subdir(name)),
    };
    inside("inside");
    let fill = |table: &str, space: &str| {
        primary.psql(&format!(
            "CREATE TABLE {table} TABLESPACE {space} AS SELECT generate_series(1, 100) AS id"
        ))
    };
    for space in ["plain", "linked", "doomed", "inside"] {
        fill(&format!("in_{space}"), space);
    }
    backup(&primary, "");
    // Behind the backup: files come and go in each of them, one tablespace goes, and one comes inside of the data directory.
    fill("more", "plain");
    primary
        .psql("INSERT INTO in_linked VALUES (101); DROP TABLE in_doomed; ALTER TABLE in_inside SET TABLESPACE linked");
    primary.psql("DROP TABLESPACE doomed");
    // Somebody uses the directory again.
    fs::create_dir(doomed.join("PG_15_202209061")).expect("created");
    fs::write(doomed.join("PG_15_202209061/theirs"), "theirs").expect("written");
    if in_place {
        inside("later");
        fill("in_later", "later");
    }
    at_rest(&primary);
    primary.psql("SELECT pg_create_restore_point('before')");
    let of_original = [plain, moved, doomed, primary.datadir().join("pg_tblspc")];
    let before = trees(&of_original);
    let sum = "(SELECT count(*) FROM in_plain) + (SELECT count(*) FROM more) + (SELECT count(*) FROM in_linked) \
               + (SELECT count(*) FROM in_inside)";
    let good = sql_file(
        &site,
        "good.sql",
        &format!("DO $$ BEGIN ASSERT {sum} = 401; END $$; INSERT INTO more VALUES (1);\n"),
    );
    let (drill, output) = place.drill(&site, &["--run", &good, "--run-as", "postgres"]);
    assert!(output.success(), "{drill:#}");
    assert!(
        trees(&of_original) == before,
        "the drill has changed the original's tablespaces"
    );

    // One that comes outside of it would come to where the original has it. What comes before that is replayed.
    for _ in 0..3 {
        archive_all(&primary);
    }
    create_tablespace(&primary, "fresh", &fresh);
    fill("in_fresh", "fresh");
    at_rest(&primary);
    let of_original = [&of_original[..], &[fresh]].concat();
    let before = trees(&of_original);
    let refused = run(&mut place.command(&site, &[]));
    assert!(
        refused.code == Some(200)
            && refused
                .stderr
                .contains("the WAL to be replayed creates a tablespace in"),
        "{refused:?}"
    );
    let (drill, output) = place.drill(&site, &["--target-name", "before"]);
    assert!(output.success(), "{drill:#}");
    // Once a backup has it, it goes where the others go.
    backup(&primary, "");
    at_rest(&primary);
    let before_the_last = trees(&of_original);
    assert!(
        before.keys().eq(before_the_last.keys()),
        "a drill has changed the original's tablespaces"
    );
    let (drill, output) = place.drill(&site, &[]);
    assert!(output.success(), "{drill:#}");
    assert!(
        trees(&of_original) == before_the_last,
        "the drill has changed the original's tablespaces"
    );
    place.assert_empty();
}

/// Whoever owns a view can let its readers run a function.
#[test]
fn the_sql_of_a_drill_reads_everything_and_no_more() {
    let site = Site::on_files();
    let (primary, place) = (primary(&site), Place::new(&site));
    primary.psql(
        "CREATE ROLE mallory LOGIN; GRANT CREATE ON SCHEMA public TO mallory; CREATE DATABASE closed;
         REVOKE ALL ON DATABASE closed FROM PUBLIC; REVOKE TEMPORARY ON DATABASE postgres FROM PUBLIC;
         CREATE SCHEMA hidden; CREATE TABLE hidden.secret AS SELECT 7 AS id;
         ALTER TABLE hidden.secret ENABLE ROW LEVEL SECURITY; CREATE SEQUENCE hidden.s",
    );
    let proof = site.dir().subdir("sql").join("proof");
    primary.psql(&format!(
        "SET ROLE mallory;
         CREATE FUNCTION trap() RETURNS int LANGUAGE plpgsql AS
           $$ BEGIN EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch {}'''; RETURN 1; END $$;
         CREATE VIEW trapped AS SELECT trap()",
        proof.display()
    ));
    primary.psql_db("closed", "CREATE TABLE c AS SELECT 5 AS id");
    primary.psql("ALTER DATABASE closed SET statement_timeout = 1");
    backup(&primary, "");
    archive_all(&primary);

    let reads = "CREATE TEMPORARY TABLE sums AS SELECT id FROM hidden.secret;
         DO $$ BEGIN ASSERT (SELECT sum(id) FROM sums) = 7; ASSERT (SELECT count(*) FROM t) = 1000;
           ASSERT NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user); END $$;
         SELECT last_value FROM hidden.s;
         \\connect closed
         DO $$ BEGIN PERFORM pg_sleep(0.1); ASSERT (SELECT id FROM c) = 5; END $$;
         \\ir more.sql\n";
    let good = sql_file(&site, "reads.sql", reads);
    sql_file(&site, "more.sql", "SELECT 'from the other file';\n");
    let (drill, output) = place.drill(&site, &["--run", &good]);
    assert!(output.success(), "{drill:#}");
    assert!(detail(&drill, "sql").contains("from the other file"), "{drill:#}");

    for (sql, says) in [
        (
            "SELECT * FROM trapped;\n",
            "permission denied to COPY to or from an external program",
        ),
        (
            "SELECT pg_read_file('/etc/passwd');\n",
            "permission denied for function pg_read_file",
        ),
        ("DELETE FROM t;\n", "permission denied for table t"),
    ] {
        // The words of 15.
        let says = if site.pg().major() == 15 { says } else { "ERROR" };
        let (drill, output) = place.drill(&site, &["--run", &sql_file(&site, "wrong.sql", sql), "--no-record"]);
        assert_failed(&drill, &output, "sql");
        let said = detail(&drill, "sql");
        assert!(said.contains(says) || said.contains("must be superuser"), "{drill:#}");
        let is_hinted = said.ends_with("Name a role with --run-as or walarchive.drill_sql_role.");
        assert!(is_hinted || !said.contains("permission denied"), "{drill:#}");
    }
    assert!(!proof.exists());
    // The DBA may say otherwise.
    let changes = sql_file(
        &site,
        "changes.sql",
        "DELETE FROM t; SELECT pg_read_file('PG_VERSION');\n",
    );
    let (drill, output) = place.drill(&site, &["--run", &changes, "--run-as", "postgres", "--no-record"]);
    assert!(output.success() && status(&drill, "sql") == "ok", "{drill:#}");

    // Relative paths lead to the same.
    let mut relative = place.command(&site, &["--run", "reads.sql", "--no-record", "--pg-bin", "bin"]);
    let sql = site.dir().subdir("sql");
    symlink(site.pg().bindir(), sql.join("bin")).expect("linked");
    run(relative.current_dir(&sql)).expect_success();

    // A file that others can write is not run, and says nothing of the backup.
    fs::set_permissions(&changes, fs::Permissions::from_mode(0o666)).expect("set");
    let refused = run(&mut place.command(&site, &["--run", &changes]));
    assert!(
        refused.code == Some(200) && refused.stderr.contains("can be written by others"),
        "{refused:?}"
    );
    place.assert_empty();
}

/// A small file system, until this is dropped.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// It is known beforehand, and says nothing of the backup.
#[test]
fn a_place_that_is_too_small_is_refused() {
    let site = Site::on_files();
    let (primary, place) = (primary(&site), Place::new(&site));
    backup(&primary, "");
    archive_all(&primary);
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs"])
        .arg(&place.dir);
    let mounted = run(&mut mount);
    if !mounted.success() {
        return println!("skipped: a tmpfs cannot be mounted here: {mounted:?}");
    }
    let _disk = SmallDisk(place.dir.clone());
    let refused = run(&mut place.command(&site, &[]));
    assert!(
        refused.code == Some(200) && refused.stderr.contains("bytes free") && refused.stderr.contains("--directory"),
        "{refused:?}"
    );
    place.assert_empty();
    assert_eq!(site.objects("walarchive_005/drills"), [""; 0]);
}

const PAGE: &str = include_str!("../../../docs/drill.md");

/// The commands of the manual's recipe, block by block.
fn recipe() -> Vec<String> {
    let (_, section) = PAGE
        .split_once("## One table back into a running server")
        .expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// Puts a test's own values in; each of the manual's must be in one of the blocks.
fn filled_in(blocks: &mut [String], replaced: &[(&str, &str)]) {
    for (old, new) in replaced {
        assert!(
            blocks.iter().any(|block| block.contains(old)),
            "the manual has no {old}"
        );
        blocks.iter_mut().for_each(|block| *block = block.replace(old, new));
    }
}

/// The recipe of the manual, with each of its commands.
#[test]
fn a_kept_server_gives_a_table_back() {
    let site = Site::on_files();
    let (primary, place) = (site.primary(&[]), Place::new(&site));
    primary.psql("CREATE DATABASE shop");
    let shop = |sql: &str| primary.psql_db("shop", sql);
    shop(
        "CREATE TABLE customers (id int PRIMARY KEY); INSERT INTO customers VALUES (1);
         CREATE TABLE orders (id serial PRIMARY KEY, customer int REFERENCES customers, what text);
         CREATE INDEX orders_what ON orders (what);
         INSERT INTO orders (customer, what) SELECT 1, g::text FROM generate_series(1, 1000) g",
    );
    backup(&primary, "");
    let time = primary.psql("SELECT clock_timestamp()");
    shop("DELETE FROM orders WHERE id > 10");
    archive_all(&primary);
    // The builds of PyPI lack it.
    if !site.pg().has_program("pg_dump") && site.pg().major() != 15 {
        return;
    }
    let mut blocks = recipe();
    let to = format!(
        "-h {} -p {} -U postgres",
        primary.socket_dir().display(),
        primary.port()
    );
    let dumps = site.dir().subdir("dumps");
    let bindir = format!("{}/pg_ctl", site.pg().bindir().display());
    filled_in(
        &mut blocks,
        &[
            ("/srv/drills", &place.dir.to_string_lossy()),
            ("/srv/dumps", &dumps.to_string_lossy()),
            ("2026-11-20 10:00:00+00", &time),
            ("-h primary", &to),
            ("/usr/lib/postgresql/15/bin/pg_ctl", &bindir),
        ],
    );
    let execute = |block: &str| {
        let mut shell = site.pg().shell(block);
        run(shell.env("WALARCHIVE_STORAGE", site.url()).current_dir(&dumps))
    };
    let [keep, connect, beside, instead, whole, end] = &mut blocks[..] else {
        panic!("the recipe has other blocks: {blocks:#?}");
    };
    let kept = execute(keep);
    assert!(
        kept.success() && kept.stderr.contains("connect with: psql -h "),
        "{kept:?}"
    );
    let [root] = &place.entries()[..] else {
        panic!("{:?}", place.entries())
    };
    // It replays what was looked at beforehand, and nothing else.
    let settings = fs::read_to_string(root.join("data/postgresql.auto.conf")).expect("settings");
    assert!(settings.contains(" --until 00000001"), "{settings}");
    // What it says is what the manual goes on with.
    let name = root.file_name().expect("a name").to_string_lossy().into_owned();
    for block in [&mut *connect, &mut *end] {
        assert!(block.contains("walarchive-drill-…"), "{block}");
        *block = block.replace("walarchive-drill-…", &name);
    }
    // Without the first line, in another terminal, nothing happens to the server that PGHOST leads to.
    for block in [&beside, &instead, &whole] {
        let lost = execute(block);
        assert!(!lost.success() && lost.stderr.contains("copy"), "{lost:?}");
    }
    let with_copy = |block: &str| execute(&format!("{connect}\n{block}")).expect_success();
    assert!(with_copy("").contains("1000"), "the rows of the copy");
    // In place of the present table, a whole database, and beside the present table, which moves it in the copy.
    assert_eq!(shop("SELECT count(*) FROM orders"), "10");
    with_copy(instead);
    assert_eq!(shop("SELECT count(*), max(id) FROM orders"), "1000|1000");
    assert_eq!(
        shop("INSERT INTO orders (customer) VALUES (1) RETURNING id > 1000"),
        "t"
    );
    with_copy(whole);
    assert_eq!(primary.psql_db("shop_restored", "SELECT count(*) FROM orders"), "1000");
    shop("DELETE FROM orders WHERE id > 10");
    with_copy(beside);
    assert_eq!(shop("SELECT count(*), max(id) FROM restored.orders"), "1000|1000");
    assert_eq!(shop("SELECT count(*), max(id) FROM orders"), "1000|1000");

    // The next drill is made beside it, says that it runs, and leaves it; and when it has ended, it goes.
    let mut next = site.walarchive(&["restore-test", "--no-record"]);
    let next = run(next.arg("--directory").arg(&place.dir));
    assert!(
        next.success() && next.stderr.contains("still runs and takes room"),
        "{next:?}"
    );
    assert!(root.is_dir());
    execute(end).expect_success();
    place.assert_empty();
}
