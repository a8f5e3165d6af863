//! Restores of some databases only: by name, and what recovery does at the pages of the others.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walarchive_pg_test::site::{Site, archive_all, backup, lose};
use walarchive_testkit::{Cluster, PATIENCE, run};

/// The objects that [`fill`] makes and [`change`] changes.
const TABLE: &str = "SELECT count(*), sum(a) FROM t";

/// A database with a table of some pages.
fn fill(primary: &Cluster, database: &str) {
    primary.psql(&format!("CREATE DATABASE {database}"));
    let name = database.trim_matches('"');
    primary.psql_db(
        name,
        "CREATE TABLE t AS SELECT generate_series(1, 20000) AS a; SELECT count(*) FROM t",
    );
}

/// Replay goes over its pages.
fn change(primary: &Cluster, database: &str) {
    primary.psql_db(
        database,
        "UPDATE t SET a = a + 1 WHERE a % 2 = 0; INSERT INTO t VALUES (0); VACUUM t",
    );
}

fn oid(cluster: &Cluster, database: &str) -> u32 {
    let oid = cluster.psql(&format!("SELECT oid FROM pg_database WHERE datname = '{database}'"));
    oid.parse().unwrap_or_else(|e| panic!("{database}: {oid}: {e}"))
}

/// The file of its table, below the data directory.
fn table_file(primary: &Cluster, database: &str) -> PathBuf {
    primary.psql_db(database, "SELECT pg_relation_filepath('t')").into()
}

/// The file takes no space, but has a size; before replay wrote into it.
fn assert_left_out(target: &Path, file: &Path) {
    let meta = fs::metadata(target.join(file)).expect("no file");
    assert!(
        meta.len() > 1 << 19 && meta.blocks() == 0,
        "{}: {meta:?}",
        file.display()
    );
    let map = fs::read(target.join(file.with_file_name("pg_filenode.map"))).expect("no map");
    assert!(map.len() >= 512 && map.iter().all(|byte| *byte == 0), "{map:?}");
}

fn assert_whole(target: &Path, file: &Path) {
    let meta = fs::metadata(target.join(file)).expect("no file");
    assert!(meta.blocks() * 512 >= meta.len(), "{}: {meta:?}", file.display());
}

#[test]
fn databases_come_back_by_name() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    for database in ["wanted", "\"Späte\\x41r\"", "other"] {
        fill(&primary, database);
    }
    let name = backup(&primary, "");
    primary.psql("CREATE DATABASE later");
    let late = oid(&primary, "later");
    for database in ["wanted", "Späte\\x41r", "other"] {
        change(&primary, database);
    }
    archive_all(&primary);
    let wanted = oid(&primary, "wanted");
    let files = ["wanted", "Späte\\x41r", "other"].map(|database| table_file(&primary, database));
    lose(&primary);

    let (target, unknown) = site.backup_fetch("restored", &name, &["--restore-only", "wanted,later"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("knows no database \"later\""), "{unknown:?}");
    let known = "\"Späte\\\\x41r\", \"other\", \"postgres\", \"template0\", \"template1\", \"wanted\"";
    assert!(
        unknown.stderr.contains("HINT:") && unknown.stderr.contains(known),
        "{unknown:?}"
    );
    let unknown = site
        .backup_fetch("restored", &name, &["--restore-only", &late.to_string()])
        .1;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(!target.exists());

    let args = ["--restore-only", "wanted,Späte\\x41r"];
    let plan = site
        .backup_fetch("restored", &name, &[&args[..], &["--dry-run"]].concat())
        .1;
    let plan = plan.expect_success();
    assert!(plan.contains(&wanted.to_string()), "{plan}");
    site.backup_fetch("restored", &name, &args).1.expect_success();
    assert_whole(&target, &files[0]);
    assert_whole(&target, &files[1]);
    assert_left_out(&target, &files[2]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    for database in ["wanted", "Späte\\x41r"] {
        assert_eq!(restored.psql_db(database, TABLE), "20001|200020000", "{database}");
    }
    // A client that connects to a database that was left out harms nobody else.
    let mark = restored.log_mark();
    let refused = run(restored.client("psql").args(["-Xqc", "SELECT 1", "-d", "other"]));
    assert!(
        refused.stderr.contains("FATAL:  relation mapping file") && refused.stderr.contains("contains invalid data"),
        "{refused:?}"
    );
    assert_eq!(restored.psql_db("wanted", TABLE), "20001|200020000");
    restored.psql("DROP DATABASE other");
    let log = restored.log_since(mark);
    assert!(
        !log.contains("PANIC") && !log.contains("terminating any other active server processes"),
        "{log}"
    );
    restored.psql_db("wanted", "VACUUM; CHECKPOINT");
}

/// They have OIDs like those of users then, and come back all the same.
#[test]
fn databases_of_the_server_that_were_made_anew_come_back() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    for database in ["wanted", "other"] {
        fill(&primary, database);
    }
    primary.psql(
        "ALTER DATABASE template1 IS_TEMPLATE false; DROP DATABASE template1;
         CREATE DATABASE template1 TEMPLATE template0 IS_TEMPLATE true",
    );
    primary.psql_db("template1", "CREATE TABLE in_template AS SELECT 1 AS a");
    primary.psql_db("wanted", "DROP DATABASE postgres");
    primary.psql_db("wanted", "CREATE DATABASE postgres");
    primary.psql("CREATE EXTENSION walarchive");
    for database in ["postgres", "template1"] {
        assert!(oid(&primary, database) >= 16384, "{database}");
    }
    backup(&primary, "");
    change(&primary, "wanted");
    archive_all(&primary);
    let files = ["wanted", "other"].map(|database| table_file(&primary, database));
    lose(&primary);

    let (target, output) = site.backup_fetch("restored", "LATEST", &["--restore-only", "wanted"]);
    output.expect_success();
    assert_whole(&target, &files[0]);
    assert_left_out(&target, &files[1]);
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql_db("wanted", TABLE), "20001|200020000");
    assert_eq!(restored.psql("SELECT count(*) FROM walarchive_backups"), "1");
    restored.psql("DROP DATABASE other; CREATE DATABASE fresh");
    assert_eq!(restored.psql_db("fresh", "SELECT a FROM in_template"), "1");
}

/// A table with an index of each kind.
const INDEXED: &str = "CREATE TABLE i (id int PRIMARY KEY, n int, body text, tags int[], place point);
    INSERT INTO i SELECT g, g % 100, repeat(md5(g::text), 3), ARRAY[g % 7, g], point(g % 91, g % 89) FROM generate_series(1, 5000) g;
    CREATE INDEX ON i (n); CREATE INDEX ON i USING hash (body); CREATE INDEX ON i USING gin (tags);
    CREATE INDEX ON i USING gist (place); CREATE INDEX ON i USING spgist (place); CREATE INDEX ON i USING brin (id);
    CREATE SEQUENCE s; CREATE TABLE gone AS TABLE i; CREATE UNLOGGED TABLE u AS TABLE i";

/// Something of each kind that changes it.
const WORK: &str = "SELECT nextval('s'); DROP TABLE gone; VACUUM i; UPDATE i SET n = n + 1, place = point(n, id % 50) WHERE id % 3 = 0;
    DELETE FROM i WHERE id % 5 = 0; VACUUM i;
    INSERT INTO i SELECT g, g, md5(g::text), ARRAY[g], point(g % 91, 1) FROM generate_series(10001, 13000) g;
    DELETE FROM i WHERE id > 4000; VACUUM i; CREATE INDEX ON i (body, n); REINDEX TABLE i; UPDATE i SET body = 'x' WHERE id % 4 = 1;
    BEGIN; LOCK i; SELECT 1 FROM i WHERE id = 1 FOR UPDATE; SAVEPOINT p; UPDATE i SET n = 0 WHERE id < 50; ROLLBACK TO p; COMMIT;
    CLUSTER i USING i_pkey; ALTER TABLE i ALTER n TYPE bigint; VACUUM FULL i; TRUNCATE u; CREATE TABLE late AS TABLE i; ANALYZE;
    COPY i TO '/dev/null'; SELECT lo_from_bytea(0, '\\x616263') > 0; CREATE STATISTICS st ON n, id FROM i; VACUUM";

/// A server with both databases, where VACUUM marks pages without an image of them.
fn without_checksums(site: &Site) -> Cluster {
    let primary = site.builder("primary").data_checksums(false);
    let primary = primary.setting("autovacuum", "off").start();
    primary.psql("CREATE EXTENSION walarchive");
    for database in ["wanted", "other"] {
        fill(&primary, database);
    }
    primary
}

/// Changes of pages come without images of them then.
#[test]
fn recovery_goes_over_the_pages_of_a_database_that_was_left_out() {
    let site = Site::on_files();
    let primary = without_checksums(&site);
    for database in ["wanted", "other"] {
        primary.psql_db(database, INDEXED);
    }
    let wanted = oid(&primary, "wanted").to_string();
    backup(&primary, "");
    primary.set("full_page_writes", "off");
    primary.reload();
    primary.psql_db("other", "VACUUM i; CHECKPOINT");
    primary.psql_db("other", WORK);
    change(&primary, "wanted");
    archive_all(&primary);
    lose(&primary);
    let (target, output) = site.backup_fetch("restored", "LATEST", &["--restore-only", &wanted]);
    output.expect_success();
    let restored = site.restored("restored").attach(&target);
    restored.wait_promoted(PATIENCE);
    let warnings = restored.log().matches("is uninitialized").count();
    assert!(warnings > 10, "{warnings} pages were invalid");
    assert_eq!(restored.psql_db("wanted", TABLE), "20001|200020000");
    restored.psql("DROP DATABASE other");
    restored.amcheck();
}

/// VACUUM marks pages all-visible, and where nothing needs hint bits to be in the WAL it logs no image of them.
#[test]
fn without_checksums_recovery_goes_on_at_pages_that_were_left_out() {
    let site = Site::on_files();
    let primary = without_checksums(&site);
    assert_eq!(primary.psql("SHOW data_checksums; SHOW wal_log_hints"), "off\noff");
    let wanted = oid(&primary, "wanted").to_string();
    backup(&primary, "");
    for database in ["wanted", "other"] {
        primary.psql_db(database, "VACUUM t");
    }
    change(&primary, "wanted");
    archive_all(&primary);
    lose(&primary);

    let (target, output) = site.backup_fetch("restored", "LATEST", &["--restore-only", &wanted]);
    let said = output.stderr.clone();
    output.expect_success();
    assert!(said.contains("note: ignore_invalid_pages is on"), "{said}");
    assert!(said.contains("ALTER SYSTEM RESET ignore_invalid_pages"), "{said}");
    // Without the setting, recovery stops.
    let path = target.join("postgresql.auto.conf");
    let written = fs::read_to_string(&path).expect("no postgresql.auto.conf");
    assert!(written.contains("\nignore_invalid_pages = 'on' # "), "{written}");
    let without = written.replace("\nignore_invalid_pages", "\n# ignore_invalid_pages");
    fs::write(&path, without).expect("could not write");
    let restored = site.restored("restored").attach_stopped(&target);
    restored.spawn_server();
    restored.wait_stopped(PATIENCE);
    let log = restored.log();
    assert!(
        log.contains("PANIC:  WAL contains references to invalid pages"),
        "{log}"
    );

    fs::write(&path, written).expect("could not write");
    restored.start_again();
    restored.wait_promoted(PATIENCE);
    assert_eq!(restored.psql_db("wanted", TABLE), "20001|200020000");
    restored.psql("DROP DATABASE other; ALTER SYSTEM RESET ignore_invalid_pages");
    restored.restart();
    assert_eq!(restored.psql("SHOW ignore_invalid_pages"), "off");
    restored.psql_db("wanted", "VACUUM; CHECKPOINT");
    restored.amcheck();
}
