//! From one version of the extension to the next: an upgraded database is as a new one, and one that nobody has upgraded yet gets
//! clear answers from the new library.

use walarchive_pg_test::site::{Site, backup};
use walarchive_testkit::Cluster;

/// All that the catalogs know of the extension's objects, but for their OIDs.
const CATALOGS: &str = "
    WITH members AS (
        SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'walarchive'
    ), rights AS (
        SELECT m.classid, m.objid, string_agg(a::text, ',' ORDER BY a::text) AS initial
          FROM members m JOIN pg_init_privs i ON i.objoid = m.objid AND i.classoid = m.classid, unnest(i.initprivs) a
         GROUP BY 1, 2
    )
    SELECT pg_describe_object(m.classid, m.objid, 0), obj_description(m.objid, m.classid::regclass::name), r.initial,
           (SELECT (pg_get_functiondef(p.oid), (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(p.proacl) a),
                    p.provolatile, p.proparallel, p.proisstrict, p.prosecdef, p.proleakproof, p.proretset, p.prorows, p.procost,
                    p.proallargtypes::regtype[], p.proargmodes, p.proargnames, p.proargdefaults IS NULL)::text
              FROM pg_proc p WHERE p.oid = m.objid AND m.classid = 'pg_proc'::regclass),
           (SELECT (c.relkind, pg_get_viewdef(c.oid), (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(c.relacl) a))::text
              FROM pg_class c WHERE c.oid = m.objid AND m.classid = 'pg_class'::regclass),
           (SELECT string_agg((a.attnum, a.attname, a.atttypid::regtype, a.attacl, col_description(a.attrelid, a.attnum))::text,
                              ';' ORDER BY a.attnum)
              FROM pg_attribute a
             WHERE a.attnum > 0 AND (
                       a.attrelid = m.objid AND m.classid = 'pg_class'::regclass
                    OR a.attrelid = (SELECT typrelid FROM pg_type WHERE oid = m.objid AND m.classid = 'pg_type'::regclass)))
      FROM members m LEFT JOIN rights r USING (classid, objid) ORDER BY 1";

const VERSION: &str = "SELECT extversion FROM pg_extension WHERE extname = 'walarchive'";

fn catalogs(cluster: &Cluster, database: &str) -> Vec<String> {
    cluster.psql_db(database, CATALOGS).lines().map(str::to_owned).collect()
}

#[test]
fn an_upgraded_database_is_as_a_new_one() {
    let site = Site::on_files();
    let primary = site.builder("primary").start();
    for database in ["old", "new", "elsewhere"] {
        primary.psql(&format!("CREATE DATABASE {database}"));
    }
    primary.psql_db("old", "CREATE EXTENSION walarchive VERSION '0.1.0'");
    primary.psql_db("new", "CREATE EXTENSION walarchive");
    assert_eq!(primary.psql_db("new", VERSION), "0.2.0");
    let (before, new) = (catalogs(&primary, "old"), catalogs(&primary, "new"));
    assert!(new.len() > 20, "{new:?}");
    assert_ne!(before, new);
    let output = primary.try_psql_verbose("\\c old\nALTER EXTENSION walarchive UPDATE");
    assert!(output.success() && !output.stderr.contains("WARNING"), "{output:?}");
    assert_eq!(primary.psql_db("old", VERSION), "0.2.0");
    let upgraded = catalogs(&primary, "old");
    for (upgraded, new) in upgraded.iter().zip(&new) {
        assert_eq!(upgraded, new);
    }
    assert_eq!(upgraded.len(), new.len());

    // In a schema of its own, too.
    primary.psql_db("elsewhere", "CREATE SCHEMA \"My Schema\"");
    primary.psql_db(
        "elsewhere",
        "CREATE EXTENSION walarchive SCHEMA \"My Schema\" VERSION '0.1.0'; ALTER EXTENSION walarchive UPDATE",
    );
    assert_eq!(
        primary.psql_db("elsewhere", "SELECT count(*) FROM \"My Schema\".walarchive_backups"),
        "0"
    );
    assert_eq!(catalogs(&primary, "elsewhere").len(), new.len());
}

#[test]
fn who_was_allowed_to_take_backups_still_is_and_what_else_was_granted_is_named() {
    let site = Site::on_files();
    let primary = site.builder("primary").start();
    primary.psql("CREATE EXTENSION walarchive VERSION '0.1.0'; CREATE ROLE \"the operator\"");
    primary.psql(
        "GRANT EXECUTE ON FUNCTION walarchive_backup_push(boolean, jsonb, boolean, boolean, text) TO \"the operator\";
         GRANT EXECUTE ON FUNCTION walarchive_delete_garbage(text, boolean) TO \"the operator\", pg_monitor;
         GRANT SELECT ON walarchive_status TO PUBLIC",
    );
    let (_, told) = primary.psql_verbose("ALTER EXTENSION walarchive UPDATE");
    let garbage = "GRANT EXECUTE ON FUNCTION public.walarchive_delete_garbage(what text, confirm boolean)";
    let lost = told
        .split("DETAIL:  Granted before: ")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let mut lost: Vec<&str> = lost
        .expect("what was granted")
        .split_inclusive(';')
        .map(str::trim)
        .collect();
    lost.sort_unstable();
    assert!(
        told.contains("WARNING:  01000: privileges on views and functions of walarchive that were made anew are gone"),
        "{told}"
    );
    assert_eq!(
        lost,
        [
            format!("{garbage} TO \"the operator\";"),
            format!("{garbage} TO pg_monitor;"),
            "GRANT SELECT ON public.walarchive_status TO PUBLIC;".to_owned()
        ]
    );
    let name = primary.psql("SET ROLE \"the operator\"; SELECT walarchive_backup_push(full_backup => true)");
    assert_eq!(primary.psql("SELECT backup_name FROM walarchive_backups"), name);
    // The advice can be followed.
    primary.psql(&lost.join(" "));
    primary.psql("SET ROLE \"the operator\"; SELECT * FROM walarchive_delete_garbage()");
}

#[test]
fn a_database_that_was_not_upgraded_gets_clear_answers() {
    let site = Site::on_files();
    let primary = site.builder("primary").start();
    primary.psql("CREATE EXTENSION walarchive VERSION '0.1.0'");
    let postmaster = primary.postmaster_pid();
    // Calls of jobs go on.
    let first = backup(&primary, "");
    let second = backup(&primary, "\"full\" => true");
    for call in [
        format!("walarchive_backup_mark('{first}')"),
        format!("walarchive_backup_mark('{first}', false)"),
        "walarchive_check()".to_owned(),
        "walarchive_progress".to_owned(),
        "walarchive_take_over()".to_owned(),
        "walarchive_delete_before('2020-01-01 00:00:00+00')".to_owned(),
        format!("walarchive_delete_target('{first}')"),
        "walarchive_delete_everything()".to_owned(),
        "walarchive_delete_garbage()".to_owned(),
        "walarchive_delete_outside_window('14 days')".to_owned(),
        "walarchive_delete_gfs(7, 4, 12, 5)".to_owned(),
    ] {
        primary.psql(&format!("SELECT * FROM {call}"));
    }
    // With the words of the old version, which are the defaults there.
    let deleted = primary.psql("SELECT key, deleted FROM walarchive_delete_retain(1, confirm => true)");
    assert!(
        deleted.contains(&first) && deleted.contains("|t") && !deleted.contains(&second),
        "{deleted}"
    );
    // A function that shows rows of another shape says what to do.
    for call in [
        "walarchive_status",
        "walarchive_backups",
        "walarchive_archiver_status()",
        "walarchive_backup_list()",
        "walarchive_wal_show()",
        "walarchive_recovery_windows()",
        "walarchive_wal_verify()",
        "walarchive_wal_verify(NULL)",
        "walarchive_backup_verify('LATEST')",
        "walarchive_backup_verify(NULL)",
    ] {
        let refused = primary.try_psql_verbose(&format!("SELECT * FROM {call}"));
        assert!(
            refused
                .stderr
                .contains("belongs to an older version of walarchive than the library, which is 0.2.0")
                && refused.stderr.contains("ERROR:  55000: ")
                && refused
                    .stderr
                    .contains("HINT:  Run \"ALTER EXTENSION walarchive UPDATE\" in this database."),
            "{call}: {refused:?}"
        );
    }
    assert_eq!(primary.postmaster_pid(), postmaster);
    assert!(!primary.log().contains("terminated by signal"), "{}", primary.log());
    primary.psql("ALTER EXTENSION walarchive UPDATE");
    assert_eq!(primary.psql("SELECT backup_name FROM walarchive_backups"), second);
    assert_eq!(
        primary.psql("SELECT uploader_state <> 'not running' FROM walarchive_status"),
        "t"
    );
}

#[test]
fn what_others_built_on_the_old_views_is_not_taken_away() {
    let site = Site::on_files();
    let primary = site.builder("primary").start();
    primary.psql("CREATE EXTENSION walarchive VERSION '0.1.0'");
    primary.psql("CREATE VIEW monitoring AS SELECT backup_name, finish_time FROM walarchive_backups");
    let refused = primary.try_psql_verbose("ALTER EXTENSION walarchive UPDATE");
    assert!(
        refused.stderr.contains("ERROR:  2BP01: ")
            && refused
                .stderr
                .contains("DETAIL:  view monitoring depends on view walarchive_backups"),
        "{refused:?}"
    );
    assert_eq!(primary.psql(VERSION), "0.1.0");
    primary.psql("DROP VIEW monitoring; ALTER EXTENSION walarchive UPDATE");
    primary.psql("CREATE VIEW monitoring AS SELECT backup_name, stop_time FROM walarchive_backups");
    let name = backup(&primary, "");
    assert_eq!(primary.psql("SELECT backup_name FROM monitoring"), name);
}
