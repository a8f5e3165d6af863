//! Restores of some tables only, by the names that a backup of ours keeps: whose names they are, and what keeps a database's
//! from being there.

use std::fs;
use std::os::unix::fs::MetadataExt;

use walarchive_pg_test::push::{self, push};
use walarchive_pg_test::site::{Site, archive_all, backup, lose, wait_settled};
use walarchive_testkit::{Background, Cluster, Output, PATIENCE, Session, run};

/// Tables of each kind, whose content takes TOAST tables, and names that need quotes.
const TABLES: &str = r#"CREATE TABLE plain (id int PRIMARY KEY, body text); ALTER TABLE plain ALTER body SET STORAGE EXTERNAL;
    INSERT INTO plain SELECT g, repeat(md5(g::text), 200) FROM generate_series(1, 300) g; CREATE TABLE other AS TABLE plain;
    CREATE TABLE parts (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
    CREATE TABLE p11 PARTITION OF p1 FOR VALUES FROM (0) TO (100); CREATE TABLE p2 PARTITION OF parts DEFAULT;
    INSERT INTO parts TABLE plain; CREATE SCHEMA "o'd""d. x"; CREATE TABLE "o'd""d. x"."T/ä.*" AS TABLE plain;
    CREATE TABLE heir () INHERITS (plain); INSERT INTO heir VALUES (1000, 'heir'); CREATE VIEW v AS TABLE plain"#;

/// The encoding of this file, for databases that have another one.
const UTF8: &str = "SET client_encoding TO 'UTF8'; ";

/// A database with them, in this encoding, where their names are `o'd"d. x`, `T/ä.*` and so on.
fn tables_in(primary: &Cluster, database: &str, encoding: &str) {
    primary.psql(&format!(
        "CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
    ));
    primary.psql_db(database, &format!("{UTF8}{TABLES}"));
}

fn rows_of(cluster: &Cluster, database: &str, table: &str) -> String {
    cluster.psql_db(
        database,
        &format!("{UTF8}SELECT count(*), sum(length(body)) FROM {table}"),
    )
}

/// Restores these tables of the database, and looks at them.
#[track_caller]
fn tables_come_back(
    site: &Site,
    name: &str,
    directory: &str,
    database: &str,
    whole: &[(&str, &str)],
    left_out: &[&str],
) {
    let wanted: Vec<String> = whole.iter().map(|(text, _)| format!("{database}/{text}")).collect();
    let args = wanted
        .iter()
        .flat_map(|wanted| ["--restore-only", wanted])
        .collect::<Vec<_>>();
    let (target, output) = site.backup_fetch(directory, name, &args);
    output.expect_success();
    let restored = site.restored(directory).attach(&target);
    restored.wait_promoted(PATIENCE);
    for (_, table) in whole {
        let reindex = format!("REINDEX TABLE {table}");
        let mut psql = restored.client("psql");
        run(psql.args(["-Xqc", UTF8, "-c", &reindex, "-d", database])).expect_success();
        let rows = if table.contains("plain") {
            "301|1920004"
        } else {
            "300|1920000"
        };
        assert_eq!(rows_of(&restored, database, table), rows, "{name}: {table}");
    }
    for table in left_out {
        let file = restored.psql_db(
            database,
            &format!("{UTF8}SELECT pg_relation_filepath('{}')", table.replace('\'', "''")),
        );
        let meta = fs::metadata(target.join(file)).expect("no file");
        assert!(meta.len() > 0 && meta.blocks() == 0, "{name}: {table}: {meta:?}");
    }
    restored.kill9();
}

/// The entry of a database in the names that a backup keeps.
fn names_of(site: &Site, backup: &str, database: &str) -> serde_json::Value {
    let file = site.object(&format!("basebackups_005/{backup}/files_metadata.json"));
    let text = fs::read(file).expect("no files metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&text).expect("no JSON");
    metadata["DatabasesByNames"][database].clone()
}

/// All relations with files are named, with the files that they have.
#[track_caller]
fn names_are_those_of_the_catalog(site: &Site, cluster: &Cluster, backup: &str, database: &str) {
    let names = names_of(site, backup, database);
    let top = names["tables_new"].as_object().expect("no names of tables");
    let below = top.values().filter_map(|relation| relation["subtables"].as_object());
    let mut found: Vec<String> = (top.iter().chain(below.flatten()))
        .filter(|(_, relation)| relation["relfilenode"] != 0)
        .map(|(name, relation)| format!("{}|{}|{name}", relation["oid"], relation["relfilenode"]))
        .collect();
    found.sort();
    let catalog = cluster.psql_db(
        database,
        "SELECT c.oid, pg_relation_filenode(c.oid), nspname || '.' || relname FROM pg_class c
         JOIN pg_namespace n ON n.oid = relnamespace WHERE pg_relation_filenode(c.oid) > 0 AND relpersistence <> 't'",
    );
    let mut expected: Vec<&str> = catalog.lines().collect();
    expected.sort_unstable();
    let missing: Vec<_> = expected
        .iter()
        .filter(|line| !found.iter().any(|found| found == *line))
        .collect();
    let wrong: Vec<_> = found.iter().filter(|line| !expected.contains(&line.as_str())).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "missing: {missing:?}; wrong: {wrong:?}"
    );
    for (parent, of_children) in [
        ("public.parts", &["public.p1", "public.p11", "public.p2"][..]),
        (
            "public.parts_pkey",
            &["public.p11_pkey", "public.p1_pkey", "public.p2_pkey"],
        ),
        ("public.plain", &["public.heir"]),
    ] {
        let children = top[parent]["subtables"].as_object().expect("no children");
        assert_eq!(children.keys().collect::<Vec<_>>(), of_children, "{parent}");
    }
}

#[test]
fn tables_of_a_backup_by_the_binary_come_back_by_name() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    tables_in(&primary, "shop", "UTF8");
    tables_in(&primary, "latin", "LATIN1");
    wait_settled(&primary);
    let full = push(&site, &primary, &[]);
    primary.psql_db(
        "shop",
        "VACUUM FULL pg_class; VACUUM FULL other; CREATE TABLE late AS TABLE other",
    );
    let delta = push(&site, &primary, &["--delta-from-name", &full]);
    names_are_those_of_the_catalog(&site, &primary, &delta, "shop");
    archive_all(&primary);
    lose(&primary);
    let odd = r#""o'd""d. x"."T/ä.*""#;
    tables_come_back(
        &site,
        &full,
        "full",
        "shop",
        &[("plain", "plain"), ("public.pa*ts", "parts")],
        &[odd],
    );
    tables_come_back(
        &site,
        &delta,
        "delta",
        "shop",
        &[("late", "late")],
        &["other", "plain", "p11"],
    );
    tables_come_back(
        &site,
        &full,
        "latin",
        "latin",
        &[(r#"o'd"d. x.T*ä.*"#, odd)],
        &["plain", "p11"],
    );
}

#[test]
fn tables_of_a_backup_by_the_server_come_back_by_name() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    tables_in(&primary, "shop", "UTF8");
    tables_in(&primary, "latin", "LATIN1");
    tables_in(&primary, "japanese", "EUC_JP");
    wait_settled(&primary);
    let full = backup(&primary, "");
    primary.psql_db(
        "shop",
        "VACUUM FULL pg_class; CREATE TEMP TABLE x AS TABLE other; CREATE TABLE late AS TABLE other",
    );
    let delta = backup(&primary, &format!("delta_from => '{full}'"));
    assert!(delta.contains("_D_"), "{delta}");
    names_are_those_of_the_catalog(&site, &primary, &delta, "shop");
    let template = names_of(&site, &full, "template0");
    assert!(template["tables_new"]["pg_catalog.pg_class"]["relfilenode"].is_u64());
    let left = fs::read_dir(primary.datadir().join("base/pgsql_tmp")).expect("no directory");
    assert_eq!(left.count(), 0);
    archive_all(&primary);
    lose(&primary);
    let odd = r#""o'd""d. x"."T/ä.*""#;
    tables_come_back(
        &site,
        &full,
        "full",
        "shop",
        &[("plain", "plain"), ("parts", "parts")],
        &[odd],
    );
    tables_come_back(
        &site,
        &delta,
        "delta",
        "shop",
        &[("late", "late")],
        &["other", "plain", "p11"],
    );
    tables_come_back(
        &site,
        &full,
        "latin",
        "latin",
        &[(r#"o'd"d. x.T*ä.*"#, odd)],
        &["plain"],
    );
}

/// What the names are in these encodings is the same; of SQL_ASCII nobody knows what its bytes mean, so a table is found by a
/// pattern.
#[track_caller]
fn encodings_are_converted(site: &Site, cluster: &Cluster, take: impl Fn() -> String) {
    for (database, encoding) in [("latin", "LATIN1"), ("japanese", "EUC_JP"), ("ascii", "SQL_ASCII")] {
        cluster.psql(&format!(
            "CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
        ));
    }
    cluster.psql_db("latin", &format!("{UTF8}CREATE TABLE \"é.Ü\" ()"));
    cluster.psql_db("japanese", &format!("{UTF8}CREATE TABLE \"表\" ()"));
    cluster.psql_db("ascii", "SET client_encoding TO 'LATIN1'; CREATE TABLE utf ()");
    cluster.psql_db("ascii", r#"DO $$ BEGIN EXECUTE 'CREATE TABLE ' || quote_ident('r' || convert_from('\xff41', 'SQL_ASCII')) || '()'; END $$"#);
    let name = take();
    for (database, table) in [
        ("latin", "public.é.Ü"),
        ("japanese", "public.表"),
        ("ascii", "public.utf"),
        ("ascii", "public.r\u{fffd}A"),
    ] {
        let tables = names_of(site, &name, database);
        assert!(tables["tables_new"][table]["oid"].is_u64(), "{database}: {table}");
    }
}

#[test]
fn the_binary_converts_names_of_other_encodings() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    encodings_are_converted(&site, &primary, || push(&site, &primary, &[]));
}

#[test]
fn the_server_converts_names_of_other_encodings() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    encodings_are_converted(&site, &primary, || backup(&primary, ""));
}

#[test]
fn over_the_replication_protocol_tables_are_named_too() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    tables_in(&primary, "shop", "UTF8");
    // A role that may connect to one of the databases only, which is told.
    primary.psql(
        "CREATE ROLE r LOGIN REPLICATION; CREATE DATABASE closed; REVOKE CONNECT ON DATABASE closed FROM public;
         CREATE DATABASE none ALLOW_CONNECTIONS false",
    );
    let mut command = site.walarchive(&["backup-push"]);
    let output = run(push::server_of(&mut command, &primary).env("PGUSER", "r"));
    let said = output.stderr.clone();
    let name = output.expect_success();
    assert!(
        said.contains("does not have the names of the tables in \"closed\": ") && !said.contains("\"none\""),
        "{said}"
    );
    names_are_those_of_the_catalog(&site, &primary, &name, "shop");
    assert!(names_of(&site, &name, "closed")["oid"].is_u64());
    let (_, output) = site.backup_fetch("restored", &name, &["--restore-only", "closed/t"]);
    assert!(
        output.stderr.contains("does not have the names of its tables"),
        "{output:?}"
    );
}

/// The launcher of logical replication, the two of walarchive and that of the backup take all places.
#[test]
fn a_backup_needs_no_worker_for_names() {
    let site = Site::on_files();
    let primary = site.primary(&[("max_worker_processes", "4")]);
    primary.psql("CREATE DATABASE shop");
    let mut psql = primary.client("psql");
    let output = run(psql.args(["-Xqtc", "SELECT walarchive_backup_push()"]));
    let said = output.stderr.clone();
    let name = output.expect_success();
    let name = name.trim();
    assert!(said.contains("does not have the names of all tables"), "{said}");
    assert!(
        said.contains("\"shop\"") && said.contains("no background worker is free"),
        "{said}"
    );
    assert_eq!(names_of(&site, name, "shop")["tables_new"], serde_json::json!({}));
}

/// The first database keeps the names waiting, until another one has been dropped.
#[track_caller]
fn drop_meanwhile(cluster: &Cluster, taking: Background) -> Output {
    let blocked = || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 1259";
        cluster.psql_db("template1", waits) != "0"
    };
    cluster.wait_until("the names of the first database are waited for", PATIENCE, blocked);
    cluster.psql_db("template1", "DROP DATABASE doomed");
    cluster.psql_db(
        "template1",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'psql' AND datname = 'postgres'",
    );
    taking.wait(PATIENCE)
}

fn lock(cluster: &Cluster) -> Session {
    cluster.psql("CREATE DATABASE doomed");
    let mut session = Session::begin(cluster);
    session.ask("BEGIN; LOCK TABLE pg_catalog.pg_class; SELECT 1");
    session
}

#[test]
fn a_database_that_is_dropped_meanwhile_is_left_out_by_the_binary() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    let _locked = lock(&primary);
    let mut command = push::command(&site, &primary, &[]);
    let taking = Background::spawn(command.env("PGDATABASE", "template1"), None);
    let output = drop_meanwhile(&primary, taking);
    let said = output.stderr.clone();
    let name = output.expect_success();
    assert!(said.contains("names of the tables in \"doomed\""), "{said}");
    assert!(names_of(&site, &name, "postgres")["tables_new"]["pg_catalog.pg_class"].is_object());
}

#[test]
fn a_database_that_is_dropped_meanwhile_is_left_out_by_the_server() {
    let site = Site::on_files();
    let primary = site.primary(&[]);
    primary.psql_db("template1", "CREATE EXTENSION walarchive");
    let _locked = lock(&primary);
    let mut psql = primary.client("psql");
    psql.args(["-XqAtc", "SELECT walarchive_backup_push()", "-d", "template1"]);
    let output = drop_meanwhile(&primary, Background::spawn(&mut psql, None));
    let said = output.stderr.clone();
    let name = output.expect_success();
    assert!(said.contains("DETAIL:  Not of those in \"doomed\""), "{said}");
    assert!(names_of(&site, &name, "postgres")["tables_new"]["pg_catalog.pg_class"].is_object());
}
