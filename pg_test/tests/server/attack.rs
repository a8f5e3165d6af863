//! The abilities of the owner of a database who may take backups: to take backups, and nothing else.

use walarchive_pg_test::push;
use walarchive_pg_test::site::{Site, backup};
use walarchive_testkit::{Background, Cluster, Output, PATIENCE, run};

/// Every function that a worker's SQL might call by its mere name, with the caller's promotion inside.
const TRAPS: &str = "
    CREATE FUNCTION public.trap() RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            ALTER ROLE mallory SUPERUSER;
            RETURN true;
        EXCEPTION WHEN OTHERS THEN RETURN false;
        END $$;
    CREATE FUNCTION public.to_hex(int) RETURNS text LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT pg_catalog.to_hex($1) $$;
    CREATE FUNCTION public.lpad(text, int, text) RETURNS text LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT pg_catalog.lpad($1, $2, $3) $$;
    CREATE FUNCTION public.generate_series(int, int) RETURNS SETOF int LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT pg_catalog.generate_series($1, $2) $$;
    CREATE FUNCTION public.current_setting(text) RETURNS text LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT pg_catalog.current_setting($1) $$;
    CREATE FUNCTION public.pg_control_checkpoint() RETURNS TABLE (timeline_id int) LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT 1 $$;
    CREATE FUNCTION public.pg_backup_start(label text, fast boolean) RETURNS pg_lsn LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT pg_lsn '0/0' $$;
    CREATE FUNCTION public.pg_backup_stop(wait_for_archive boolean, OUT lsn pg_lsn, OUT labelfile text, OUT spcmapfile text)
        LANGUAGE sql AS $$ SELECT public.trap(); SELECT pg_lsn '0/0', '', '' $$;
    CREATE FUNCTION public.pg_current_snapshot() RETURNS pg_snapshot LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT pg_catalog.pg_current_snapshot() $$;
    CREATE FUNCTION public.differ(int, int) RETURNS boolean LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT $1 OPERATOR(pg_catalog.<>) $2 $$;
    CREATE OPERATOR public.<> (FUNCTION = public.differ, LEFTARG = int, RIGHTARG = int);
    CREATE VIEW public.pg_database AS SELECT public.trap(), * FROM pg_catalog.pg_database;";

/// Settings that a database's owner can give to every session in it. The last ones keep a session from working at all.
const SETTINGS: &[(&str, &str)] = &[
    ("search_path", "public, pg_catalog"),
    ("statement_timeout", "'1ms'"),
    ("lock_timeout", "'1ms'"),
    ("idle_in_transaction_session_timeout", "'1ms'"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("row_security", "off"),
    ("bytea_output", "escape"),
    ("\"DateStyle\"", "'SQL, DMY'"),
    ("\"IntervalStyle\"", "iso_8601"),
    ("\"TimeZone\"", "'Asia/Kathmandu'"),
    ("extra_float_digits", "'-15'"),
    ("standard_conforming_strings", "off"),
    ("quote_all_identifiers", "on"),
    ("client_encoding", "'EUC_JP'"),
    ("default_tablespace", "nowhere"),
    ("default_table_access_method", "heap"),
    ("force_parallel_mode", "on"),
    ("debug_parallel_query", "on"),
    ("transaction_timeout", "'1ms'"),
    ("event_triggers", "on"),
    ("session_preload_libraries", "'nowhere'"),
    ("local_preload_libraries", "'nowhere'"),
    ("session_authorization", "mallory"),
    ("role", "mallory"),
];

#[track_caller]
fn as_mallory(cluster: &Cluster, database: &str, statements: &[&str]) -> Output {
    let mut psql = cluster.client("psql");
    psql.args(["-U", "mallory", "-d", database, "-X", "-A", "-t", "-q"]);
    psql.args(["-v", "ON_ERROR_STOP=1"]);
    for statement in statements {
        psql.args(["-c", statement]);
    }
    run(&mut psql)
}

/// Mallory owns two databases, and may take backups there. One of them is the one to which clients connect by default.
fn trapped(site: &Site) -> Cluster {
    let primary = site.primary(&[]);
    primary
        .psql("CREATE ROLE mallory LOGIN; CREATE DATABASE mdb OWNER mallory; ALTER DATABASE postgres OWNER TO mallory");
    for database in ["mdb", "postgres"] {
        primary.psql_db(
            database,
            "CREATE EXTENSION IF NOT EXISTS walarchive;
             GRANT EXECUTE ON FUNCTION walarchive_backup_push(boolean, jsonb, boolean, boolean, text) TO mallory;
             GRANT pg_monitor TO mallory;
             ALTER SCHEMA public OWNER TO mallory",
        );
        as_mallory(&primary, database, &[TRAPS]).expect_success();
    }
    primary
}

fn is_superuser(cluster: &Cluster) -> bool {
    cluster.psql_db("template1", "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'") == "t"
}

#[test]
fn functions_of_a_databases_owner_are_not_run_as_superuser() {
    let site = Site::on_files();
    let primary = trapped(&site);
    let path = "ALTER DATABASE mdb SET search_path = public, pg_catalog";
    as_mallory(&primary, "mdb", &[path]).expect_success();
    let name = as_mallory(&primary, "mdb", &["SELECT public.walarchive_backup_push()"]);
    assert!(!is_superuser(&primary), "{name:?}");
    let name = name.expect_success();
    assert!(
        site.object(&format!("basebackups_005/{name}_backup_stop_sentinel.json"))
            .exists()
    );
}

#[test]
fn settings_of_a_databases_owner_change_nothing_about_backups() {
    let site = Site::on_files();
    let primary = trapped(&site);
    if site.pg().major() >= 17 {
        primary.psql(
            "CREATE FUNCTION no_login() RETURNS event_trigger LANGUAGE plpgsql AS $$
                 BEGIN RAISE EXCEPTION 'nobody comes in'; END $$;
             CREATE EVENT TRIGGER no_login ON login EXECUTE FUNCTION no_login();
             ALTER EVENT TRIGGER no_login ENABLE ALWAYS",
        );
    }
    for database in ["mdb", "postgres"] {
        // Which of them there are, and which its owner may set, differs from version to version.
        let allowed: Vec<&str> = SETTINGS
            .iter()
            // This one ends the session of the caller, who cannot be told otherwise in the same way in all versions.
            .filter(|(name, _)| *name != "transaction_timeout" || database == "postgres")
            .filter(|(name, value)| {
                let setting = format!("ALTER DATABASE {database} SET {name} = {value}");
                as_mallory(&primary, "template1", &[&setting]).success()
            })
            .map(|(name, _)| *name)
            .collect();
        for setting in [
            "search_path",
            "role",
            "session_authorization",
            "local_preload_libraries",
        ] {
            assert!(allowed.contains(&setting), "{allowed:?}");
        }
    }
    // The caller's own session is spared what would end it.
    let mut psql = primary.client("psql");
    psql.env("PGOPTIONS", "-c local_preload_libraries= -c statement_timeout=0");
    psql.args(["-U", "mallory", "-d", "mdb", "-X", "-A", "-t", "-q"]);
    let pushing = Background::spawn(psql.args(["-c", "SELECT public.walarchive_backup_push()"]), None);
    let name = pushing.wait(PATIENCE).expect_success();
    assert!(!is_superuser(&primary));
    assert!(
        site.object(&format!("basebackups_005/{name}_backup_stop_sentinel.json"))
            .exists()
    );

    // So do the scheduler's backups, which belong to nobody.
    primary.set("walarchive.backup_schedule", "* * * * * *");
    primary.psql_db("template1", "SELECT pg_reload_conf()");
    let sentinels = || {
        let objects = site.objects("basebackups_005");
        objects.iter().filter(|key| key.ends_with("_sentinel.json")).count()
    };
    primary.wait_until("the scheduler takes backups", PATIENCE, || sentinels() > 2);
    assert!(!is_superuser(&primary));
}

/// What the names of tables are asked with, in every schema that a search path could lead to first.
const NAME_TRAPS: &str = "
    CREATE SCHEMA mallory;
    CREATE FUNCTION public.pg_relation_filenode(regclass) RETURNS oid LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT 1::oid $$;
    CREATE FUNCTION public.pg_control_system(OUT system_identifier bigint) LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT 1::bigint $$;
    CREATE FUNCTION public.same(oid, oid) RETURNS boolean LANGUAGE sql AS $$ SELECT public.trap(); SELECT $1::text = $2::text $$;
    CREATE FUNCTION public.same(\"char\", \"char\") RETURNS boolean LANGUAGE sql AS
        $$ SELECT public.trap(); SELECT $1::text = $2::text $$;
    CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = oid, RIGHTARG = oid);
    CREATE OPERATOR public.= (FUNCTION = public.same, LEFTARG = \"char\", RIGHTARG = \"char\");
    CREATE OPERATOR public.<> (FUNCTION = public.same, LEFTARG = oid, RIGHTARG = oid);
    CREATE OPERATOR public.<> (FUNCTION = public.same, LEFTARG = \"char\", RIGHTARG = \"char\");
    CREATE VIEW public.pg_class AS SELECT public.trap(), * FROM pg_catalog.pg_class;
    CREATE VIEW public.pg_namespace AS SELECT public.trap(), * FROM pg_catalog.pg_namespace;
    CREATE VIEW public.pg_inherits AS SELECT public.trap(), * FROM pg_catalog.pg_inherits;
    CREATE TABLE mallory.secret (a int); CREATE TABLE mallory.parts (a int) PARTITION BY LIST (a);
    CREATE TABLE mallory.part PARTITION OF mallory.parts DEFAULT";

/// Mallory's database has the traps, and all settings that its owner may give it.
fn with_name_traps(primary: &Cluster) {
    as_mallory(primary, "mdb", &[NAME_TRAPS]).expect_success();
    for (name, value) in SETTINGS {
        let setting = format!("ALTER DATABASE mdb SET {name} = {value}");
        as_mallory(primary, "template1", &[&setting]);
    }
}

#[track_caller]
fn has_names(site: &Site, backup: &str) {
    let file = site.object(&format!("basebackups_005/{backup}/files_metadata.json"));
    let text = std::fs::read_to_string(file).expect("no files metadata");
    for name in ["\"mallory.secret\":{", "\"mallory.parts\":{", "\"mallory.part\":{"] {
        assert!(text.contains(name), "{name}");
    }
}

#[test]
fn the_names_of_tables_are_asked_without_anything_of_a_databases_owner() {
    let site = Site::on_files();
    let primary = trapped(&site);
    with_name_traps(&primary);
    let name = backup(&primary, "");
    assert!(!is_superuser(&primary));
    has_names(&site, &name);
}

#[test]
fn the_binary_asks_for_names_without_anything_of_a_databases_owner() {
    let site = Site::on_files();
    let primary = push::primary(&site, &[]);
    primary.psql("CREATE ROLE mallory LOGIN; CREATE DATABASE mdb OWNER mallory");
    primary.psql_db("mdb", "ALTER SCHEMA public OWNER TO mallory");
    as_mallory(&primary, "mdb", &[TRAPS]).expect_success();
    with_name_traps(&primary);
    let name = push::push(&site, &primary, &[]);
    assert!(!is_superuser(&primary));
    has_names(&site, &name);
}
